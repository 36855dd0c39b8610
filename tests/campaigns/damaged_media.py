"""Generated damage to pictures, sound, videos, archives, and to all files of UR-FALL."""

from __future__ import annotations

import csv
import io
import shutil
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

import ur_fall_files
from campaigns import file_damage
from campaigns.file_damage import SilentDamageError, Tally, attempted, one_of
from mlecs_bench.errors import DataError
from mlecs_plugins.datasets.vast.media import MediaError, read_picture, read_waveform, sample_frames
from vast_files import SOUND_RATE, open_samples, record, sound_frames, tone, write_media, write_records

SHARE = 0.35
"""A file of half a second that lacks more than this share of its bytes is cut short by more than the reader's slack of
a twentieth and a tenth of a second; WAVE says how many bytes it has."""


def _pixels(seed: int, shape: tuple[int, ...] = (24, 32, 3)) -> np.ndarray:
    """Return noise, which is stored as it is, or a slope, which is compressed well."""
    if seed % 2:
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    height, width, colours = shape
    slope = np.add.outer(np.arange(height) * 5, np.arange(width) * 3 + seed)
    return np.stack([slope * (k + 1) for k in range(colours)], axis=-1).astype(np.uint8)


def png(values: np.ndarray, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", **settings)
    return buffer.getvalue()


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Return the parts of a PNG."""
    found, at = [], 8
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        found.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def joined(parts: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a PNG of parts with the checksums that belong to them."""
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


def _forged(generator: np.random.Generator, content: bytes) -> bytes:
    """Change fields of a PNG and give it the right checksums: sizes, kinds of pixels, parts left out and exchanged."""
    parts = chunks(content)
    kind = int(generator.integers(5))
    if kind == 0:
        numbers = (0, 1, 7, 2**16, 2**31 - 1, 2**32 - 1, 23, 25, 33)
        head = list(struct.unpack(">IIBBBBB", parts[0][1]))
        head[int(generator.integers(2))] = one_of(generator, numbers)
        parts[0] = (b"IHDR", struct.pack(">IIBBBBB", *head))
    elif kind == 1:
        head = bytearray(parts[0][1])
        head[int(generator.integers(8, 13))] = int(generator.integers(256))
        parts[0] = (b"IHDR", bytes(head))
    elif kind == 2:
        del parts[int(generator.integers(len(parts)))]
    elif kind == 3:
        name = one_of(
            generator, [b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"eXIf", b"pHYs", b"tRNS", b"PLTE", b"acTL", b"gAMA"]
        )
        parts.insert(1, (name, one_of(generator, [b"", b"\0", b"x\0\0" + zlib.compress(bytes(1 << 24)), b"\xff" * 9])))
    else:
        first, second = generator.choice(len(parts), 2, replace=False)
        parts[first], parts[second] = parts[second], parts[first]
    return joined(parts)


def pictures(count: int, seed: int, folder: Path) -> Tally:
    """Damage PNG files; what is read must have every pixel, unless the damage came with checksums of its own."""
    tally, generator = Tally("PNG pictures"), np.random.default_rng([seed, 4])
    folder.mkdir(exist_ok=True)
    for number in range(count):
        values = _pixels(number % 7)
        content = png(values)
        forges = generator.random() < 0.4
        change = _forged if forges else one_of(generator, file_damage.OF_BYTES)
        damaged = change(generator, content)
        path = folder / "a.png"
        path.write_bytes(damaged)

        def attempt(path: Path = path, values: np.ndarray = values, forges: bool = forges) -> None:
            found = _refusing(partial(read_picture, path))
            if not forges and not np.array_equal(found, values):
                raise SilentDamageError("pixels")

        attempted(tally, f"input {number} ({change.__name__}, {damaged[:60]!r})", attempt)
    return tally


def _refusing(read: Callable[[], Any]) -> Any:
    """Return what is read; what is wrong with a file of media is its owner's, who says so in one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow and FFmpeg tell, too
        try:
            return read()
        except MediaError as error:
            raise DataError(f"a file {error}") from error


def wave(sound: np.ndarray) -> bytes:
    data = (sound * 30_000).astype("<i2").tobytes()
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, 44_100, 88_200, 2, 16)
    return head + struct.pack("<4sI", b"data", len(data)) + data


def coded(path: Path, sound: np.ndarray, codec: str) -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=SOUND_RATE)
        stream.layout = "stereo"
        if codec == "flac":
            stream.format = "s16"
        resampler = av.AudioResampler(format=stream.format, layout="stereo", rate=SOUND_RATE)
        for frame in sound_frames(sound):
            for part in resampler.resample(frame):
                container.mux(stream.encode(part))
        container.mux(stream.encode())
    return path.read_bytes()


def _media(folder: Path) -> dict[str, bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    sound = tone(0.5)
    return {
        "a.mp4": write_media(folder / "o.mp4", sound=sound, n_frames=10).read_bytes(),
        "b.mp4": write_media(folder / "p.mp4", n_frames=10).read_bytes(),
        "a.mkv": write_media(folder / "o.mkv", sound=sound, n_frames=10).read_bytes(),
        "a.wav": wave(sound),
        "a.flac": coded(folder / "o.flac", sound, "flac"),
    }


def media(count: int, seed: int, folder: Path) -> Tally:
    """Damage MP4, Matroska, WAVE and FLAC files; one that is cut by more than a third must not be read as whole."""
    tally, generator = Tally("MP4, MKV, WAV, FLAC"), np.random.default_rng([seed, 5])
    originals = _media(folder)
    for number in range(count):
        name, content = one_of(generator, list(originals.items()))
        change = one_of(generator, file_damage.OF_BYTES)
        at_head = generator.random() < 0.5 and change is not file_damage.cut
        head = min(len(content), 1200)
        damaged = change(generator, content[:head]) + content[head:] if at_head else change(generator, content)
        path = folder / name
        path.write_bytes(damaged)
        least = len(content) if name == "a.wav" else (1 - SHARE) * len(content)
        must = change is file_damage.cut and len(damaged) < least

        def attempt(path: Path = path, must: bool = must) -> None:
            frames = _refusing(partial(sample_frames, path, 4))
            sound = _refusing(partial(read_waveform, path, 16_000))
            if must and (frames is not None or sound is not None):
                raise SilentDamageError(f"{path.suffix} cut short")
            if frames is not None and len(frames) != 4:
                raise SilentDamageError("too few frames")

        attempted(tally, f"input {number} ({name}, {change.__name__}, {len(damaged)} of {len(content)})", attempt)
    return tally


# Archives


def _archive(path: Path, members: dict[str, bytes]) -> bytes:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name.encode("utf-8", "replace").decode(), content)
    else:
        with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as tar:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path.read_bytes()


def _odd_members(generator: np.random.Generator, members: dict[str, bytes]) -> dict[str, bytes]:
    """Return members of which some are renamed, left out, emptied or doubled elsewhere."""
    found = dict(members)
    name = one_of(generator, list(found))
    kind = int(generator.integers(4))
    if kind == 0:
        odd = (
            "../x.png",
            "/x.png",
            "a/../../x.png",
            "x" * 240 + ".png",
            "\udc80.png",
            "C:\\x.png",
            "a\nb.png",
            ".png",
            " ",
        )
        found[one_of(generator, odd)] = found.pop(name)
    elif kind == 1:
        del found[name]
    elif kind == 2:
        found[name] = b""
    else:
        found["other/" + name.rpartition("/")[2]] = found[name]
    return found


def archives(count: int, seed: int, folder: Path) -> Tally:
    """Damage archives of clips; of every clip the pictures are the right ones, or it lacks them and that is told."""
    tally, generator = Tally("zip and tar of vast"), np.random.default_rng([seed, 6])
    names = [f"c{k}" for k in range(4)]
    members = {f"media/{name}.png": png(_pixels(k, (48, 64, 3)), compress_level=1) for k, name in enumerate(names)}
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    originals: dict[tuple[str, ...], bytes] = {}
    whole = folder / "whole"
    write_records(whole / "notes.json", [record(name) for name in names])
    _archive(whole / "a.zip", members)
    wanted = open_samples(whole, folder / "cache").array("vision")
    for number in range(count):
        shape = one_of(generator, ["a.zip", "a.tar", "a.tgz"])
        packed = members
        if generator.random() < 0.3:
            packed = _odd_members(generator, members)
        key = (shape, *packed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = originals.get(key) if packed is members else None
            content = content or originals.setdefault(key, _archive(scratch / shape, packed))
        change = one_of(generator, file_damage.OF_BYTES)
        damaged = change(generator, content) if packed is members else content
        own = folder / "own"
        shutil.rmtree(own, ignore_errors=True)
        write_records(own / "notes.json", [record(name) for name in names])
        (own / shape).write_bytes(damaged)

        def attempt(own: Path = own, renamed: bool = packed is not members) -> None:
            found = open_samples(own, folder / "cache", view="media")
            told = " ".join(found.manifest.notes)
            lacking = len(names) - len(found.ids) + int((~found.presence["vision"]).sum())
            if lacking and not told:
                raise SilentDamageError("a clip without pictures is not told")
            for row, name in enumerate(found.ids):
                right = np.array_equal(found.array("vision")[row], wanted[names.index(name)])
                if found.presence["vision"][row] and not right:
                    raise SilentDamageError("other pictures")
            if not renamed and lacking == 0 and len(found.ids) != len(names):
                raise SilentDamageError("clips lost")

        attempted(tally, f"input {number} ({shape}, {change.__name__}, {list(packed)})", attempt)
    return tally


# UR-FALL

CELLS = (
    "1e300",
    "-1e300",
    "1e38",
    "",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "9" * 6000,
    "\ud800",
    "x" * 140_000,
    "0",
    "-1",
    "1.5",
    '"',
    "a\nb",
    "\0",
    "0x10",
    "1_000",
    "٣",
    "fall-99",
)


def _lines(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*.csv"))}


def _odd_table(generator: np.random.Generator, content: bytes) -> bytes:
    """Return a CSV file of which a cell, a row or a column is another."""
    rows = [line.split(",") for line in content.decode().splitlines()]
    row = int(generator.integers(len(rows)))
    column = int(generator.integers(len(rows[row])))
    kind = int(generator.integers(6))
    if kind <= 1:
        rows[row][column] = one_of(generator, CELLS)
    elif kind == 2:
        rows.append(list(rows[row]))
    elif kind == 3:
        rows[row].append("1")
    elif kind == 4:
        del rows[row][column]
    else:
        other = int(generator.integers(len(rows)))
        rows[row], rows[other] = rows[other], rows[row]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_MINIMAL).writerows(rows)
    return file_damage.to_bytes(buffer.getvalue())


def _small_folder(folder: Path) -> Path:
    """Write a small UR-FALL with archives of pictures instead of videos, which take long to decode."""
    ur_fall_files.make_folder(folder)
    for sequence, rows in ur_fall_files.LABELS.items():
        (folder / "video" / f"{sequence}-cam0.mp4").unlink()
        images = {frame: _pixels(frame) for frame in rows}
        made = {f"{sequence}-cam0-rgb/{sequence}-cam0-rgb-{frame:03d}.png": png(v) for frame, v in images.items()}
        _archive(folder / "video" / f"{sequence}-cam0-rgb.{'zip' if sequence.startswith('fall') else 'tar'}", made)
        ur_fall_files.write_rows(folder / f"{sequence}-data.csv", [(f, 33.0 * f, 1.0) for f in range(1, 11)])
    return folder


def ur_fall_tables(count: int, seed: int, folder: Path) -> Tally:
    """Damage the CSV files of UR-FALL; no labelled frame is lost, and no number is read that is none."""
    tally, generator = Tally("UR-FALL tables"), np.random.default_rng([seed, 7])
    own = _small_folder(folder / "own")
    originals = _lines(own)
    n = sum(len(rows) for rows in ur_fall_files.LABELS.values())
    for number in range(count):
        path, content = one_of(generator, list(originals.items()))
        change = _odd_table if generator.random() < 0.7 else one_of(generator, file_damage.OF_BYTES)
        damaged = change(generator, content)
        path.write_bytes(damaged)

        def attempt(path: Path = path, damaged: bytes = damaged) -> None:
            found = ur_fall_files.open_samples(own, folder / "cache")
            if not all(np.isfinite(found.array(name)).all() for name in ("acce", "depth")):
                raise SilentDamageError("numbers that are not finite")
            if (
                path.name.startswith("urfall")
                and len(found.ids) < n
                and damaged.count(b"\n") >= originals[path].count(b"\n")
            ):
                raise SilentDamageError("a labelled frame is lost")

        attempted(tally, f"input {number} ({path.name}, {change.__name__}, {damaged[:200]!r})", attempt)
        path.write_bytes(content)
    return tally


def ur_fall_archives(count: int, seed: int, folder: Path) -> Tally:
    """Damage the zips and tars of UR-FALL; what is read are the right pictures, pixel by pixel."""
    tally, generator = Tally("UR-FALL zip and tar"), np.random.default_rng([seed, 8])
    own = _small_folder(folder / "own")
    originals = {path: path.read_bytes() for path in sorted((own / "video").iterdir())}
    wanted = ur_fall_files.open_samples(own, folder / "cache").array("rgb")
    for number in range(count):
        path, content = one_of(generator, list(originals.items()))
        change = one_of(generator, file_damage.OF_BYTES)
        damaged = change(generator, content)
        path.write_bytes(damaged)

        def attempt() -> None:
            found = ur_fall_files.open_samples(own, folder / "cache")
            if not np.array_equal(found.array("rgb"), wanted):
                raise SilentDamageError("other pictures")

        attempted(tally, f"input {number} ({path.name}, {change.__name__}, {len(damaged)} of {len(content)})", attempt)
        path.write_bytes(content)
    return tally
