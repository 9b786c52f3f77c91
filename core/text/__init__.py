"""Captions as a condition: words of a model's own, and text encoders that others trained."""
