"""Profiles that come with mlecs-bench: every number with its source."""
