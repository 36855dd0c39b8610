"""Cells that are lost with the process or the machine that they ran on: which are tried again, and which given up."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mlecs_bench.execution.jobs import CellResult

if TYPE_CHECKING:
    from mlecs_bench.doors.events import Event
    from mlecs_bench.execution.jobs import Job

MOST_LOSSES = 3
"""How often in a row a cell may be lost without a round that it had not finished before."""


class Losses:
    """Counts how often cells were lost. Engines of clusters ask it what to do; they try nothing again by themselves."""

    def __init__(self) -> None:
        self._furthest: dict[str, int] = {}
        self._in_vain: dict[str, int] = {}

    def heard(self, event: Event) -> None:
        """Learn how far a cell is."""
        if event.cell is None or event.kind not in ("cell_start", "round_end"):
            return
        key = event.cell.key
        if event.kind == "round_end" and event.round > self._furthest.get(key, 0):
            self._in_vain[key] = 0
        self._furthest[key] = max(event.round, self._furthest.get(key, 0))

    def lost(self, job: Job, how: str) -> Job | None:
        """Return the job to run in the place of one that was lost, which its record will tell; None to give it up."""
        in_vain = self._in_vain[job.key] = self._in_vain.get(job.key, 0) + 1
        return dataclasses.replace(job, lost=(*job.lost, how)) if in_vain < MOST_LOSSES else None

    def given_up(self, job: Job, how: str) -> Event:
        """Return the event that ends a cell that was lost too often."""
        times = len(job.lost) + 1
        text = f"the cell was lost {times} times, and {MOST_LOSSES} times in a row without a new round; last: {how}"
        return CellResult(job.seed, error=text).event(job.ref)
