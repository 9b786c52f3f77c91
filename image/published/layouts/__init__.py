"""Layouts of published networks of pictures."""
