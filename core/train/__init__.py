"""Training: one loop for every system; see ``core.train.loop``."""
