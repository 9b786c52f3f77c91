"""Layouts of published networks of motion."""
