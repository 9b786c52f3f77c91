"""Conditioners that only pictures have: sizes and crops, control pictures, the texts of published systems."""
