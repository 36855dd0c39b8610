"""What the trackers share: one run per cell, opened when it begins, with a step for every round.

A cell is a run whose id is the key of its record, and the step of a number is its round, whatever was interrupted in
between: a round that was told before is never there twice. What a cell leaves (scores after the last broadcast, sums of
what was sent, cost) has the step after the last round.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

from mlecs_bench.api import CellRef, Event, Plan, hookimpl

Numbers = Mapping[str, float]
Setting = str | float | bool
SHORT = 16
"""Digits of a key that name a run; a collision among a million runs has a chance of one in ten million."""


@dataclass(frozen=True)
class Beginning:
    """Which cell begins, with which plan (None where a cell has none), after which finished round."""

    cell: CellRef
    plan: Plan | None
    after: int = 0

    @property
    def id(self) -> str:
        """The id of the run: the first digits of the record's key."""
        return self.cell.key[:SHORT]

    @property
    def name(self) -> str:
        """The cell in words."""
        cell = self.cell
        variant = f" ({cell.variant})" if cell.variant else ""
        return f"{cell.algo}{variant} on {cell.dataset}, rho {cell.rho}, seed {cell.seed}"

    @property
    def settings(self) -> dict[str, Setting]:
        """The whole plan under dotted names, and what tells the cell apart from others of it."""
        own: dict[str, Setting] = {"key": self.cell.key, "seed": self.cell.seed, "variant": self.cell.variant}
        return {**own, **dict(_flat(self.plan.to_values() if self.plan else {}))}


class Run(Protocol):
    """An open run of a tracker."""

    def log(self, step: int, numbers: Numbers) -> None:
        """Keep numbers of a step, and have them where others can see them."""
        ...

    def end(self, error: str | None) -> None:
        """Close the run; `error` says why its cell has no record."""
        ...


class CellRuns:
    """An observer that keeps a run open for every cell that is under way; `begin` opens one."""

    def __init__(self, where: str, begin: Callable[[Beginning], Run]) -> None:
        self.where = where
        self._begin = begin
        self._open: dict[str, Run] = {}

    @hookimpl
    def mlecs_event(self, event: Event, plan: Plan | None) -> None:
        """Open a run when its cell begins, log every round, and close it with the cell."""
        cell = event.cell
        if cell is None:
            return
        if event.kind == "cell_start":
            self._end(cell, "it began again")
            self._open[cell.key] = self._begin(Beginning(cell, plan, event.round))
        elif event.kind == "round_end":
            if cell.key not in self._open:  # it was told of nothing before
                self._open[cell.key] = self._begin(Beginning(cell, plan, event.round - 1))
            self._open[cell.key].log(event.round, numbers_of_round(event.values["parties"]))
        elif event.kind == "cell_end" and cell.key in self._open:
            record = event.values["record"]
            if record is not None:
                self._open[cell.key].log(cell.rounds + 1, numbers_of_record(record))
            self._end(cell, event.values["error"])

    def close(self) -> None:
        """Close the runs of cells that were interrupted."""
        while self._open:
            self._open.popitem()[1].end("interrupted")

    def _end(self, cell: CellRef, error: str | None) -> None:
        if cell.key in self._open:
            self._open.pop(cell.key).end(error)


def numbers_of_round(parties: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the numbers of a round's end as what/name/party, with the mean of each score over the devices."""
    numbers = {
        f"{what}/{name}/{party}": float(value["value"] if what == "scores" else value)
        for party, by_what in parties.items()
        for what, by_name in by_what.items()
        for name, value in (by_name or {}).items()
    }
    devices = {party: by_what["scores"] or {} for party, by_what in parties.items() if party != "server"}
    return numbers | _means("scores", {party: scores for party, scores in devices.items() if scores})


def numbers_of_record(record: Mapping[str, Any]) -> dict[str, float]:
    """Return what a cell leaves: scores after the last broadcast, all that was sent by kind and way, and its cost."""
    received, comm, cost = record["metrics"]["client"]["received"], record["comm"], record["cost"]
    by_device: dict[str, dict[str, Any]] = {}
    for metric, scores in received.items():
        for device, score in scores.items():
            by_device.setdefault(device, {})[metric] = score
    numbers = {
        f"received/{metric}/{device}": float(score["value"])
        for device, scores in by_device.items()
        for metric, score in scores.items()
    }
    numbers |= _means("received", by_device)
    for entry in comm["entries"]:
        for unit in ("params", "bytes"):
            numbers[f"total_{unit}/{entry['kind']}/{entry['direction']}"] = float(entry[unit])
    numbers |= {f"sent_of_model/{name}": float(ratio["value"]) for name, ratio in comm["ratios"].items()}
    return numbers | {f"total_{what}/{name}": float(n) for what, by_name in cost.items() for name, n in by_name.items()}


def _means(what: str, by_device: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean over devices of every metric that all of them have."""
    names = [set(scores) for scores in by_device.values()]
    common = sorted(set.intersection(*names)) if names else []
    return {f"{what}/{name}/mean": fmean(scores[name]["value"] for scores in by_device.values()) for name in common}


def _flat(values: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, Setting]]:
    """Yield nested settings under dotted names; lists as texts with commas."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{inside}{name}.")
        elif isinstance(value, list | tuple):
            yield inside + name, ",".join(map(str, value))
        else:
            yield inside + name, "none" if value is None else value


def file_name(beginning: Beginning) -> str:
    """Return a name for the files of a run: what a person tells cells apart by, and the key."""
    cell = beginning.cell
    parts = (cell.algo.replace("/", "+"), cell.dataset, f"rho{cell.rho}", f"seed{cell.seed}", beginning.id)
    return "--".join(re.sub(r"[^A-Za-z0-9.,=+_-]", "_", part) for part in parts)
