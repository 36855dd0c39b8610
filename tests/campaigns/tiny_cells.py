"""Commands of tiny cells, and what must not depend on how often they were stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlecs_bench.doors.registry import Registry
from mlecs_bench.records.failures import read_failures
from mlecs_bench.records.results import read_folder, record_files
from mlecs_bench.testing import toy as made
from mlecs_bench.testing.installed import DATASET

NUMBERS = {"rho": 0.6, "rounds": 3, "steps": 1, "seeds": "27,34", "limit-test": 2}
HIDDEN = (".part", ".taken", ".lock")
"""How names end of what only a process at work may have."""


def warmed() -> None:
    """Make the models, and look at the source of the toy plugins, which is remembered."""
    made.profile()
    Registry.installed().dataset(DATASET)


def command(verb: str, algo: str, out: Path, cache: Path, **flags: object) -> list[str]:
    """Return the arguments of a run or a sweep of toy cells in this process."""
    profile = made.profile()
    args = [verb, "--algo", algo, "--dataset", DATASET, "--slm", profile.slm, "--llm", profile.llm, "--quiet"]
    args += ["--out", str(out), "--cache-dir", str(cache)]
    workers = {"workers": 1 if verb == "run" else "in-process"}
    return args + [str(part) for name, value in (NUMBERS | workers | flags).items() for part in (f"--{name}", value)]


def numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without what differs from one time to the next."""
    own = {name: part for name, part in record.items() if name != "provenance"}
    return own | {"cost": {name: part for name, part in record["cost"].items() if name != "seconds"}}


def cells(out: Path) -> dict[str, str]:
    """Return the numbers of all records as text, by key; raises AssertionError for a damaged or doubled record."""
    found = read_folder(out)
    assert not found.problems, found.problems
    return {record["key"]: json.dumps(numbers(record), sort_keys=True) for record in found.records}


def answers(out: Path) -> dict[str, bytes]:
    """Return the answers beside all records, by name."""
    return {path.name: path.read_bytes() for path in (out / "records").glob("*.parquet")}


def check_stopped(out: Path, whole: Mapping[str, str]) -> None:
    """Raise AssertionError unless what a stopped command has left is a part of the whole, and undamaged."""
    found = cells(out)
    assert found.items() <= whole.items(), "a record differs"
    failures, problems = read_failures(out)
    assert not problems, problems
    assert not failures, failures


def check_ended(out: Path, whole: Mapping[str, str], answered: Mapping[str, bytes]) -> None:
    """Raise AssertionError unless a folder holds what an undisturbed one does, and nothing in anybody's way."""
    assert cells(out) == whole
    assert len(record_files(out)) == len(whole)
    assert answers(out) == answered
    left = list((out / ".checkpoints").rglob("*"))
    assert not left, left


def hidden_files(out: Path) -> list[Path]:
    """Return the files that a kill has left of unfinished writing."""
    return [
        path for path in out.rglob(".*") if path.suffix in HIDDEN or path.name.startswith((".clock-", ".writable-"))
    ]
