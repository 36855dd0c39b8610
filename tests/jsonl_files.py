"""Requests for a table of a user's own, for the tests of its reader."""

from __future__ import annotations

from pathlib import Path

from mlecs_bench.data.samples import DataRequest, Samples
from mlecs_bench.doors.options import build_options
from mlecs_plugins.datasets import jsonl
from mlecs_plugins.datasets.jsonl.card import JsonlOptions


def request(folder: Path | None, cache: Path, **options) -> DataRequest:
    return DataRequest(folder, cache, build_options(JsonlOptions, options, "jsonl"))


def samples_in(folder: Path, cache: Path | None = None, **options) -> Samples:
    return Samples.open(jsonl.prepare(request(folder, cache or folder / "cache", **options)))
