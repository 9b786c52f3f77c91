"""Text-to-motion recipes."""
