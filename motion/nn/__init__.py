"""Networks of motion alone."""
