"""Appends the numbers of every round to the CSV file that $MLECS_BENCH_CSV names; silent while it is not set.

One line per number: which cell, round and party, what it is (losses, scores, steps, seconds, sent), its name and value.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from mlecs_bench.api import Event, UsageError, hookimpl

VARIABLE = "MLECS_BENCH_CSV"
COLUMNS = ("key", "algo", "dataset", "rho", "variant", "seed", "round", "party", "what", "name", "value")


@hookimpl
def mlecs_event(event: Event) -> None:
    """Write the numbers of a round that is over; see to it that the file can be written before anything is run."""
    path = os.environ.get(VARIABLE)
    if path and event.kind in ("cells", "round_end"):
        append(Path(path).expanduser(), rows(event) if event.kind == "round_end" else iter(()))


def rows(event: Event) -> Iterator[tuple[object, ...]]:
    """Yield a line for each number of a round's end."""
    cell = event.cell
    if cell is None:
        return
    where = (cell.key, cell.algo, cell.dataset, cell.rho, cell.variant, cell.seed, event.round)
    for party, numbers in event.values["parties"].items():
        for what, by_name in numbers.items():
            for name, value in (by_name or {}).items():
                yield (*where, party, what, name, value["value"] if what == "scores" else value)


def append(path: Path, lines: Iterator[tuple[object, ...]]) -> None:
    """Append lines to a file, under a header where it is new; raises UsageError when it cannot be written."""
    try:
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(COLUMNS)
            writer.writerows(lines)
    except OSError as error:
        raise UsageError(
            f"cannot write {path} ({error.strerror}); set {VARIABLE} to a file that you can write"
        ) from error
