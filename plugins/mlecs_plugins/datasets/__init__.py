"""Dataset plugins that ship with mlecs-bench."""
