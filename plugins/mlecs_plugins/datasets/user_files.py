"""The files in a user's folder: which there are, and the digest of what they hold."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

MAX_DEPTH = 3  # folders below DIR that are searched: a wrong DIR such as / must not take minutes
SETTLED_SECONDS = 2.0  # a younger file may still change without its time stamp showing it


def visible_files(data_dir: Path) -> list[Path]:
    """Return all visible files at most MAX_DEPTH folders below `data_dir`, sorted; links among them may lead nowhere.

    Pipes, sockets and devices are left out: reading one would wait for ever.
    """
    found: list[Path] = []
    for folder, subfolders, names in os.walk(data_dir, followlinks=True):
        depth = len(Path(folder).relative_to(data_dir).parts)
        subfolders[:] = [] if depth >= MAX_DEPTH else [name for name in subfolders if not name.startswith(".")]
        paths = (Path(folder, name) for name in names if not name.startswith("."))
        found += [path for path in paths if path.is_file() or (path.is_symlink() and not path.exists())]
    return sorted(found)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    """The sha256 of files, remembered by path, size and time stamp in a JSON file."""

    def __init__(self, store: Path) -> None:
        self._store = store
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
        status = path.stat()
        key, stamp = str(path.resolve()), [status.st_size, status.st_mtime_ns]
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
