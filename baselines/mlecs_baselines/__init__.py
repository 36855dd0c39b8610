"""Baselines that ship with mlecs-bench, one module each."""
