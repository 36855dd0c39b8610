"""Records: one JSON file per cell in OUT/records, found by the key of what identifies it, never changed.

A record holds `identity` (everything that can change a number), `realised` (masks, sample counts), `metrics`, `comm`,
`cost` and `provenance`. Its shape is `record.schema.json`, which ships with the package. Folders of 0.1.0, whose
records lie in OUT itself, are read like any other.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.errors import RecordError
from mlecs_bench.files import publish
from mlecs_bench.records import legacy
from mlecs_bench.records.names import KEY_DIGITS, cell_name, key_digits

if TYPE_CHECKING:
    import jsonschema.protocols

SCHEMA = "mlecs-bench/record/1"
FOLDER = "records"
"""Where in its folder a study keeps its records."""
DIGESTS = "sha256"
"""What provenance calls the digests of a record's other parts."""
REPRODUCIBLE = ("schema", "key", "identity", "realised", "metrics", "comm")
"""The parts of a record that the same cell yields every time; times and machines differ."""

NO_RECORDS = ("failures", "report")
"""Folders beside records, whose JSON files are none."""

Record = dict[str, Any]


def canonical_json(value: Any) -> str:
    """Return JSON in which equal values are equal texts: sorted keys, no spaces, 1.0 as 1.

    Tuples count as lists and NumPy scalars as numbers. Raises RecordError for NaN, infinity, or what is no JSON.
    """
    return json.dumps(_canonical(plain(value)), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def plain(value: Any, where: str = "record") -> Any:
    """Return `value` as JSON values in their given order; raises RecordError naming the place of anything else."""
    if isinstance(value, Mapping):
        return {_name(key, where): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RecordError(f"{where} is {float(value)}; a record holds finite numbers only: lower the learning rate")
        return float(value)
    if callable(getattr(value, "item", None)) and getattr(value, "ndim", None) == 0:
        return plain(value.item(), where)
    raise RecordError(f"{where} is a {type(value).__name__}; a record holds JSON values only")


def _name(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise RecordError(f"{where} has the key {key!r}; keys of a record are texts")
    return key


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def identity_key(identity: Mapping[str, Any]) -> str:
    """Return the sha256 of an identity, in hex."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


def group_key(identity: Mapping[str, Any]) -> str:
    """Return the key of an identity without its seed: records with equal group keys may be averaged."""
    return identity_key({name: value for name, value in identity.items() if name != "seed"})


def record_name(identity: Mapping[str, Any], variant: str = "") -> str:
    """Return a record's file name; `variant` says in a few words what departs from the usual beyond the identity's own.

    See `mlecs_bench.records.names.cell_name`, and `option_words` there for the words of options.
    """
    return cell_name(identity, identity_key(identity), variant)


def record_path(out: Path, identity: Mapping[str, Any], variant: str = "") -> Path:
    """Return where `write_record` puts the record of a cell that has none yet."""
    return out / FOLDER / record_name(identity, variant)


def keyed(folder: Path, identity: Mapping[str, Any], *, lately: bool = False) -> list[Path]:
    """Return the files directly in `folder` that are named after a cell, today or in 0.1.0, whatever else they say.

    `lately`: of thousands, those that were there some moments ago will do.
    """
    files = _files_by_key(folder, lately=lately)
    if not files:
        return []
    keys = dict.fromkeys(identity_key(one)[:KEY_DIGITS] for one in (identity, legacy.former(identity)))
    return [folder / name for key in keys for name in files.get(key, ())]


SETTLED_NS = 2 * 10**9
"""How long ago a folder's last change must lie for its time to tell the next one: clocks of file systems are coarse."""
MOST_LISTED = 8
"""Of how many folders the names are kept."""
MANY, LATELY_NS = 1000, 2 * 10**9
"""From how many keys on a list may be so old for those whom the files of some moments ago will do."""


@dataclass(frozen=True)
class _Listed:
    """The names of the files in a folder by their keys, the folder's time when they were read, and when that was."""

    changed: int
    at: int
    names: Mapping[str, Sequence[str]]

    def holds(self, changed: int, *, lately: bool) -> bool:
        """Are these still the names in the folder, which has changed last at a time?"""
        settled = self.changed == changed and self.at - self.changed > SETTLED_NS
        return settled or (lately and len(self.names) >= MANY and 0 <= time.time_ns() - self.at < LATELY_NS)


_LISTED: dict[Path, _Listed] = {}


def _files_by_key(folder: Path, *, lately: bool) -> Mapping[str, Sequence[str]]:
    """Return the names of the files in a folder that end in a key, sorted, by that key.

    The folder is listed anew when its time says that it has changed, or may have: else every look-up in a sweep of n
    cells would read n names.
    """
    try:
        changed = folder.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return {}
    known = _LISTED.get(folder)
    if known is not None and known.holds(changed, lately=lately):
        return known.names
    listed = time.time_ns()
    found: dict[str, list[str]] = {}
    for name in sorted(name for name in os.listdir(folder) if name.endswith(".json") and name[0] != "."):  # noqa: PTH208  # names alone, of thousands
        _, dashes, key = name.removesuffix(".json").rpartition("--")
        if dashes:
            found.setdefault(key, []).append(name)
    _LISTED.pop(folder, None)
    while len(_LISTED) >= MOST_LISTED:
        del _LISTED[next(iter(_LISTED))]
    _LISTED[folder] = _Listed(changed, listed, found)
    return found


def write_record(out: Path, record: Mapping[str, Any], variant: str = "") -> Path:
    """Check `record` and write it with its digests to `out`/records, under its `record_name`; return its path.

    The file appears whole or not at all and is never overwritten: when the cell already has a record with the same
    numbers, that one stays. Raises RecordError when the record is invalid, or when the one in `out` differs.
    """
    values: Record = plain(record)
    check_record(values, "the new record")
    found = stored_record(out, values["identity"], variant)
    if found is None:
        path = record_path(out, values["identity"], variant)
        path.parent.mkdir(parents=True, exist_ok=True)
        publish(
            path, json.dumps(with_digests(values), separators=(",", ":"), allow_nan=False, ensure_ascii=False) + "\n"
        )
        found = path, read_record(path)
    path, existing = found
    if any(canonical_json(existing[part]) != canonical_json(values[part]) for part in REPRODUCIBLE):
        raise RecordError(
            f"{path} already holds other numbers for this cell, and records are never overwritten; "
            "compare the two runs, then delete it or write to another folder with --out"
        )
    return path


def with_digests(record: Mapping[str, Any]) -> Record:
    """Return a record that says what it is: provenance holds a sha256 of every other part, and of its own rest."""
    origin = {name: value for name, value in record["provenance"].items() if name != DIGESTS}
    return {**record, "provenance": origin | {DIGESTS: _digests(record, origin)}}


def _digests(record: Mapping[str, Any], origin: Mapping[str, Any]) -> dict[str, str]:
    parts = {**record, "provenance": origin}
    return {name: hashlib.sha256(canonical_json(part).encode()).hexdigest() for name, part in parts.items()}


def _check_digests(record: Record, what: str) -> None:
    """Raise RecordError naming the parts of a record that were changed after it was written.

    Records without digests, as earlier versions wrote them, are taken at their word.
    """
    written = record["provenance"].get(DIGESTS)
    if written is None:
        return
    found = _digests(record, {name: value for name, value in record["provenance"].items() if name != DIGESTS})
    if found != written:
        edited = sorted(name for name in found.keys() | written.keys() if found.get(name) != written.get(name))
        raise RecordError(
            f"{what} was edited after it was written: the digests in its provenance do not fit its "
            f"{' and '.join(edited)}; delete it and run its cell again"
        )


def read_record(path: Path) -> Record:
    """Read and check one record, one of 0.1.0 in today's words; raises RecordError naming the file and the reason.

    Its digests are verified and left out.
    """
    record = _opened(path)
    found = legacy.updated(record, identity_key)
    check_record(found, str(path))
    _check_digests(record, str(path))
    found["provenance"].pop(DIGESTS, None)
    return dict(found)


def _opened(path: Path) -> Any:
    """Return the JSON values in a file; raises RecordError naming the file and the reason."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise RecordError(f"{path} cannot be read: {reason}") from error
    try:
        return _parsed(text)
    except RecordError as error:
        raise RecordError(f"{path} {error}; delete it and run its cell again") from error


def _parsed(text: str) -> Any:
    """Return the JSON values of a record; raises RecordError saying what is wrong with the text."""
    try:
        record = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        raise RecordError("is cut off" if cut else f"is not JSON ({error.msg}, line {error.lineno})") from error
    except ValueError as error:  # Python reads no integer of thousands of digits
        raise RecordError("holds a number that is too long") from error
    except RecursionError as error:
        raise RecordError("is nested too deeply") from error
    if "\\u" in text:
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise RecordError("holds half a character (a lone surrogate)") from error
    return record


def _refuse_constant(name: str) -> Any:
    raise RecordError(f"holds {name}, which is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_constant(text[:40])


def check_record(record: Any, what: str) -> None:
    """Raise RecordError, in one line starting with `what`, unless `record` is a valid record of this version."""
    found = record.get("schema") if isinstance(record, dict) else None
    if found != SCHEMA:
        of = f"has schema {str(found)[:60]!r}" if found else "is no record"
        raise RecordError(f"{what} {of}; this version reads {SCHEMA}")
    error = next(iter(_validator().iter_errors(record)), None)
    if error is not None:
        reason = " ".join(str(error.message).split())
        raise RecordError(f"{what} is invalid at {error.json_path}: {reason[:160]}")
    if record["key"] != identity_key(record["identity"]):
        raise RecordError(f"{what} has a key that does not fit its identity: it was edited; run its cell again")
    _check_devices(record, what)


def _check_devices(record: Record, what: str) -> None:
    """Refuse a score that lacks a device: its average would be over fewer than the table says."""
    expected = record["identity"]["n_devices"]
    references = {name: scores["client"] for name, scores in record["metrics"].get("references", {}).items()}
    without = {f"without {name}": scores["client"] for name, scores in record["metrics"].get("without", {}).items()}
    for where, by_metric in [*record["metrics"]["client"].items(), *references.items(), *without.items()]:
        for metric in record["identity"]["scorers"]:
            devices = by_metric.get(metric)
            if devices is not None and len(devices) != expected:
                raise RecordError(f"{what} has {metric} of {len(devices)} devices ({where}), expected {expected}")


@lru_cache(maxsize=1)
def _validator() -> jsonschema.protocols.Validator:
    import jsonschema

    text = importlib.resources.files("mlecs_bench.records").joinpath("record.schema.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    return jsonschema.Draft202012Validator(_inlined(schema, schema["$defs"]))


def _inlined(node: Any, shared: Mapping[str, Any]) -> Any:
    """Return a schema with its definitions where they are referred to, which halves the time that a check takes."""
    if isinstance(node, list):
        return [_inlined(one, shared) for one in node]
    if not isinstance(node, dict):
        return node
    here = {name: _inlined(value, shared) for name, value in node.items() if name not in ("$ref", "$defs")}
    if "$ref" not in node:
        return here
    there = _inlined(shared[node["$ref"].removeprefix("#/$defs/")], shared)
    return here | there if not here.keys() & there.keys() - {"description", "title"} else {**here, "allOf": [there]}


@dataclass(frozen=True)
class RecordFolder:
    """The valid records of a folder, the file of each by its key, and one line for each file that is none."""

    records: list[Record]
    paths: dict[str, Path]
    problems: list[str]


def record_files(out: Path) -> list[Path]:
    """Return the files that are expected to be records: all ``*.json`` of `out`/records, and of `out` itself."""
    return [path for folder in (out / FOLDER, out) for path in sorted(folder.glob("[!.]*.json"))]


def read_records(out: Path) -> tuple[list[Record], list[str]]:
    """Return the valid records of a folder, by file name, and one line for each file that is none."""
    found = read_folder(out)
    return found.records, found.problems


def damaged_files(out: Path) -> list[str]:
    """Return one line for each file of a folder that is no whole record.

    Quicker than `read_folder`: a record whose digests fit was checked when it was written.
    """
    problems = []
    for path in record_files(out):
        try:
            if not _is_as_written(_opened(path)):
                read_record(path)
        except RecordError as error:
            problems.append(str(error))
    return problems


def _is_as_written(record: Any) -> bool:
    """Say whether values hold the digests of all their parts."""
    try:
        origin = dict(record["provenance"])
        return bool(record["schema"] == SCHEMA and origin.pop(DIGESTS) == _digests(record, origin))
    except (TypeError, KeyError, ValueError, RecordError):
        return False


def read_folder(out: Path) -> RecordFolder:
    """Read the records of a folder. A copy of a record under a second name is a problem too."""
    return _read_files(record_files(out))


def read_below(root: Path) -> tuple[RecordFolder, list[Path]]:
    """Read the records of a folder and of all below it; return them and the folders that hold some.

    Below `root` a file counts if it is named as a record is. A cell that has records in two folders is a problem too.
    """
    below = {path.parent for path in sorted(root.rglob("[!.]*--*.json")) if key_digits(path.name)}
    homes = {path.parent if path.name == FOLDER else path for path in below if path.name not in NO_RECORDS}
    folders = sorted({root, *homes})
    files = dict.fromkeys(path for folder in folders for path in record_files(folder))
    return _read_files(list(files)), folders


def _read_files(files: Sequence[Path]) -> RecordFolder:
    found: dict[Path, Record] = {}
    problems: list[str] = []
    for path in files:
        try:
            found[path] = read_record(path)
        except RecordError as error:
            problems.append(str(error))
    chosen: dict[str, Path] = {}
    for path, record in found.items():
        first = chosen.setdefault(record["key"], path)
        if first == path:
            continue
        if _is_named_after(path, record) and not _is_named_after(first, record):
            chosen[record["key"]] = path  # a copy under another name may have been edited
        copy = first if chosen[record["key"]] == path else path
        problems.append(f"{copy} repeats the cell of {chosen[record['key']].name}; delete one of them")
    records = [record for path, record in found.items() if chosen[record["key"]] == path]
    return RecordFolder(records, chosen, problems)


def _is_named_after(path: Path, record: Record) -> bool:
    return key_digits(path.name) != "" and path in keyed(path.parent, record["identity"])


def find_record(out: Path, identity: Mapping[str, Any]) -> Path | None:
    """Return the path of the cell's record in `out`, or None; raises RecordError when the file there is damaged."""
    found = stored_record(out, identity)
    return found[0] if found is not None else None


def stored_record(out: Path, identity: Mapping[str, Any], variant: str | None = None) -> tuple[Path, Record] | None:
    """Return path and content of the cell's record in `out`, or None; raises RecordError as `find_record`.

    Who knows the `variant` of its name need not read all names: a record of another name is then found some moments
    after it has appeared among thousands.
    """
    for path in _candidates(out, identity, variant):
        record = read_record(path)
        if record["key"] != identity_key(identity):
            raise RecordError(
                f"{path} belongs to another cell whose key starts alike; write to another folder with --out"
            )
        return path, record
    return None


def _candidates(out: Path, identity: Mapping[str, Any], variant: str | None) -> Iterator[Path]:
    """Yield the files that may be the record of a cell, the usual name of a known variant first."""
    usual = None if variant is None else record_path(out, identity, variant)
    if usual is not None and usual.exists():
        yield usual
    for folder in (out / FOLDER, out):
        for path in keyed(folder, identity, lately=usual is not None):
            if usual is None or path.exists():  # it may have been deleted lately
                yield path
