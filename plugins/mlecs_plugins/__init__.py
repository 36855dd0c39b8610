"""Plugins that ship with mlecs-bench: ML-ECS and the datasets."""
