"""Data: what a data set is."""
