"""The problems of a user's files, gathered so that one run names them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlecs_bench.api import DataError
from mlecs_plugins.datasets.problems import one_line

MAX_LINES = 20


class FileError(Exception):
    """What is wrong with one file; whoever knows the file's name catches it."""


def first_of(problems: Sequence[str]) -> FileError:
    """Return the problem of a file with many bad rows: the first of them, and how many more there are."""
    more = f" (and {len(problems) - 1} more like it)" if len(problems) > 1 else ""
    return FileError(problems[0] + more)


class FileProblems:
    """A list of problems, one line each."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.lines: list[str] = []

    def add(self, name: str, text: str) -> None:
        """Note that the file called `name` has the problem `text`."""
        self.lines.append(one_line(f"{name}: {text}"))

    def add_missing(self, name: str, meaning: str) -> None:
        """Note that there is no file called `name`, which would hold `meaning`."""
        self.add(name, f"not found ({meaning})")

    @contextmanager
    def about(self, path: Path) -> Iterator[None]:
        """Note the problem that reading `path` runs into, if any, and go on after the block."""
        name = path.relative_to(self._data_dir).as_posix() if path != self._data_dir else str(path)
        try:
            yield
        except FileError as problem:
            self.add(name, str(problem))
        except OSError as error:
            self.add(name, f"cannot be read ({error.strerror or error})")

    def raise_if_any(self) -> None:
        """Raise DataError when there is a problem: a summary line, then one line per problem, at most 20 lines."""
        if not self.lines:
            return
        count = len(self.lines)
        noun = "problem" if count == 1 else "problems"
        summary = f"ur-fall: {count} {noun} with the files in {self._data_dir}; mend or download them again:"
        shown = self.lines if count < MAX_LINES else self.lines[: MAX_LINES - 2]
        more = [f"and {count - len(shown)} more"] if count > len(shown) else []
        raise DataError("\n  ".join([summary, *shown, *more]))
