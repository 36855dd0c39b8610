"""Lists among settings, and the runs that they stand for: every combination, in a fixed order."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.options import is_list
from mlecs_bench.doors.profile_settings import profile_settings
from mlecs_bench.errors import MlecsError, UsageError
from mlecs_bench.plan.settings import MAPPING_KEYS

if TYPE_CHECKING:
    from mlecs_bench.doors.registry import Registry

GRID_KEYS = ("rho", "n_devices", "dataset", "algo", "budget", "split")
"""The settings that come first in the order of runs, each before the one that changes faster."""
LOCAL_KEYS = ("data_dir", "device", "threads")
"""Settings of a machine, which are one value; a copy of a study that stays with its records has them as $VARIABLES."""
ONE_VALUE = ("seeds", "n_seeds", "metrics", *LOCAL_KEYS)

Settings = Mapping[str, Any]


def combinations(settings: Settings, find_registry: Callable[[], Registry]) -> Iterator[dict[str, Any]]:
    """Yield the settings of every run that lists among `settings` stand for; the last list changes fastest.

    First come the lists under `GRID_KEYS`, then the others in the order in which they are written, then those inside
    mappings (options and the like). An option that takes a list has one where the list holds no list, and several where
    it does. Plugins are loaded only to tell that. Raises UsageError for an empty list.
    """
    others = [k for k, v in settings.items() if k not in (*GRID_KEYS, *MAPPING_KEYS, *ONE_VALUE) and _is_list(v)]
    keys = [key for key in GRID_KEYS if key in settings] + others
    lists = {key: _values(key, settings[key]) for key in keys}
    for combination in itertools.product(*lists.values()):
        yield from _inside({**settings, **dict(zip(keys, combination, strict=True))}, find_registry)


def _inside(settings: Settings, find_registry: Callable[[], Registry]) -> Iterator[dict[str, Any]]:
    """Yield the settings of every combination of the lists inside mappings, all other settings being one value."""
    axes: list[tuple[str, str]] = []
    lists: list[list[Any]] = []
    for key in MAPPING_KEYS:
        for name, value in settings.get(key, {}).items():
            if _is_list(value) and not (_takes_list(key, name, settings, find_registry) and not _holds_list(value)):
                axes.append((key, name))
                lists.append(_values(f"{key} {name}", value))
    for combination in itertools.product(*lists):
        found = {**settings, **{key: dict(settings.get(key, {})) for key in MAPPING_KEYS}}
        for (key, name), value in zip(axes, combination, strict=True):
            found[key][name] = value
        yield found


def _takes_list(key: str, name: str, settings: Settings, find_registry: Callable[[], Registry]) -> bool:
    """Say whether one value of an option is a list; of an unknown one it may be: whoever reads it refuses it."""
    if key == "set":
        return name not in profile_settings() or is_list(profile_settings()[name].hint)
    if key not in ("options", "data_options"):
        return False
    try:
        owner = (
            find_registry().algorithm(settings["algo"])
            if key == "options"
            else find_registry().dataset(settings["dataset"])
        )
    except (KeyError, MlecsError):
        return True
    hints = typing.get_type_hints(owner.info.options)
    return name not in hints or is_list(hints[name])


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _holds_list(value: Any) -> bool:
    return any(_is_list(item) for item in value)


def _values(what: str, value: Any) -> list[Any]:
    values = list(value) if _is_list(value) else [value]
    if not values:
        raise UsageError(f"names no {what}; give at least one")
    return values
