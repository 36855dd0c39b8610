"""How a sweep tells other terminals where it stands: a small file beside the records, replaced every few seconds."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlecs_bench.doors.events import CellRef, Event
from mlecs_bench.errors import MlecsError
from mlecs_bench.files import clock_of, parsed_json, write_text
from mlecs_bench.machine import process_lives
from mlecs_bench.records.provenance import now
from mlecs_bench.session.progress import Listener, Tally, Work, cell_name, cell_of, moment

SCHEMA = "mlecs-bench/status/1"
FOLDER = ".sweeps"
MIN_GAP = 2.0
"""Seconds between two versions of the file, besides those for a cell that has begun or ended."""
BEAT = 20.0
"""Seconds between two signs of life, by the file's time alone."""
EXPIRY = 180.0
"""Seconds without one after which a sweep of another machine counts as lost."""
COUNTS = ("total", "done", "failed", "skipped")


class StatusFile(Listener):
    """An observer that keeps `<folder>/.sweeps/<host>-<pid>.json` up to date; `close` leaves the last version there."""

    def __init__(self, out: Path, workers: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        host = socket.gethostname()
        self._path = out / FOLDER / f"{host}-{os.getpid()}.json"
        self._about = {"schema": SCHEMA, "host": host, "pid": os.getpid(), "started": now(), "workers": workers}
        self._tally = Tally(0, clock)
        self._running: dict[CellRef, str] = {}
        self._skipped = 0
        self._clock = clock
        self._written = -MIN_GAP
        self._path.parent.mkdir(parents=True, exist_ok=True)
        forget_ended(out)
        self._over = threading.Event()
        threading.Thread(target=self._beat, name="status file", daemon=True).start()

    def _beat(self) -> None:
        """Show other machines that this process lives, also while nothing happens that is worth a new version."""
        while not self._over.wait(BEAT):
            with suppress(OSError):
                os.utime(self._path)

    def on_cells(self, event: Event) -> None:
        """Learn how much there is to do."""
        cells = event.values["cells"]
        self._tally.plan(cells)
        self._write("running")

    def on_cell_start(self, event: Event) -> None:
        """A cell begins."""
        cell, resumed_round = cell_of(event), event.round
        if self._tally.start(cell, resumed_round):
            self._running[cell] = f"round {resumed_round}/{cell.rounds}"
            self._write("running")

    def on_device_end(self, event: Event) -> None:
        """A device has finished."""
        cell = cell_of(event)
        self._moved(cell, f"{moment(cell, event.round)} {event.device}")

    def on_score_end(self, event: Event) -> None:
        """A device or the server has been scored."""
        cell = cell_of(event)
        self._moved(cell, f"{moment(cell, event.round)} scoring {event.device}", "scoring")

    def on_cell_end(self, event: Event) -> None:
        """A cell has ended."""
        cell, error = cell_of(event), event.values["error"]
        self._skipped += error is None and not self._tally.has_started(cell)
        self._tally.end(cell, failed=error is not None)
        self._running.pop(cell, None)
        self._write("running", at_once=self._tally.has_started(cell))

    def close(self, state: str) -> None:
        """Say that the sweep is over: "done", "interrupted" or "failed"."""
        self._over.set()
        self._running.clear()
        with suppress(MlecsError):  # a full disk must not hide how the sweep ended
            self._write(state)

    def _moved(self, cell: CellRef, where: str, work: Work = "training") -> None:
        self._tally.unit(cell, work)
        if cell in self._running:
            self._running[cell] = where
            self._write("running", at_once=False)

    def _write(self, state: str, at_once: bool = True) -> None:
        if not at_once and self._clock() - self._written < MIN_GAP:
            return
        self._written = self._clock()
        tally = self._tally
        values = {
            **self._about,
            "state": state,
            "updated": now(),
            "cells": {
                "total": tally.n_cells,
                "done": tally.cells_done - tally.failed,
                "failed": tally.failed,
                "skipped": self._skipped,
            },
            "eta_seconds": None if (eta := tally.eta()) is None else round(eta),
            "running": [{"cell": cell_name(cell), "at": where} for cell, where in self._running.items()],
        }
        write_text(self._path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Status:
    """What a sweep last said of itself; `state` is "lost" when its process is gone without a word."""

    state: str
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def live(self) -> bool:
        """Is the sweep running?"""
        return self.state == "running"


def read_statuses(out: Path) -> list[Status]:
    """Return what the sweeps of a folder say, the newest first; files that cannot be read are passed over."""
    found = [status for path in (out / FOLDER).glob("[!.]*.json") if (status := _read(path)) is not None]
    return sorted(found, key=lambda status: (status.live, str(status.values["started"])), reverse=True)


def forget_ended(out: Path) -> None:
    """Delete what sweeps that have ended said, and files that cannot be read."""
    for path in (out / FOLDER).glob("[!.]*.json"):
        status = _read(path)
        if status is None or not status.live:
            path.unlink(missing_ok=True)


def _read(path: Path) -> Status | None:
    """Return what a sweep says in a file, or None for a file that no sweep of this version wrote."""
    try:
        values = parsed_json(path.read_text(encoding="utf-8"))
        return Status(_state(path, values), values) if _is_whole(values) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_whole(values: Mapping[str, Any]) -> bool:
    """Does a file say all that is shown, in the types in which it is?"""
    texts = all(isinstance(values[name], str) for name in ("host", "started", "state", "updated"))
    numbers = [values["pid"], *(values["cells"][name] for name in COUNTS)]
    left = values["eta_seconds"]
    return (
        values["schema"] == SCHEMA
        and texts
        and all(type(number) is int for number in numbers)
        and (left is None or type(left) is int)
        and all(isinstance(row[name], str) for row in values["running"] for name in ("cell", "at"))
    )


def _state(path: Path, values: Mapping[str, Any]) -> str:
    """Return the state a file names, unless it says "running" of a process that is gone.

    This machine knows its own processes. Those of others touch their files, which has the file system's own time.
    """
    if values["state"] != "running":
        return str(values["state"])
    lives = process_lives(int(values["pid"])) if values["host"] == socket.gethostname() else None
    if lives is None:
        lives = clock_of(path.parent) - path.stat().st_mtime <= EXPIRY
    return "running" if lives else "lost"
