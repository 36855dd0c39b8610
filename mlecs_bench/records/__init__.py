"""What is kept of a cell."""
