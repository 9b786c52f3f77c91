"""What others published of motion."""
