"""The identity of a cell: everything that can change one of its numbers, as JSON values."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mlecs_bench.data.partition import rates_of
from mlecs_bench.doors.options import identifying, plain
from mlecs_bench.doors.profile import file_digest
from mlecs_bench.models.projections import SETTLED
from mlecs_bench.models.sources import content_id, is_given_bos, source_name

if TYPE_CHECKING:
    from mlecs_bench.data.samples import Manifest
    from mlecs_bench.plan.plan import Plan

NOT_TRAINING = (
    *("name", "summary", "slm", "llm", "encoders", "tiny", "torch_device"),
    *("generation_batch", "gradient_checkpointing", "bertscore", "sources", "words"),
)
"""Fields of a profile that stand elsewhere in an identity, or that change no number."""
NO_ENCODERS: Mapping[str, str] = MappingProxyType({})


def identity(
    plan: Plan, seed: int, manifest: Manifest, scorers: Mapping[str, str], encoders: Mapping[str, str] = NO_ENCODERS
) -> dict[str, Any]:
    """Return the identity of a cell.

    `manifest` is that of the prepared data; `scorers` maps the metrics that are installed to their identities,
    `encoders` the encodings whose encoder does not come with mlecs-bench to where it comes from.
    """
    profile = plan.profile
    foreign = {"encoders": dict(encoders)} if encoders else {}
    departures = plan.conditions.departures()
    conditions = {"conditions": departures} if departures else {}
    robustness = {"robustness": True} if plan.robustness else {}
    return (
        foreign
        | conditions
        | robustness
        | {
            "algo": {**plain(plan.algorithm), "options": plain(plan.options)},
            "dataset": _dataset_identity(plan, manifest),
            "rho": rates_of(plan.rho, manifest.modality_names),
            "n_devices": plan.n_devices,
            "min_modalities": plan.min_modalities,
            "seed": seed,
            "profile": {
                "name": profile.name,
                "tiny": profile.tiny,
                "slm": model_identity(plan, profile.slm),
                "llm": model_identity(plan, profile.llm),
                "encoders": file_digest(profile.encoders),
            },
            "structure": _structure_identity(plan),
            "training": _training_identity(plan),
            "evaluate": plan.evaluate,
            "scorers": {name: scorers.get(name) for name in plan.scores},
            "numerics": {
                "torch": importlib.metadata.version("torch"),
                "device": plan.torch_device,
                "threads": plan.threads,
            },
        }
    )


def _dataset_identity(plan: Plan, manifest: Manifest) -> dict[str, Any]:
    standardised = [m.name for m in manifest.modalities if m.standardise]
    return ({"standardised": standardised} if standardised else {}) | {
        "name": plan.dataset.name,
        "version": manifest.version,
        "view": manifest.view,
        "synthetic": manifest.synthetic,
        "task": manifest.task,
        "digest": manifest.digest,
        "options": plain(identifying(type(plan.data_options), plain(plan.data_options))),
        "split": plan.split,
        "modalities": list(manifest.modality_names),
    }


def _structure_identity(plan: Plan) -> dict[str, Any]:
    """Return in what single devices differ from the profile, and the proxy model where the algorithm uses one."""
    told = plan.deviations
    return {
        "slm": {id_: model_identity(plan, source) for id_, source in told.slm.items()},
        "rank": dict(told.rank),
        "encoder_width": dict(told.encoder_width),
        "proxy": model_identity(plan, plan.proxy) if plan.proxy else None,
    }


def model_identity(plan: Plan, source: str) -> dict[str, Any]:
    """Return name and digest of a language model, that it is given a BOS token, if it is, and what LoRA adapts in it.

    The digest does not tell the latter two: it is of the model, and what is done with it is of this version. Adapted
    layers are left out where the settings name them, and for the families in which they have always been the same.
    """
    bos = {"bos": True} if is_given_bos(source) else {}
    return {"name": model_name(plan, source), "digest": content_id(source)} | bos | _adapted(plan, source)


def _adapted(plan: Plan, source: str) -> dict[str, Any]:
    from mlecs_bench.models.outline import backbone_shape

    shape = backbone_shape(source, plan.profile.lora.targets)
    if plan.profile.lora.targets is not None or shape.model_type in SETTLED:
        return {}
    return {"lora": sorted({name.rpartition(".")[2] for name in shape.adapted})}


def model_name(plan: Plan, source: str) -> str:
    """Return what a language model is called; the profile's own goes by the profile's name."""
    return plan.profile.name if source in plan.profile_models else source_name(source)


def _training_identity(plan: Plan) -> dict[str, Any]:
    values: dict[str, Any] = dataclasses.asdict(plan.profile)
    for name in (*NOT_TRAINING, "local_epochs" if plan.profile.local_epochs is None else "steps"):
        del values[name]
    settings: dict[str, Any] = plain(values | {"budget": plan.rule})
    return settings
