"""Plugins that are installed for a test by name, such as ``contract_plugins:average``."""

from __future__ import annotations

from typing import Any

import contract_data
import contract_toys
from mlecs_bench.doors.hookspecs import AlgorithmInfo, DatasetInfo, hookimpl
from mlecs_bench.doors.registry import PluginEntry
from mlecs_bench.errors import DataError

BUILT_WITH: list[Any] = []
"""The options that `average` was built with, in order."""


def build(options: contract_toys.Options) -> contract_toys.Average:
    BUILT_WITH.append(options)
    return contract_toys.Average(options)


class _Algorithm:
    def __init__(self, card: AlgorithmInfo | Exception) -> None:
        self._card = card

    @hookimpl
    def mlecs_algorithm(self) -> AlgorithmInfo:
        if isinstance(self._card, Exception):
            raise self._card
        return self._card


class _Dataset:
    @hookimpl
    def mlecs_dataset(self) -> DatasetInfo:
        return contract_data.CARD


average = _Algorithm(contract_toys.card(build))
broken = _Algorithm(contract_toys.card(contract_toys.NeedsAModality, paper=""))
falling = _Algorithm(contract_toys.card(contract_toys.Falls))
crashing = _Algorithm(ZeroDivisionError("two\nlines"))
refusing = _Algorithm(DataError("a file is missing"))
toy = _Dataset()

ENTRIES = (
    *(
        PluginEntry(name, "algorithm", "acme", "1.2", f"contract_plugins:{name}")
        for name in ("average", "broken", "crashing", "falling", "refusing")
    ),
    PluginEntry("gone", "algorithm", "acme", "1.2", "contract_gone"),
    PluginEntry("toy", "dataset", "acme", "1.2", "contract_plugins:toy"),
)
