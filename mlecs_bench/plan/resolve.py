"""From what a user asked to a plan: every name is looked up, every default filled in, every option checked, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.data.partition import rates_of
from mlecs_bench.doors.options import build_options, default_text, plain
from mlecs_bench.doors.profile_settings import departures, parsed_setting, replaced
from mlecs_bench.doors.scoring import ranked_name
from mlecs_bench.errors import UsageError
from mlecs_bench.models.sources import source_name
from mlecs_bench.plan.plan import Plan
from mlecs_bench.plan.profiles import FILES, profile_named
from mlecs_bench.plan.spec import LIMITS, PROFILE_FIELDS, RunSpec
from mlecs_bench.plan.structure import Deviations, canonical_devices, check_structures, structures
from mlecs_bench.plan.training import training_of

if TYPE_CHECKING:
    from mlecs_bench.doors.hookspecs import AlgorithmInfo, DatasetInfo
    from mlecs_bench.doors.profile import Profile
    from mlecs_bench.doors.registry import Loaded, Registry


def resolve(spec: RunSpec, registry: Registry) -> Plan:
    """Return the plan of `spec`; raises UsageError for what cannot be, PluginError for a plugin that cannot be loaded.

    A GPU that is asked for has to be there, and so has a data folder that decides what the modalities are.
    """
    profile = profile_named(spec.profile, registry)
    dataset = _with_data(registry.dataset(spec.dataset), spec)
    plan = planned(spec, registry.algorithm(spec.algo), dataset, profile)
    for name in spec.metrics:
        if registry.metric(name).info.labels and dataset.info.task != "classification":
            raise UsageError(f"metric '{name}' needs labels, and dataset '{spec.dataset}' has none; leave it out")
    if plan.torch_device != "cpu":  # torch is imported only when a GPU is asked for
        from mlecs_bench.models.placement import check_dtype, torch_device

        check_dtype(torch_device(plan.torch_device), plan.profile.dtype)
    return plan


def _with_data(dataset: Loaded[DatasetInfo], spec: RunSpec) -> Loaded[DatasetInfo]:
    """Return a dataset with its card for the data of `spec`."""
    options = build_options(dataset.info.options, spec.data_options, f"dataset '{dataset.name}'")
    return dataclasses.replace(dataset, info=dataset.info.given(_data_dir(spec), options))


def _data_dir(spec: RunSpec) -> Path | None:
    return Path(spec.data_dir).expanduser() if spec.data_dir else None


def planned(
    spec: RunSpec, algorithm: Loaded[AlgorithmInfo], dataset: Loaded[DatasetInfo], profile: Loaded[Profile]
) -> Plan:
    """Return the plan of `spec` with these plugins, as `resolve` does."""
    n_devices = spec.known_devices
    deviations = _deviations(spec)
    own = profile.info
    chosen = chosen_profile(own, spec)
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
    own_settings = _own_settings(chosen, own)
    conditions = spec.conditions
    conditions.partition.check_split(split)
    conditions.check(n_devices, sorted(dataset.info.modalities), needs.copes, algorithm.name)
    conditions.schedule.check_rounds(chosen.rounds, spec.min_modalities)
    found = structures(n_devices, deviations, chosen, needs)
    check_structures(found, needs, chosen)
    return Plan(
        algorithm=algorithm.ref,
        options=options,
        dataset=dataset.ref,
        data_options=data_options,
        data_dir=_data_dir(spec),
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
        robustness=spec.robustness,
        metrics=_metrics(spec, dataset),
        seeds=spec.seeds,
        torch_device=chosen.torch_device,
        threads=spec.threads,
        own_options=own_options,
        own_settings=own_settings,
        answer=spec.answer,
        conditions=conditions,
        variant=_variant(spec, own_options, own_settings, other_split=split != dataset.info.splits[0]),
    )


def _metrics(spec: RunSpec, dataset: Loaded[DatasetInfo]) -> tuple[str, ...]:
    """Return the dataset's metrics and those that the user adds, each once.

    Raises UsageError where labels are to be ranked and there are none, or a metric has the name of a ranked score.
    """
    metrics = tuple(dict.fromkeys([*dataset.info.metrics, *spec.metrics]))
    if spec.answer == "rank":
        if dataset.info.task != "classification":
            raise UsageError(
                f"answer rank needs labels to rank, and dataset '{dataset.name}' has none; use answer generate"
            )
        taken = [ranked_name(name) for name in metrics if ranked_name(name) in metrics]
        if taken:
            raise UsageError(f"answer rank records '{taken[0]}', which is a metric here, too; leave that out")
    return metrics


def _deviations(spec: RunSpec) -> Deviations:
    """Return the settings of single devices with one spelling of every id, and with the user's home written out."""
    slms = canonical_devices(spec.device_slm, spec.known_devices, "device-slm")
    return Deviations(
        slm={id_: str(Path(source).expanduser()) for id_, source in slms.items()},
        rank=canonical_devices(spec.device_rank, spec.known_devices, "device-rank"),
        encoder_width=canonical_devices(spec.device_encoder_width, spec.known_devices, "device-encoder-width"),
    )


def chosen_profile(own: Profile, spec: RunSpec) -> Profile:
    """Return the profile with everything replaced that the spec names.

    Raises UsageError for a flag and an entry of `set` that say different things of one field.
    """
    asked = {PROFILE_FIELDS[name]: _as_field(name, getattr(spec, name)) for name in _given(spec)}
    for name, value in spec.set.items():
        found = parsed_setting(name, value)
        if name in asked and asked[name] != found:
            flag = next(flag for flag, field in PROFILE_FIELDS.items() if field == name).replace("_", "-")
            raise UsageError(f"--{flag} {default_text(asked[name])} and --set {name}={value} differ; give one of them")
        asked[name] = found
    chosen = replaced(own, asked, "given with the run")
    models_given = spec.slm or spec.llm or spec.device_slm or (chosen.slm, chosen.llm) != (own.slm, own.llm)
    # Another backbone is not tiny because the profile's is: only the profile's own are marked so.
    return dataclasses.replace(chosen, tiny=False) if models_given else chosen


def _given(spec: RunSpec) -> list[str]:
    """Return the settings of a spec that take the place of a profile's and were given."""
    return [name for name in PROFILE_FIELDS if getattr(spec, name) not in (None, False, "")]


def _as_field(name: str, value: Any) -> Any:
    """Return a setting of a spec as the profile has it, where None stands for all samples."""
    return None if name in LIMITS and value == "all" else value


def _own_settings(chosen: Profile, own: Profile) -> dict[str, Any]:
    """Return the settings that are not the profile's own and can change a number; of files the last name."""
    found = departures(chosen, own)
    return {name: source_name(value) if value and name in FILES else value for name, value in found.items()}


def _own_setting(name: str, value: Any) -> str:
    """Return in words that a setting of the profile is another one."""
    if name in LIMITS:
        return f"{name.replace('_', ' ')} {'all' if value is None else value}"
    return f"{name}={default_text(tuple(value) if isinstance(value, list) else value)}"


def _variant(
    spec: RunSpec, own_options: Mapping[str, Any], own_settings: Mapping[str, Any], *, other_split: bool
) -> str:
    """Return in which settings a run departs from the defaults, beside those that a cell's name holds."""
    texts = [f"{name}={','.join(map(str, v)) if isinstance(v, list) else v}" for name, v in own_options.items()]
    texts += [_own_setting(name, value) for name, value in own_settings.items()]
    if spec.n_devices != RunSpec.n_devices:
        texts.append(f"{spec.n_devices} devices")
    texts += spec.conditions.words()
    if spec.budget != RunSpec.budget:
        texts.append(f"budget {spec.budget}")
    if other_split:
        texts.append(f"split {spec.split}")
    if spec.evaluate != RunSpec.evaluate:
        texts.append(f"evaluate {spec.evaluate}")
    if spec.robustness:
        texts.append("robustness")
    return ", ".join(texts)
