"""From a resolved spec and a seed to a record: the identity of a cell, and running it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.data.partition import rates_of
from mlecs_bench.data.samples import Manifest, Prepared, Samples
from mlecs_bench.doors.options import build_options, identifying, plain
from mlecs_bench.doors.profile import PROFILES, Profile, file_digest
from mlecs_bench.doors.registry import Loaded
from mlecs_bench.execution.references import reference_scores
from mlecs_bench.federation.checkpoint import cell_lock, checkpoint_path, remove_checkpoint
from mlecs_bench.metrics.scores import Scorer, make_scorers
from mlecs_bench.models.sources import content_id, source_name
from mlecs_bench.records.provenance import installed_version, now, provenance
from mlecs_bench.records.results import SCHEMA, find_record, identity_key, write_record

if TYPE_CHECKING:
    from mlecs_bench.doors.hookspecs import AlgorithmInfo, DatasetInfo, Needs
    from mlecs_bench.federation.build import Federation
    from mlecs_bench.federation.engine import Outcome
    from mlecs_bench.federation.evaluation import Evaluator
    from mlecs_bench.plan.spec import RunSpec


NOT_TRAINING = (
    *("name", "summary", "slm", "llm", "encoders", "tiny", "device"),
    *("generation_batch", "gradient_checkpointing", "bertscore"),
)
"""Fields of a profile that stand elsewhere in an identity, or that change no number."""


@dataclass(frozen=True)
class CellPlan:
    """Everything a cell needs beside its seed: the resolved spec, its plugins, the prepared data and folders."""

    spec: RunSpec
    algorithm: Loaded[AlgorithmInfo]
    dataset: Loaded[DatasetInfo]
    prepared: Prepared
    out: Path
    cache_dir: Path

    @property
    def options(self) -> Any:
        """The algorithm's options."""
        return build_options(self.algorithm.info.options, self.spec.options, f"algorithm '{self.algorithm.name}'")

    @property
    def needs(self) -> Needs:
        """What the algorithm needs of the federation."""
        return self.algorithm.info.needs(self.options)

    @property
    def profile(self) -> Profile:
        """The profile with the backbones that the spec names."""
        return profile_of(self.spec)


def profile_of(spec: RunSpec) -> Profile:
    """Return the spec's profile with everything replaced that the spec names."""
    profile = PROFILES[spec.profile]
    names = ("slm", "llm", "batch_size", "dtype", "base_bits")
    changes: dict[str, Any] = {name: getattr(spec, name) for name in names if getattr(spec, name) is not None}
    if spec.slm or spec.llm or spec.device_slm:
        # Another backbone is not tiny because the profile's is: only the profile's own are marked so.
        changes["tiny"] = False
    if spec.bertscore_model:
        changes["bertscore"] = spec.bertscore_model
    checkpointing = profile.gradient_checkpointing or spec.gradient_checkpointing
    return dataclasses.replace(profile, gradient_checkpointing=checkpointing, **changes)


def scorers_of(plan: CellPlan) -> list[Scorer]:
    """Return the scorers of the dataset's metrics that are installed."""
    info, labels = plan.dataset.info, plan.prepared.manifest.labels
    return make_scorers(info.metrics, labels, plan.cache_dir, plan.profile.bertscore, str(plan.spec.device))


def identity(plan: CellPlan, seed: int) -> dict[str, Any]:
    """Return everything that can change a number of this cell, as JSON values."""
    spec, manifest, profile = plan.spec, plan.prepared.manifest, plan.profile
    scorers = {s.name: s.identity for s in scorers_of(plan)}
    return {
        "algo": {
            "name": plan.algorithm.name,
            "distribution": plan.algorithm.distribution,
            "version": plan.algorithm.version,
            "code": plan.algorithm.code,
            "options": plain(spec.options),
        },
        "dataset": _dataset_identity(plan, manifest),
        "rho": rates_of(spec.rho, manifest.modality_names),
        "n_devices": spec.n_devices,
        "min_modalities": spec.min_modalities,
        "seed": seed,
        "profile": {
            "name": profile.name,
            "tiny": profile.tiny,
            "slm": _model_identity(profile.slm, profile),
            "llm": _model_identity(profile.llm, profile),
            "encoders": file_digest(profile.encoders),
        },
        "structure": _structure_identity(plan),
        "training": _training_identity(spec, profile),
        "evaluate": spec.evaluate,
        "scorers": {name: scorers.get(name) for name in plan.dataset.info.metrics},
        "numerics": {"torch": installed_version("torch"), "device": spec.device, "threads": spec.threads},
    }


def _dataset_identity(plan: CellPlan, manifest: Manifest) -> dict[str, Any]:
    return {
        "name": plan.dataset.name,
        "version": manifest.version,
        "view": manifest.view,
        "synthetic": manifest.synthetic,
        "task": manifest.task,
        "digest": manifest.digest,
        "options": plain(identifying(plan.dataset.info.options, plan.spec.data_options)),
        "split": plan.spec.split,
        "modalities": list(manifest.modality_names),
    }


def _structure_identity(plan: CellPlan) -> dict[str, Any]:
    """Return in what single devices differ from the profile, and the proxy model where the algorithm uses one."""
    spec, profile = plan.spec, plan.profile
    proxy = spec.proxy or profile.slm
    return {
        "slm": {id_: _model_identity(source, profile) for id_, source in spec.device_slm.items()},
        "rank": dict(spec.device_rank),
        "encoder_width": dict(spec.device_encoder_width),
        "proxy": _model_identity(proxy, profile) if plan.needs.proxy else None,
    }


def _model_identity(source: str, profile: Profile) -> dict[str, str | None]:
    """Return name and digest of a language model; the profile's own goes by the profile's name."""
    own = PROFILES[profile.name]
    name = profile.name if source in (own.slm, own.llm) else source_name(source)
    return {"name": name, "digest": content_id(source)}


def _training_identity(spec: RunSpec, profile: Profile) -> dict[str, Any]:
    values: dict[str, Any] = dataclasses.asdict(profile)
    for name in NOT_TRAINING:
        del values[name]
    settings: dict[str, Any] = plain(values | {"rounds": spec.rounds, "steps": spec.steps, "budget": spec.budget})
    return settings


def run_cell(plan: CellPlan, seed: int, identity_: Mapping[str, Any], events: CellEvents) -> Path:
    """Run or resume one cell and write its record; return the record's path.

    Raises MlecsError for anything a user can mend.
    """
    key = identity_key(identity_)
    path = checkpoint_path(plan.out, key)
    with cell_lock(path):
        existing = find_record(plan.out, identity_)
        if existing is None:
            record = _compute(plan, seed, identity_, path, events)
            existing = write_record(plan.out, record)
        remove_checkpoint(path)
    return existing


class CellEvents:
    """What a cell tells whoever watches. `start(resumed_round)` comes first; the engine sends the rest."""

    def start(self, resumed_round: int) -> None:
        """The cell begins, or goes on after `resumed_round`."""

    def device_end(self, round_: int, device: str) -> None:
        """A device, or the server, has finished its part of a round."""

    def score_end(self, round_: int, device: str) -> None:
        """A device, or the server, has been scored; `round_` is rounds + 1 after the last broadcast."""

    def round_end(self, round_: int, scores: Mapping[str, float]) -> None:
        """A round has ended and is saved."""


def _compute(
    plan: CellPlan, seed: int, identity_: Mapping[str, Any], checkpoint: Path, events: CellEvents
) -> dict[str, Any]:
    from mlecs_bench.federation.build import build_federation
    from mlecs_bench.federation.engine import Cell, CellRun, Events

    started = now()
    info, spec, profile = plan.algorithm.info, plan.spec, plan.profile
    samples = Samples.open(plan.prepared)
    federation = build_federation(spec, seed, samples, profile, needs=plan.needs)
    evaluator = _evaluator(plan, samples)
    run = CellRun(
        Cell(
            algorithm=info.build(plan.options),
            federation=federation,
            evaluator=evaluator,
            key=identity_key(identity_),
            rounds=spec.rounds or profile.rounds,
            evaluate_all=spec.evaluate == "all",
            server_score=info.server_score,
            checkpoint=checkpoint,
            events=Events(events.device_end, events.round_end, events.score_end),
        )
    )
    resumed = run.resume()
    events.start(resumed)
    outcome = _with_references(run.run(), plan, federation, samples, evaluator)
    return _record(plan, identity_, federation, outcome) | {
        "provenance": provenance(str(spec.device), started) | {"resumed_from_round": resumed}
    }


def _evaluator(plan: CellPlan, samples: Samples) -> Evaluator:
    from mlecs_bench.federation.evaluation import Evaluator

    profile = plan.profile
    limits = {"bertscore": profile.bertscore_samples}
    return Evaluator(plan.dataset.info, samples, scorers_of(plan), profile.generation_batch, limits)


def _with_references(
    outcome: Outcome, plan: CellPlan, federation: Federation, samples: Samples, evaluator: Evaluator
) -> Outcome:
    """Return `outcome` with what trivial answers score on the same test samples, and the seconds that took."""
    started = time.perf_counter()
    cut = federation.partition
    devices = {device.id: part for device, part in zip(federation.devices, cut.devices, strict=True)}
    parts = {federation.server.id: cut.public, **devices}
    scores = reference_scores(plan.dataset.info, samples, parts, evaluator, plan.cache_dir)
    seconds = outcome.cost["seconds"] | {"references": time.perf_counter() - started}
    return dataclasses.replace(
        outcome, metrics=outcome.metrics | {"references": scores}, cost=outcome.cost | {"seconds": seconds}
    )


def _record(plan: CellPlan, identity_: Mapping[str, Any], federation: Federation, outcome: Outcome) -> dict[str, Any]:
    parties = [federation.server, *federation.devices]
    return {
        "schema": SCHEMA,
        "key": identity_key(identity_),
        "identity": dict(identity_),
        "realised": {
            "modalities": {d.id: list(d.modalities) for d in federation.devices},
            "redraws": federation.masks.redraws,
            "rate": federation.masks.rate,
            "samples": {p.id: {"train": len(p.train), "test": len(p.test)} for p in parties},
            "unused_samples": federation.partition.unused,
            "notes": list(plan.prepared.manifest.notes),
            "structures": {
                id_: dataclasses.asdict(s) | {"slm": _model_identity(s.slm, plan.profile)["name"]}
                for id_, s in federation.structures.items()
            },
            "random_encoders": {id_: sorted(names) for id_, names in federation.random_encoders.items()},
        },
        "metrics": outcome.metrics,
        "comm": outcome.comm,
        "cost": outcome.cost,
    }
