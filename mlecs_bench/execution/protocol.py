"""The protocol of a run or a sweep: plans are made once, data is prepared once, and one cell is run per seed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.data.exported import is_exported
from mlecs_bench.data.samples import DataRequest, Prepared, open_prepared
from mlecs_bench.doors.events import CellRef, Event
from mlecs_bench.doors.events import telling as telling_of
from mlecs_bench.doors.hookspecs import MetricRequest, WorkersRequest
from mlecs_bench.doors.observers import tell_all
from mlecs_bench.doors.options import plain
from mlecs_bench.doors.places import Place
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import PluginError, UsageError
from mlecs_bench.execution.all_groups import counted
from mlecs_bench.execution.jobs import CellResult, Execution, Job, cell_ref, unplanned_ref
from mlecs_bench.execution.sweep import run_jobs
from mlecs_bench.execution.tracking import check_trackers, tracked
from mlecs_bench.federation.build import lay_out
from mlecs_bench.federation.evaluation import scorer_identities, scorers_of
from mlecs_bench.federation.fleet import fleet_place, open_samples
from mlecs_bench.files import writable
from mlecs_bench.machine import usable_cores
from mlecs_bench.metrics.scorers import check_metrics
from mlecs_bench.models.encoders import encoder_origins
from mlecs_bench.models.hub import Part
from mlecs_bench.plan.identity import identity
from mlecs_bench.plan.preflight import check_models, family_notes, fetch_models, visible_gpus, workers_that_fit
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.records.failures import remove_failure, write_failure
from mlecs_bench.records.names import USUAL
from mlecs_bench.records.results import canonical_json, identity_key

if TYPE_CHECKING:
    import pluggy

    from mlecs_bench.data.samples import Samples
    from mlecs_bench.doors.events import Tell
    from mlecs_bench.execution.workers import Workers
    from mlecs_bench.plan.plan import Plan
    from mlecs_bench.plan.spec import RunSpec

IN_PROCESS, PROCESSES = "in-process", "processes"
"""The workers that are chosen where the user names none: for one cell at a time, and for several."""


def prepare(plan: Plan, registry: Registry, cache_dir: Path, observers: pluggy.PluginManager) -> Prepared:
    """Return the prepared data of a plan, from the cache where it is there; observers see the progress."""

    def progress(done: int, total: int, what: str) -> None:
        event = Event("data", values={"done": done, "total": total, "what": what})
        tell_all(observers, event, plan)

    return prepare_data(plan, registry, cache_dir, progress)


def prepare_data(
    plan: Plan, registry: Registry, cache_dir: Path, progress: Callable[[int, int, str], None]
) -> Prepared:
    """Return the prepared data of a plan; `progress(done, total, what)` is called meanwhile.

    Data that were exported for the server of a network are taken as they are.
    """
    exported = open_prepared(plan.data_dir) if plan.data_dir is not None and is_exported(plan.data_dir) else None
    if exported is not None:
        return exported
    dataset = registry.dataset(plan.dataset.name)
    return dataset.info.prepare(DataRequest(plan.data_dir, cache_dir, plan.data_options, progress))


def run(
    plan: Plan, execution: Execution, observers: pluggy.PluginManager, registry: Registry | None = None
) -> list[CellResult]:
    """Run every seed of a plan that has no record yet; return one result per seed, in the order of seeds.

    A seed that fails costs only itself. Raises Interrupted on Ctrl-C.
    """
    registry = registry or Registry.installed()
    writable(execution.out)
    with tracked(execution, registry, observers):
        jobs = plan_jobs([plan], registry, execution, observers)
        return run_jobs(jobs, partial(_workers_of_run, plan, registry, execution), observers)


def sweep(
    specs: Sequence[RunSpec], execution: Execution, observers: pluggy.PluginManager, registry: Registry | None = None
) -> list[tuple[CellRef, CellResult]]:
    """Run every cell of specs that has no record yet, in worker processes; return all cells and how they ended.

    A cell that several specs name is run once. A cell that fails, a worker that dies and a plugin that cannot be
    loaded cost only their own cells. Raises Interrupted on Ctrl-C, and UsageError for a spec that no cell could run
    with.
    """
    registry = registry or Registry.installed()
    writable(execution.out)
    with tracked(execution, registry, observers):
        plans, ended = resolve_all(specs, registry, execution, observers)
        jobs = plan_jobs(plans, registry, execution, observers)
        results = run_jobs(jobs, partial(_workers_of, PROCESSES, plans, registry, execution), observers, ended)
    return [(job.ref, result) for job, result in zip(jobs, results, strict=True)] + ended


def resolve_all(
    specs: Sequence[RunSpec], registry: Registry, execution: Execution, observers: pluggy.PluginManager
) -> tuple[list[Plan], list[tuple[CellRef, CellResult]]]:
    """Return the plans, and the cells of specs whose plugin is broken, each of which leaves a failure file.

    Data are prepared for the specs that leave the number of devices to them.
    """
    plans, ended = [], []
    prepared = partial(prepare, registry=registry, cache_dir=execution.cache_dir, observers=observers)
    for spec in specs:
        try:
            found = resolve(counted(spec, registry, prepared), registry)
        except PluginError as error:
            for seed in spec.seeds:
                unloaded = _unloaded_identity(spec, seed)
                write_failure(execution.out, unloaded, str(error))
                ended.append((unplanned_ref(spec, seed, unloaded), CellResult(seed, error=str(error))))
            continue
        for seed in spec.seeds:
            remove_failure(execution.out, _unloaded_identity(spec, seed))
        plans.append(found)
    return plans, ended


def _unloaded_identity(spec: RunSpec, seed: int) -> dict[str, Any]:
    """Return what names a cell whose plugin cannot be loaded, and so has no say in what identifies it."""
    rates = spec.rho if isinstance(spec.rho, Mapping) else {"rho": spec.rho}
    return {
        "algo": {"name": spec.algo, "options": dict(spec.options)},
        "dataset": {"name": spec.dataset, "split": spec.split or USUAL["split"]},
        "rho": dict(rates),
        "n_devices": spec.n_devices,
        "profile": {"name": spec.profile},
        "training": {"budget": spec.budget},
        "evaluate": spec.evaluate,
        "seed": seed,
        "spec": json.loads(dataclasses.replace(spec, seeds=(seed,), data_dir=None).to_json()),
    }


def plan_jobs(
    plans: Sequence[Plan],
    registry: Registry,
    execution: Execution,
    observers: pluggy.PluginManager,
    part: Part = Part.WHOLE,
) -> list[Job]:
    """Return the cells of plans, each once, with their data prepared and their models fetched and looked at.

    What plans share is prepared once. `part` of the models is fetched: cells that are to run need the whole, what
    identifies them does not. Raises UsageError for anything that no cell could run with.
    """
    writable(execution.cache_dir, "--cache-dir")
    check_places(execution, registry)
    telling = telling_of(partial(tell_all, observers))
    told: set[str] = set()
    for plan in plans:
        check_models(plan, telling)
        for text in family_notes(plan):
            if text not in told:
                tell_all(observers, Event("note", values={"text": text}), plan)
                told.add(text)
    for plan in plans:
        fetch_models(plan, telling, part)
        request = MetricRequest((), execution.cache_dir, plan.profile.bertscore, plan.torch_device, telling=telling)
        check_metrics(plan.metrics, request, registry)
    prepared: dict[str, Prepared] = {}
    opened: dict[Path, Samples] = {}
    jobs: dict[str, Job] = {}
    for plan in plans:
        source = canonical_json([plan.dataset.name, plain(plan.data_options), plain(plan.data_dir)])
        if source not in prepared:
            prepared[source] = prepare(plan, registry, execution.cache_dir, observers)
        folder = prepared[source].folder
        if folder not in opened:
            opened[folder] = open_samples(folder)
        for job in jobs_of(plan, folder, opened[folder], registry, execution):
            jobs.setdefault(job.key, job)
    return list(jobs.values())


def check_places(execution: Execution, registry: Registry) -> None:
    """Raise UsageError for workers, a fleet or trackers that are not installed, or an argument they do not take."""
    check_trackers(execution.track, registry)
    fleet = fleet_place(execution.fleet)
    fleet.check(registry.fleet(fleet.name).info, "--fleet")
    if execution.engine is not None:
        engine = Place(execution.engine, execution.argument)
        engine.check(registry.workers(engine.name).info, "--workers")
    _check_unregistered(execution, fleet.name, registry)


def _check_unregistered(execution: Execution, fleet: str, registry: Registry) -> None:
    """Raise UsageError where a plugin that is an object of this process would be needed in another one."""
    workers = execution.engine or (IN_PROCESS if execution.workers == 1 else PROCESSES)
    elsewhere = [f"{what} '{name}'" for what, name in (("workers", workers), ("fleet", fleet)) if name != IN_PROCESS]
    if registry.unregistered and elsewhere:
        raise UsageError(
            f"{registry.unregistered[0]} is an object of this process and cannot be had in those of {elsewhere[0]}; "
            "leave workers and fleet out, or make a plugin of it: mlecs-bench new-plugin NAME"
        )


def jobs_of(plan: Plan, folder: Path, samples: Samples, registry: Registry, execution: Execution) -> list[Job]:
    """Return a job per seed of a plan whose data are prepared in `folder`.

    The seeds differ in nothing else, so all else is looked up once.
    """
    manifest = samples.manifest
    several = samples.references is not None
    scorers = scorer_identities(plan, scorers_of(plan, samples, registry, execution.cache_dir), several=several)
    encoders = encoder_origins(manifest.modalities, registry)
    _check_dealing(plan, samples)
    first = identity(plan, plan.seeds[0], manifest, scorers, encoders)
    jobs = []
    for seed in plan.seeds:
        own = {**first, "seed": seed}
        jobs.append(Job(plan, seed, folder, execution, own, cell_ref(plan, seed, identity_key(own))))
    return jobs


def _check_dealing(plan: Plan, samples: Samples) -> None:
    """Raise UsageError, before any model is built, where samples cannot go to devices as the plan says."""
    if "partition" in plan.conditions.departures():
        for seed in plan.seeds:
            lay_out(plan, seed, samples)


def _workers_of_run(plan: Plan, registry: Registry, execution: Execution, n_jobs: int, tell: Tell) -> Workers:
    """Return workers for one plan: this process where one cell at a time is run, since starting another takes time."""
    usual = IN_PROCESS if min(_size([plan], execution), n_jobs) == 1 else PROCESSES
    return _workers_of(usual, [plan], registry, execution, n_jobs, tell)


def _workers_of(  # all but the last two are bound before workers are needed
    usual: str, plans: Sequence[Plan], registry: Registry, execution: Execution, n_jobs: int, tell: Tell
) -> Workers:
    """Return the workers that the user names, or the usual ones."""
    info = registry.workers(execution.engine or usual).info
    elsewhere = info.argument == "text"
    on_gpus = not elsewhere and all(plan.torch_device == "cuda" for plan in plans)
    request = WorkersRequest(
        size=n_jobs if elsewhere else min(_size(plans, execution), n_jobs),
        threads=max(plan.threads for plan in plans),
        tell=tell,
        gpus=tuple(visible_gpus()) if on_gpus else (),
        registry=registry,
        argument=execution.argument,
    )
    workers: Workers = info.make(request)
    return workers


def _size(plans: Sequence[Plan], execution: Execution) -> int:
    """Return how many cells run at a time: as many as was asked for, else as the most demanding plan allows."""
    if execution.workers is not None:
        return execution.workers
    at_a_time = fleet_place(execution.fleet).number or 1
    wanted = max(1, usable_cores() // at_a_time)
    return min(workers_that_fit(plan, wanted) for plan in plans)
