"""The entry point of ML-ECS."""

from __future__ import annotations

from mlecs_bench.api import AlgorithmInfo, hookimpl
from mlecs_plugins.ml_ecs.card import card_without


@hookimpl
def mlecs_algorithm() -> AlgorithmInfo:
    """Return the card of ML-ECS."""
    return card_without()
