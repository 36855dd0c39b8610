"""The files in a user's folder: which there are, and the digest of what they hold."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, TextIO

from mlecs_plugins.datasets.archives import ArchiveError, archive_of, is_folder, open_bytes, paths_in

MAX_DEPTH = 8  # folders below DIR that are searched: a wrong DIR such as / must not take minutes
MACOS_FOLDER = "__MACOSX"  # what macOS puts into archives beside the files: their attributes, under the same names
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SETTLED_SECONDS = 2.0  # a younger file may still change without its time stamp showing it


def visible_files(data_dir: Path) -> list[Path]:
    """Return all visible files at most MAX_DEPTH folders below `data_dir`, sorted; links among them may lead nowhere.

    Pipes, sockets and devices are left out: reading one would wait for ever.
    """
    found: list[Path] = []
    for folder, subfolders, names in os.walk(data_dir, followlinks=True):
        depth = len(Path(folder).relative_to(data_dir).parts)
        subfolders[:] = [] if depth >= MAX_DEPTH else [name for name in subfolders if _is_visible(name)]
        paths = (Path(folder, name) for name in names if _is_visible(name))
        found += [path for path in paths if path.is_file() or (path.is_symlink() and not path.exists())]
    return sorted(found)


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != MACOS_FOLDER


def is_picture(path: Path) -> bool:
    """Is a path that of a visible picture, as far as names tell?"""
    return path.suffix.lower() in PICTURE_SUFFIXES and _is_visible(path.name)


def open_text(path: Path) -> TextIO:
    """Open a text file as other systems write it: UTF-8 or UTF-16 with a byte order mark, compressed by gzip or not.

    Ends of lines are left as they are. Raises OSError.
    """
    try:
        file: IO[bytes] | _Unpacked = open_bytes(path)
    except ArchiveError as error:
        raise OSError(str(error)) from error
    if path.suffix.lower() == ".gz":
        file = _Unpacked(file)  # type: ignore[arg-type]  # it is what was opened
    try:
        first = file.read(2)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    encoding = "utf-16" if first in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    return io.TextIOWrapper(file, encoding=encoding, newline="")


class _Unpacked(gzip.GzipFile):
    """What a file compressed by gzip holds; closing it closes the file."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(fileobj=file, mode="rb")
        self.myfileobj = file  # type: ignore[assignment]  # any file that is to be closed


def suffix_of(path: Path) -> str:
    """Return a file's suffix in lower case, without that of gzip."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Return paths sorted by name, with numbers in names as numbers: frame 2 before frame 10."""
    return sorted(paths, key=lambda path: ([int(x) if x.isdigit() else x for x in re.split(r"([0-9]+)", path.name)]))


def sha256_of(path: Path) -> str:
    """Return the sha256 of the content of a file, or of a member of an archive, in hexadecimal.

    A member that is damaged has that of what is wrong with it: whoever reads it says so.
    """
    try:
        with open_bytes(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # a file of bytes
    except ArchiveError as error:
        return hashlib.sha256(f"damaged: {error}".encode()).hexdigest()


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() or (is_folder(path) and not path.is_file())


def _is_there(path: Path) -> bool:
    return path.is_file() or archive_of(path) is not None


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Replace `path` in one step by what `write` writes; nothing is left of a file that could not be finished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}-", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class Digests:
    """The sha256 of files, remembered by path, size and time stamp in a JSON file; a folder's is that of its files.

    With `archives_are_folders` an archive's is what that of a folder with its members would be.
    """

    def __init__(self, store: Path, *, archives_are_folders: bool = False) -> None:
        self._store = store
        self._is_folder = is_folder if archives_are_folders else _is_plain_folder
        self._known = _load(store)

    def of(self, paths: Iterable[Path], progress: Callable[[int, int, str], None]) -> dict[Path, str]:
        """Return the sha256 of every path, in the order of the paths, and remember them."""
        unique = sorted(set(paths))
        digests = {}
        for done, path in enumerate(unique, start=1):
            digests[path] = self._digest(path)
            progress(done, len(unique), "checking files")
        self._save()
        return digests

    def _digest(self, path: Path) -> str:
        if self._is_folder(path):
            held = [(file.name, self._digest(file)) for file in sorted(paths_in(path)) if _is_there(file)]
            return hashlib.sha256(json.dumps(held).encode()).hexdigest()
        archive, member = archive_of(path) or (path, "")
        status = archive.stat()
        key = f"{archive.resolve()}//{member}" if member else str(archive.resolve())
        stamp = [status.st_size, status.st_mtime_ns]
        known = self._known.get(key)
        if known is not None and known[:2] == stamp:
            return str(known[2])
        digest = sha256_of(path)
        if time.time() - status.st_mtime > SETTLED_SECONDS:
            self._known[key] = [*stamp, digest]
        return digest

    def _save(self) -> None:
        content = json.dumps(self._known).encode()
        write_whole(self._store, lambda file: file.write(content))


def _load(store: Path) -> dict[str, list[int | str]]:
    """Return the remembered digests; a file that is missing or damaged counts as empty, for it is only a cache."""
    try:
        values = json.loads(store.read_text(encoding="utf-8"))
        return {str(key): [int(size), int(stamp), str(digest)] for key, (size, stamp, digest) in values.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def inside(folder: Path, name: str) -> Path | None:
    """Return the path of a file that a table names, "/" or "\\" between folders; None where it leaves `folder`.

    Neither `..`, an absolute path nor a link leads out. Whether the file is there is not looked at.
    """
    steps = name.replace("\\", "/")
    if "\0" in name or steps.startswith("/") or ":" in steps.partition("/")[0]:
        return None
    path = folder / steps
    try:
        return path if path.resolve().is_relative_to(folder.resolve()) else None
    except (OSError, RuntimeError, ValueError):  # a link to itself, a name that no file can have
        return None


def is_file(path: Path) -> bool:
    """Is there a file at `path`, whatever the name: of one that is too long, or no text, there is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_missing(value: Any) -> bool:
    """Is a cell without a value: null, NaN, blank, or a list of nothing else?"""
    if isinstance(value, list | tuple):
        return all(map(is_missing, value))
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and value.strip().lower() in {"", "nan"})
