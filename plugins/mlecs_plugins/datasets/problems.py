"""What is wrong with the files of a user, one line each."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, field

MAX_PROBLEMS = 1000
LONGEST_LINE = 400
LONGEST_VALUE = 40
"""Characters of a line about a file, and of a value in it: names and cells of files may hold anything."""
_SHORT = reprlib.Repr()
_SHORT.maxlong = _SHORT.maxother = _SHORT.maxstring = LONGEST_VALUE


@dataclass
class Problems:
    """What is wrong with a file, one line each; beyond MAX_PROBLEMS they are only counted."""

    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, line: str) -> None:
        """Note one problem."""
        self.count += 1
        if len(self.lines) < MAX_PROBLEMS:
            self.lines.append(one_line(line))


def one_line(text: str) -> str:
    """Return a text that every terminal can show in a line: nothing but printable characters, the middle left out."""
    if len(text) > LONGEST_LINE:
        half = LONGEST_LINE // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text)


def shown(value: object) -> str:
    """Return a value of a file as Python writes it, cut: also of a list that holds itself many times over."""
    text = _SHORT.repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
