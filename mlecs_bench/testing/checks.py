"""The checks of a plugin: which there are, and how to get them by the plugin's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.hookspecs import AlgorithmInfo, DatasetInfo
from mlecs_bench.doors.options import build_options
from mlecs_bench.doors.registry import Entry, Kind, Loaded, Registry
from mlecs_bench.errors import MlecsError, PluginError, UsageError, did_you_mean
from mlecs_bench.testing import (
    card_checks,
    dataset_checks,
    federation_checks,
    message_checks,
    repeat_checks,
    sight_checks,
    table_checks,
    training_checks,
)
from mlecs_bench.testing.global_state import one_thread
from mlecs_bench.testing.material import Material
from mlecs_bench.testing.trial import MakeFleet, Subject, in_process
from mlecs_bench.testing.verdict import Check

if TYPE_CHECKING:
    import pytest

ALGORITHM_CHECKS: tuple[Callable[[Subject], None], ...] = (
    card_checks.card,
    card_checks.options,
    card_checks.needs,
    card_checks.four_steps,
    repeat_checks.deterministic,
    repeat_checks.global_streams_untouched,
    repeat_checks.stateless,
    repeat_checks.device_order,
    repeat_checks.over_bytes,
    repeat_checks.resumable,
    message_checks.declared_messages,
    message_checks.finite_messages,
    message_checks.counted_messages,
    message_checks.received_messages,
    sight_checks.own_data,
    sight_checks.own_modalities,
    sight_checks.absent_samples,
    training_checks.only_own_state,
    training_checks.counted_steps,
    training_checks.budget_paper,
    training_checks.budget_equal,
    training_checks.server_score,
    training_checks.frozen_backbones,
    federation_checks.one_round,
    federation_checks.one_device,
    federation_checks.twenty_devices,
    federation_checks.one_modality,
    federation_checks.no_modality,
    federation_checks.mixed_backbones,
    federation_checks.mixed_ranks,
    federation_checks.mixed_encoders,
)
DATASET_CHECKS: tuple[Callable[[Material], None], ...] = (
    dataset_checks.card,
    dataset_checks.options,
    dataset_checks.stand_in,
    dataset_checks.metrics,
    table_checks.manifest,
    table_checks.columns,
    dataset_checks.references,
    table_checks.samples,
    table_checks.values,
    dataset_checks.same_elsewhere,
    dataset_checks.cached,
    table_checks.splits,
    dataset_checks.bad_folders,
    dataset_checks.federated_round,
)
PLUGIN_KINDS: tuple[Kind, ...] = ("algorithm", "dataset")
LOADS = "The plugin can be imported and its hook returns its card."


def checks_of(
    name: str, kind: Kind | None = None, options: Mapping[str, object] | None = None, registry: Registry | None = None
) -> list[Check]:
    """Return the checks of the installed algorithm or dataset (or both) called `name`.

    `options` are option values, as text or as they are. A plugin that cannot be loaded gets one check, which fails.
    Raises UsageError for an unknown name, and for options that the plugin does not have.
    """
    registry = registry or Registry.installed()
    kinds: Sequence[Kind] = PLUGIN_KINDS if kind is None else (kind,)
    found = [k for k in kinds if any(entry.name == name for entry in registry.entries(k))]
    if not found:
        known = {entry.name for k in kinds for entry in registry.entries(k)}
        raise UsageError(f"no {' or '.join(kinds)} '{name}'. {did_you_mean(name, known)}")
    return [check for k in found for check in _checks_of_kind(registry, k, name, options or {})]


def _checks_of_kind(registry: Registry, kind: Kind, name: str, options: Mapping[str, object]) -> list[Check]:
    entry = next(entry for entry in registry.entries(kind) if entry.name == name)
    try:
        loaded: Loaded[Any] = registry.algorithm(name) if kind == "algorithm" else registry.dataset(name)
    except MlecsError as error:
        return [Check("loads", LOADS, name, partial(_raise, _naming(entry, error)))]
    return checks_of_info(loaded, options)


def _naming(entry: Entry, error: MlecsError) -> MlecsError:
    """Return an error that names plugin and distribution, as the registry's own errors do."""
    text = str(error)
    return error if entry.distribution in text else PluginError(f"{entry.label} cannot be loaded: {text}")


def _raise(error: MlecsError) -> None:
    raise error


def checks_of_info(
    loaded: Loaded[Any], options: Mapping[str, object] | None = None, fleet: MakeFleet = in_process
) -> list[Check]:
    """Return the checks of a plugin that need not be installed; raises UsageError for options that it refuses.

    `fleet` makes what the devices of an algorithm's runs live in. The runs that they are compared with, and what a
    check has to watch step by step, are always in this process.
    """
    info, given = loaded.info, options or {}
    if given:
        build_options(info.options, given, f"'{loaded.name}'")
    loads = Check("loads", LOADS, loaded.name, _passes)
    if isinstance(info, AlgorithmInfo):
        subject = Subject(loaded, given, fleet)
        return [loads, *(_check(function, subject, info.build) for function in ALGORITHM_CHECKS)]
    if isinstance(info, DatasetInfo):
        material = Material(loaded.name, info, given)
        return [loads, *(_check(function, material, info.prepare) for function in DATASET_CHECKS)]
    raise UsageError(f"'{loaded.name}' is a {type(info).__name__}; give an AlgorithmInfo or a DatasetInfo")


def _passes() -> None:
    """Do nothing: the plugin is loaded already."""


def _check(function: Callable[[Any], None], subject: Subject | Material, origin: object) -> Check:
    summary = (function.__doc__ or "").strip().partition("\n")[0]
    return Check(function.__name__.replace("_", "-"), summary, subject.name, partial(_run, function, subject), origin)


def _run(function: Callable[[Any], None], subject: Subject | Material) -> None:
    with one_thread():
        function(subject)


def parametrize_with_checks(*names: str, options: Mapping[str, object] | None = None) -> pytest.MarkDecorator:
    """Return a pytest decorator that runs a test once per check of the plugins `names`, as its argument `check`.

    The test calls it: ``def test_contract(check): check()``.
    """
    import pytest

    checks = [check for name in names for check in checks_of(name, options=options)]
    return pytest.mark.parametrize("check", checks, ids=str)
