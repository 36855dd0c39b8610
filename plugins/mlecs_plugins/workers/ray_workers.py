"""The workers `ray`: cells as tasks of a Ray cluster, on nodes that need share no files with this one.

A task tells its events, and then the files of its cell, as a stream. Ray tries no task again: its second attempt would
leave out of the stream what the first had said, by number. What a lost worker or node costs, `Losses` decides.
"""

from __future__ import annotations

import importlib.util
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.api import (
    Arrivals,
    CellResult,
    Event,
    Job,
    Losses,
    MlecsError,
    Sender,
    UsageError,
    Workers,
    WorkersInfo,
    WorkersRequest,
    run_parcel,
)

if TYPE_CHECKING:
    import ray

INSTALL = "pip install 'mlecs-bench[ray]'"
LOOPBACK = ("127.0.0.1", "localhost")
LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Where this says "0" when Ray is imported, it leaves a loopback address as it is, and takes no other one for it."""
CONNECT_SECONDS = 5.0
RECOUNT_SECONDS = 5.0
"""How long a count of what the cluster has is taken for true."""
AHEAD = 2
"""Cells that wait in the cluster for each that it has room for: nodes never idle, and a cluster that grows sees why."""


def check_address(text: str) -> None:
    """Raise UsageError unless `text` is HOST:PORT of a cluster that answers, and Ray is installed."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError(f"workers 'ray' need the package 'ray', which is not installed: {INSTALL}")
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise UsageError(f"workers 'ray' take the address of a cluster, ray:HOST:PORT, got '{text}'")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        start = f"start one with: ray start --head --node-ip-address {host} --port {port}"
        raise UsageError(f"no Ray cluster answers at {text} ({error}); {start}") from error


@dataclass
class _Task:
    """A job on its way through the cluster: the stream of its words, and what has come of them."""

    job: Job
    words: Any
    arrivals: Arrivals
    ended: bool = False


class RayWorkers:
    """Gives jobs to a Ray cluster, a little ahead of the room that it has."""

    def __init__(self, request: WorkersRequest) -> None:
        if request.argument.rpartition(":")[0] in LOOPBACK:
            os.environ.setdefault(LOOPBACK_VARIABLE, "0")
        import ray

        self._ray = ray
        self._tell = request.tell
        self._size = request.size
        self._losses = Losses()
        self._tasks: dict[Any, _Task] = {}
        self._senders: dict[Path, Sender] = {}
        self._data: dict[Path, list[Any]] = {}
        self._needs: set[tuple[int, int]] = set()
        self._room = (-RECOUNT_SECONDS, 0)
        self._owns = not ray.is_initialized()
        if self._owns:
            _connect(request.argument)

    @property
    def free(self) -> int:
        """How many jobs may be given to the cluster now."""
        return max(0, min(self._size, AHEAD * self._slots() + 1) - len(self._tasks))

    def _slots(self) -> int:
        """Return for how many cells the cluster has room, those that run among them."""
        counted, slots = self._room
        if time.monotonic() - counted >= RECOUNT_SECONDS:
            have = self._ray.cluster_resources()
            cpus, gpus = next(iter(self._needs), (1, 0))
            slots = int(have.get("CPU", 0) // cpus)
            slots = min(slots, int(have.get("GPU", 0) // gpus)) if gpus else slots
            self._room = (time.monotonic(), slots)
        return slots

    def start(self, job: Job) -> None:
        """Give a job to the cluster."""
        needs = _needs(job)
        if needs not in self._needs:
            self._needs.add(needs)
            self._say_what_lacks(*needs)
        sender = self._sender(job)
        parts = self._data_of(job)
        cpus, gpus = needs
        # Ray's retries are off: see the module.
        task = self._ray.remote(num_returns="streaming", max_retries=0, num_cpus=cpus, num_gpus=gpus)(_words)
        words = task.options(name=f"{job.ref.algo}-{job.ref.dataset}-{job.ref.seed}").remote(sender.parcel(job), parts)
        self._tasks[words] = _Task(job, words, Arrivals(job))

    def _sender(self, job: Job) -> Sender:
        out = job.execution.out
        if out not in self._senders:
            self._senders[out] = Sender(out)
        return self._senders[out]

    def _data_of(self, job: Job) -> list[Any]:
        """Return the references of the parts of a job's data, which are put into the cluster once."""
        if job.data not in self._data:
            self._data[job.data] = [self._ray.put(part) for part in self._sender(job).data(job)]
        return self._data[job.data]

    def _say_what_lacks(self, cpus: int, gpus: int) -> None:
        """Say that no node can run a cell, which waits until one comes."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            wanted = f"{cpus} CPU" + (f" and {gpus} GPU" if gpus else "")
            text = f"no node of the Ray cluster has {wanted}, which a cell needs; it waits until one comes"
            self._tell(Event("note", values={"text": text}))

    def wait(self, seconds: float) -> None:
        """Tell what the cells say, and give those again that were lost."""
        if not self._tasks:
            time.sleep(seconds)
            return
        while self._tasks:
            ready, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=seconds, fetch_local=False)
            if not ready:
                return
            for words in ready:
                self._hear(self._tasks[words])
            seconds = 0.0

    def _hear(self, task: _Task) -> None:
        """Take the next word of a task."""
        try:
            event = task.arrivals.event(self._ray.get(next(task.words)))
        except StopIteration:
            self._gone(task, "its task ended without a word")
        except MlecsError as error:  # what came home cannot be kept
            self._end(task, CellResult(task.job.seed, error=str(error)).event(task.job.ref))
        except self._ray.exceptions.RayTaskError as error:
            text = f"the task could not be run: {_last_line(error)}; install the same on all nodes"
            self._end(task, CellResult(task.job.seed, error=text).event(task.job.ref))
        except self._ray.exceptions.RayError as error:
            self._gone(task, _reason(error))
        else:
            if event is not None:
                self._losses.heard(event)
                self._end(task, event) if event.kind == "cell_end" else self._tell(event)

    def _end(self, task: _Task, event: Event) -> None:
        """Let a task go, and tell how its cell has ended."""
        task.ended = True
        del self._tasks[task.words]
        self._tell(event)

    def _gone(self, task: _Task, how: str) -> None:
        """Give a job that was lost to the cluster again, or give it up."""
        del self._tasks[task.words]
        self._room = (-RECOUNT_SECONDS, 0)
        again = self._losses.lost(task.job, how)
        if again is None:
            self._tell(self._losses.given_up(task.job, how))
            return
        text = f"a cell was lost ({how}) and is tried again, attempt {len(again.lost) + 1}"
        self._tell(Event("note", task.job.ref, values={"text": text}))
        self.start(again)

    def stop(self) -> None:
        """End all jobs at once; nodes that share the folder of the records keep what they had saved."""
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            self._ray.cancel(task.words, force=True)
        self._data.clear()
        for sender in self._senders.values():
            sender.close()
        self._senders.clear()
        if self._owns:
            self._owns = False
            self._ray.shutdown()


def _needs(job: Job) -> tuple[int, int]:
    """Return how many CPUs and GPUs a cell is given."""
    return job.plan.threads, int(job.plan.torch_device == "cuda")


def _connect(address: str) -> None:
    """Make this process a driver of the cluster; raises MlecsError where that fails."""
    import ray

    with _own_signals():
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = _last_line(error)
            raise MlecsError(f"cannot join the Ray cluster at {address} from this machine ({reason})") from error
    # stdout belongs to the command. Ray prints there when a node dies, whatever it is told of logs; we tell of losses.
    vars(ray._private.worker).update(print_to_stdstream=lambda *_, **__: None)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Put the handlers back that Ray replaces."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in kept.items():
                signal.signal(number, handler)


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _reason(error: BaseException) -> str:
    """Return in a few words how a task was lost."""
    name = type(error).__name__
    return {
        "WorkerCrashedError": "its worker process died",
        "LocalRayletDiedError": "its node died",
        "NodeDiedError": "its node died",
        "OutOfMemoryError": "the memory of its node ran out",
        "OwnerDiedError": "its worker process died",
        "ObjectLostError": "what it said was lost with its node",
    }.get(name, f"{name}: {_last_line(error)}")


# ------------------------------------------------------------------------------------------------------- in the cluster


def _words(parcel: str, parts: Sequence[ray.ObjectRef]) -> Iterator[str | bytes]:
    """Run the job of a parcel on a node, and yield what it says as it comes."""
    import ray

    said: queue.SimpleQueue[str | bytes | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            run_parcel(parcel, lambda: (ray.get(part) for part in parts), said.put)
        finally:
            said.put(None)

    threading.Thread(target=run, daemon=True).start()
    while (word := said.get()) is not None:
        yield word


def _make(request: WorkersRequest) -> Workers:
    return RayWorkers(request)


RAY = WorkersInfo(
    title="A Ray cluster",
    summary="Cells as tasks on the nodes of a cluster, which need share no files; ray:HOST:PORT names it.",
    make=_make,
    argument="text",
    check_argument=check_address,
)
