"""Files of weights: our checkpoints, and the layouts of others as key rules, both ways."""
