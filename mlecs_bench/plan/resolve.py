"""From what a user asked to a plan: every name is looked up, every default filled in, every option checked, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.data.partition import rates_of
from mlecs_bench.doors.options import build_options, plain
from mlecs_bench.errors import UsageError
from mlecs_bench.plan.plan import Plan
from mlecs_bench.plan.spec import LIMITS, RunSpec
from mlecs_bench.plan.structure import Deviations, canonical_devices, check_structures, structures
from mlecs_bench.plan.training import training_of

if TYPE_CHECKING:
    from mlecs_bench.doors.hookspecs import AlgorithmInfo, DatasetInfo
    from mlecs_bench.doors.profile import Profile
    from mlecs_bench.doors.registry import Loaded, Registry


def resolve(spec: RunSpec, registry: Registry) -> Plan:
    """Return the plan of `spec`; raises UsageError for what cannot be, PluginError for a plugin that cannot be loaded.

    A GPU that is asked for has to be there.
    """
    profile = registry.profile(spec.profile)
    plan = planned(spec, registry.algorithm(spec.algo), registry.dataset(spec.dataset), profile)
    if plan.torch_device != "cpu":  # torch is imported only when a GPU is asked for
        from mlecs_bench.models.placement import torch_device

        torch_device(plan.torch_device)
    return plan


def planned(
    spec: RunSpec, algorithm: Loaded[AlgorithmInfo], dataset: Loaded[DatasetInfo], profile: Loaded[Profile]
) -> Plan:
    """Return the plan of `spec` with these plugins, as `resolve` does."""
    deviations = _deviations(spec)
    own = profile.info
    chosen = _overridden(own, spec)
    options = build_options(algorithm.info.options, spec.options, f"algorithm '{algorithm.name}'")
    data_options = build_options(dataset.info.options, spec.data_options, f"dataset '{dataset.name}'")
    split = spec.split or dataset.info.splits[0]
    if split not in dataset.info.splits:
        raise UsageError(f"dataset '{dataset.name}' has no split '{split}'; use {' or '.join(dataset.info.splits)}")
    rates = rates_of(spec.rho, sorted(dataset.info.modalities))
    needs = algorithm.info.needs(options)
    if spec.proxy is not None and not needs.proxy:
        raise UsageError(f"algorithm '{algorithm.name}' uses no proxy model, got proxy {spec.proxy}; leave it out")
    usual = plain(algorithm.info.options())
    own_options = {name: value for name, value in plain(options).items() if value != usual[name]}
    limits = _own_limits(chosen, own)
    found = structures(spec.n_devices, deviations, chosen, needs)
    check_structures(found, needs, chosen)
    return Plan(
        algorithm=algorithm.ref,
        options=options,
        dataset=dataset.ref,
        data_options=data_options,
        data_dir=Path(spec.data_dir).expanduser() if spec.data_dir else None,
        split=split,
        rho=spec.rho,
        rates=rates,
        min_modalities=spec.min_modalities,
        profile=chosen,
        profile_models=(own.slm, own.llm),
        needs=needs,
        server_score=algorithm.info.server_score,
        structures=found,
        deviations=deviations,
        proxy=(spec.proxy or chosen.slm) if needs.proxy else None,
        rule=spec.budget,
        training=training_of(chosen, needs, spec.budget),
        evaluate=spec.evaluate,
        metrics=tuple(dataset.info.metrics),
        seeds=spec.seeds,
        torch_device=chosen.torch_device,
        threads=spec.threads,
        own_options=own_options,
        own_limits=limits,
        variant=_variant(spec, own_options, limits, other_split=split != dataset.info.splits[0]),
    )


def _deviations(spec: RunSpec) -> Deviations:
    """Return the settings of single devices with one spelling of every id, and with the user's home written out."""
    slms = canonical_devices(spec.device_slm, spec.n_devices, "device-slm")
    return Deviations(
        slm={id_: str(Path(source).expanduser()) for id_, source in slms.items()},
        rank=canonical_devices(spec.device_rank, spec.n_devices, "device-rank"),
        encoder_width=canonical_devices(spec.device_encoder_width, spec.n_devices, "device-encoder-width"),
    )


def _overridden(profile: Profile, spec: RunSpec) -> Profile:
    """Return the profile with everything replaced that the spec names."""
    names = ("slm", "llm", "batch_size", "dtype", "base_bits", "rounds", "steps")
    changes: dict[str, Any] = {name: getattr(spec, name) for name in names if getattr(spec, name) is not None}
    for name in LIMITS:
        limit = getattr(spec, name)
        if limit is not None:
            changes[name] = None if limit == "all" else limit
    if spec.device:
        changes["torch_device"] = spec.device
    if spec.slm or spec.llm or spec.device_slm:
        # Another backbone is not tiny because the profile's is: only the profile's own are marked so.
        changes["tiny"] = False
    if spec.bertscore_model:
        changes["bertscore"] = spec.bertscore_model
    checkpointing = profile.gradient_checkpointing or spec.gradient_checkpointing
    return dataclasses.replace(profile, gradient_checkpointing=checkpointing, **changes)


def _own_limits(chosen: Profile, own: Profile) -> dict[str, int | None]:
    """Return the limits that are not the profile's own, None for no limit."""
    return {name: getattr(chosen, name) for name in LIMITS if getattr(chosen, name) != getattr(own, name)}


def _variant(
    spec: RunSpec, own_options: Mapping[str, Any], limits: Mapping[str, int | None], *, other_split: bool
) -> str:
    """Return in which settings a run departs from the defaults, beside those that a cell's name holds."""
    texts = [f"{name}={','.join(map(str, v)) if isinstance(v, list) else v}" for name, v in own_options.items()]
    texts += [f"{name.replace('_', ' ')} {'all' if limit is None else limit}" for name, limit in limits.items()]
    if spec.n_devices != RunSpec.n_devices:
        texts.append(f"{spec.n_devices} devices")
    if spec.budget != RunSpec.budget:
        texts.append(f"budget {spec.budget}")
    if other_split:
        texts.append(f"split {spec.split}")
    if spec.evaluate != RunSpec.evaluate:
        texts.append(f"evaluate {spec.evaluate}")
    return ", ".join(texts)
