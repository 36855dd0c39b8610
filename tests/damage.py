"""Damage: inputs made out of valid ones, as disks, editors, other programs and hostile senders make them.

Every input follows from a generator. `of_bytes` damages what has a fixed form (headers, lengths, digests), `of_text`
and `of_json` what people and programs write. What a reader may do with the result is judged by `verdict`.
"""

from __future__ import annotations

import json
import signal
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mlecs_bench.errors import MlecsError

SECONDS = 10
"""Longer than this is a hang."""
VALUES = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e308, "", "x", "nan", "1e999", "-1",
    "..", "/etc/passwd", "\ud800", "\x00", "é" * 300, [], {}, [[]], [None], {"": None},
    {"a": {"b": [1, "c", None]}}, ["a", 1],
)  # fmt: skip  # values of every type that stand in the place of another
RAW = (
    "NaN",
    "-Infinity",
    "1e999",
    "1" * 5000,
    "0x10",
    "1_000",
    "'",
    '"',
    "\\ud800",
    "&a [*a]",
    "*a",
    "!!python/object:os.system x",
)
WORDS = (b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\n\n", b"{", b"}", b"[" * 2000, b"NaN", b"1e999", b"9" * 5000)


def of_bytes(data: bytes, dice: np.random.Generator) -> bytes:
    """Return damaged bytes: cut, turned bits, pieces put in, taken out, repeated, and lengths that lie."""
    kinds = (_cut, _flipped, _flipped, _flipped, _put_in, _taken_out, _repeated, _lying, _zeroed)
    for _ in range(int(dice.integers(1, 3))):
        data = kinds[int(dice.integers(len(kinds)))](data, dice)
    return data


def _place(data: bytes, dice: np.random.Generator) -> int:
    """Return a place in the bytes; headers, which come first, are hit as often as all the rest."""
    near = min(len(data), 64 if dice.random() < 0.5 else 800) if dice.random() < 0.5 else len(data)
    return int(dice.integers(near + 1))


def _cut(data: bytes, dice: np.random.Generator) -> bytes:
    return data[: _place(data, dice)]


def _flipped(data: bytes, dice: np.random.Generator) -> bytes:
    if not data:
        return data
    at = min(_place(data, dice), len(data) - 1)
    return data[:at] + bytes([data[at] ^ (1 << int(dice.integers(8)))]) + data[at + 1 :]


def _put_in(data: bytes, dice: np.random.Generator) -> bytes:
    at = _place(data, dice)
    return data[:at] + WORDS[int(dice.integers(len(WORDS)))] + data[at:]


def _taken_out(data: bytes, dice: np.random.Generator) -> bytes:
    at = _place(data, dice)
    return data[:at] + data[at + int(dice.integers(1, 32)) :]


def _repeated(data: bytes, dice: np.random.Generator) -> bytes:
    at = _place(data, dice)
    return data[:at] + data[at : at + 64] * 2 + data[at + 64 :]


def _zeroed(data: bytes, dice: np.random.Generator) -> bytes:
    at, n = _place(data, dice), int(dice.integers(1, 512))
    return data[:at] + bytes(len(data[at : at + n])) + data[at + n :]


def _lying(data: bytes, dice: np.random.Generator) -> bytes:
    """Put a length in the place of eight bytes: more than there is, terabytes, the largest, or nearly right."""
    at = 0 if dice.random() < 0.5 else _place(data, dice)
    lies = (len(data), max(0, len(data) - 8), 2**40, 2**63 - 1, 2**64 - 1, 0, 1, int(dice.integers(0, 4096)))
    return data[:at] + lies[int(dice.integers(len(lies)))].to_bytes(8, "little") + data[at + 8 :]


def of_values(values: Any, dice: np.random.Generator) -> Any:
    """Return JSON values of which one is another, of another type, gone, doubled, renamed or buried deep."""
    places = list(_places(values))
    path = places[int(dice.integers(len(places)))]
    return _changed(values, path, dice)


def _places(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for name, value in items:
        yield from _places(value, (*path, name))


def _changed(values: Any, path: tuple[Any, ...], dice: np.random.Generator) -> Any:
    if not path:
        return _other(values, dice)
    name, rest = path[0], path[1:]
    if isinstance(values, dict):
        kind = dice.random() if not rest else 1.0
        if kind < 0.15:
            return {key: value for key, value in values.items() if key != name}
        if kind < 0.3:
            return {(f"{key}x" if key == name else key): value for key, value in values.items()}
        return {key: (_changed(value, rest, dice) if key == name else value) for key, value in values.items()}
    return [_changed(value, rest, dice) if at == name else value for at, value in enumerate(values)]


def _other(value: Any, dice: np.random.Generator) -> Any:
    kind = int(dice.integers(6))
    if kind == 0:
        for _ in range(int(dice.integers(1, 200))):
            value = [value] if dice.random() < 0.5 else {"a": value}
        return value
    if kind == 1 and isinstance(value, int | float) and not isinstance(value, bool):
        return value * (-1, 10**6, 10**30, 1 + 1e-9)[int(dice.integers(4))] if abs(value) < 1e200 else 0
    if kind == 2 and isinstance(value, str):
        return (value.upper(), value + " ", value[:-1], value * 50, f"{value}\ud800")[int(dice.integers(5))]
    return VALUES[int(dice.integers(len(VALUES)))]


def of_text(text: str, dice: np.random.Generator) -> bytes:
    """Return damaged text: a line gone, doubled, indented, without an end, with something raw for a value; anchors."""
    kind = int(dice.integers(8))
    lines = text.splitlines()
    at = int(dice.integers(len(lines)))
    raw = RAW[int(dice.integers(len(RAW)))]
    if kind == 0:
        return of_bytes(text.encode(), dice)
    if kind == 1:
        lines.insert(int(dice.integers(len(lines) + 1)), lines[at])
    elif kind == 2:
        del lines[at]
    elif kind == 3:
        lines[at] = " " * int(dice.integers(1, 5)) + lines[at]
    elif kind == 4:
        lines[at] = lines[at].partition(":")[0] + f": {raw}"
    elif kind == 5:
        lines[at] = raw
    elif kind == 6:
        lines += [
            f"b{i}: &b{i} " + (f"[*b{i - 1}, *b{i - 1}]" if i else "[x, x]") for i in range(int(dice.integers(2, 40)))
        ]
    else:
        depth = int(dice.choice([3, 50, 300]))
        lines[at] = lines[at].partition(":")[0] + ": " + "[" * depth + ("]" * depth if dice.random() < 0.5 else "")
    return "\n".join(lines).encode(errors="surrogatepass")


def of_json(values: Any, dice: np.random.Generator) -> bytes:
    """Return JSON that says something else, or is none."""
    if dice.random() < 0.3:
        return of_bytes(json.dumps(values).encode(), dice)
    for _ in range(int(dice.integers(1, 3))):
        values = of_values(values, dice)
    text = json.dumps(values, ensure_ascii=bool(dice.random() < 0.5))
    if dice.random() < 0.2 and (numbers := [at for at, letter in enumerate(text) if letter.isdigit()]):
        at = numbers[int(dice.integers(len(numbers)))]
        text = text[:at] + RAW[int(dice.integers(4))] + text[at + 1 :]
    return text.encode(errors="surrogatepass")


class HangError(Exception):
    """A reader took too long."""


@contextmanager
def no_hang() -> Iterator[None]:
    """Raise HangError after ten seconds."""

    def ring(_number: int, _frame: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, ring)
    left = signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *left)
        signal.signal(signal.SIGALRM, before)


REFUSED, SAME, OTHER = "refused", "read as it was", "read as something else"


def verdict(read: Callable[[bytes], Any], data: bytes, original: Any) -> str:
    """Return what a reader makes of damaged bytes: it refuses them in one line, or they say what the original says.

    Whatever is no MlecsError goes on up: it is a fault.
    """
    try:
        with no_hang():
            found = read(data)
    except MlecsError as error:
        text = str(error)
        assert "\n" not in text.strip(), text
        text.encode(errors="backslashreplace")
        return REFUSED
    return SAME if found == original else OTHER


@contextmanager
def never_unpickling() -> Iterator[list[str]]:
    """Collect the names of what is unpickled meanwhile."""
    found: list[str] = []
    watching = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "pickle.find_class":
            found.append(repr(arguments))

    sys.addaudithook(hook)
    try:
        yield found
    finally:
        watching.clear()


def peak_of(read: Callable[[bytes], Any], data: bytes) -> int:
    """Return the most bytes of Python that a reader held at a time, whatever it makes of its input."""
    tracemalloc.start()
    try:
        read(data)
    except MlecsError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak
