"""Folders as parts of a few MB that travel one after the other: tar archives that no side holds as a whole."""

from __future__ import annotations

import io
import secrets
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

PART = 32 * 2**20
"""Most bytes of a part, but for a header."""


def parts_of(folder: Path) -> Iterator[bytes]:
    """Yield the files of a folder as a tar archive in parts; what is hidden at its top stays."""
    pending = bytearray()
    for piece in _pieces(folder):
        pending += piece
        if len(pending) >= PART:
            yield bytes(pending)
            pending.clear()
    yield bytes(pending)


def _pieces(folder: Path) -> Iterator[bytes]:
    """Yield the blocks of an archive: for each file a header, its content, and zeros up to a whole block."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or name.parts[0].startswith("."):
            continue
        info = tarfile.TarInfo(name.as_posix())
        info.size = path.stat().st_size
        yield info.tobuf()
        with path.open("rb") as file:
            while block := file.read(PART):
                yield block
        yield bytes(-info.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def unpack(parts: Iterable[bytes], folder: Path) -> None:
    """Write the files of an archive into a folder, which appears whole; where it is there already, it stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name[:40]}-{secrets.token_hex(8)}.part")
    part.mkdir()
    try:
        with tarfile.open(fileobj=io.BufferedReader(_Joined(parts)), mode="r|") as archive:
            archive.extractall(part, filter="data")  # refuses names that lead out of the folder
        if not folder.exists():
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


class _Joined(io.RawIOBase):
    """Parts, one behind the other, as a file."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = iter(parts)
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # any writable buffer
        while not self._left and (part := next(self._parts, None)) is not None:
            self._left = memoryview(part)
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size
