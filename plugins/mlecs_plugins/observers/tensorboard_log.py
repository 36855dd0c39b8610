"""The tracker `tensorboard`: a folder of event files per cell, for `tensorboard --logdir`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.api import TrackerInfo, TrackerRequest, UsageError
from mlecs_plugins.observers.runs import Beginning, CellRuns, Numbers, file_name

if TYPE_CHECKING:
    from mlecs_bench.api import Plan


def make(request: TrackerRequest) -> CellRuns:
    """Return the tracker; raises UsageError when the folder cannot be written."""
    import torch.utils.tensorboard  # noqa: F401  # now, so that a broken installation is known before anything starts

    try:
        request.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write {request.folder} ({error.strerror}); choose another folder with --out"
        ) from error
    return CellRuns(str(request.folder), lambda beginning: EventFiles(request.folder, beginning))


class EventFiles:
    """The event files of one cell.

    Whoever reads them drops every point of a round after the one that the cell went on from: it is told again.
    """

    def __init__(self, folder: Path, beginning: Beginning) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = folder / file_name(beginning)
        is_new = not any(place.glob("events.*"))
        self._settings = beginning.settings
        self._last: Numbers = {}
        self._writer: Any = SummaryWriter(str(place), purge_step=None if is_new else beginning.after + 1)
        if is_new:
            self._writer.add_text("plan", plan_text(beginning.plan), global_step=beginning.after)

    def log(self, step: int, numbers: Numbers) -> None:
        """Write the numbers of a step, to the disk."""
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, global_step=step)
        self._last = numbers
        self._writer.flush()

    def end(self, error: str | None) -> None:
        """Write settings and last numbers as a row of the tab HPARAMS, for a cell that has a record, and close."""
        if error is None:
            self._write_row({name: number for name, number in self._last.items() if name.endswith("/mean")})
        self._writer.close()

    def _write_row(self, outcome: Numbers) -> None:
        from torch.utils.tensorboard.summary import hparams

        rows = hparams(dict(self._settings), dict(outcome))  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for summary in rows:
            self._writer.file_writer.add_summary(summary)


def plan_text(plan: Plan | None) -> str:
    """Return a plan as the tab TEXT shows it: JSON in a block of code."""
    values = json.dumps(plan.to_values() if plan else {}, indent=1)
    return "".join(f"    {line}\n" for line in values.splitlines())


TRACKER = TrackerInfo(
    title="TensorBoard",
    summary="Event files of every cell: all numbers of every round, the plan as text, settings and outcome in HPARAMS.",
    make=make,
    packages=("tensorboard",),
    install="pip install 'mlecs-bench[tensorboard]'",
)
