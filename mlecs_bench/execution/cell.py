"""From a job to a record: builds server and fleet of one cell, runs it or goes on with it, and writes its record."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mlecs_bench.data.exported import ExportedSamples
from mlecs_bench.doors.events import Event, telling
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import MlecsError
from mlecs_bench.execution.jobs import CellResult
from mlecs_bench.execution.kept import Kept
from mlecs_bench.execution.references import reference_scores
from mlecs_bench.federation.build import Builder, Layout
from mlecs_bench.federation.checkpoint import cell_lock, checkpoint_folder, remove_checkpoint, server_file
from mlecs_bench.federation.clock import clock_of
from mlecs_bench.federation.engine import Cell, CellRun
from mlecs_bench.federation.evaluation import evaluator_of
from mlecs_bench.federation.fleet import FleetRequest, Recipe, build_host, fleet_place, open_samples
from mlecs_bench.federation.lease import CellInUse
from mlecs_bench.federation.processes import use_exact_kernels, use_threads
from mlecs_bench.files import disk_failure
from mlecs_bench.models.memory import memory_ran_out
from mlecs_bench.models.sources import hub_commit, is_folder
from mlecs_bench.plan.identity import model_name
from mlecs_bench.records.names import MOST_ANSWERS, option_words
from mlecs_bench.records.provenance import now, provenance
from mlecs_bench.records.results import SCHEMA, find_record, read_record, record_path, write_record

if TYPE_CHECKING:
    from mlecs_bench.data.samples import Samples
    from mlecs_bench.doors.events import Tell
    from mlecs_bench.execution.jobs import Job
    from mlecs_bench.federation.engine import Outcome
    from mlecs_bench.federation.evaluation import Evaluator
    from mlecs_bench.federation.fleet import Fleet
    from mlecs_bench.federation.host import Greeting
    from mlecs_bench.federation.lease import Lease
    from mlecs_bench.plan.plan import Plan


def run_job(job: Job, tell: Tell, registry: Registry | None = None) -> None:
    """Run one cell in this process and tell how it ended; an error becomes part of the result.

    `registry` None stands for the installed plugins.
    """

    def tell_of_cell(event: Event) -> None:
        tell(dataclasses.replace(event, cell=job.ref))

    tell(_result(job, tell_of_cell, registry or Registry.installed()).event(job.ref))


def _result(job: Job, tell: Tell, registry: Registry) -> CellResult:
    try:
        use_threads(job.plan.threads)
        use_exact_kernels()
        path = run_cell(job, registry, tell)
        return CellResult(job.seed, path, read_record(path))
    except CellInUse as error:
        return CellResult(job.seed, error=str(error), in_use=True)
    except MlecsError as error:
        return CellResult(job.seed, error=str(error))
    except torch.OutOfMemoryError as error:
        return CellResult(job.seed, error=str(memory_ran_out(error)))
    except OSError as error:
        trouble = disk_failure(error)
        return CellResult(job.seed, error=traceback.format_exc() if trouble is None else str(trouble))
    except Exception:  # noqa: BLE001  # a defect in one cell must not take the others down; the traceback is kept
        return CellResult(job.seed, error=traceback.format_exc())


def run_cell(job: Job, registry: Registry, tell: Tell) -> Path:
    """Run or resume one cell and write its record; return the record's path.

    Raises MlecsError for anything a user can mend.
    """
    out = job.execution.out
    folder = checkpoint_folder(out, job.key)
    with cell_lock(folder) as lease:
        existing = find_record(out, job.identity)
        if existing is None:
            record, kept = _compute(job, registry, lease, tell)
            lease.check()
            variant = option_words(job.plan.departures)
            # Before the record: a record that is there has its answers, or never had any.
            kept.write(record_path(out, job.identity, variant), record)
            existing = write_record(out, record, variant)
        remove_checkpoint(folder)
    return existing


@dataclass(frozen=True)
class _Parts:
    """What a cell is made of in this process."""

    builder: Builder
    evaluator: Evaluator
    fleet: Fleet
    recipe: Recipe

    @property
    def samples(self) -> Samples:
        return self.builder.samples


def _compute(job: Job, registry: Registry, lease: Lease, tell: Tell) -> tuple[dict[str, Any], Kept]:
    """Return the record of a cell, and what is kept beside it."""
    started = now()
    plan, folder = job.plan, checkpoint_folder(job.execution.out, job.key)
    builder = Builder(plan, job.seed, open_samples(job.data), registry)
    evaluator = evaluator_of(plan, builder.samples, registry, job.execution.cache_dir, telling(tell))
    server = builder.server()
    builder.check_lengths()
    clock = clock_of(builder)
    recipe = Recipe(plan, job.seed, job.key, job.data, job.execution.cache_dir, folder, lease.text)
    host = partial(build_host, recipe, registry=registry, builder=builder, evaluator=evaluator)
    place = fleet_place(job.execution.fleet)
    kind = registry.fleet(place.name).info
    fleet = kind.make(FleetRequest(recipe, host, place.number, tell, place.argument, job.execution.round_timeout))
    parts = _Parts(builder, evaluator, fleet, recipe)
    info = registry.algorithm(plan.algorithm.name).info
    try:
        run = CellRun(
            Cell(
                algorithm=info.build(plan.options),
                server=server,
                fleet=fleet,
                evaluator=evaluator,
                key=job.key,
                rounds=plan.rounds,
                evaluate_all=plan.evaluate == "all",
                server_score=plan.server_score,
                checkpoint=server_file(folder),
                tell=tell,
                keep_answers=_keeps_answers(job, builder),
                keep_models=job.execution.save_models,
                check_lease=lease.check,
                conditions=plan.conditions,
                clock=clock,
                robustness=plan.robustness,
            )
        )
        resumed = run.start()
        tell(Event("cell_start", round=resumed))
        outcome = _with_references(run.run(), parts, registry)
    finally:
        fleet.close()
    where = place.name if kind.argument == "text" else job.execution.fleet  # records hold no addresses and no paths
    origin = provenance(plan.torch_device, started) | {"resumed_from_round": resumed, "fleet": where}
    origin |= {"hub": commits} if (commits := _hub_commits(plan)) else {}
    origin |= {"lost_attempts": list(job.lost)} if job.lost else {}
    origin |= {"missing": list(outcome.missing)} if outcome.missing else {}
    wire = getattr(fleet, "wire", None)
    origin |= {"wire": dict(wire)} if wire is not None else {}
    kept = Kept(builder, outcome)
    if outcome.answers and kept.lacking():
        text = f"answers are not kept: the run had scored {' and '.join(kept.lacking())} before they were asked for"
        tell(Event("note", values={"text": text}))
    return _record(job, parts, run.greetings, outcome) | {"provenance": origin}, kept


def _keeps_answers(job: Job, builder: Builder) -> bool:
    """Are answers kept? As the user says, and unasked where no party has many test samples."""
    if isinstance(builder.samples, ExportedSamples):
        return False  # answers are written beside their targets, which are not here
    if job.execution.save_predictions is not None:
        return job.execution.save_predictions
    cut = builder.layout.partition
    return max(len(part.test) for part in (cut.public, *cut.devices)) <= MOST_ANSWERS


def _hub_commits(plan: Plan) -> dict[str, str]:
    """Return the commit of every model of the hub, by the name that it was asked for."""
    return {source: hub_commit(source) for source in plan.models() if not is_folder(source)}


def _with_references(outcome: Outcome, parts: _Parts, registry: Registry) -> Outcome:
    """Return `outcome` with what trivial answers score on the same test samples, and the seconds that took."""
    started = time.perf_counter()
    plan, cut = parts.recipe.plan, parts.builder.layout.partition
    held = {"server": cut.public, **dict(zip(plan.device_ids, cut.devices, strict=True))}
    if isinstance(parts.samples, ExportedSamples):
        held = {"server": cut.public}  # what devices are tested on is not here
    info = registry.dataset(plan.dataset.name).info
    scores = reference_scores(info, parts.samples, held, parts.evaluator, parts.recipe.cache_dir)
    seconds = outcome.cost["seconds"] | {"references": time.perf_counter() - started}
    return dataclasses.replace(
        outcome, metrics=outcome.metrics | {"references": scores}, cost=outcome.cost | {"seconds": seconds}
    )


def _record(job: Job, parts: _Parts, greetings: Mapping[str, Greeting], outcome: Outcome) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "key": job.key,
        "identity": dict(job.identity),
        "realised": _realised(job.plan, parts, greetings) | _attended(outcome),
        "metrics": outcome.metrics,
        "comm": outcome.comm,
        "cost": outcome.cost,
    }


def _attended(outcome: Outcome) -> dict[str, Any]:
    """Return who took part in which round, where devices may be absent."""
    return {"rounds": list(outcome.attended)} if outcome.attended else {}


def _by_round(plan: Plan, layout: Layout) -> dict[str, Any]:
    """Return what devices held in every round, and which share of what there is, where that may change."""
    if "schedule" not in plan.conditions.departures():
        return {}
    by_device = zip(plan.device_ids, layout.schedule.devices, strict=True)
    held = {id_: [list(names) for names in rounds] for id_, rounds in by_device}
    return {"modalities_by_round": held, "rate_by_round": layout.schedule.rates(len(plan.rates))}


def _realised(plan: Plan, parts: _Parts, greetings: Mapping[str, Greeting]) -> dict[str, Any]:
    """Return who held what, and how that came about."""
    layout = parts.builder.layout
    public = layout.partition.public
    samples = {"server": {"train": len(public.train), "test": len(public.test)}}
    at_random = {id_: list(greeting.random_encoders) for id_, greeting in greetings.items() if greeting.random_encoders}
    at_random |= {party: list(names) for party, names in parts.builder.random_encoders.items()}
    told = {"limits": dict(plan.own_limits)} if plan.own_limits else {}
    told |= _dealt(parts) | _by_round(plan, layout)
    return told | {
        "modalities": {id_: list(greeting.modalities) for id_, greeting in greetings.items()},
        "redraws": layout.masks.redraws,
        "rate": layout.masks.rate,
        "samples": samples | {id_: dict(greeting.samples) for id_, greeting in greetings.items()},
        "unused_samples": layout.partition.unused,
        "notes": list(parts.samples.manifest.notes),
        "structures": {
            id_: dataclasses.asdict(s) | {"slm": model_name(plan, s.slm)} for id_, s in plan.structures.items()
        },
        "random_encoders": {party: sorted(names) for party, names in at_random.items()},
    }


def _dealt(parts: _Parts) -> dict[str, Any]:
    """Return what came of the law of the partition and of the rates of samples, where they are not the usual."""
    builder, plan = parts.builder, parts.recipe.plan
    found: dict[str, Any] = {"sample_rates": dict(builder.sample_rates)} if builder.sample_rates else {}
    if "partition" not in plan.conditions.departures():
        return found
    cut, samples = builder.layout.partition, parts.samples
    found["partition_redraws"] = cut.redraws
    if samples.manifest.labels:
        held = {"server": cut.public, **dict(zip(plan.device_ids, cut.devices, strict=True))}
        found["classes"] = {
            id_: {label: sum(samples.targets[row] == label for row in part.train) for label in samples.manifest.labels}
            for id_, part in held.items()
        }
    return found
