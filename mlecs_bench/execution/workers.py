"""Where cells run: behind `Workers`, a door through which other engines (a cluster's, say) enter.

`LocalWorkers` keeps long-lived processes, since importing the packages of a cell takes seconds. Every process has a
pool and a pipe of its own: one that is killed in the middle of anything takes no other one with it, holds no lock that
others wait for, and is replaced by a new one.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Protocol

from mlecs_bench.doors.events import Event, Tell
from mlecs_bench.doors.hookspecs import WorkersInfo, WorkersRequest
from mlecs_bench.execution.cell import run_job
from mlecs_bench.execution.jobs import CellResult, Job
from mlecs_bench.federation.processes import (
    THREAD_VARIABLES,
    apart_from_script,
    how_it_ended,
    interrupts_wait,
    start_process,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.process import BaseProcess

    from mlecs_bench.doors.registry import Registry

STOP_SECONDS = 5.0
"""How long a worker may take to leave after Ctrl-C before it is killed."""


class Workers(Protocol):
    """Runs jobs. What happens in them is told, in order for each job, while `wait` is running."""

    @property
    def free(self) -> int:
        """How many jobs can be started now."""
        ...

    def start(self, job: Job) -> None:
        """Begin a job; there must be a free worker."""
        ...

    def wait(self, seconds: float) -> None:
        """Tell what happens, for at most about `seconds`, or until something has happened."""
        ...

    def stop(self) -> None:
        """End all jobs at once; what they have saved stays. Safe to call again, and when nothing runs."""
        ...


class InProcess:
    """Runs one job at a time, here: no process to start, and a defect keeps its place in a debugger."""

    def __init__(self, tell: Tell, registry: Registry | None = None) -> None:
        self._tell = tell
        self._registry = registry
        self._jobs: deque[Job] = deque()

    @property
    def free(self) -> int:
        """One, unless a job waits."""
        return 0 if self._jobs else 1

    def start(self, job: Job) -> None:
        """Keep the job for `wait`."""
        self._jobs.append(job)

    def wait(self, seconds: float) -> None:
        """Run the job that waits, to its end."""
        if self._jobs:
            run_job(self._jobs.popleft(), self._tell, self._registry)
        else:
            time.sleep(seconds)

    def stop(self) -> None:
        """Forget a job that waits."""
        self._jobs.clear()


@dataclass
class _Slot:
    """One worker process: its pool, where its news arrive, and the job it is in."""

    pool: ProcessPoolExecutor
    job: Job | None = None
    process: BaseProcess | None = None
    gone: bool = False
    failed: list[BaseException] = field(default_factory=list)


class LocalWorkers:
    """Keeps up to `size` worker processes on this machine; a process is started when it is first needed.

    `gpus` are the visible GPUs among which the processes are dealt out in turn; empty when the jobs need none.
    """

    def __init__(self, size: int, threads: int, tell: Tell, gpus: Sequence[str] = ()) -> None:
        for variable in THREAD_VARIABLES:
            os.environ.setdefault(variable, str(threads))
        self._threads = threads
        self._gpus = tuple(gpus)
        self._tell = tell
        self._context = multiprocessing.get_context("spawn")
        self._news: queue.SimpleQueue[tuple[_Slot, Event | None]] = queue.SimpleQueue()
        self._slots: list[_Slot | None] = [None] * size

    @property
    def free(self) -> int:
        """How many processes have no job."""
        return sum(slot is None or slot.job is None for slot in self._slots)

    def start(self, job: Job) -> None:
        """Give the job to the first process without one."""
        number = next(i for i, slot in enumerate(self._slots) if slot is None or slot.job is None)
        slot = self._slots[number]
        if slot is None:
            self._slots[number] = self._opened(number, job)
        else:
            self._submit(slot, job)

    def _opened(self, number: int, job: Job) -> _Slot:
        """Return a new slot whose process is in `job`."""
        reader, writer = self._context.Pipe(duplex=False)
        gpu = self._gpus[number % len(self._gpus)] if self._gpus else None
        pool = ProcessPoolExecutor(
            1, mp_context=self._context, initializer=_start_worker, initargs=(writer, self._threads, gpu)
        )
        slot = _Slot(pool)
        self._submit(slot, job)
        # Started by the submission. Only the process itself may hold the end that it writes to: its death closes it.
        writer.close()
        slot.process = next(iter(pool._processes.values()), None)
        threading.Thread(target=self._listen, args=(slot, reader), daemon=True).start()
        return slot

    def _submit(self, slot: _Slot, job: Job) -> None:
        slot.job = job
        with interrupts_wait(), apart_from_script():  # the first submission starts the process
            future = slot.pool.submit(_work, job)
        future.add_done_callback(lambda future: self._check(slot, future))

    def _check(self, slot: _Slot, future: Future[None]) -> None:
        """Keep an error that is none of the cell's own, such as a job that cannot be sent."""
        error = None if future.cancelled() else future.exception()
        if error is not None:
            slot.failed.append(error)
            if not isinstance(error, BrokenProcessPool):
                self._news.put((slot, None))

    def _listen(self, slot: _Slot, reader: Connection) -> None:
        """Collect what a process says until it has died."""
        try:
            while True:
                self._news.put((slot, reader.recv()))
        except (EOFError, OSError):
            self._news.put((slot, None))

    def wait(self, seconds: float) -> None:
        """Tell what the processes say, and replace those that have died."""
        while True:
            try:
                slot, event = self._news.get(timeout=seconds)
            except queue.Empty:
                return
            seconds = 0.0
            if event is None:
                self._bury(slot)
                continue
            if event.kind == "cell_end":
                slot.job = None
            self._tell(event)

    def _bury(self, slot: _Slot) -> None:
        """Give up a process, and let its job end with an error; a later job finds a new process in its place."""
        if slot.gone:
            return
        slot.gone = True
        self._slots = [None if other is slot else other for other in self._slots]
        job, slot.job = slot.job, None
        slot.pool.shutdown(wait=False, cancel_futures=True)
        if job is not None:
            self._tell(CellResult(job.seed, error=_death(slot)).event(job.ref))

    def stop(self) -> None:
        """End the processes at once; what they had saved is whole, since checkpoints are replaced atomically."""
        slots = [slot for slot in self._slots if slot is not None]
        self._slots = [None] * len(self._slots)
        for slot in slots:
            slot.gone = True
            if slot.process is not None and slot.job is not None:
                slot.process.terminate()
            slot.pool.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + STOP_SECONDS
        for process in [slot.process for slot in slots if slot.process is not None]:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()


def _death(slot: _Slot) -> str:
    """Return why a process ended in the middle of a cell."""
    others = [error for error in slot.failed if not isinstance(error, BrokenProcessPool)]
    if any(isinstance(error, SystemExit) for error in others):
        return "the worker process was told to end (SIGTERM); every finished round is kept"
    if others:
        return f"the cell could not be given to a worker process ({' '.join(str(others[0]).split())})"
    return f"the worker process {how_it_ended(slot.process)}; every finished round is kept"


_SAY: Any = None  # a worker's end of its pipe, set once when the worker starts


def _start_worker(writer: Connection, threads: int, gpu: str | None) -> None:
    """Prepare a worker; it says what happens through `writer`."""
    global _SAY  # noqa: PLW0603  # a spawned worker gets its pipe through its initialiser only
    _SAY = writer.send
    start_process(threads, gpu)


def _work(job: Job) -> None:
    run_job(job, _SAY)


def _in_process(request: WorkersRequest) -> Workers:
    return InProcess(request.tell, request.registry)


def _processes(request: WorkersRequest) -> Workers:
    return LocalWorkers(request.size, request.threads, request.tell, request.gpus)


IN_PROCESS = WorkersInfo(
    title="In this process",
    summary="One cell at a time, in the process that asks: no process to start, and a debugger sees it.",
    make=_in_process,
    argument="none",
)
PROCESSES = WorkersInfo(
    title="Processes of this machine",
    summary="Long-lived worker processes; one that dies costs the cell that it was in.",
    make=_processes,
)
