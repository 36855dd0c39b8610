"""Rebuilds the embedded profile `mini` from nothing: python -m tools.build_mini."""
