"""Records: one JSON file per cell, named by a hash of what identifies it, written once and never changed.

A record holds `identity` (everything that can change a number), `realised` (masks, sample counts), `metrics`, `comm`,
`cost` and `provenance`. Its shape is `record.schema.json`, which ships with the package.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.errors import RecordError
from mlecs_bench.files import publish

if TYPE_CHECKING:
    import jsonschema.protocols

SCHEMA = "mlecs-bench/record/1"
KEY_DIGITS = 8
"""How many digits of the key a file's name carries."""
REPRODUCIBLE = ("schema", "key", "identity", "realised", "metrics", "comm")
"""The parts of a record that the same cell yields every time; times and machines differ."""

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


def rho_label(rho: Mapping[str, float]) -> str:
    """Return the rates of an identity in a few characters: one rate if all are equal."""
    if len(set(rho.values())) == 1:
        return f"{next(iter(rho.values())):g}"
    return ",".join(f"{name}={rho[name]:g}" for name in sorted(rho))


def record_name(identity: Mapping[str, Any]) -> str:
    """Return a record's file name, such as ``ml-ecs--vast--rho0.5--n3--mini--seed27--1a2b3c4d.json``."""
    parts = (
        identity["algo"]["name"].replace("/", "+"),
        identity["dataset"]["name"],
        "rho" + rho_label(identity["rho"]),
        f"n{identity['n_devices']}",
        identity["profile"]["name"],
        f"seed{identity['seed']}",
        identity_key(identity)[:KEY_DIGITS],
    )
    # Long or strange names are cut: the key tells them apart.
    safe = [re.sub(r"[^A-Za-z0-9.,=+_-]", "_", part)[:40] for part in parts]
    return "--".join(safe).lstrip(".") + ".json"


def write_record(out: Path, record: Mapping[str, Any]) -> Path:
    """Check `record` and write it to the folder `out`; return its path.

    The file appears whole or not at all and is never overwritten: when the cell already has a record with the same
    numbers, that one stays. Raises RecordError when the record is invalid, or when the one in `out` differs.
    """
    values: Record = plain(record)
    check_record(values, "the new record")
    path = out / record_name(values["identity"])
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        publish(path, json.dumps(values, separators=(",", ":"), allow_nan=False, ensure_ascii=False) + "\n")
    existing = read_record(path)
    if any(canonical_json(existing[part]) != canonical_json(values[part]) for part in REPRODUCIBLE):
        raise RecordError(
            f"{path} already holds other numbers for this cell, and records are never overwritten; "
            "compare the two runs, then delete it or write to another folder with --out"
        )
    return path


def read_record(path: Path) -> Record:
    """Read and check one record; raises RecordError with one line naming the file and the reason."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise RecordError(f"{path} cannot be read: {reason}") from error
    try:
        record = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        reason = "is cut off" if cut else f"is not JSON ({error.msg}, line {error.lineno})"
        raise RecordError(f"{path} {reason}; delete it and run its cell again") from error
    except RecordError as error:
        raise RecordError(f"{path} holds {error}; delete it and run its cell again") from error
    check_record(record, str(path))
    return dict(record)


def _refuse_constant(name: str) -> Any:
    raise RecordError(f"{name}, which is no JSON number")


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
    for moment, by_metric in [*record["metrics"]["client"].items(), *references.items()]:
        for metric in record["identity"]["scorers"]:
            devices = by_metric.get(metric)
            if devices is not None and len(devices) != expected:
                raise RecordError(f"{what} has {metric} of {len(devices)} devices ({moment}), expected {expected}")


@lru_cache(maxsize=1)
def _validator() -> jsonschema.protocols.Validator:
    import jsonschema

    text = importlib.resources.files("mlecs_bench.records").joinpath("record.schema.json").read_text(encoding="utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))


def read_records(folder: Path) -> tuple[list[Record], list[str]]:
    """Return the valid records directly in `folder`, by file name, and one line for each file that is none.

    Every file ``*.json`` is expected to be a record. A copy of a record under a second name is a problem too.
    """
    found: dict[Path, Record] = {}
    problems: list[str] = []
    for path in sorted(folder.glob("[!.]*.json")):
        try:
            found[path] = read_record(path)
        except RecordError as error:
            problems.append(str(error))
    chosen: dict[str, Path] = {}
    for path, record in found.items():
        first = chosen.setdefault(record["key"], path)
        if path.name == record_name(record["identity"]):
            chosen[record["key"]] = path  # a copy under another name may have been edited
        if first != path:
            copy = first if chosen[record["key"]] == path else path
            problems.append(f"{copy} repeats the cell of {chosen[record['key']].name}; delete one of them")
    return [record for path, record in found.items() if chosen[record["key"]] == path], problems


def find_record(out: Path, identity: Mapping[str, Any]) -> Path | None:
    """Return the path of the cell's record in `out`, or None; raises RecordError when the file there is damaged."""
    path = out / record_name(identity)
    if not path.exists():
        return None
    if read_record(path)["key"] != identity_key(identity):
        raise RecordError(f"{path} belongs to another cell whose key starts alike; write to another folder with --out")
    return path
