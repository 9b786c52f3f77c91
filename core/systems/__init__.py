"""What is trained: systems that say what a batch costs."""
