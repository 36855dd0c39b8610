"""The default options of the algorithms that records are of, from which a report tells others apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import MlecsError


def known_defaults(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the default options of each algorithm that is installed and can be loaded, by name."""
    registry, found = Registry.installed(), {}
    for algo in dict.fromkeys(record["identity"]["algo"]["name"] for record in records):
        try:
            found[algo] = registry.default_options(algo)
        except MlecsError:
            continue  # records of a plugin that is gone are as good as any
    return found
