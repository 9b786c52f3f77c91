"""The samplers that one need not know to read the idea, each a generator function."""
