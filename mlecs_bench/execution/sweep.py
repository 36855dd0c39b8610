"""Carries out many cells: skips what has a record, gives the rest to workers, and loses nothing when one fails.

A cell that another process is running is put off until it is free or has its record, so two sweeps of one folder share
the work. A cell that fails leaves a failure file and costs nothing else.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mlecs_bench.doors.events import Event
from mlecs_bench.doors.observers import tell_all
from mlecs_bench.errors import MlecsError, RecordError
from mlecs_bench.execution.jobs import CellResult, Job
from mlecs_bench.federation.checkpoint import cell_in_use, checkpoint_folder, remove_leftovers
from mlecs_bench.records.failures import find_failure, remove_failure, write_failure
from mlecs_bench.records.names import option_words
from mlecs_bench.records.results import stored_record

if TYPE_CHECKING:
    from collections.abc import Callable

    import pluggy

    from mlecs_bench.doors.events import CellRef, Tell
    from mlecs_bench.execution.workers import Workers

POLL_SECONDS = 0.2
RECHECK_SECONDS = 2.0
"""How long a cell that another process runs is left alone before it is looked at again."""
RESUME_HINT = "Every finished round is kept; run the same command again to go on."


class Interrupted(MlecsError):  # noqa: N818  # it is no error: the user asked for it
    """The user pressed Ctrl-C, or a batch system sent the signal `by`; finished rounds are on disk."""

    exit_code = 130

    def __init__(self, done: int, total: int, resume_hint: str, by: str = "") -> None:
        how = f"interrupted by {by}" if by else "interrupted"
        super().__init__(f"{how}: {done} of {total} cells are done. {resume_hint}")
        self.done = done
        self.total = total
        self.resume_hint = resume_hint


class Dispatcher:
    """Passes events of cells on to the observers, with the plans of their cells, and keeps how the cells ended."""

    def __init__(self, jobs: Sequence[Job], observers: pluggy.PluginManager) -> None:
        self._jobs = {job.key: job for job in jobs}
        self._observers = observers
        self.results: dict[str, CellResult] = {}
        self.in_use: list[Job] = []

    def __call__(self, event: Event) -> None:
        """Pass on one event."""
        job = self._jobs[event.cell.key] if event.cell else None
        if job is not None and event.kind == "cell_end" and not self._ended(job, CellResult(**event.values)):
            return
        tell_all(self._observers, event, job.plan if job else None)

    def _ended(self, job: Job, result: CellResult) -> bool:
        """Keep how a cell ended; False when it has not: another process has it."""
        if result.in_use:
            self.in_use.append(job)
            return False
        out = job.execution.out
        if result.record is not None:
            remove_failure(out, job.identity)
        elif not result.skipped:
            write_failure(out, job.identity, str(result.error), option_words(job.plan.departures))
        self.results[job.key] = result.brief(job.identity) if job.execution.brief else result
        return True


def run_jobs(
    jobs: Sequence[Job],
    make_workers: Callable[[int, Tell], Workers],
    observers: pluggy.PluginManager,
    ended: Sequence[tuple[CellRef, CellResult]] = (),
) -> list[CellResult]:
    """Run every job that has no record yet; return how each ended, in their order. Raises Interrupted on Ctrl-C.

    `make_workers(n, tell)` is called once, with the number of jobs to do, if there are any. Observers are also told
    of cells that have `ended` before they could become jobs.
    """
    cells = [*(job.ref for job in jobs), *(ref for ref, _ in ended)]
    tell_all(observers, Event("cells", values={"cells": cells}))
    for ref, result in ended:
        tell_all(observers, result.event(ref))
    dispatcher = Dispatcher(jobs, observers)
    earlier = _failed_earlier(jobs)
    todo = [job for job in jobs if not _is_over(job, dispatcher, earlier)]
    if todo:
        workers = make_workers(len(todo), dispatcher)
        try:
            _work_off(todo, workers, dispatcher, earlier)
        except KeyboardInterrupt as interrupt:
            raise Interrupted(len(dispatcher.results), len(jobs), RESUME_HINT, by=str(interrupt)) from None
        finally:
            workers.stop()
    return [dispatcher.results[job.key] for job in jobs]


def _failed_earlier(jobs: Sequence[Job]) -> dict[str, str]:
    """Return when the cells had failed that are to be tried again, by the key of their jobs."""
    earlier: dict[str, str] = {}
    for job in jobs:
        if job.execution.retry_failed:
            with contextlib.suppress(RecordError):  # a damaged file is named when the job's turn comes
                failure = find_failure(job.execution.out, job.identity)
                earlier |= {job.key: failure.ended} if failure is not None else {}
    return earlier


def _is_over(job: Job, dispatcher: Dispatcher, earlier: Mapping[str, str]) -> bool:
    """Say whether a job has ended without us, and tell how.

    It has if there is a record, or a failure that is not to be tried again: any where failures are not retried, else
    any but the `earlier` one, since it is another process's.
    """
    result = what_there_is(job)
    if result is None or (result.failed_at and result.failed_at == earlier.get(job.key)):
        return False
    if result.record is not None:
        remove_leftovers(checkpoint_folder(job.execution.out, job.key))
    dispatcher(result.event(job.ref))
    return True


def what_there_is(job: Job) -> CellResult | None:
    """Return how a cell has ended that is not run: its record, how it failed before, or that its file is damaged."""
    out = job.execution.out
    try:
        found = stored_record(out, job.identity, option_words(job.plan.departures))
        if found is not None:
            return CellResult(job.seed, *found, skipped=True)
        failure = find_failure(out, job.identity)
    except RecordError as error:
        return CellResult(job.seed, error=str(error), skipped=True)
    if failure is None:
        return None
    reason = f"{failure.error.rstrip()} (failed before, at {failure.ended}; not tried again)"
    return CellResult(job.seed, error=reason, skipped=True, failed_at=failure.ended)


def _work_off(todo: Sequence[Job], workers: Workers, dispatcher: Dispatcher, earlier: Mapping[str, str]) -> None:
    """Run the jobs until each has a result; one that another process has is looked at again every now and then."""
    waiting = deque(todo)
    aside: deque[tuple[float, Job]] = deque()
    before = len(dispatcher.results)
    while len(dispatcher.results) - before < len(todo):
        while workers.free and (waiting or (aside and aside[0][0] <= time.monotonic())):
            job = waiting.popleft() if waiting else aside.popleft()[1]
            if cell_in_use(checkpoint_folder(job.execution.out, job.key)):
                aside.append((time.monotonic() + RECHECK_SECONDS, job))
            elif not _is_over(job, dispatcher, earlier):  # another process may have ended it since it was planned
                workers.start(job)
        workers.wait(POLL_SECONDS)
        aside.extend((time.monotonic() + RECHECK_SECONDS, job) for job in dispatcher.in_use)
        dispatcher.in_use.clear()
