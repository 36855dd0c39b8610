"""What `benchmarks/gpu.py` measures, a module per section, and what sections share."""
