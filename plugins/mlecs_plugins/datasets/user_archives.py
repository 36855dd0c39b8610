"""The archives in a user's folder: what each holds, where its members are read, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mlecs_plugins.datasets.archives import ArchiveError, is_archive, is_packed_tar, members_of, unpacked
from mlecs_plugins.datasets.user_files import Digests, write_whole

Progress = Callable[[int, int, str], None]
FOLDER, DIGESTS = "unpacked", "archive-digests.json"
"""In the cache of a dataset: tars that were compressed, and the digests by which they are called."""


@dataclass(frozen=True)
class Archive:
    """An archive of the user's, and the one that is read: another one where `path` is a compressed tar.

    `damage` is what is wrong with it as a whole, "" where it is whole; `refused` are the members that are not read.
    """

    path: Path
    tar: Path
    members: tuple[Path, ...] = ()
    refused: tuple[str, ...] = ()
    damage: str = ""


def untold(_done: int, _total: int, _what: str) -> None:
    """Tell nobody."""


def archives_among(paths: Iterable[Path], cache: Path | None, progress: Progress = untold) -> Iterator[Archive]:
    """Yield the archives among files, opened; compressed tars are unpacked into `cache`, or only listed without it."""
    for path in paths:
        if is_archive(path) and path.is_file():
            yield opened_archive(path, cache, progress)


def opened_archive(path: Path, cache: Path | None, progress: Progress = untold) -> Archive:
    """Return an archive with the paths of its members. Raises OSError where it, or the cache, cannot be used."""
    tar = path
    try:
        if is_packed_tar(path) and cache is not None:
            digest = Digests(cache / DIGESTS).of([path], progress)[path]
            tar = unpacked(path, digest, cache / FOLDER, write_whole)
        members, contents = members_of(tar)
    except ArchiveError as error:
        return Archive(path, tar, damage=str(error))
    return Archive(path, tar, tuple(members), contents.refused)
