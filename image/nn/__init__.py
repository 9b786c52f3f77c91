"""Networks of pictures alone."""
