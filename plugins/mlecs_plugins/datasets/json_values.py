"""JSON as it is read from a user's files: what Python's own reader lets pass or trips over is an error in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from mlecs_plugins.datasets.problems import shown

DEEPEST = 64
"""Lists and objects within each other; Python itself gives up at some hundreds, and not everywhere alike."""


class JsonValueError(ValueError):
    """What is wrong with a value that is JSON; whoever knows its place adds that."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; raises JsonValueError where it has a key twice, of which one value would be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise JsonValueError(f"has the key {shown(twice)} twice")
    return values


def _integer(digits: str) -> int:
    """Return a whole number; raises JsonValueError for one that Python does not read, lest it takes for ever."""
    try:
        return int(digits)
    except ValueError as error:
        most = sys.get_int_max_str_digits()
        raise JsonValueError(f"has a number of {len(digits):,} digits, more than {most:,}") from error


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)


def shallow(value: Any) -> Any:
    """Return a JSON value; raises JsonValueError where it is nested more deeply than anything that is meant."""
    level = [value]
    for _ in range(DEEPEST):
        level = [part for one in level if isinstance(one, dict | list) for part in _parts(one)]
        if not level:
            return value
    raise JsonValueError("is not JSON (nested too deeply)")


def _parts(holder: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return holder.values() if isinstance(holder, dict) else holder


def json_value(text: str) -> Any:
    """Return the value of a JSON text. Raises JsonValueError that says what is wrong."""
    try:
        return shallow(DECODER.decode(text))
    except json.JSONDecodeError as error:
        raise JsonValueError(f"is not JSON ({error.msg})") from error
    except RecursionError as error:
        raise JsonValueError("is not JSON (nested too deeply)") from error
