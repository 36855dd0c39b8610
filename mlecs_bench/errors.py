"""Every error a user can cause: one line that says what is wrong, what was given and what to do next.

`UsageError` ends a command with exit code 2, every other `MlecsError` with exit code 1. Neither prints a traceback;
anything that is not an `MlecsError` is a defect and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args


class MlecsError(Exception):
    """Base of all expected failures; `str(error)` is the one line shown to the user."""

    exit_code = 1


class UsageError(MlecsError):
    """The request itself is wrong: a flag, an option, a name."""

    exit_code = 2

    def __str__(self) -> str:
        """Return the one line: what a user has given may hold ends of lines, which are shown as such."""
        return "\\n".join(super().__str__().splitlines())


class DataError(MlecsError):
    """Data is missing, corrupt or inconsistent; the message names the file."""


class PluginError(MlecsError):
    """A plugin cannot be imported, is declared twice, or breaks its contract."""


class AccessError(MlecsError):
    """A party touched a modality or a sample that is not its own."""


class RecordError(MlecsError):
    """A record file is unreadable, invalid or of another schema version."""


class MessageError(MlecsError):
    """A message holds something that may not travel between parties."""


class NotFiniteError(MessageError):
    """A message holds NaN or infinity."""


LONGEST_QUOTE = 300
"""Characters of a library's message that an error quotes: some quote the whole file."""


def shortened(text: str) -> str:
    """Return the beginning of another's message, as every terminal can show it."""
    return text[:LONGEST_QUOTE].encode("utf-8", "backslashreplace").decode()


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return a sentence with the nearest of `known`, or the list of them, to end an error about an unknown name."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    listing = ", ".join(names) if names else "none"
    return f"Did you mean '{near[0]}'? Known: {listing}" if near else f"Known: {listing}"


def check_choice(given: object, choices: Any, what: str) -> None:
    """Raise ValueError with all known values unless `given` is one of the values of the Literal `choices`."""
    known = get_args(choices)
    if given not in known:
        raise ValueError(f"{what} must be one of {', '.join(map(str, known))}, got {given!r}")
