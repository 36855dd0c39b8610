"""The numbers of a profile by their dotted names, such as `lora.rank`: read, checked, replaced, with their sources."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from mlecs_bench.doors.options import default_text, parse_value, plain
from mlecs_bench.doors.profile import Profile, Range
from mlecs_bench.errors import UsageError, did_you_mean

LOOKED_UP = ("torch_device", "bertscore")
"""Settings of a machine: by whichever device and model a number was computed, it stands for the same thing."""


@dataclass(frozen=True)
class ProfileSetting:
    """One number of a profile: its dotted name, its type, its default (MISSING for none) and the default's source."""

    name: str
    hint: Any
    default: Any
    source: str
    range: Range | None
    changes_numbers: bool
    can_be_set: bool

    def parsed(self, value: object) -> Any:
        """Return a value as the field's type; raises ValueError naming what was expected."""
        found = parse_value(value, self.hint)
        if found is not None and self.range is not None and not self.range.holds(found):
            raise ValueError(self.range.says + (", or none" if type(None) in typing.get_args(self.hint) else ""))
        return found


@cache
def profile_settings() -> Mapping[str, ProfileSetting]:
    """Return every number of a profile by its dotted name, in the order in which `show` prints them."""
    return {found.name: found for found in _fields(Profile, "")}


def _fields(cls: type[Any], inside: str) -> Iterator[ProfileSetting]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _fields(hints[field.name], f"{field.name}.")
        elif field.name not in ("name", "summary", "sources", "words"):
            marks = field.metadata
            yield ProfileSetting(
                name=inside + field.name,
                hint=hints[field.name],
                default=field.default,
                source=marks.get("source", ""),
                range=marks.get("range"),
                changes_numbers=marks.get("changes_numbers", True),
                can_be_set=marks.get("can_be_set", True),
            )


def settable() -> list[str]:
    """Return the names that `--set` takes."""
    return [name for name, found in profile_settings().items() if found.can_be_set]


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings under dotted names; raises UsageError for a name that is given twice."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = flat(value) if isinstance(value, Mapping) else None
        named = {str(name): value} if inner is None else {f"{name}.{key}": one for key, one in inner.items()}
        for key, one in named.items():
            if key in found:
                raise UsageError(f"'{key}' is set twice; give it once")
            found[key] = one
    return found


USUAL_WORDS = {"lr": "learning_rates", "learning_rate": "learning_rates"}
"""What other tools call settings that are several here."""


def parsed_setting(name: str, value: object) -> Any:
    """Return a value of the setting `name` as its type; raises UsageError for an unknown name or a wrong value."""
    known = settable()
    if name not in known:
        parts = [other for other in known if other.startswith(f"{USUAL_WORDS.get(name, name)}.")]
        if parts:
            raise UsageError(f"'{name}' is not one setting: set {', '.join(parts)}")
        raise UsageError(f"a profile has no setting '{name}'. {did_you_mean(name, known)}")
    try:
        return profile_settings()[name].parsed(value)
    except ValueError as error:
        shown = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
        raise UsageError(f"setting '{name}' must be {error}, got {shown}") from error


def value_of(profile: Profile, name: str) -> Any:
    """Return the value of the setting `name`."""
    found: Any = profile
    for part in name.split("."):
        found = getattr(found, part)
    return found


def departures(chosen: Profile, own: Profile) -> dict[str, Any]:
    """Return the settings of `chosen` that can change a number and differ from those of `own`, as JSON values."""
    return {
        name: plain(value_of(chosen, name))
        for name, found in profile_settings().items()
        if found.can_be_set
        and found.changes_numbers
        and value_of(chosen, name) != value_of(own, name)
        and name not in LOOKED_UP
    }


def replaced(profile: Profile, values: Mapping[str, Any], source: str) -> Profile:
    """Return a profile with typed values under dotted names in place of its own; `source` is where they come from.

    A value equal to the profile's changes nothing. Steps end a profile's local epochs. Raises UsageError where both
    are given, or where the width is changed that the profile's pretrained encoders have.
    """
    changes = {name: value for name, value in values.items() if value != value_of(profile, name)}
    if "steps" in values and values.get("local_epochs") is not None:
        raise UsageError("steps and local-epochs exclude each other; give one of them")
    if "steps" in values and profile.local_epochs is not None:
        changes["local_epochs"] = None
    if "encoder_width" in changes and profile.encoders is not None and "encoders" not in changes:
        raise UsageError(
            f"the pretrained encoders of profile '{profile.name}' are {profile.encoder_width} wide, so encoder_width "
            f"cannot be {changes['encoder_width']}; with encoders=none set, too, encoders of any width start at random"
        )
    own = {name: value for name, value in changes.items() if "." not in name}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        group, dot, field = name.partition(".")
        if dot:
            inner.setdefault(group, {})[field] = value
    parts = {group: dataclasses.replace(getattr(profile, group), **fields) for group, fields in inner.items()}
    sources = {**profile.sources, **dict.fromkeys(changes, source)}
    return dataclasses.replace(profile, **own, **parts, sources=sources)


def sources_of(profile: Profile) -> dict[str, str]:
    """Return where every number of a profile comes from, by dotted name; "" where nothing says so.

    What `Profile.sources` says of a name, or of the part that it is in, comes before the source of a field's default.
    """
    return {name: _source(profile, found) for name, found in profile_settings().items()}


def _source(profile: Profile, found: ProfileSetting) -> str:
    told = profile.sources
    if found.name in told:
        return told[found.name]
    is_default = found.default is dataclasses.MISSING or value_of(profile, found.name) == found.default
    if is_default and found.source:
        return found.source
    return told.get(found.name.partition(".")[0], "")


def setting_rows(profile: Profile) -> list[dict[str, str]]:
    """Return one row per number of a profile: name, value as `--set` takes it, and source."""
    sources = sources_of(profile)
    return [
        {"name": name, "value": default_text(value_of(profile, name)), "source": source}
        for name, source in sources.items()
    ]
