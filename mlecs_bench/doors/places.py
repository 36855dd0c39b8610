"""Where cells and devices live, as users name it: NAME or NAME:ARGUMENT, such as processes:2 or ray:10.0.0.1:6379."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from mlecs_bench.errors import UsageError, check_choice

ArgumentKind = Literal["none", "number", "text"]
"""What users may write behind the name of workers or a fleet: nothing, how many they are, or a text of their own."""


def any_text(_text: str) -> None:
    """Take every text."""


@dataclass(frozen=True)
class PlaceInfo:
    """What cards of workers and of fleets share: `make(request)` makes them.

    `argument` is what users may write behind the name and a colon: "none", a "number" from 1 on, or a "text", such as
    an address. `check_argument(text)` raises UsageError for a text that is wrong, or lacks ("" where nothing is
    written), before anything is prepared. Raises ValueError for another kind of argument.
    """

    title: str
    summary: str
    make: Callable[[Any], Any]
    argument: ArgumentKind = "number"
    check_argument: Callable[[str], object] = any_text

    def __post_init__(self) -> None:
        check_choice(self.argument, ArgumentKind, "the argument of workers or a fleet")


@dataclass(frozen=True)
class Place:
    """Workers or a fleet as a user names them; `argument` is the text behind the first colon, "" for none."""

    name: str
    argument: str = ""

    @property
    def number(self) -> int | None:
        """The argument where it is a whole number of at least 1, else None."""
        return int(self.argument) if self.argument.isdecimal() and int(self.argument) > 0 else None

    def check(self, info: PlaceInfo, flag: str) -> None:
        """Raise UsageError unless the argument is one that the card takes; `flag` is where it was written."""
        if info.argument == "text":
            info.check_argument(self.argument)
        elif info.argument == "none" and self.argument:
            raise UsageError(f"{flag} {self.name} takes no number, got {self.argument}; leave it out")
        elif self.argument and self.number is None:
            example = f"{self.name}:2"
            raise UsageError(f"{flag} {self.name} takes a number from 1 on, such as {example}, got '{self.argument}'")


def place(text: str, flag: str) -> Place:
    """Return what a user has written as NAME or NAME:ARGUMENT; raises UsageError for a name or an argument of none."""
    name, colon, argument = text.partition(":")
    if not name or (colon and not argument):
        raise UsageError(f"{flag} takes NAME or NAME:ARGUMENT, such as processes:2, got '{text}'")
    return Place(name, argument)
