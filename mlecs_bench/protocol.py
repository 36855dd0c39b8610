"""The protocol of a run: fills in the spec, prepares the data once, and runs one cell per seed in worker processes."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import queue
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.cell import CellEvents, CellPlan, identity, profile_of, run_cell
from mlecs_bench.data import DataRequest, Prepared, open_prepared
from mlecs_bench.errors import MlecsError, UsageError, did_you_mean
from mlecs_bench.hookspecs import CellRef
from mlecs_bench.options import build_options, plain
from mlecs_bench.partition import rates_of
from mlecs_bench.preflight import check_models, workers_that_fit
from mlecs_bench.profiles import PROFILES
from mlecs_bench.registry import Registry
from mlecs_bench.results import find_record, read_record, writable
from mlecs_bench.spec import RunSpec, rho_text
from mlecs_bench.structure import canonical_devices, check_structures, structures

if TYPE_CHECKING:
    import pluggy

POLL_SECONDS = 0.2
STOP_SECONDS = 5.0
"""How long a worker may take to leave after Ctrl-C before it is killed."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Execution:
    """How a run is carried out; nothing here can change a number. `workers` None: one per core that memory allows,
    or one on a GPU; no more than cells.
    """

    out: Path
    cache_dir: Path
    workers: int | None = None


@dataclass(frozen=True)
class CellResult:
    """How one seed ended: with a record (new, or found and `skipped`) or with an error."""

    seed: int
    path: Path | None = None
    record: Mapping[str, Any] | None = None
    error: str | None = None
    skipped: bool = False


class Interrupted(MlecsError):  # noqa: N818  # it is no error: the user asked for it
    """The user pressed Ctrl-C; finished rounds are on disk."""

    exit_code = 130

    def __init__(self, done: int, total: int, resume_hint: str) -> None:
        super().__init__(f"interrupted: {done} of {total} cells are done. {resume_hint}")
        self.done = done
        self.total = total
        self.resume_hint = resume_hint


RESUME_HINT = "Every finished round is kept; run the same command again to go on."


def resolve(spec: RunSpec, registry: Registry) -> RunSpec:
    """Return `spec` with every None filled in and every name and option checked; raises UsageError or PluginError."""
    if spec.profile not in PROFILES:
        raise UsageError(f"no profile '{spec.profile}'. {did_you_mean(spec.profile, PROFILES)}")
    spec = _with_canonical_devices(spec)
    profile = profile_of(spec)
    algorithm, dataset = registry.algorithm(spec.algo), registry.dataset(spec.dataset)
    options = build_options(algorithm.info.options, spec.options, f"algorithm '{spec.algo}'")
    data_options = build_options(dataset.info.options, spec.data_options, f"dataset '{spec.dataset}'")
    split = spec.split or dataset.info.splits[0]
    if split not in dataset.info.splits:
        raise UsageError(f"dataset '{spec.dataset}' has no split '{split}'; use {' or '.join(dataset.info.splits)}")
    rates_of(spec.rho, sorted(dataset.info.modalities))
    needs = algorithm.info.needs(options)
    if spec.proxy is not None and not needs.proxy:
        raise UsageError(f"algorithm '{spec.algo}' uses no proxy model, got proxy {spec.proxy}; leave it out")
    check_structures(structures(spec, profile, needs), needs, profile)
    resolved = dataclasses.replace(
        spec,
        options=plain(options),
        data_options=plain(data_options),
        rounds=spec.rounds or profile.rounds,
        steps=spec.steps or profile.steps,
        split=split,
        device=spec.device or profile.device,
    )
    _check_device(str(resolved.device))
    return resolved


def _with_canonical_devices(spec: RunSpec) -> RunSpec:
    """Return `spec` with one spelling of every device's id, and with the user's home folder written out."""
    n = spec.n_devices
    slms = canonical_devices(spec.device_slm, n, "device-slm")
    return dataclasses.replace(
        spec,
        device_slm={id_: str(Path(source).expanduser()) for id_, source in slms.items()},
        device_rank=canonical_devices(spec.device_rank, n, "device-rank"),
        device_encoder_width=canonical_devices(spec.device_encoder_width, n, "device-encoder-width"),
    )


def _check_device(name: str) -> None:
    """Refuse a GPU that is not there before anything is prepared; torch is imported only when one is asked for."""
    if name != "cpu":
        from mlecs_bench.federation import torch_device

        torch_device(name)


def prepare(spec: RunSpec, registry: Registry, cache_dir: Path, observers: pluggy.PluginManager) -> Prepared:
    """Return the prepared data of a resolved spec, from the cache where it is there; observers see the progress."""

    def progress(done: int, total: int, what: str) -> None:
        observers.hook.mlecs_data_progress(done=done, total=total, what=what)

    return prepare_data(spec, registry, cache_dir, progress)


def prepare_data(
    spec: RunSpec, registry: Registry, cache_dir: Path, progress: Callable[[int, int, str], None]
) -> Prepared:
    """Return the prepared data of a resolved spec; `progress(done, total, what)` is called meanwhile."""
    dataset = registry.dataset(spec.dataset)
    options = build_options(dataset.info.options, spec.data_options, f"dataset '{spec.dataset}'")
    data_dir = Path(spec.data_dir).expanduser() if spec.data_dir else None
    return dataset.info.prepare(DataRequest(data_dir, cache_dir, options, progress))


def run(
    spec: RunSpec, execution: Execution, observers: pluggy.PluginManager, registry: Registry | None = None
) -> list[CellResult]:
    """Run every seed of a resolved spec that has no record yet; return one result per seed, in the order of seeds.

    A seed that fails costs only itself. Raises Interrupted on Ctrl-C.
    """
    registry = registry or Registry.installed()
    writable(execution.out)
    writable(execution.cache_dir, "--cache-dir")
    info = registry.dataset(spec.dataset).info
    check_models(spec, info)
    prepared = prepare(spec, registry, execution.cache_dir, observers)
    plan = plan_of(spec, registry, prepared, execution)
    first = identity(plan, spec.seeds[0])  # once: it hashes the weights of all models
    jobs = [Job(spec, seed, prepared.folder, execution, {**first, "seed": seed}) for seed in spec.seeds]
    found = {job.seed: find_record(execution.out, job.identity) for job in jobs}
    dispatcher = Dispatcher(spec, observers)
    for seed, path in found.items():
        if path is not None:
            dispatcher.end(CellResult(seed, path, read_record(path), skipped=True))
    todo = [job for job in jobs if found[job.seed] is None]
    workers = min(execution.workers or workers_that_fit(spec, info, os.cpu_count() or 1), len(todo))
    try:
        if workers > 1:
            _run_in_pool(todo, workers, dispatcher)
        else:
            for job in todo:
                dispatcher.end(_run_job(job, dispatcher))
    except KeyboardInterrupt:
        raise Interrupted(len(dispatcher.results), len(jobs), RESUME_HINT) from None
    return [dispatcher.results[seed] for seed in spec.seeds]


@dataclass(frozen=True)
class Job:
    """One cell as it travels to a worker process."""

    spec: RunSpec
    seed: int
    folder: Path
    execution: Execution
    identity: Mapping[str, Any]


def plan_of(spec: RunSpec, registry: Registry, prepared: Prepared, execution: Execution) -> CellPlan:
    """Return what all cells of a run share."""
    return CellPlan(
        spec=spec,
        algorithm=registry.algorithm(spec.algo),
        dataset=registry.dataset(spec.dataset),
        prepared=prepared,
        out=execution.out,
        cache_dir=execution.cache_dir,
    )


def cell_ref(spec: RunSpec, seed: int) -> CellRef:
    """Return how events name a cell."""
    rounds = spec.rounds or 0
    scored_rounds = rounds if spec.evaluate == "all" else 1
    return CellRef(
        algo=spec.algo,
        dataset=spec.dataset,
        rho=rho_text(spec.rho),
        seed=seed,
        rounds=rounds,
        n_devices=spec.n_devices,
        scorings=scored_rounds * (spec.n_devices + 1) + spec.n_devices,
    )


class Dispatcher:
    """Turns events of cells, from here or from a worker, into calls of the observers' hooks, and keeps the results."""

    def __init__(self, spec: RunSpec, observers: pluggy.PluginManager) -> None:
        self._spec = spec
        self._hook = observers.hook
        self.results: dict[int, CellResult] = {}

    def __call__(self, seed: int, what: str, *values: Any) -> None:
        """Pass on one event."""
        cell = cell_ref(self._spec, seed)
        if what == "start":
            self._hook.mlecs_cell_start(cell=cell, resumed_round=values[0])
        elif what == "device_end":
            self._hook.mlecs_device_end(cell=cell, round=values[0], device=values[1])
        elif what == "score_end":
            self._hook.mlecs_score_end(cell=cell, round=values[0], device=values[1])
        elif what == "round_end":
            self._hook.mlecs_round_end(cell=cell, round=values[0], scores=values[1])

    def end(self, result: CellResult) -> None:
        """Keep the result of a cell that has ended, and tell it."""
        self.results[result.seed] = result
        self._hook.mlecs_cell_end(cell=cell_ref(self._spec, result.seed), record=result.record, error=result.error)


class _Forward(CellEvents):
    """Sends the events of one cell somewhere."""

    def __init__(self, seed: int, send: Callable[..., None]) -> None:
        self._seed = seed
        self._send = send

    def start(self, resumed_round: int) -> None:
        self._send(self._seed, "start", resumed_round)

    def device_end(self, round_: int, device: str) -> None:
        self._send(self._seed, "device_end", round_, device)

    def score_end(self, round_: int, device: str) -> None:
        self._send(self._seed, "score_end", round_, device)

    def round_end(self, round_: int, scores: Mapping[str, float]) -> None:
        self._send(self._seed, "round_end", round_, dict(scores))


def _run_job(job: Job, send: Callable[..., None]) -> CellResult:
    """Run one cell in this process; an error becomes part of the result."""
    try:
        _use_threads(job.spec.threads)
        prepared = open_prepared(job.folder)
        if prepared is None:
            raise MlecsError(f"the prepared data in {job.folder} is gone; run the command again to prepare it")
        plan = plan_of(job.spec, Registry.installed(), prepared, job.execution)
        path = run_cell(plan, job.seed, job.identity, _Forward(job.seed, send))
        return CellResult(job.seed, path, read_record(path))
    except MlecsError as error:
        return CellResult(job.seed, error=str(error))
    except Exception:  # noqa: BLE001  # a defect in one cell must not take the others down; the traceback is kept
        return CellResult(job.seed, error=traceback.format_exc())


def _use_threads(threads: int) -> None:
    """One thread per process keeps results bit-exact; transformers' tokenizers must not fork their own."""
    import torch

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(threads)


_EVENTS: Any = None  # a worker's end of the event queue, set once when the worker starts


def _start_worker(events: Any, threads: int) -> None:
    """Prepare a worker: it leaves Ctrl-C to the parent, which ends it by SIGTERM, and cleans up when it ends."""
    global _EVENTS  # noqa: PLW0603  # a spawned worker gets its queue through its initialiser only
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    _EVENTS = events
    _use_threads(threads)


def _leave(_signal: int, _frame: Any) -> None:
    """Stop the cell a worker is in; leaving this way runs the clean-up that a kill would not."""
    sys.exit(1)


def _work(job: Job) -> CellResult:
    return _run_job(job, lambda *event: _EVENTS.put(event))


def _run_in_pool(jobs: Sequence[Job], workers: int, dispatcher: Dispatcher) -> None:
    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    threads = jobs[0].spec.threads
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, str(threads))
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(events, threads))
    try:
        futures = {pool.submit(_work, job): job for job in jobs}
        _collect(futures, events, dispatcher)
    except KeyboardInterrupt:
        _stop_workers(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _stop_workers(pool: ProcessPoolExecutor) -> None:
    """End the workers at once; what they had saved is whole, since checkpoints are replaced atomically."""
    workers = list((pool._processes or {}).values())
    for process in workers:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    pool.shutdown(wait=False, cancel_futures=True)
    for process in workers:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()


def _collect(futures: Mapping[Future[CellResult], Job], events: Any, dispatcher: Dispatcher) -> None:
    waiting = dict(futures)
    while waiting:
        _drain(events, dispatcher)
        for future in [f for f in waiting if f.done()]:
            job = waiting.pop(future)
            _drain(events, dispatcher)
            dispatcher.end(_result_of(future, job))


def _drain(events: Any, dispatcher: Dispatcher) -> None:
    timeout = POLL_SECONDS
    while True:
        try:
            dispatcher(*events.get(timeout=timeout))
        except queue.Empty:
            return
        timeout = 0.0


def _result_of(future: Future[CellResult], job: Job) -> CellResult:
    try:
        return future.result()
    except BrokenProcessPool:
        reason = "a worker process died (killed, or out of memory). "
        return CellResult(job.seed, error=reason + RESUME_HINT)
