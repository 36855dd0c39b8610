"""Finds plugins by their entry points: lists them without importing, loads exactly the one that was asked for.

The groups of entry points are those of `DOORS`; an entry point's name is the name on the command line. What comes with
mlecs-bench enters by the same doors.

The environment variable ``MLECS_BENCH_PLUGINS`` limits which distributions may provide plugins: a list with commas, to
which ``mlecs-bench`` itself always belongs. Set but empty (``MLECS_BENCH_PLUGINS=``), it disables everything that does
not come with mlecs-bench; unset, every installed plugin counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import inspect
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args

import pluggy

from mlecs_bench.doors.hookspecs import (
    PROJECT,
    AlgorithmInfo,
    DatasetInfo,
    EncoderInfo,
    FleetInfo,
    HookSpecs,
    MetricInfo,
    StudyInfo,
    TrackerInfo,
    WorkersInfo,
)
from mlecs_bench.doors.options import NoOptions, plain
from mlecs_bench.doors.profile import Profile
from mlecs_bench.doors.source_code import files_digest
from mlecs_bench.errors import MlecsError, PluginError, UsageError, did_you_mean

Kind = Literal["algorithm", "dataset", "metric", "encoder", "profile", "workers", "fleet", "observer", "study"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DOORS: Mapping[Kind, tuple[str, type[Any] | None]] = {
    "algorithm": ("algorithms", AlgorithmInfo),
    "dataset": ("datasets", DatasetInfo),
    "metric": ("metrics", MetricInfo),
    "encoder": ("encoders", EncoderInfo),
    "profile": ("profiles", Profile),
    "workers": ("workers", WorkersInfo),
    "fleet": ("fleets", FleetInfo),
    "observer": ("observers", None),
    "study": ("studies", StudyInfo),
}
"""Every kind of plugin: the last word of its group of entry points, and what its hook returns.

An observer returns nothing: it is called, and is its own info, unless it is a tracker, which has a `TrackerInfo`.
"""
REPLACED_HOOKS = tuple(f"mlecs_{name}" for name in (
    "data_progress", "cells", "cell_start", "device_end", "score_end", "round_end", "cell_end"
))  # fmt: skip
"""Hooks of 0.1.0, which `mlecs_event` has replaced."""
OWN_DISTRIBUTION = "mlecs-bench"
PLUGINS_VARIABLE = "MLECS_BENCH_PLUGINS"

InfoT = TypeVar("InfoT")


@dataclass(frozen=True, order=True)
class PluginEntry:
    """A declared plugin: its name, kind, the distribution that declares it, and the ``module:object`` it points to."""

    name: str
    kind: Kind
    distribution: str
    version: str
    target: str

    @property
    def label(self) -> str:
        """The plugin as errors name it."""
        return f"plugin '{self.name}' of distribution '{self.distribution}' {self.version}"


@dataclass(frozen=True)
class PluginRef:
    """Which plugin of which distribution, without its code: what a plan and a record hold of it."""

    name: str
    distribution: str
    version: str
    code: str | None = None


@dataclass(frozen=True)
class Loaded(Generic[InfoT]):
    """What a plugin returned from its hook, and where it came from.

    `code` is the sha256 of its source files without comments and docstrings, so that records of an edited plugin are
    told apart from those before the edit. It is None for what comes with mlecs-bench, which goes by its version.
    """

    name: str
    info: InfoT
    distribution: str
    version: str
    code: str | None = None

    @property
    def ref(self) -> PluginRef:
        """The plugin without its code."""
        return PluginRef(self.name, self.distribution, self.version, self.code)

    @property
    def origin(self) -> str:
        """Distribution, version and a digest of the code, as identities name them; "" for what is mlecs-bench's own."""
        if is_own(self.distribution):
            return ""
        code = f", code {self.code[:16]}" if self.code else ""
        return f"{self.distribution} {self.version}{code}"


class Registry:
    """The plugins of this installation."""

    def __init__(self, entries: Iterable[PluginEntry]) -> None:
        self._entries = tuple(sorted(set(entries)))
        self._unregistered: Mapping[tuple[Kind, str], Loaded[Any]] = {}

    def with_unregistered(self, plugins: Mapping[tuple[Kind, str], Loaded[Any]]) -> Registry:
        """Return this registry with plugins that are objects of this process, by kind and name."""
        registry = Registry(self._entries)
        registry._unregistered = {**self._unregistered, **plugins}
        return registry

    @property
    def unregistered(self) -> list[str]:
        """The names of plugins that are objects of this process, which another process cannot have."""
        return [name for _, name in self._unregistered]

    @classmethod
    def installed(cls) -> Registry:
        """Read the entry points of all installed distributions that may provide plugins; imports no plugin."""
        allowed = _allowed_distributions()
        return cls(e for e in _declared() if allowed is None or _normalised(e.distribution) in allowed)

    def entries(self, kind: Kind) -> list[PluginEntry]:
        """Return the declared plugins of one kind, sorted by name; two may claim one name."""
        return [entry for entry in self._entries if entry.kind == kind]

    def load(self, kind: Kind, name: str) -> Loaded[Any]:
        """Import the plugin `name` of a kind; raises UsageError for an unknown name, PluginError for a broken one.

        The `info` of an observer, whose hook returns nothing, is the plugin itself; that of a tracker a `TrackerInfo`.
        """
        if not isinstance(name, str):  # of a file
            raise UsageError(f"{kind} must be one name, got {str(name)[:40]}")
        if (kind, name) in self._unregistered:
            return self._unregistered[kind, name]
        entry = self._only(kind, name)
        info_type = DOORS[kind][1]
        info = _observer(entry) if info_type is None else _call_hook(entry, info_type)
        return Loaded(name, info, entry.distribution, entry.version, _code_digest(entry))

    def kinds_of(self, name: str) -> list[Kind]:
        """Return the kinds of plugin that are called `name`; raises UsageError with the nearest name if none is."""
        kinds = [kind for kind in KINDS if any(entry.name == name for entry in self.entries(kind))]
        if not kinds:
            raise UsageError(f"no plugin '{name}'. {did_you_mean(name, {entry.name for entry in self._entries})}")
        return kinds

    def algorithm(self, name: str) -> Loaded[AlgorithmInfo]:
        """Import an algorithm, as `load` does."""
        return self.load("algorithm", name)

    def dataset(self, name: str) -> Loaded[DatasetInfo]:
        """Import a dataset, as `load` does."""
        return self.load("dataset", name)

    def metric(self, name: str) -> Loaded[MetricInfo]:
        """Import a metric, as `load` does."""
        return self.load("metric", name)

    def encoder(self, name: str) -> Loaded[EncoderInfo]:
        """Import an encoder, as `load` does."""
        return self.load("encoder", name)

    def profile(self, name: str) -> Loaded[Profile]:
        """Import a profile, as `load` does."""
        return self.load("profile", name)

    def workers(self, name: str) -> Loaded[WorkersInfo]:
        """Import workers, as `load` does."""
        return self.load("workers", name)

    def fleet(self, name: str) -> Loaded[FleetInfo]:
        """Import a fleet, as `load` does."""
        return self.load("fleet", name)

    def study(self, name: str) -> Loaded[StudyInfo]:
        """Import a study, as `load` does."""
        return self.load("study", name)

    def tracker(self, name: str) -> Loaded[TrackerInfo]:
        """Import a tracker, as `load` does; raises UsageError for an observer that is none."""
        if any(entry.name == name for entry in self.entries("observer")):
            loaded = self.load("observer", name)
            if isinstance(loaded.info, TrackerInfo):
                return loaded
            raise UsageError(f"observer '{name}' is told of every run as long as it is installed; leave it out")
        raise UsageError(f"no tracker '{name}'. {did_you_mean(name, self._trackers())}")

    def _trackers(self) -> list[str]:
        """Return the names of the observers that load and are trackers."""
        names = []
        for entry in self.entries("observer"):
            with contextlib.suppress(PluginError):
                names += [entry.name] if isinstance(_observer(entry), TrackerInfo) else []
        return names

    def default_options(self, algo: str) -> dict[str, Any]:
        """Return the default options of an algorithm as JSON values; raises UsageError or PluginError."""
        defaults: dict[str, Any] = plain(self.algorithm(algo).info.options())
        return defaults

    def observers(self) -> tuple[pluggy.PluginManager, list[str]]:
        """Return a manager with every observer that loads but trackers, and one line for each that does not load."""
        manager = _new_manager()
        warnings: list[str] = []
        for name in dict.fromkeys(entry.name for entry in self.entries("observer")):
            try:
                entry = self._only("observer", name)
                observer = _observer(entry)
                if not isinstance(observer, TrackerInfo):
                    manager.register(observer, name=name)
            except PluginError as error:
                warnings.append(str(error))
            except ValueError:
                warnings.append(f"{entry.label} points to '{entry.target}', which another observer already is")
        return manager, warnings

    def _only(self, kind: Kind, name: str) -> PluginEntry:
        """Return the one entry called `name`."""
        found = [entry for entry in self.entries(kind) if entry.name == name]
        if not found:
            others = " and ".join(e.kind for e in self._entries if e.name == name)
            known = did_you_mean(name, {entry.name for entry in self.entries(kind)})
            raise UsageError(f"no {kind} '{name}'{f', which is the name of: {others}' if others else ''}. {known}")
        if len(found) > 1:
            claims = ", ".join(f"{entry.distribution} {entry.version}" for entry in found)
            strangers = [e.distribution for e in found if not is_own(e.distribution)]
            raise PluginError(
                f"{kind} '{name}' is declared by {len(found)} distributions: {claims}; "
                f"uninstall one, for example: pip uninstall {strangers[0]}"
            )
        return found[0]


def group_of(kind: Kind) -> str:
    """Return the group of entry points of a kind of plugin."""
    return f"{PROJECT}.{DOORS[kind][0]}"


def _declared() -> Iterable[PluginEntry]:
    """Yield every plugin of every distribution once, in the order of the import path.

    A distribution that is found twice (an editable install beside its egg-info) counts once: the first one is also
    the one that Python imports.
    """
    seen: set[tuple[str, str, str]] = set()
    points = importlib.metadata.entry_points()
    for kind in KINDS:
        for point in points.select(group=group_of(kind)):
            distribution, version = _provenance(point)
            key = (kind, point.name, _normalised(distribution))
            if key not in seen:
                seen.add(key)
                yield PluginEntry(point.name, kind, distribution, version, point.value)


def _provenance(point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    """Return name and version of the distribution that declares `point` ("unknown" where its metadata is damaged)."""
    metadata: Mapping[str, object] = {}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        metadata = point.dist.metadata.json if point.dist else {}
    return str(metadata.get("name", "unknown")), str(metadata.get("version", "unknown"))


def _code_digest(entry: PluginEntry) -> str | None:
    """Return the digest of what can change a number in the files of the plugin's top-level module or package."""
    if is_own(entry.distribution):
        return None
    try:
        spec = importlib.util.find_spec(entry.target.partition(":")[0].partition(".")[0])
    except ValueError:  # a module that was made in memory
        return None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    files = sorted(Path(spec.origin).parent.rglob("*.py")) if spec.submodule_search_locations else [Path(spec.origin)]
    return files_digest(files)


def is_own(distribution: str) -> bool:
    """Return whether a distribution is mlecs-bench itself."""
    return _normalised(distribution) == OWN_DISTRIBUTION


def _normalised(distribution: str) -> str:
    """Return a distribution's name in the one form that pip compares."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _allowed_distributions() -> frozenset[str] | None:
    """Return the distributions that may provide plugins, or None for all."""
    value = os.environ.get(PLUGINS_VARIABLE)
    if value is None:
        return None
    named = (part.strip() for part in value.split(","))
    return frozenset({OWN_DISTRIBUTION, *(_normalised(name) for name in named if name)})


def _new_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    return manager


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


def _imported(entry: PluginEntry) -> Any:
    """Return the object an entry points to; raises PluginError whatever goes wrong in it."""
    point = importlib.metadata.EntryPoint(entry.name, entry.target, group_of(entry.kind))
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # a stranger's module may raise anything
        raise PluginError(f"{entry.label} failed to import: {_one_line(error)}") from error


def _checked_plugin(entry: PluginEntry) -> Any:
    """Import a plugin and refuse hooks that are misspelt or ask for unknown arguments."""
    plugin = _imported(entry)
    if inspect.isclass(plugin):
        raise PluginError(f"{entry.label} points to the class '{entry.target}'; point to a module or an instance")
    manager = _new_manager()
    try:
        manager.register(plugin, name=entry.name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        old = next((name for name in REPLACED_HOOKS if hasattr(plugin, name)), None)
        if old is not None:
            raise PluginError(
                f"{entry.label} implements {old}, which mlecs_event(event, plan) has replaced: look at event.kind"
            ) from error
        hooks = ", ".join(sorted(name for name in vars(HookSpecs) if name.startswith("mlecs_")))
        raise PluginError(f"{entry.label} is refused: {_one_line(error)}. Hooks are: {hooks}") from error
    return plugin


def _observer(entry: PluginEntry) -> Any:
    """Return an observer, or what makes a tracker; raises PluginError for one that would never be told anything."""
    target = _imported(entry)
    if isinstance(target, TrackerInfo):
        return target
    plugin = _checked_plugin(entry)
    manager = _new_manager()
    manager.register(plugin)
    if not manager.hook.mlecs_event.get_hookimpls():
        raise PluginError(f"{entry.label} does not implement mlecs_event; define it with @hookimpl of mlecs_bench.api")
    return plugin


def _call_hook(entry: PluginEntry, info_type: type[InfoT]) -> InfoT:
    """Return what the plugin's own hook gives; raises PluginError when that is not an `info_type`."""
    hook = f"mlecs_{entry.kind}"
    target = _imported(entry)
    if isinstance(target, info_type):
        return _checked_info(entry, target)
    manager = _new_manager()
    manager.register(_checked_plugin(entry), name=entry.name)
    caller = getattr(manager.hook, hook)
    if not caller.get_hookimpls():
        raise PluginError(f"{entry.label} does not implement {hook}; define it with @hookimpl of mlecs_bench.api")
    try:
        results = caller()
    except MlecsError:
        raise
    except Exception as error:
        raise PluginError(f"{entry.label} failed in {hook}: {_one_line(error)}") from error
    given = results[0] if results else None
    if not isinstance(given, info_type):
        raise PluginError(f"{entry.label} returned {type(given).__name__} from {hook}, not {info_type.__name__}")
    return _checked_info(entry, given)


def _checked_info(entry: PluginEntry, given: InfoT) -> InfoT:
    options = getattr(given, "options", NoOptions)
    if not (inspect.isclass(options) and dataclasses.is_dataclass(options)):
        raise PluginError(f"{entry.label} has options {options!r}; give a dataclass, or leave it out for none")
    return given
