"""Fixtures of the tests of fleets: installed plugins for toy cells, and what such a cell gives in this process."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import fabricated
from fleet_cells import PARTIES, SEED, Cells, Result, request_fleet
from mlecs_bench.doors.registry import Loaded, Registry
from mlecs_bench.federation.exporting import export


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Path]:
    """A folder of the import path with the plugins of `elsewhere`, as if they were installed."""
    folder = tmp_path_factory.mktemp("site")
    fabricated.install(Path(__file__).parents[1] / "elsewhere", folder)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    yield folder
    sys.path.remove(str(folder))
    importlib.invalidate_caches()


@pytest.fixture(scope="module")
def registry(site) -> Registry:
    return Registry.installed()


@pytest.fixture(scope="module")
def cells(registry, profile, prepared, samples, tmp_path_factory) -> Cells:
    loaded = Loaded(profile.name, profile, "mlecs-bench", "0")
    return Cells(registry, loaded, prepared, samples, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def in_process(cells) -> Callable[[str], Result]:
    """Return what a cell of an algorithm gives in this process, run once."""

    @functools.cache
    def result(algo: str) -> Result:
        return cells.run(cells.plan(algo), lambda request: request_fleet(cells.registry, "in-process", request))

    return result


@pytest.fixture(scope="module")
def exports(cells, tmp_path_factory) -> Mapping[str, Path]:
    """Return a folder for every party of a cell, with its own data alone."""
    folder = tmp_path_factory.mktemp("exports")
    plan = cells.plan()
    return {party: export(cells.samples, plan, SEED, party, folder / party).folder for party in PARTIES}
