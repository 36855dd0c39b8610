"""Encoders and scorers as the installed plugins make them, and a way to install another one."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest
from torch import nn

from fabricated import write_metadata
from mlecs_bench.data.samples import Modality
from mlecs_bench.doors.hookspecs import MetricRequest
from mlecs_bench.doors.registry import PLUGINS_VARIABLE, Registry
from mlecs_bench.doors.scoring import Scorer
from mlecs_bench.metrics.scorers import make_scorers
from mlecs_bench.models.encoders import build_encoder, encoders_of


@cache
def at_start() -> Registry:
    """Return the registry as it was when first asked for: reading all metadata takes 20 ms."""
    return Registry.installed()


def encoder_of(modality: Modality, dim: int, registry: Registry | None = None) -> nn.Module:
    """Return a fresh encoder of `modality`."""
    return build_encoder(modality, dim, encoders_of([modality], registry or at_start())[modality.encoding])


def scorers_of(
    names: Sequence[str], folder: Path, labels: Sequence[str] = (), model: str | None = None
) -> list[Scorer]:
    """Return the scorers called `names`, which may keep files in `folder`."""
    return make_scorers(names, MetricRequest(tuple(labels), folder, model), Registry.installed())


class Distribution:
    """A distribution of somebody else with one module, on the import path of a test; see `fabricated`."""

    def __init__(self, site: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str) -> None:
        site.mkdir()
        self._path, self._module, self._info = site / f"{module}.py", module, (site, name, "1.0")
        monkeypatch.delenv(PLUGINS_VARIABLE, raising=False)
        monkeypatch.syspath_prepend(str(site))

    def install(self, source: str, points: Mapping[str, Mapping[str, str]]) -> None:
        """Install it with this source and these entry points (group → name → target), in the place of the last."""
        write_metadata(*self._info, points)
        self._path.write_text(source)
        sys.modules.pop(self._module, None)
