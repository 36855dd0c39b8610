"""ML-ECS (arXiv 2602.14107): one module per component of the paper."""
