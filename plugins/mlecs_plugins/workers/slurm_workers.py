"""The workers `slurm`: bundles of cells as jobs of Slurm, by submitit; the folder of the records is shared.

Loading the packages of a cell takes seconds, so a job runs several cells, one after the other. What happens in them it
writes to a file beside the records, which this process reads. Neither Slurm nor submitit tries a job again: what a job
that is killed, preempted or out of time costs its cells, `Losses` decides.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import secrets
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.api import (
    CellResult,
    Event,
    Job,
    Losses,
    RecordError,
    SlurmSettings,
    UsageError,
    Workers,
    WorkersInfo,
    WorkersRequest,
    event_line,
    event_of,
    run_job,
    slurm_minutes,
    slurm_settings,
)

if TYPE_CHECKING:
    import submitit

INSTALL = "pip install 'mlecs-bench[slurm]'"
FOLDER = ".slurm"
"""Where in the folder of the records jobs, what they say, and their logs lie."""
NOTICE = 120
"""Seconds before the end of its time at which a job ends its cell."""
USUAL_MINUTES = 240
"""The time of a job where none is asked for: submitit's own is five minutes."""
LATE_SECONDS = 60.0
"""How long a server of files may take to show what a job that has ended had written."""


def check_settings(text: str) -> None:
    """Raise UsageError unless `text` is settings of Slurm, submitit is installed, and jobs can be submitted here."""
    slurm_settings(text)
    if importlib.util.find_spec("submitit") is None:
        raise UsageError(f"workers 'slurm' need the package 'submitit', which is not installed: {INSTALL}")
    if shutil.which("sbatch") is None:
        raise UsageError("workers 'slurm' need the command sbatch; start the sweep on a login node of the cluster")


@dataclass
class _Bundle:
    """Some cells that are one job of Slurm: which have not ended, and how far what they said was read."""

    jobs: dict[str, Job]
    said: Path
    handle: submitit.Job[None] | None = None
    read: int = 0
    begun: set[str] = field(default_factory=set)
    quiet_since: float | None = None

    def is_late(self) -> bool:
        """Has a server of files had its time to show what is there, since it was first asked in vain?"""
        self.quiet_since = self.quiet_since or time.monotonic()
        return time.monotonic() - self.quiet_since > LATE_SECONDS


class SlurmWorkers:
    """Gives bundles of jobs to Slurm; `cluster` is what submitit calls it, "local" for processes of this machine."""

    def __init__(self, request: WorkersRequest, cluster: str = "slurm") -> None:
        self._settings = slurm_settings(request.argument)
        self._tell = request.tell
        self._cluster = cluster
        self._cells = self._settings.cells or math.ceil(request.size / self._settings.jobs)
        self._losses = Losses()
        self._pending: list[Job] = []
        self._bundles: list[_Bundle] = []

    @property
    def free(self) -> int:
        """How many jobs may be started now: those of whole bundles, for as many as may be in the queue."""
        return max(0, self._cells * (self._settings.jobs - len(self._bundles)) - len(self._pending))

    def start(self, job: Job) -> None:
        """Keep the job until `wait` has bundles made."""
        self._pending.append(job)

    def wait(self, seconds: float) -> None:
        """Submit what waits, and tell what the jobs say."""
        self._submit()
        told = [self._look_at(bundle) for bundle in list(self._bundles)]
        if not any(told):
            time.sleep(seconds)

    def _submit(self) -> None:
        """Make bundles of what waits, and jobs of them: of several an array."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        folder = pending[0].execution.out / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        bundles = [
            _Bundle({job.key: job for job in pending[i : i + self._cells]}, folder / f"{secrets.token_hex(8)}.jsonl")
            for i in range(0, len(pending), self._cells)
        ]
        executor = self._executor(folder, pending[0])
        with executor.batch():
            for bundle in bundles:
                bundle.handle = executor.submit(run_bundle, list(bundle.jobs.values()), bundle.said)
        self._bundles += bundles

    def _executor(self, folder: Path, job: Job) -> submitit.AutoExecutor:
        """Return what submits jobs: never again what was lost, and with a notice before their time is over."""
        import submitit

        asked: SlurmSettings = self._settings
        executor = submitit.AutoExecutor(folder / "%j", cluster=self._cluster, slurm_max_num_timeout=0)
        gpus = asked.gpus or ("1" if job.plan.torch_device == "cuda" else "")
        wanted: dict[str, Any] = {
            "name": f"mlecs-{job.execution.out.name}",
            "cpus_per_task": max(asked.cpus, job.plan.threads),
            "timeout_min": slurm_minutes(asked.time) if asked.time else USUAL_MINUTES,
            **{f"slurm_{name}": getattr(asked, name) for name in ("partition", "account", "qos", "constraint", "mem")},
            "slurm_gres": f"gpu:{gpus}" if gpus else None,
            "slurm_signal_delay_s": NOTICE,
        }
        executor.update_parameters(**{name: value for name, value in wanted.items() if value})
        return executor

    def _look_at(self, bundle: _Bundle) -> bool:
        """Tell what a bundle has said since; return whether that was anything. One that is over is let go."""
        over = bundle.handle is not None and bundle.handle.done()
        told = self._read(bundle)
        if over and not told and (self._cluster == "local" or not bundle.jobs or bundle.is_late()):
            self._let_go(bundle)
            return True
        return told

    def _read(self, bundle: _Bundle) -> bool:
        """Tell the whole lines that are new in a bundle's file."""
        try:
            with bundle.said.open("rb") as file:  # opened anew: so a server of files is asked what there is
                file.seek(bundle.read)
                new = file.read()
        except FileNotFoundError:
            return False
        told = False
        for line in new.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            event = _event(line.decode(), bundle)
            if event is None:
                break
            bundle.read += len(line)
            bundle.quiet_since, told = None, True
            self._hear(bundle, event)
        return told

    def _hear(self, bundle: _Bundle, event: Event) -> None:
        key = event.cell.key if event.cell else ""
        bundle.begun.add(key)
        self._losses.heard(event)
        if event.kind == "cell_end":
            bundle.jobs.pop(key, None)
        self._tell(event)

    def _let_go(self, bundle: _Bundle) -> None:
        """Forget a bundle that is over, and have the cells that it leaves run again: the one it was in was lost."""
        self._bundles.remove(bundle)
        left = list(bundle.jobs.values())
        # A job that ended before any cell began counts against the first, or it would be tried without end.
        in_vain = next((job for job in left if job.key in bundle.begun), left[0] if left else None)
        for job in left:
            if job is not in_vain:
                self._pending.append(job)
                continue
            how = _how_it_ended(bundle)
            again = self._losses.lost(job, how)
            if again is None:
                self._tell(self._losses.given_up(job, how))
                continue
            text = f"a cell was lost ({how}) and is tried again, attempt {len(again.lost) + 1}"
            self._tell(Event("note", job.ref, values={"text": text}))
            self._pending.append(again)

    def stop(self) -> None:
        """Cancel all jobs; what they had saved stays."""
        bundles, self._bundles, self._pending = self._bundles, [], []
        for bundle in bundles:
            if bundle.handle is not None:
                bundle.handle.cancel(check=False)


def _event(line: str, bundle: _Bundle) -> Event | None:
    """Return the event of a line; None for an end whose record is not to be seen yet, but may be."""
    try:
        return event_of(line)
    except RecordError as error:
        if not bundle.is_late():
            return None
        cell = json.loads(line)["cell"]
        job = bundle.jobs[cell["key"]]
        return CellResult(job.seed, error=str(error)).event(job.ref)


def _how_it_ended(bundle: _Bundle) -> str:
    """Return in a few words how a job was lost, by what Slurm says of it."""
    state = bundle.handle.state if bundle.handle is not None else "UNKNOWN"
    words = {
        "TIMEOUT": "the time of its job was over",
        "PREEMPTED": "its job was preempted",
        "NODE_FAIL": "its node died",
        "OUT_OF_MEMORY": "the memory of its job ran out",
        "CANCELLED": "its job was cancelled",
    }
    return words.get(state.partition(" ")[0], f"its job ended early, {state}")


# -------------------------------------------------------------------------------------------------------- in the job


class _ToldToEndError(BaseException):
    """Slurm wants the job to end: no error of the cell that runs, which therefore must not be caught as one."""


def run_bundle(jobs: Sequence[Job], said: Path) -> None:
    """Run cells one after the other, and write what happens to the file `said`, an event a line.

    On SIGTERM, SIGUSR1 or SIGUSR2 it ends in order: the cell that runs gives its lease back, and every finished round
    is kept.
    """

    def leave(_number: int, _frame: Any) -> None:
        raise _ToldToEndError

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, leave)
    try:
        with said.open("a", encoding="utf-8") as file:

            def tell(event: Event) -> None:
                file.write(event_line(event) + "\n")
                file.flush()
                os.fsync(file.fileno())

            for job in jobs:
                run_job(job, tell)
    except _ToldToEndError:
        return


def _make(request: WorkersRequest) -> Workers:
    return SlurmWorkers(request)


SLURM = WorkersInfo(
    title="Jobs of Slurm",
    summary="Bundles of cells as jobs, submitted by submitit from a login node; slurm:partition=cpu,gpus=1,time=240.",
    make=_make,
    argument="text",
    check_argument=check_settings,
)
