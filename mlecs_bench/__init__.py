"""Benchmark harness for collaborative multimodal learning between edge devices and a cloud server.

`run`, `sweep` and `report` are the commands of these names as functions, `load_records` reads what they leave behind;
docs/python.md shows them. `load_model` gives back a model that a run has saved (docs/answers-and-models.md). They are
imported when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlecs_bench.api import load_model as load_model
    from mlecs_bench.api import load_records as load_records
    from mlecs_bench.api import report as report
    from mlecs_bench.api import run as run
    from mlecs_bench.api import sweep as sweep

__version__ = "0.1.0"
FUNCTIONS = ("load_model", "load_records", "report", "run", "sweep")
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
