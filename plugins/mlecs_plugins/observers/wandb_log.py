"""The tracker `wandb`: a run of Weights & Biases per cell, offline unless WANDB_MODE says otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mlecs_bench.api import TrackerInfo, TrackerRequest, UsageError
from mlecs_plugins.observers.runs import Beginning, CellRuns, Numbers

if TYPE_CHECKING:
    import wandb

PROJECT = "mlecs-bench"
OFFLINE = "offline"


def make(request: TrackerRequest) -> CellRuns:
    """Return the tracker, with its service started.

    WANDB_MODE, WANDB_DIR, WANDB_PROJECT and the like are obeyed; without them runs stay in the folder of the request.
    Raises UsageError when that cannot be written.
    """
    import wandb

    mode = os.environ.get("WANDB_MODE") or OFFLINE
    if mode == OFFLINE:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    parent = Path(os.environ.get("WANDB_DIR") or request.folder.parent)  # it adds the folder "wandb" itself
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {parent} ({error.strerror}); set WANDB_DIR to another folder") from error
    settings = wandb.Settings(
        mode=mode,
        silent=True,  # stdout belongs to the command
        console="off",
        disable_git=True,
        save_code=False,
        x_disable_stats=True,
        x_disable_meta=True,
    )
    wandb.setup(settings)
    return CellRuns(str(parent / "wandb"), lambda beginning: LoggedRun(beginning, parent, settings))


class LoggedRun:
    """The run of one cell; its id is that of the cell, so that `wandb sync` puts what was interrupted together.

    An offline run cannot be read while it goes on, so a small file beside it says up to which step there are numbers: a
    step that is there is not logged again.
    """

    def __init__(self, beginning: Beginning, parent: Path, settings: wandb.Settings) -> None:
        import wandb

        cell = beginning.cell
        self._mark = parent / "wandb" / f"{beginning.id}.step"
        is_there = any(self._mark.parent.glob(f"*run-*-{beginning.id}")) and self._mark.is_file()
        self._logged = int(self._mark.read_text()) if is_there else 0
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=beginning.id,
            name=beginning.name,
            group=f"{cell.algo} on {cell.dataset}",
            dir=parent,
            config=dict(beginning.settings),
            resume=None if settings.mode == OFFLINE else "allow",
            reinit="create_new",  # cells run side by side
            settings=settings,
        )

    def log(self, step: int, numbers: Numbers) -> None:
        """Keep the numbers of a step, unless it is there."""
        if step > self._logged:
            self._run.log(dict(numbers), step=step, commit=True)
            self._mark.write_text(str(step))
            self._logged = step

    def end(self, error: str | None) -> None:
        """Close the run, as failed where the cell has no record."""
        self._run.finish(exit_code=0 if error is None else 1)


TRACKER = TrackerInfo(
    title="Weights & Biases",
    summary="A run per cell: all numbers of every round, the plan as its config; offline unless WANDB_MODE=online.",
    make=make,
    packages=("wandb",),
    install="pip install 'mlecs-bench[wandb]'",
)
