"""Benchmark harness for collaborative multimodal learning between edge devices and a cloud server.

`load_model` gives back a model that a run has saved (docs/answers-and-models.md). It is imported when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlecs_bench.api import load_model as load_model

__version__ = "0.1.0"
FUNCTIONS = ("load_model",)
"""Names of `mlecs_bench.api` that can be had from here, too."""


def __getattr__(name: str) -> Any:
    """Import a function when it is used."""
    if name not in FUNCTIONS:
        raise AttributeError(
            f"mlecs_bench has no '{name}'; it has {', '.join(FUNCTIONS)}, and mlecs_bench.api the rest"
        )
    return getattr(importlib.import_module("mlecs_bench.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *FUNCTIONS]
