"""Generated damage to annotations and tables: files of vast and MSR-VTT, and tables of a user's own with a manifest."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from campaigns import file_damage
from campaigns.file_damage import SilentDamageError, Tally, attempted, one_of
from jsonl_files import samples_in
from vast_files import open_samples, record

VIDEOS = {
    "info": {"year": "2016"},
    "videos": [{"video_id": f"video{i}", "category": i, "url": None} for i in range(3)],
    "sentences": [{"sen_id": i, "video_id": f"video{i % 3}", "caption": f"a man does {i}"} for i in range(6)],
}
MANIFEST = {
    "samples": "rows.jsonl",
    "id": "key",
    "target": "says",
    "modalities": {
        "words": {"text": "title", "words": 4},
        "motion": {"array": "numbers"},
        "picture": {"image": "file", "size": 4},
    },
}
ROWS = [
    {"key": "a", "says": ["one", "uno"], "title": "Ein Satz", "numbers": [1.0, 2.5], "file": "a.jpg"},
    {"key": "b", "says": ["two"], "title": None, "numbers": [0.0, -1.0], "file": None},
    {"key": "c", "says": ["three"], "title": "words", "numbers": None, "file": "a.jpg"},
]


def _packed(generator: np.random.Generator, content: bytes, name: str) -> tuple[str, bytes, bool]:
    """Compress a file at times, and damage its bytes at times; return name, content, and whether it must be refused.

    What is cut inside of its text, and what no longer has its checksum, is damage that can be seen.
    """
    packs = generator.random() < 0.2
    whole = gzip.compress(content, mtime=0) if packs else content
    name += ".gz" * packs
    if generator.random() < 0.5:
        return name, whole, False
    change = one_of(generator, file_damage.OF_BYTES)
    damaged = change(generator, whole)
    return name, damaged, packs and _gunzipped(damaged) is None


def _gunzipped(content: bytes) -> bytes | None:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return None


def _as_python_reads(name: str, content: bytes) -> list[Any] | None:
    """Return the records of a file as Python's own modules see them, None where they see none."""
    try:
        text = _text(name, content)
        if name.startswith("lines") or ".jsonl" in name:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        value = json.loads(text)
        return value if isinstance(value, list) else None
    except (ValueError, OSError, EOFError, RecursionError):
        return None


def _text(name: str, content: bytes) -> str:
    return (gzip.decompress(content) if name.endswith(".gz") else content).decode("utf-8-sig")


def _has_a_key_twice(name: str, content: bytes) -> bool:
    """Has an object of a file a key twice, of which Python's reader would lose a value?"""
    found: list[bool] = []
    reader = json.JSONDecoder(
        object_pairs_hook=lambda pairs: found.append(len(dict(pairs)) < len(pairs)) or dict(pairs)
    )
    try:
        text = _text(name, content)
        for part in text.splitlines() if ".jsonl" in name else [text]:
            if part.strip():
                reader.decode(part)
    except (ValueError, OSError, EOFError, RecursionError):
        return False
    return any(found)


def vast_annotations(count: int, seed: int, folder: Path) -> Tally:
    """Damage annotation files in the form of VAST, as a list and as lines."""
    tally, generator = Tally("vast annotations"), np.random.default_rng([seed, 1])
    records = [record(name, vast_cap=f"the target of {name}") for name in ("a.1", "b.1", "video2.mp4")]
    for number in range(count):
        values = file_damage.odd_json(generator, records) if generator.random() < 0.7 else records
        listed = generator.random() < 0.6 or not isinstance(values, list)
        text = (
            file_damage.as_json(generator, values)
            if listed
            else "\n".join(file_damage.as_json(generator, value) for value in values)
        )
        name = "notes.json" if listed else "notes.jsonl"
        name, content, must = _packed(generator, file_damage.to_bytes(text), name)
        _attempt_vast(tally, f"input {number}", folder / "vast", name, content, must)
    return tally


def msrvtt_annotations(count: int, seed: int, folder: Path) -> Tally:
    """Damage MSR-VTT's own annotation file."""
    tally, generator = Tally("MSR-VTT annotations"), np.random.default_rng([seed, 2])
    for number in range(count):
        values = file_damage.odd_json(generator, VIDEOS) if generator.random() < 0.7 else VIDEOS
        name, content, must = _packed(
            generator, file_damage.to_bytes(file_damage.as_json(generator, values)), "msrvtt.json"
        )
        _attempt_vast(tally, f"input {number}", folder / "msrvtt", name, content, must, fresh=True)
    return tally


def _attempt_vast(
    tally: Tally, label: str, folder: Path, name: str, content: bytes, must: bool, *, fresh: bool = False
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    if fresh:  # MSR-VTT has no captions of pictures: a file of media is what its clips show
        for i in range(3):
            (folder / f"video{i}.jpg").write_bytes(PICTURE)

    def attempt() -> None:
        found = open_samples(folder, folder.parent / f"cache-{folder.name}")
        if must:
            raise SilentDamageError(f"a damaged file: {content[:80]!r}")
        if _has_a_key_twice(name, content):
            raise SilentDamageError(f"a key twice: {content[:80]!r}")
        records = _as_python_reads(name, content)
        if records is not None and not fresh and len(found.ids) != len(records):
            raise SilentDamageError(f"records lost: {len(records)} became {len(found.ids)}")
        if any(not target.strip() for target in found.targets) or any(not id_.strip() for id_ in found.ids):
            raise SilentDamageError(f"nothing as an id or a target: {found.ids} {found.targets}")
        if len(set(found.ids)) != len(found.ids):
            raise SilentDamageError(f"ids twice: {found.ids}")

    attempted(tally, f"{label} ({name}, {content[:300]!r})", attempt)


def _picture() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "JPEG")
    return buffer.getvalue()


PICTURE = _picture()


# Tables


def _jsonl(generator: np.random.Generator) -> bytes:
    rows = file_damage.odd_json(generator, ROWS) if generator.random() < 0.8 else ROWS
    rows = rows if isinstance(rows, list) else [rows]
    return file_damage.to_bytes("\n".join(file_damage.as_json(generator, row) for row in rows))


def _json(generator: np.random.Generator) -> bytes:
    rows = file_damage.odd_json(generator, ROWS) if generator.random() < 0.8 else ROWS
    return file_damage.to_bytes(file_damage.as_json(generator, rows))


def _csv(generator: np.random.Generator) -> bytes:
    cells = [
        ["key", "says", "title", "numbers"],
        ["a", "one", "Ein Satz", "1"],
        ["b", "two", "", "2.5"],
        ["c", "x", "y", ""],
    ]
    for _ in range(int(generator.integers(0, 3))):
        row = one_of(generator, cells)
        row[int(generator.integers(len(row)))] = one_of(generator, [str(v) for v in ODD_CELLS])
        if generator.random() < 0.2:
            row.append("more")
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator=one_of(generator, ["\n", "\r\n"])).writerows(cells)
    return file_damage.to_bytes(buffer.getvalue())


ODD_CELLS = (
    "",
    "nan",
    "1e999",
    "9" * 6000,
    "\ud800",
    '"',
    "a\nb",
    "x" * 140_000,
    "inf",
    "1;2",
    "\0",
    "../x",
    "0x1",
    "=1+1",
)


def _parquet(generator: np.random.Generator) -> bytes:
    table = pa.Table.from_pylist(ROWS)
    odd: tuple[Callable[[], pa.Array], ...] = (
        lambda: pa.array([b"\xff", None, b"x"], pa.binary()),
        lambda: pa.array([1, 2, 3]),
        lambda: pa.array([[1], [1, 2], None]),
        lambda: pa.array([{"bytes": b"x", "path": None}] * 3),
        lambda: pa.array(["\ud800".encode("utf-8", "surrogatepass")] * 3, pa.binary()).cast(pa.large_binary()),
        lambda: pa.array([float("nan"), float("inf"), 1.0]),
        lambda: pa.array([None] * 3),
        lambda: pa.array([2**62, 1, 0], pa.timestamp("us")),
        lambda: pa.array([[{"a": 1}]] * 3),
        lambda: pa.array(["a", "a", "b"]).dictionary_encode(),
        lambda: pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((3, 1, 2), np.float32)),
    )
    for _ in range(int(generator.integers(0, 2))):
        k = int(generator.integers(table.num_columns))
        table = table.set_column(k, table.schema.names[k], one_of(generator, odd)())
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True, compression=one_of(generator, ["none", "snappy", "zstd"]))
    return buffer.getvalue()


TABLES = {"rows.jsonl": _jsonl, "rows.json": _json, "rows.csv": _csv, "rows.parquet": _parquet}


def own_tables(count: int, seed: int, folder: Path) -> Tally:
    """Damage tables of a user's own in four formats, and the manifests beside them."""
    tally, generator = Tally("own tables and manifests"), np.random.default_rng([seed, 3])
    for number in range(count):
        own = folder / "own"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        name, write = one_of(generator, list(TABLES.items()))
        content, must = write(generator), False
        if not name.endswith(".parquet"):
            name, content, must = _packed(generator, content, name)
        elif generator.random() < 0.6:
            content = one_of(generator, file_damage.OF_BYTES)(generator, content)
        (own / name).write_bytes(content)
        (own / "a.jpg").write_bytes(PICTURE)
        manifest: Any = {**MANIFEST, "samples": name}
        if ".csv" in name:
            manifest["modalities"] = {"words": {"text": "title"}, "motion": {"array": "numbers"}}
        text = yaml.safe_dump(manifest)
        if generator.random() < 0.25:
            text = _odd_manifest(generator, manifest)
        (own / "dataset.yaml").write_bytes(file_damage.to_bytes(text))
        label = f"input {number} ({name}, {content[:300]!r}, {text[:200]!r})"
        attempted(tally, label, partial(_attempt_table, own, name, must))
    return tally


def _attempt_table(own: Path, name: str, must: bool) -> None:
    content = (own / name).read_bytes()
    found = samples_in(own, own.parent / "cache-own")
    if must:
        raise SilentDamageError(f"a damaged file: {content[:80]!r}")
    if ".json" in name and _has_a_key_twice(name, content):
        raise SilentDamageError(f"a key twice: {content[:80]!r}")
    expected = _rows_in(name, content)
    if expected is not None and len(found.ids) != expected:
        raise SilentDamageError(f"rows lost: {expected} became {len(found.ids)}")
    if any(not text.strip() for text in (*found.ids, *found.targets)):
        raise SilentDamageError(f"nothing as an id or a target: {found.ids} {found.targets}")
    if any(not np.isfinite(found.array(m.name)).all() for m in found.manifest.modalities):
        raise SilentDamageError("numbers that are not finite")


def _odd_manifest(generator: np.random.Generator, manifest: Any) -> str:
    values = file_damage.odd_json(generator, manifest)
    text = file_damage.as_json(generator, values) if generator.random() < 0.5 else ""
    text = text or file_damage.to_bytes(str(yaml.safe_dump(manifest))).decode("utf-8", "replace")
    kind = int(generator.integers(5))
    if kind == 0:
        return text[: int(generator.integers(1, len(text)))]
    if kind == 1:
        laughs = "".join(f"b{i + 1}: &b{i + 1} [{', '.join([f'*b{i}'] * 9)}]\n" for i in range(12))
        return f"b0: &b0 [x]\n{laughs}" + text.replace("id: key", "id: *b12")
    if kind == 3:
        return text + text.splitlines(keepends=True)[0] + one_of(generator, ["", "id: 2001-99-99\n", "? [a]\n: b\n"])
    if kind == 2:
        return text + "\n!!python/object/apply:os.system ['true']\n"
    return text


def _rows_in(name: str, content: bytes) -> int | None:
    """Return how many rows Python's own modules and pandas see in a table, None where they see none."""
    try:
        if name.endswith(".parquet"):
            return len(pd.read_parquet(io.BytesIO(content)))
        text = _text(name, content)
        if ".csv" in name:
            rows = [row for row in csv.reader(io.StringIO(text, newline="")) if any(cell.strip() for cell in row)]
            return len(rows) - 1
        if ".jsonl" in name:
            return len([json.loads(line) for line in io.StringIO(text, newline="") if line.strip()])
        value = json.loads(text)
        return len(value) if isinstance(value, list) else None
    except (ValueError, OSError, EOFError, zlib.error, csv.Error, RecursionError, pa.ArrowException):
        return None
