"""Prepared data on their way to another machine: the files of a folder as bytes, and the folder that they become."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from mlecs_bench.data.samples import Prepared, open_prepared
from mlecs_bench.errors import DataError


def files_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a prepared folder: path within it, content."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def put_down(files: Iterable[tuple[str, bytes]], folder: Path) -> Prepared:
    """Make `folder` of files that have arrived, in one step; where another process was first, its folder stays.

    Raises DataError for a path that leads out of the folder, and for files that are no prepared data.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.parent / f".{folder.name}-{secrets.token_hex(8)}"
    part.mkdir()
    try:
        for name, content in files:
            inside = PurePosixPath(name)
            if inside.is_absolute() or ".." in inside.parts:
                raise DataError(f"a file of the prepared data is called '{name}', which leads out of their folder")
            path = part / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        try:
            part.rename(folder)
        except OSError:
            if open_prepared(folder) is None:
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    found = open_prepared(folder)
    if found is None:
        raise DataError(f"what arrived in {folder} are no prepared data: there is no manifest")
    return found
