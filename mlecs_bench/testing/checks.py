"""The checks of a plugin: which there are, and how to get them by the plugin's name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.hookspecs import TrackerInfo
from mlecs_bench.doors.options import NoOptions, build_options
from mlecs_bench.doors.places import Place, PlaceInfo, place
from mlecs_bench.doors.registry import DOORS, Kind, Loaded, PluginEntry, Registry
from mlecs_bench.errors import MlecsError, PluginError, UsageError
from mlecs_bench.execution.tracking import check_packages
from mlecs_bench.testing import (
    absence_checks,
    card_checks,
    compression_checks,
    dataset_checks,
    drift_checks,
    encoder_checks,
    federation_checks,
    fleet_checks,
    message_checks,
    metric_checks,
    observer_checks,
    profile_checks,
    repeat_checks,
    sight_checks,
    study_checks,
    table_checks,
    training_checks,
    workers_checks,
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
    compression_checks.compressed_messages,
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
    absence_checks.some_absent,
    absence_checks.device_gone,
    absence_checks.lost_upload,
    absence_checks.skipped_round,
    absence_checks.absence_repeats,
    drift_checks.returning_modality,
    drift_checks.losing_everything,
    drift_checks.drift_device_order,
    drift_checks.drift_resumable,
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
LOADS = "The plugin can be imported and its hook returns its card."
MakeSubject = Callable[[Loaded[Any], Mapping[str, object], str], Any]


@dataclass(frozen=True)
class Contract:
    """The checks of one kind of plugin.

    `subject(loaded, options, argument)` is what they look at, of workers and a fleet with what users write behind the
    name; `origin(info)` is an object by whose module errors are located.
    """

    subject: MakeSubject
    checks: Sequence[Callable[[Any], None]]
    origin: Callable[[Any], object]


def _without_options(subject: Callable[[str, Any], Any]) -> MakeSubject:
    return lambda loaded, _options, _argument: subject(loaded.name, loaded.info)


def _at_a_place(subject: Callable[[str, Any, str], Any]) -> MakeSubject:
    return lambda loaded, _options, argument: subject(loaded.name, loaded.info, argument)


def _algorithm(loaded: Loaded[Any], options: Mapping[str, object], _argument: str) -> Subject:
    return Subject(loaded, options)


def _material(loaded: Loaded[Any], options: Mapping[str, object], _argument: str) -> Material:
    return Material(loaded.name, loaded.info, options)


def _watching(loaded: Loaded[Any], _options: Mapping[str, object], _argument: str) -> observer_checks.Watching:
    if isinstance(loaded.info, TrackerInfo):
        check_packages(loaded.name, loaded.info)
    return observer_checks.Watching(loaded.name, loaded.info)


CONTRACTS: Mapping[Kind, Contract] = {
    "algorithm": Contract(_algorithm, ALGORITHM_CHECKS, attrgetter("build")),
    "dataset": Contract(_material, DATASET_CHECKS, attrgetter("prepare")),
    "metric": Contract(_without_options(metric_checks.Measure), metric_checks.METRIC_CHECKS, attrgetter("make")),
    "encoder": Contract(_without_options(encoder_checks.Encoding), encoder_checks.ENCODER_CHECKS, attrgetter("build")),
    "profile": Contract(_without_options(profile_checks.Given), profile_checks.PROFILE_CHECKS, lambda _: None),
    "workers": Contract(_at_a_place(workers_checks.Crew), workers_checks.WORKERS_CHECKS, attrgetter("make")),
    "fleet": Contract(_at_a_place(fleet_checks.Fleets), fleet_checks.FLEET_CHECKS, attrgetter("make")),
    "observer": Contract(_watching, observer_checks.OBSERVER_CHECKS, lambda info: getattr(info, "make", info)),
    "study": Contract(_without_options(study_checks.Question), study_checks.STUDY_CHECKS, attrgetter("sections")),
}


def checks_of(
    name: str, kind: Kind | None = None, options: Mapping[str, object] | None = None, registry: Registry | None = None
) -> list[Check]:
    """Return the checks of the installed plugin called `name`, or of all when several kinds have one of that name.

    `options` are option values, as text or as they are. Behind the name of workers or a fleet may stand what users
    write there, such as the address of a cluster: ``ray:10.0.0.1:6379``; other kinds of that name are left out then. A
    plugin that cannot be loaded gets one check, which fails. Raises UsageError for an unknown name, for options that
    the plugin does not have, and for an argument that is wrong or lacks.
    """
    registry = registry or Registry.installed()
    where = place(name, "check") if ":" in name else Place(name)
    kinds = registry.kinds_of(where.name) if kind is None else [kind]
    if where.argument:
        kinds = _kinds_of_places(kinds, where)
    return [check for k in kinds for check in _checks_of_kind(registry, k, where, options or {})]


def _kinds_of_places(kinds: Sequence[Kind], where: Place) -> list[Kind]:
    """Return the kinds that may be written with an argument; raises UsageError where there is none."""
    found = [kind for kind in kinds if issubclass(DOORS[kind][1] or object, PlaceInfo)]
    if not found:
        raise UsageError(
            f"'{where.name}' ({', '.join(kinds)}) takes nothing behind its name, got ':{where.argument}'; leave it out"
        )
    return found


def _checks_of_kind(registry: Registry, kind: Kind, where: Place, options: Mapping[str, object]) -> list[Check]:
    name = where.name
    try:
        loaded = registry.load(kind, name)
    except MlecsError as error:
        entry = next((entry for entry in registry.entries(kind) if entry.name == name), None)
        if entry is None:
            raise
        return [Check("loads", LOADS, name, partial(_raise, _naming(entry, error)))]
    return checks_of_info(loaded, options, kind, argument=where.argument)


def _naming(entry: PluginEntry, error: MlecsError) -> MlecsError:
    """Return an error that names plugin and distribution, as the registry's own errors do."""
    text = str(error)
    return error if entry.distribution in text else PluginError(f"{entry.label} cannot be loaded: {text}")


def _raise(error: MlecsError) -> None:
    raise error


def checks_of_info(
    loaded: Loaded[Any],
    options: Mapping[str, object] | None = None,
    kind: Kind | None = None,
    fleet: MakeFleet = in_process,
    argument: str = "",
) -> list[Check]:
    """Return the checks of a plugin that need not be installed; raises UsageError for options that it refuses.

    The kind need be given for an observer only: all others are known by what their hook returns. `fleet` makes what
    the devices of an algorithm's runs live in. The runs that they are compared with, and what a check has to watch
    step by step, are always in this process. `argument` is what users write behind the name of workers or a fleet;
    raises UsageError for one that the card does not take.
    """
    info, given = loaded.info, options or {}
    contract = CONTRACTS[kind or _kind_of(loaded)]
    if given:
        build_options(getattr(info, "options", NoOptions), given, f"'{loaded.name}'")
    if isinstance(info, PlaceInfo):
        Place(loaded.name, argument).check(info, "check")
    subject = contract.subject(loaded, given, argument)
    if isinstance(subject, Subject):
        subject = dataclasses.replace(subject, fleet=fleet)
    origin = contract.origin(info)
    loads = Check("loads", LOADS, loaded.name, _passes)
    return [loads, *(_check(function, subject, origin) for function in contract.checks)]


def _kind_of(loaded: Loaded[Any]) -> Kind:
    known = {kind: type_ for kind, (_, type_) in DOORS.items() if type_ is not None}
    for kind, type_ in known.items():
        if isinstance(loaded.info, type_):
            return kind
    types = ", ".join(type_.__name__ for type_ in known.values())
    raise UsageError(f"'{loaded.name}' is a {type(loaded.info).__name__}; give one of {types}")


def _passes() -> None:
    """Do nothing: the plugin is loaded already."""


def _check(function: Callable[[Any], None], subject: Any, origin: object) -> Check:
    summary = (function.__doc__ or "").strip().partition("\n")[0]
    return Check(function.__name__.replace("_", "-"), summary, subject.name, partial(_run, function, subject), origin)


def _run(function: Callable[[Any], None], subject: Any) -> None:
    with one_thread():
        function(subject)


def parametrize_with_checks(
    *names: str, options: Mapping[str, object] | None = None, kind: Kind | None = None
) -> pytest.MarkDecorator:
    """Return a pytest decorator that runs a test once per check of the plugins `names`, as its argument `check`.

    Names are as `checks_of` takes them: an engine that needs one is named with its argument.
    `kind` chooses where several kinds share a name. The test calls it: ``def test_contract(check): check()``.
    """
    import pytest

    checks = [check for name in names for check in checks_of(name, kind, options)]
    return pytest.mark.parametrize("check", checks, ids=str)
