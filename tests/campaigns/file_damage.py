"""Damage to files, drawn from a generator: what a disk, a download, a stranger and a script with a fault do to them."""

from __future__ import annotations

import copy
import json
import math
import re
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlecs_bench.errors import MlecsError

LONGEST_SECONDS = 10.0
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 0.5, -0.0, 1e308, math.nan, math.inf, -math.inf, 2**63, 10**5000),
    *("", " ", "\0", "\ud800", "\udfff\ud800", "\u202e", "../x", "/etc/passwd", "C:\\x", "x" * 5000, "é" * 300),
    *([], {}, [[]], [None], {"": ""}, ["a", 1], [[["a"]]], "nan", "null", "1e999"),
)
"""Values that no field expects, of all types that JSON has."""


# Bytes


def cut(generator: np.random.Generator, data: bytes) -> bytes:
    """Return the beginning of a file, as an interrupted copy leaves it."""
    return data[: int(generator.integers(0, len(data)))]


def flipped(generator: np.random.Generator, data: bytes) -> bytes:
    """Turn over one to three bits."""
    found = bytearray(data)
    for at in generator.integers(0, len(data), int(generator.integers(1, 4))):
        found[at] ^= 1 << int(generator.integers(8))
    return bytes(found)


def zeroed(generator: np.random.Generator, data: bytes) -> bytes:
    """Put zeros where a block was never written."""
    start = int(generator.integers(0, len(data)))
    length = int(generator.integers(1, 1 + max(1, len(data) // 4)))
    return data[:start] + bytes(len(data[start : start + length])) + data[start + length :]


def removed(generator: np.random.Generator, data: bytes) -> bytes:
    """Leave a stretch out."""
    start = int(generator.integers(0, len(data)))
    return data[:start] + data[start + int(generator.integers(1, 1 + max(1, len(data) // 4))) :]


def doubled(generator: np.random.Generator, data: bytes) -> bytes:
    """Repeat a stretch."""
    start = int(generator.integers(0, len(data)))
    end = start + int(generator.integers(1, 1 + max(1, len(data) // 4)))
    return data[:end] + data[start:end] + data[end:]


def swapped_bytes(generator: np.random.Generator, data: bytes) -> bytes:
    """Exchange two blocks."""
    if len(data) < 4:
        return data
    first, second = sorted(int(at) for at in generator.choice(len(data), 2, replace=False))
    n = max(1, min(second - first, len(data) - second, 16))
    return (
        data[:first]
        + data[second : second + n]
        + data[first + n : second]
        + data[first : first + n]
        + data[second + n :]
    )


def beheaded(generator: np.random.Generator, data: bytes) -> bytes:
    """Put something else where a file says what it is."""
    heads = (
        b"<!DOCTYPE html>\n",
        b"\0" * 16,
        b"PK\x03\x04",
        b"\x1f\x8b\x08\0",
        b"\xff\xfe",
        b"RIFF\xff\xff\xff\xff",
        b"#EXTM3U\n",
    )
    return heads[int(generator.integers(len(heads)))] + data[int(generator.integers(0, min(24, len(data)))) :]


def filled(generator: np.random.Generator, data: bytes) -> bytes:
    """Overwrite four bytes with a number at the edge of what a field holds."""
    numbers = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x01")
    at = int(generator.integers(0, max(1, len(data) - 3)))
    return data[:at] + numbers[int(generator.integers(len(numbers)))] + data[at + 4 :]


OF_BYTES = (cut, flipped, zeroed, removed, doubled, swapped_bytes, beheaded, filled)
Change = Callable[[np.random.Generator, bytes], bytes]


def one_of(generator: np.random.Generator, choices: Any) -> Any:
    """Return one of some things."""
    return choices[int(generator.integers(len(choices)))]


# JSON


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container below a value with each of its keys."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def odd_json(generator: np.random.Generator, value: Any) -> Any:
    """Return a JSON value with one to three of its parts replaced, left out, doubled, renamed, nested or exchanged."""
    value = copy.deepcopy(value)
    for _ in range(int(generator.integers(1, 4))):
        places = list(_places(value))
        if not places:
            return one_of(generator, ODD_VALUES)
        holder, key = one_of(generator, places)
        kind = int(generator.integers(6))
        if kind <= 1:
            holder[key] = copy.deepcopy(one_of(generator, ODD_VALUES))
        elif kind == 2:
            del holder[key]
        elif kind == 3 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif kind == 3:
            holder[str(key) + "_"] = holder.pop(key)
        elif kind == 4:
            holder[key] = [holder[key]] if generator.random() < 0.5 else {"": holder[key]}
        else:
            other, place = one_of(generator, places)
            try:
                holder[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(holder[key])
            except (IndexError, KeyError):
                continue
    return value


def as_json(generator: np.random.Generator, value: Any) -> str:
    """Write JSON as some program would: numbers of any length, NaN, lone surrogates, keys twice, deep nesting."""
    text = _written(value)
    kind = int(generator.integers(12))
    if kind == 0:  # a key twice, with two values
        text = re.sub(r'("[a-z_]+"): ', lambda found: f"{found[1]}: 0, {found[1]}: ", text, count=1)
    elif kind == 1:
        depth = int(generator.integers(50, 200_000))
        text = text.replace("null", "[" * depth + "]" * depth, 1) if "null" in text else "[" * depth + text
    elif kind == 2:
        text = re.sub(r": (null|\d+|\[|\")", lambda found: ": " + "9" * 6000 + ', "a": ' + found[1], text, count=1)
    return text


def _written(value: Any) -> str:
    """Return JSON text; Python refuses numbers of more than 4,300 digits, other programs write them."""
    huge = 10**5000
    if value is huge or (isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**4000):
        return "1" + "0" * 5000
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))}: {_written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    return json.dumps(value)


def to_bytes(text: str) -> bytes:
    """Return a text as UTF-8; halves of surrogate pairs, which are none, as programs without care write them."""
    return text.encode("utf-8", "surrogatepass")


# Outcomes


@dataclass
class Tally:
    """What came of a campaign: how many inputs were refused in one line, how many were read, and the faults by kind."""

    name: str
    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def fault(self, kind: str, example: str) -> None:
        self.faults[kind] += 1
        self.examples.setdefault(kind, example)

    def line(self) -> str:
        """Return the campaign as a row of a table."""
        return (
            f"| {self.name} | {self.inputs:,} | {self.refused:,} | {self.accepted:,} | {sum(self.faults.values())} | "
            f"{self.seconds:.0f} | {self.slowest:.2f} |"
        )

    def told(self) -> str:
        """Return the faults with an example each."""
        return "\n\n".join(f"{count} x {kind}\n{self.examples[kind]}" for kind, count in self.faults.most_common())


class SilentDamageError(Exception):
    """Damage was read as if it were none."""


class _TooSlowError(BaseException):
    """An input took longer than LONGEST_SECONDS."""


def _too_slow(*_: object) -> None:
    raise _TooSlowError


def attempted(tally: Tally, label: str, attempt: Callable[[], None]) -> None:
    """Let one input be read, and count what comes of it; `attempt` raises SilentDamageError for what it should not.

    Whatever is neither read nor refused in one line by an MlecsError is a fault.
    """
    tally.inputs += 1
    before = signal.signal(signal.SIGALRM, _too_slow)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_SECONDS)
    start = time.perf_counter()
    try:
        attempt()
        tally.accepted += 1
    except MlecsError as error:
        tally.refused += 1
        text = str(error)
        if "\n" in text.strip() and not text.startswith("ur-fall: "):  # which names every problem in a line of its own
            tally.fault("more than one line", f"{label}: {text!r}")
        elif not text.isascii() and text != text.encode("utf-8", "replace").decode():
            tally.fault("a line that cannot be printed", f"{label}: {text!r}")
        elif len(text) > 2000:
            tally.fault("a line that is too long", f"{label}: {text[:300]!r} ({len(text)})")
    except SilentDamageError as error:
        tally.fault(f"silent: {str(error).partition(':')[0]}", f"{label}: {error}")
    except _TooSlowError:
        tally.fault("hangs", label)
    except BaseException as error:  # a panic of Rust is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        tally.fault(f"{type(error).__name__} in {last.name}", f"{label}: {traceback.format_exc()[-1800:]}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    took = time.perf_counter() - start
    tally.slowest = max(tally.slowest, took)
    tally.seconds += took
