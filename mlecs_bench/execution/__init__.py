"""Cells: where they run, and many of them."""
