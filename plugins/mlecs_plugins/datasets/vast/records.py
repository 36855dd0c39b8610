"""Reads a file of JSON records one by one: a JSON list, or JSON lines. The whole of VAST-27M does not fit in memory."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mlecs_plugins.datasets.json_values import DECODER, JsonValueError, shallow
from mlecs_plugins.datasets.user_files import open_text

CHUNK = 1 << 20
MAX_RECORD = 1 << 24
"""Characters that are read for a record before it counts as broken rather than as not yet complete."""
_BLANK = " \t\r\n"
_OF_NUMBERS = "0123456789+-.eE"  # a number that is followed by one of these may only have been read in part


class RecordsError(Exception):
    """What is wrong with a file of records; whoever knows its name adds it."""


def read_records(path: Path) -> Iterator[Any]:
    """Yield the records of a file in their order; raises RecordsError where it stops being one."""
    try:
        with open_text(path) as file:
            yield from _records(_Text(file))
    except UnicodeError as error:
        raise RecordsError("is not UTF-8 text") from error
    except (OSError, EOFError, zlib.error) as error:
        raise RecordsError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _records(text: _Text) -> Iterator[Any]:
    first = text.peek()
    if not first:
        raise RecordsError("is empty")
    if first not in "[{":
        raise RecordsError(f"is no list of JSON records: it starts with '{first}'")
    yield from _listed(text) if first == "[" else _lines(text)


def _listed(text: _Text) -> Iterator[Any]:
    """Yield what stands between "[" and "]"."""
    text.skip()
    if text.peek() == "]":
        text.skip()
    else:
        yield from _items(text)
    if text.peek():
        raise RecordsError("goes on after the end of its list")


def _items(text: _Text) -> Iterator[Any]:
    number = 1
    while True:
        yield _value(text, number)
        end = text.peek()
        if end not in (",", "]"):
            found = f"'{end}' follows" if end else "the file ends"
            raise RecordsError(f"is cut short or damaged: {found} where a comma or ']' belongs after record {number}")
        text.skip()
        if end == "]":
            return
        number += 1


def _lines(text: _Text) -> Iterator[Any]:
    """Yield objects that stand one after the other."""
    number = 1
    while text.peek():
        yield _value(text, number)
        number += 1


def _value(text: _Text, number: int) -> Any:
    try:
        return shallow(text.value())
    except json.JSONDecodeError as error:
        raise RecordsError(f"record {number} is not JSON ({error.msg})") from error
    except JsonValueError as error:
        raise RecordsError(f"record {number} {error}") from error
    except RecursionError as error:
        raise RecordsError(f"record {number} is not JSON (nested too deeply)") from error


class _Text:
    """A text file of which a window is in memory."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._window = ""
        self._at = 0
        self._ended = False

    def peek(self) -> str:
        """Return the next character that is not blank, without passing it; "" at the end."""
        while True:
            while self._at < len(self._window):
                if self._window[self._at] not in _BLANK:
                    return self._window[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._read()

    def skip(self) -> None:
        """Pass one character."""
        self._at += 1

    def value(self) -> Any:
        """Return the JSON value that comes next and pass it; raises JSONDecodeError."""
        self.peek()
        while True:
            enough = self._ended or len(self._window) - self._at > MAX_RECORD
            try:
                value, end = DECODER.raw_decode(self._window, self._at)
            except json.JSONDecodeError:
                if enough:
                    raise
            else:
                goes_on = end == len(self._window) or self._window[end] in _OF_NUMBERS
                if enough or not goes_on:
                    self._at = end
                    return value
            self._read()

    def _read(self) -> None:
        more = self._file.read(CHUNK)
        self._window = self._window[self._at :] + more
        self._at = 0
        self._ended = not more
