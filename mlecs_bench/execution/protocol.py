"""The protocol of a run or a sweep: fills in the specs, prepares the data once, and has one cell run per seed."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.data.partition import rates_of
from mlecs_bench.data.samples import DataRequest, Prepared
from mlecs_bench.doors.hookspecs import CellRef
from mlecs_bench.doors.options import build_options, plain
from mlecs_bench.doors.profile import PROFILES
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import PluginError, UsageError, did_you_mean
from mlecs_bench.execution.cell import identity, profile_of
from mlecs_bench.execution.jobs import CellResult, Execution, Job, cell_ref, plan_of
from mlecs_bench.execution.sweep import run_jobs
from mlecs_bench.execution.workers import InProcess, LocalWorkers
from mlecs_bench.plan.preflight import check_models, visible_gpus, workers_that_fit
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.plan.structure import canonical_devices, check_structures, structures
from mlecs_bench.records.failures import remove_failure, write_failure
from mlecs_bench.records.results import canonical_json, identity_key, writable

if TYPE_CHECKING:
    import pluggy

    from mlecs_bench.execution.jobs import Tell
    from mlecs_bench.execution.workers import Workers


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
        from mlecs_bench.federation.build import torch_device

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
    jobs = plan_jobs([spec], registry, execution, observers)
    return run_jobs(jobs, partial(_workers_of_run, spec, registry, execution), observers)


def sweep(
    specs: Sequence[RunSpec], execution: Execution, observers: pluggy.PluginManager, registry: Registry | None = None
) -> list[tuple[CellRef, CellResult]]:
    """Run every cell of specs that has no record yet, in worker processes; return all cells and how they ended.

    Specs need not be resolved. A cell that several of them name is run once. A cell that fails, a worker that dies and
    a plugin that cannot be loaded cost only their own cells. Raises Interrupted on Ctrl-C, and UsageError for a spec
    that no cell could run with.
    """
    registry = registry or Registry.installed()
    writable(execution.out)
    resolved, ended = resolve_all(specs, registry, execution.out)
    jobs = plan_jobs(resolved, registry, execution, observers)
    results = run_jobs(jobs, partial(_local_workers, resolved, registry, execution), observers, ended)
    return [(job.ref, result) for job, result in zip(jobs, results, strict=True)] + ended


def resolve_all(
    specs: Sequence[RunSpec], registry: Registry, out: Path
) -> tuple[list[RunSpec], list[tuple[CellRef, CellResult]]]:
    """Return the resolved specs, and the cells of those whose plugin is broken, each of which leaves a failure file."""
    resolved, ended = [], []
    for spec in specs:
        try:
            found = resolve(spec, registry)
        except PluginError as error:
            for seed in spec.seeds:
                unloaded = _unloaded_identity(spec, seed)
                write_failure(out, unloaded, str(error))
                ended.append((cell_ref(spec, seed, identity_key(unloaded)), CellResult(seed, error=str(error))))
            continue
        for seed in spec.seeds:
            remove_failure(out, _unloaded_identity(spec, seed))
        resolved.append(found)
    return resolved, ended


def _unloaded_identity(spec: RunSpec, seed: int) -> dict[str, Any]:
    """Return what names a cell whose plugin cannot be loaded, and so has no say in what identifies it."""
    rates = spec.rho if isinstance(spec.rho, Mapping) else {"rho": spec.rho}
    return {
        "algo": {"name": spec.algo},
        "dataset": {"name": spec.dataset},
        "rho": dict(rates),
        "n_devices": spec.n_devices,
        "profile": {"name": spec.profile},
        "seed": seed,
        "spec": json.loads(dataclasses.replace(spec, seeds=(seed,), data_dir=None).to_json()),
    }


def plan_jobs(
    specs: Sequence[RunSpec], registry: Registry, execution: Execution, observers: pluggy.PluginManager
) -> list[Job]:
    """Return the cells of resolved specs, each once, with their data prepared and their models looked at.

    What specs share is prepared once. Raises UsageError for anything that no cell could run with.
    """
    writable(execution.cache_dir, "--cache-dir")
    for spec in specs:
        check_models(spec, registry.dataset(spec.dataset).info)
    prepared: dict[str, Prepared] = {}
    jobs: dict[str, Job] = {}
    for spec in specs:
        source = canonical_json([spec.dataset, plain(spec.data_options), spec.data_dir])
        if source not in prepared:
            prepared[source] = prepare(spec, registry, execution.cache_dir, observers)
        plan = plan_of(spec, registry, prepared[source], execution)
        first = identity(plan, spec.seeds[0])  # once: what differs between seeds is the seed
        variant = variant_of(spec, registry)
        for seed in spec.seeds:
            own = {**first, "seed": seed}
            key = identity_key(own)
            ref = cell_ref(spec, seed, key, variant)
            jobs.setdefault(key, Job(spec, seed, prepared[source].folder, execution, own, ref))
    return list(jobs.values())


def variant_of(spec: RunSpec, registry: Registry) -> str:
    """Return in which settings a resolved spec departs from the defaults, beside those that a cell's name holds."""
    usual = registry.default_options(spec.algo)
    own = {name: value for name, value in spec.options.items() if value != usual[name]}
    texts = [f"{name}={','.join(map(str, v)) if isinstance(v, list | tuple) else v}" for name, v in own.items()]
    if spec.n_devices != RunSpec.n_devices:
        texts.append(f"{spec.n_devices} devices")
    if spec.budget != RunSpec.budget:
        texts.append(f"budget {spec.budget}")
    if spec.split != registry.dataset(spec.dataset).info.splits[0]:
        texts.append(f"split {spec.split}")
    if spec.evaluate != RunSpec.evaluate:
        texts.append(f"evaluate {spec.evaluate}")
    return ", ".join(texts)


def _workers_of_run(spec: RunSpec, registry: Registry, execution: Execution, n_jobs: int, tell: Tell) -> Workers:
    """Return workers for one spec: this process where one cell at a time is run, since starting another takes time."""
    if min(_size([spec], registry, execution), n_jobs) == 1:
        return InProcess(tell)
    return _local_workers([spec], registry, execution, n_jobs, tell)


def _local_workers(
    specs: Sequence[RunSpec], registry: Registry, execution: Execution, n_jobs: int, tell: Tell
) -> Workers:
    gpus = visible_gpus() if all(spec.device == "cuda" for spec in specs) else []
    size = min(_size(specs, registry, execution), n_jobs)
    return LocalWorkers(size, max(spec.threads for spec in specs), tell, gpus)


def _size(specs: Sequence[RunSpec], registry: Registry, execution: Execution) -> int:
    """Return how many cells run at a time: as many as was asked for, else as the most demanding spec allows."""
    if execution.workers is not None:
        return execution.workers
    wanted = os.cpu_count() or 1
    return min(workers_that_fit(spec, registry.dataset(spec.dataset).info, wanted) for spec in specs)
