"""Toy cells as a sweep has them: plans and jobs of the installed toys, their events and their records."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pluggy

from mlecs_bench.doors.events import Event
from mlecs_bench.doors.hookspecs import PROJECT, HookSpecs
from mlecs_bench.doors.registry import Loaded, Registry
from mlecs_bench.execution.cell import run_job
from mlecs_bench.execution.jobs import CellResult, Execution, Job
from mlecs_bench.execution.protocol import plan_jobs
from mlecs_bench.plan.plan import Plan
from mlecs_bench.plan.resolve import planned
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.testing import toy
from mlecs_bench.testing.installed import ALGORITHM, DATASET, installed
from mlecs_bench.testing.material import new_folder

ROUNDS = 2


def toy_plan(registry: Registry, **changes: Any) -> Plan:
    """Return the plan of a run of the toys; `changes` are fields of the spec."""
    values: dict[str, Any] = {"algo": ALGORITHM, "dataset": DATASET, "profile": toy.DATASET, "rho": 0.6}
    spec = RunSpec(**{**values, "rounds": ROUNDS, "steps": 1, "n_devices": 2, "seeds": (27,), **changes})
    profile = Loaded(toy.DATASET, toy.profile(), "mlecs-bench", "0")
    return planned(spec, registry.algorithm(spec.algo), registry.dataset(spec.dataset), profile)


def no_observers() -> pluggy.PluginManager:
    """Return a manager of observers without any."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    return manager


def toy_jobs(out: Path, **changes: Any) -> list[Job]:
    """Return the jobs of a plan of the toys, one per seed, whose records go to `out`; the toys must be installed."""
    registry = Registry.installed()
    execution = Execution(out=out, cache_dir=_cache())
    return plan_jobs([toy_plan(registry, **changes)], registry, execution, no_observers())


def _cache() -> Path:
    return toy.process_folder() / "cells"


@dataclass
class Recorded:
    """A toy cell that was run in this process: its job, what was told, and its record."""

    seed: int = 27
    events: list[Event] = field(default_factory=list)

    @cached_property
    def job(self) -> Job:
        """The job, with its record in a folder of its own."""
        with installed():
            (job,) = toy_jobs(new_folder(), seeds=(self.seed,))
            run_job(job, self.events.append)
        return job

    @cached_property
    def record(self) -> dict[str, Any]:
        """The record of the cell."""
        self.job  # noqa: B018  # runs the cell
        return dict(self.events[-1].values["record"])

    def story(self) -> list[Event]:
        """Return every kind of event there is, as a run tells them: of this cell, and of one that fails.

        Every call gives fresh values.
        """
        ref = self.job.ref
        failed = dataclasses.replace(ref, seed=ref.seed + 1, key="0" * 64)
        return [
            Event("data", values={"done": 1, "total": 2, "what": "samples"}),
            Event("cells", values={"cells": [ref, failed]}),
            *(dataclasses.replace(event, values=copy.deepcopy(dict(event.values))) for event in self.events),
            Event("note", ref, values={"text": "a process of devices was replaced"}),
            CellResult(failed.seed, error="it is broken").event(failed),
        ]


@cache
def recorded_cell() -> Recorded:
    """Return a toy cell that is run when it is first looked at, once per process."""
    return Recorded()
