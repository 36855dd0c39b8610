"""Observers that come with mlecs-bench."""
