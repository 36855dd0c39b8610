"""Samples, views of them, and who holds what."""
