"""Profiles by name or as YAML files: a file has the names that `show` prints, and may say which profile it extends.

```yaml
extends: mini                      # a profile or another file; left out, every number without a default is named here
lora: {rank: 16, alpha: 32}        # or lora.rank: 16
learning_rates.lora: 1e-3
slm: ../models/my-slm              # beside this file, unless it is a hub id
sources: {lora: "a grid of three"} # left out, the file is the source
```
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.options import parse_value
from mlecs_bench.doors.profile import LearningRates, LoraSettings, Profile
from mlecs_bench.doors.profile_settings import flat, parsed_setting, profile_settings, replaced, settable
from mlecs_bench.doors.registry import Loaded
from mlecs_bench.errors import UsageError, did_you_mean
from mlecs_bench.plan.settings import read_yaml

if TYPE_CHECKING:
    from mlecs_bench.doors.registry import Registry

SUFFIXES = (".yaml", ".yml")
FILES = ("slm", "llm", "encoders")
"""Settings that lead to files."""
RANDOM = {"encoders": "left out: they start at random"}
OWN_KEYS = ("extends", "summary", "tiny", "sources")
"""What a file may say beside settings."""


def is_profile_file(name: str) -> bool:
    """Say whether `name` is that of a file and not of a plugin."""
    return name.endswith(SUFFIXES)


def profile_named(name: str, registry: Registry) -> Loaded[Profile]:
    """Return an installed profile or, where `name` ends in .yaml, that of a file, which is called after the file.

    Raises UsageError for an unknown name, and for a file that cannot be read, says something unknown or impossible, or
    extends itself.
    """
    if not is_profile_file(name):
        return registry.profile(name)
    path = Path(name).expanduser()
    return Loaded(path.stem, _read(path, registry, ()), str(path), "")


def _read(path: Path, registry: Registry, extended_by: Sequence[Path]) -> Profile:
    """Return the profile of a file that the files `extended_by` extend, the first one last."""
    here = path.resolve()
    if here in extended_by:
        circle = " extends ".join(one.name for one in (*extended_by[extended_by.index(here) :], here))
        raise UsageError(f"{path} extends itself: {circle}; let one of them extend a profile")
    values = _values(path)
    try:
        return _profile(path, values, registry, (*extended_by, here))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _values(path: Path) -> dict[str, Any]:
    """Return what a file says under flat names, without having judged it."""
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the profile {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, Mapping):
        raise UsageError(f"{path} must hold settings as 'name: value', got {type(values).__name__}")
    return dict(values)


def _profile(path: Path, values: Mapping[str, Any], registry: Registry, seen: Sequence[Path]) -> Profile:
    said = {key: value for key, value in values.items() if key in OWN_KEYS}
    settings = flat({key: value for key, value in values.items() if key not in OWN_KEYS})
    _check_names(settings)
    typed = {name: _at(path.parent, name, parsed_setting(name, value)) for name, value in settings.items()}
    base = _base(path, said.get("extends"), registry, seen)
    found = _complete(typed) if base is None else replaced(base, typed, path.name)
    other_models = base is None or (found.slm, found.llm) != (base.slm, base.llm)
    return dataclasses.replace(
        found,
        name=path.stem,
        summary=_summary(path, said, base),
        tiny=_tiny(said["tiny"]) if "tiny" in said else found.tiny and not other_models,
        sources={**found.sources, **dict.fromkeys(typed, path.name), **_sources(said.get("sources"))},
    )


def _check_names(settings: Mapping[str, Any]) -> None:
    known = settable()
    for name in settings:
        if name not in known and not any(other.startswith(f"{name}.") for other in known):
            raise UsageError(f"a profile has no setting '{name}'. {did_you_mean(name, (*known, *OWN_KEYS))}")


def _base(path: Path, named: Any, registry: Registry, seen: Sequence[Path]) -> Profile | None:
    """Return the profile that a file extends, None for none."""
    if named is None:
        return None
    if not isinstance(named, str):
        raise UsageError(f"extends must be a profile or a file, got {named!r}")
    if is_profile_file(named):
        return _read(path.parent / Path(named).expanduser(), registry, seen)
    return registry.profile(named).info


def _complete(typed: Mapping[str, Any]) -> Profile:
    """Return the profile of a file that extends none."""
    for name, known in profile_settings().items():
        if known.can_be_set and known.default is dataclasses.MISSING and name not in typed and name != "encoders":
            raise UsageError(f"the setting '{name}' is missing; give it, or extends: mini")
    groups = {"lora": LoraSettings, "learning_rates": LearningRates}
    parts = {
        group: kind(**{name.partition(".")[2]: v for name, v in typed.items() if name.startswith(f"{group}.")})
        for group, kind in groups.items()
    }
    own = {name: value for name, value in typed.items() if "." not in name}
    return Profile(**{"encoders": None, **own, **parts, "name": "", "summary": "", "tiny": False, "sources": RANDOM})


def _at(folder: Path, name: str, value: Any) -> Any:
    """Return a setting that leads to files as seen from the folder of the profile's file."""
    if name not in FILES or value is None:
        return value
    place = folder / Path(value).expanduser()
    if name == "encoders":
        return place.resolve()
    return str(place.resolve()) if place.is_dir() or str(value).startswith((".", "~", "/")) else value


def _summary(path: Path, said: Mapping[str, Any], base: Profile | None) -> str:
    default = f"{path.name}, as {base.name} but for what it says" if base else f"{path.name}"
    return " ".join(str(said.get("summary") or default).split())


def _tiny(value: Any) -> bool:
    try:
        return bool(parse_value(value, bool))
    except ValueError as error:
        raise UsageError(f"tiny must be {error}, got {value}") from error


def _sources(told: Any) -> dict[str, str]:
    """Return what a file says of its numbers' sources, under flat names."""
    found = flat(told or {}) if isinstance(told, Mapping) or told is None else None
    if found is None or not all(isinstance(source, str) for source in found.values()):
        raise UsageError(f"sources must map names of settings to texts, got {told!r}")
    known = {*settable(), *(name.partition(".")[0] for name in settable())}
    for name in found:
        if name not in known:
            raise UsageError(f"sources names no setting '{name}'. {did_you_mean(name, known)}")
    return typing.cast("dict[str, str]", found)
