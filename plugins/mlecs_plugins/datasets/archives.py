"""Archives in a user's folder: the members of zip and tar files are read where they are, as if each were a file.

So are the cells of Parquet tables that hold files (parquet_cells.py).

The path of a member is that of its archive with the member's name behind it: DIR/media.zip/videos/a.mp4. A member that
is a link, or whose name leads out of the archive, is never read. A tar compressed by gzip has no order in which
single members can be reached, so it is unpacked into one tar in the cache, named by its digest.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO

from mlecs_plugins.datasets import parquet_cells

PACKED_TARS = (".tar.gz", ".tgz")
SUFFIXES = (".zip", ".tar", *PACKED_TARS)
LARGEST_MEMBER = 1 << 30
"""Bytes of the largest member: each is read as a whole."""
BOMB_SIZE, BOMB_RATIO = 1 << 26, 100
"""What unpacks to more than so many bytes, and to more than so many times its size, holds nothing but zeros."""
OPEN_ARCHIVES, KNOWN_ARCHIVES = 16, 1024
_BLOCK = 512  # of a tar
_CHUNK = 1 << 20
_UTF8_FLAG, _ENCRYPTED_FLAG = 0x800, 0x1
_LINK = 0o12  # the kind of file in a mode of Unix
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)


class ArchiveError(Exception):
    """What is wrong with an archive or with one of its members; whoever knows the name adds it."""


class _Named(io.BytesIO):
    """The content of a member under its name, from which decoders guess what it is as they do from a file's."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


@dataclass(frozen=True)
class Contents:
    """The members of an archive that can be read, name → where and how large, and those that are not read, with why.

    Of a zip the place is the number of the entry, of a tar the first byte.
    """

    places: Mapping[str, tuple[int, int]]
    refused: tuple[str, ...] = ()
    twice: tuple[str, ...] = field(default=())

    @cached_property
    def by_folder(self) -> Mapping[str, list[str]]:
        """Folder ("" is the archive's root) → the names of the members right in it."""
        found: dict[str, list[str]] = {}
        for name in self.places:
            found.setdefault(name.rpartition("/")[0], []).append(name)
        return found


def is_archive(path: Path) -> bool:
    """Is a path called like an archive?"""
    return path.name.lower().endswith(SUFFIXES)


def is_packed_tar(path: Path) -> bool:
    """Is a path called like a tar that gzip has compressed?"""
    return path.name.lower().endswith(PACKED_TARS)


def without_suffix(name: str) -> str:
    """Return the name of an archive without what says that it is one; other names as they are."""
    suffix = next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def archive_of(path: Path) -> tuple[Path, str] | None:
    """Return the archive or table that a path leads into, and the rest of the path; None for any other path."""
    for parent in path.parents:
        if parent.name.lower().endswith((*SUFFIXES, parquet_cells.SUFFIX)) and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None


def members_of(archive: Path) -> tuple[list[Path], Contents]:
    """Return the paths of the members that can be read, sorted, and the contents; raises ArchiveError for damage."""
    contents = contents_of(archive)
    return sorted(archive / name for name in contents.places), contents


def contents_of(archive: Path) -> Contents:
    """Return what is in an archive; raises ArchiveError where it is not whole."""
    return _contents(archive, _stamp_of(archive))


def unpacked(archive: Path, digest: str, folder: Path, write_whole: Callable[..., None]) -> Path:
    """Return the tar that a compressed one holds, in `folder` by its digest; raises ArchiveError for damage."""
    path = folder / f"{digest}.tar"
    if not path.is_file():
        write_whole(path, lambda file: _unpack(archive, file))
    return path


def _unpack(archive: Path, file: IO[bytes]) -> None:
    most = max(BOMB_SIZE, BOMB_RATIO * archive.stat().st_size)
    written = 0
    try:
        with gzip.open(archive, "rb") as packed:
            while block := packed.read(_CHUNK):
                written += len(block)
                if written > most:
                    raise ArchiveError(f"unpacks to more than {BOMB_RATIO} times its size; unpack it by hand")
                file.write(block)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ArchiveError(f"is no whole archive ({error}); copy it again") from error


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file, or a member of an archive, which is read as a whole. Raises OSError and ArchiveError."""
    place = archive_of(path)
    return path.open("rb") if place is None else _Named(_member(*place), path.name)


def read_bytes(path: Path) -> bytes:
    """Return the content of a file or of a member of an archive. Raises OSError and ArchiveError."""
    place = archive_of(path)
    return path.read_bytes() if place is None else _member(*place)


def is_folder(path: Path) -> bool:
    """Is there a folder, an archive, or a folder in an archive at `path`?"""
    if path.is_dir() or (is_archive(path) and path.is_file()):
        return True
    place = archive_of(path)
    return place is not None and is_archive(place[0]) and place[1] in contents_of(place[0]).by_folder


def paths_in(folder: Path) -> list[Path]:
    """Return what is in a folder, or the members right in an archive or in one of its folders, in any order."""
    if folder.is_dir():
        return list(folder.iterdir())
    archive, inner = (folder, "") if is_archive(folder) and folder.is_file() else archive_of(folder) or (folder, "")
    return [archive / name for name in contents_of(archive).by_folder.get(inner, [])]


@lru_cache(maxsize=KNOWN_ARCHIVES)
def _contents(archive: Path, _stamp: tuple[int, int]) -> Contents:
    """Return what is in an archive of this size and time of change."""
    try:
        entries = list(_zip_entries(archive) if archive.suffix.lower() == ".zip" else _tar_entries(archive))
    except (tarfile.TarError, *_ZIP_ERRORS) as error:
        raise ArchiveError(f"is no whole archive ({_short(error)}); copy it again") from error
    places: dict[str, tuple[int, int]] = {}
    refused, twice = [], []
    for given, place, length, why in entries:
        name, wrong = _inner(given)
        if why or wrong:
            refused.append(f"{_printable(given)} ({why or wrong})")
        elif name in places:
            twice.append(name)
        elif _is_visible(name):
            places[name] = (place, length)
    for name in twice:
        places.pop(name, None)
    return Contents(places, (*refused, *(f"{name} (is there twice)" for name in twice)), tuple(twice))


Entry = tuple[str, int, int, str]
"""The name of a member, where it is, its bytes, and why it is not read ("" where it is)."""


def _zip_entries(archive: Path) -> Iterator[Entry]:
    for number, member in enumerate(_zip(archive, _stamp_of(archive)).infolist()):
        if member.is_dir():
            continue
        kind = member.external_attr >> 28  # of the mode that Unix writes
        bomb = member.file_size > BOMB_SIZE and member.file_size > BOMB_RATIO * max(1, member.compress_size)
        too_large = member.file_size > LARGEST_MEMBER
        why = "is a link" if kind == _LINK else "is encrypted" if member.flag_bits & _ENCRYPTED_FLAG else ""
        why = why or ("unpacks to nothing but zeros" if bomb else _size(too_large))
        yield _name_in_zip(member), number, member.file_size, why


def _name_in_zip(member: zipfile.ZipInfo) -> str:
    """Return a member's name; macOS and others write UTF-8 without saying so."""
    if member.flag_bits & _UTF8_FLAG:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return member.filename


def _tar_entries(archive: Path) -> Iterator[Entry]:
    packed = is_packed_tar(archive)
    with tarfile.open(archive, "r:gz" if packed else "r:") as tar:
        for member in tar:
            if member.isdir():
                continue
            kind = "is a link" if member.issym() or member.islnk() else "" if member.isreg() else "is no file"
            if member.issparse():
                kind = "has holes"
            yield member.name, member.offset_data, member.size, kind or _size(member.size > LARGEST_MEMBER)
        # What follows the last header is not looked at by the library, so a damaged header would end the list.
        assert tar.fileobj is not None  # noqa: S101
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(_BLOCK) != bytes(_BLOCK):
            raise tarfile.ReadError(f"it is cut short or damaged at byte {tar.offset:,}")


def _size(too_large: bool) -> str:
    return f"is larger than {LARGEST_MEMBER >> 30} GiB; unpack it" if too_large else ""


def _inner(given: str) -> tuple[str, str]:
    """Return the name of a member, "/" between folders, and what is wrong with it."""
    name = given.replace("\\", "/")
    steps = [step for step in name.split("/") if step not in ("", ".")]
    if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in steps:
        return name, "leads out of the archive"
    if not steps or "\0" in name or _printable(name) != name:
        return name, "is no name of a file"
    return "/".join(steps), ""


def _printable(name: str) -> str:
    """Return a name that every terminal and every file can hold."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text)[:200]


def _is_visible(name: str) -> bool:
    return not any(step.startswith(".") or step == "__MACOSX" for step in name.split("/"))


def _member(archive: Path, name: str) -> bytes:
    """Return the content of a member or cell; raises ArchiveError where it is damaged."""
    if not is_archive(archive):
        try:
            return parquet_cells.read_cell(archive, name)
        except parquet_cells.CellsError as error:
            raise ArchiveError(str(error)) from error
    place = contents_of(archive).places.get(name)
    if place is None:
        raise ArchiveError(f"is not in {archive.name}")
    start, size = place
    try:
        if archive.suffix.lower() == ".zip":
            content = _from_zip(_zip(archive, _stamp_of(archive)), start)
        else:
            with archive.open("rb") as file:
                file.seek(start)
                content = file.read(size)
    except _ZIP_ERRORS as error:
        raise ArchiveError(f"is damaged in its archive ({_short(error)})") from error
    if len(content) != size:
        raise ArchiveError("is cut short in its archive")
    return content


def _from_zip(archive: zipfile.ZipFile, number: int) -> bytes:
    member = archive.infolist()[number]
    with archive.open(member) as stream:  # reading to the end compares the checksum
        return stream.read()


@lru_cache(maxsize=OPEN_ARCHIVES)
def _zip(archive: Path, _stamp: tuple[int, int]) -> zipfile.ZipFile:
    """Return an open zip file: its list of members takes long to read, and is needed for each of them."""
    return zipfile.ZipFile(archive)


def _stamp_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _short(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error).partition("\n")[0][:80]
    return _printable(text) or type(error).__name__
