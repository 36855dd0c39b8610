"""Events: what happens in runs and sweeps, as observers, the live view and the status file are told of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

KINDS: Mapping[str, str] = MappingProxyType({
    "data": "something slow goes on, `done` of `total` of `what`: preparing data or fetching a model, without a cell, "
            "or reading texts for a metric, in one",
    "cells": "all `cells` of a run or a sweep are known, those that are done among them; none has begun",
    "cell_start": "a cell begins, or goes on after its finished `round`, 0 for none",
    "device_end": "a device (or \"server\") has done its part of a round: `losses`, `steps`, `seconds`",
    "score_end": "a device or the server has been scored: `scores`, `seconds`; the round is rounds + 1 at the end",
    "round_end": "a round is over and saved: mean `scores`, `parties`: losses, scores, steps, seconds, sent (parameters"
                 ") and bytes of each, `ledger`: all that was sent, by device, direction and kind",
    "note": "something that a user may want to know, of a cell or of the whole run: `text`, such as what is fetched",
    "cell_end": "a cell has ended with its `record`, or None and an `error`",
})  # fmt: skip  # one kind, one line
"""Every kind of event and what its `values` hold."""


@dataclass(frozen=True)
class CellRef:
    """Names one cell of a run or a sweep: one algorithm, dataset, rate and seed.

    `scorings`: how often a device or the server is scored in the cell, counting the server as if it always were.
    `key` is that of its record. `variant` says in which settings it departs from the defaults, "" for none.
    """

    algo: str
    dataset: str
    rho: str
    seed: int
    rounds: int
    n_devices: int
    scorings: int
    key: str = ""
    variant: str = ""


@dataclass(frozen=True)
class Event:
    """Something that has happened, of a kind in `KINDS`: in which cell, round and device, and what there is to say.

    Raises ValueError for a kind that is none.
    """

    kind: str
    cell: CellRef | None = None
    round: int = 0
    device: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no event '{self.kind}'; kinds are {', '.join(KINDS)}")


Tell = Callable[[Event], None]


def silent(_event: Event) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Telling:
    """Who is told of something slow: `say(text)` a line that matters, `progress(done, total, what)` how far it is."""

    say: Callable[[str], None]
    progress: Callable[[int, int, str], None]


SILENT = Telling(lambda _text: None, lambda _done, _total, _what: None)
"""Tells nobody."""


def telling(tell: Tell) -> Telling:
    """Return what turns lines and progress into events."""

    def say(text: str) -> None:
        tell(Event("note", values={"text": text}))

    def progress(done: int, total: int, what: str) -> None:
        tell(Event("data", values={"done": done, "total": total, "what": what}))

    return Telling(say, progress)
