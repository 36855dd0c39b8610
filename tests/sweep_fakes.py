"""Sweeps without work: jobs made by hand, workers that pretend, an observer that keeps what it hears, a dataset."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pluggy

import toy
from hand_made import make_record
from mlecs_bench.doors.hookspecs import PROJECT, DatasetInfo, HookSpecs, hookimpl
from mlecs_bench.doors.registry import PluginEntry, Registry
from mlecs_bench.execution.jobs import CellResult, Execution, Job, cell_ref
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.records.results import identity_key, write_record

SEEDS = (27, 34, 46)
PLAN = resolve(RunSpec("ml-ecs", "vast", 0.5, rounds=2), Registry.installed())
BEFORE, START = "2030-01-01T00:00:00Z", "2030-01-01T00:00:05Z"


def record_of(seed: int) -> dict[str, object]:
    return make_record(seed=seed)


def make_jobs(out: Path, retry: bool = True, seeds=SEEDS) -> list[Job]:
    """Return one job per seed, with the identity of a record made by hand."""
    execution = Execution(out, out / "cache", retry_failed=retry)
    identities = {seed: record_of(seed)["identity"] for seed in seeds}
    return [
        Job(PLAN, seed, out / "data", execution, own, cell_ref(PLAN, seed, identity_key(own)))
        for seed, own in identities.items()
    ]


class Watcher:
    """An observer that keeps what it is told, and the plans that came with it."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.plans: list[object] = []
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(HookSpecs)
        self.manager.register(self)

    @hookimpl
    def mlecs_event(self, event, plan):
        self.plans.append(plan)
        if event.kind == "cells":
            self.told.append(("cells", [cell.seed for cell in event.values["cells"]]))
        elif event.kind == "cell_end":
            self.told.append(("end", event.cell.seed, event.values["record"] is not None, event.values["error"]))
        elif event.kind != "data":
            self.told.append((event.kind, event.cell.seed, event.round, event.device, dict(event.values)))


class Pretending:
    """Workers whose jobs end, one each time they are waited for, as `ends` says of their seeds: by default well.

    An end is an error, an exception to raise, a function of the job to call, or a list of ends for several attempts.
    """

    def __init__(self, size: int = 1, **ends: object) -> None:
        self.size = size
        self.ends = {int(name.removeprefix("seed")): end for name, end in ends.items()}
        self.started: list[int] = []
        self.stopped = 0
        self.made_for: list[int] = []
        self.waits = 0
        self._running: deque[Job] = deque()

    def make(self, n_jobs, tell):
        self.made_for.append(n_jobs)
        self._tell = tell
        return self

    @property
    def free(self) -> int:
        return self.size - len(self._running)

    def start(self, job):
        assert self.free > 0
        self.started.append(job.seed)
        self._running.append(job)

    def wait(self, seconds):
        self.waits += 1
        assert self.waits < 1000, "it never ends"
        if self._running:
            self._end(self._running.popleft())

    def stop(self):
        self.stopped += 1

    def _end(self, job):
        end = self.ends.get(job.seed)
        if isinstance(end, list):
            end = end.pop(0)
        if callable(end):
            end = end(job)
        if isinstance(end, BaseException):
            raise end
        if isinstance(end, CellResult):
            result = end
        elif end is None:
            record = record_of(job.seed)
            result = CellResult(job.seed, write_record(job.execution.out, record), record)
        else:
            result = CellResult(job.seed, error=str(end))
        self._tell(result.event(job.ref))


class Words:
    """The toy dataset as a plugin; counts how often it was prepared."""

    def __init__(self, prepared) -> None:
        self.prepared = prepared
        self.times = 0

    def prepare(self, request):
        self.times += 1
        return self.prepared

    @hookimpl
    def mlecs_dataset(self):
        return DatasetInfo(
            "Words", "", "generation", toy.NAMES, self.prepare, ("rouge_lsum",), splits=("frame", "sequence")
        )


ENTRIES_OF_WORDS = (
    PluginEntry("alpha", "algorithm", "acme", "1.2", "acme_plugins:alpha"),
    PluginEntry("words", "dataset", "acme", "1.2", "acme_plugins:words"),
    PluginEntry("gone", "algorithm", "acme", "1.2", "acme_gone"),
)


def spec_of(algo="alpha", rho=0.5, seeds=(27,), **changes) -> RunSpec:
    return RunSpec(algo, "words", rho, seeds=seeds, **changes)
