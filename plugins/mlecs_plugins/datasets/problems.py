"""What is wrong with the files of a user, one line each."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_PROBLEMS = 1000


@dataclass
class Problems:
    """What is wrong with a file, one line each; beyond MAX_PROBLEMS they are only counted."""

    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, line: str) -> None:
        """Note one problem."""
        self.count += 1
        if len(self.lines) < MAX_PROBLEMS:
            self.lines.append(line)
