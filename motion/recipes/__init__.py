"""Systems that turn words into motions."""
