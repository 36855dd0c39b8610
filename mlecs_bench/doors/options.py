"""Options of a plugin: a frozen dataclass whose fields know their help text and where the default comes from."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union

from mlecs_bench.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class NoOptions:
    """The options of a plugin that has none."""


def option(default: Any, *, help: str, source: str, path: bool = False, execution: bool = False) -> Any:
    """Declare one field of an options dataclass.

    `help` is shown by `mlecs-bench show`; `source` says where the default comes from (a section of a paper, the
    authors' script, "ours"). `path`: the value may be a path, of which a record keeps the last part alone; what is
    there has to enter a digest. `execution`: the value changes how something is computed and no number; a record
    leaves it out. The field's annotation decides what `-o name=value` accepts: int, float, bool, str, a
    Literal, any of these or None, a tuple of them written with commas, or in files a mapping of names to them.
    """
    marks = {"path": path, "execution": execution}
    metadata = {"help": help, "source": source, **marks}
    if isinstance(default, dict):  # a dataclass takes none that can be changed
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def build_options(cls: type[Any], given: Mapping[str, object], owner: str) -> Any:
    """Return `cls` filled from `given` (strings are parsed by the field's type).

    Raises UsageError for an unknown name, a wrong type, or a value the dataclass itself refuses with ValueError.
    """
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in names:
            raise UsageError(f"{owner} has no option '{name}'. {did_you_mean(name, names)}")
        try:
            values[name] = parse_value(value, hints[name])
        except ValueError as error:
            raise UsageError(f"option '{name}' of {owner} must be {error}, got {value!r}") from error
    try:
        return cls(**values)
    except ValueError as error:
        raise UsageError(f"{owner}: {error}") from error


def plain(values: Any) -> Any:
    """Return JSON values: dataclasses and mappings as dicts, tuples as lists, paths as texts."""
    if dataclasses.is_dataclass(values) and not isinstance(values, type):
        return plain(dataclasses.asdict(values))
    if isinstance(values, Mapping):
        return {key: plain(value) for key, value in values.items()}
    if isinstance(values, Path):
        return str(values)
    return [plain(value) for value in values] if isinstance(values, tuple | list) else values


def rebuilt(hint: Any, value: Any) -> Any:
    """Return what `plain` made of an instance of the annotation `hint` as such an instance again."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        hints = typing.get_type_hints(hint)
        return hint(**{field.name: rebuilt(hints[field.name], value[field.name]) for field in dataclasses.fields(hint)})
    if origin in (Union, types.UnionType):
        return None if value is None else rebuilt(_chosen(args, value), value)
    if origin is tuple:
        kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
        return tuple(rebuilt(kind, item) for kind, item in zip(kinds, value, strict=True))
    if origin in (dict, Mapping):
        return {key: rebuilt(args[1], item) for key, item in value.items()}
    return Path(value) if hint is Path else value


def _chosen(args: tuple[Any, ...], value: Any) -> Any:
    """Return the part of a union that a JSON value is of: a mapping where it is one, else the first that is not."""
    parts = [arg for arg in args if arg is not types.NoneType]
    mappings = [arg for arg in parts if typing.get_origin(arg) in (dict, Mapping)]
    others = [arg for arg in parts if arg not in mappings]
    return mappings[0] if isinstance(value, dict) and mappings else others[0]


def identifying(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of options of `cls` that identify a result: without folders, and without how it is computed."""
    marks = {field.name: field.metadata for field in dataclasses.fields(cls)}
    kept = {name: value for name, value in values.items() if not marks[name].get("execution")}
    return {
        name: Path(value).name if marks[name].get("path") and isinstance(value, str) else value
        for name, value in kept.items()
    }


def is_list(hint: Any) -> bool:
    """Say whether one value of the annotation `hint` is a list itself."""
    return any(typing.get_origin(part) is tuple for part in (hint, *typing.get_args(hint)))


def parse_value(value: object, hint: Any) -> Any:
    """Return `value` as the annotation `hint` asks for; raises ValueError naming what was expected."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        for one in args:
            if value == one or (isinstance(value, str) and value == str(one)):
                return one
        raise ValueError("one of " + ", ".join(str(a) for a in args))
    if origin in (Union, types.UnionType):
        return _parse_optional(value, args)
    if origin is tuple:
        parts = _split(value) if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise ValueError("a list with commas")
        return tuple(parse_value(p.strip() if isinstance(p, str) else p, args[0]) for p in parts)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError("a mapping of names to values")
        return {str(name): parse_value(item, args[1]) for name, item in value.items()}
    return _parse_scalar(value, hint)


def _split(text: str) -> list[str]:
    return text.split(",") if text.strip() else []


def _parse_optional(value: object, args: tuple[Any, ...]) -> Any:
    if value is None or (isinstance(value, str) and value.lower() == "none"):
        return None
    return parse_value(value, next(a for a in args if a is not types.NoneType))


_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def _parse_scalar(value: object, hint: Any) -> Any:
    if hint is bool:
        if isinstance(value, bool):
            return value
        text = str(value).lower()
        if text in _TRUE + _FALSE:
            return text in _TRUE
        raise ValueError("true or false")
    if isinstance(value, bool):
        raise ValueError(_type_name(hint))
    if hint is float and isinstance(value, str | int | float):
        return _number(float, value)
    if hint is int and isinstance(value, str | int):
        return _number(int, value)
    if hint is str and isinstance(value, str):
        return value
    if hint is Path and isinstance(value, str | Path):
        return Path(value).expanduser()
    raise ValueError(_type_name(hint))


def _number(kind: type[int] | type[float], value: str | int | float) -> int | float:
    try:
        number = kind(value)
    except ValueError:
        raise ValueError(_type_name(kind)) from None
    if not math.isfinite(number):
        raise ValueError("a finite number")
    return number


def _type_name(hint: Any) -> str:
    return {int: "an integer", float: "a number", str: "a text", Path: "a path"}.get(hint, str(hint))


def option_rows(cls: type[Any]) -> list[dict[str, str]]:
    """Return one row per option: name, type, default, help, source (for `mlecs-bench show`)."""
    hints = typing.get_type_hints(cls)
    return [
        {
            "name": field.name,
            "type": hint_text(hints[field.name]),
            "default": default_text(field.default),
            "help": str(field.metadata.get("help", "")),
            "source": str(field.metadata.get("source", "")),
        }
        for field in dataclasses.fields(cls)
    ]


def hint_text(hint: Any) -> str:
    """Return an annotation the way a user would write the value."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "|".join(str(a) for a in args)
    if origin in (Union, types.UnionType):
        return "|".join("none" if a is types.NoneType else hint_text(a) for a in args)
    if origin is tuple:
        return f"{hint_text(args[0])},..."
    return str(getattr(hint, "__name__", hint))


def default_text(value: object) -> str:
    """Return a default the way a user would type it."""
    if isinstance(value, tuple):
        return ",".join(default_text(v) for v in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)
