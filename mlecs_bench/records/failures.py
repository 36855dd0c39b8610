"""Failures: one JSON file per cell that ended with an error, beside the records and never among them.

A failure is kept so that a sweep does not run into it again unasked, and so that a table can say why a seed is missing.
It goes when the cell gets its record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlecs_bench.errors import RecordError
from mlecs_bench.files import parsed_json, write_text
from mlecs_bench.records.provenance import now
from mlecs_bench.records.results import identity_key, keyed, record_name

SCHEMA = "mlecs-bench/failure/1"
FOLDER = "failures"


@dataclass(frozen=True)
class Failure:
    """How a cell failed: what it was, the error (one line, or the traceback of a defect), how often, and when last."""

    identity: Mapping[str, Any]
    error: str
    attempts: int
    ended: str

    @property
    def reason(self) -> str:
        """The error in one line; of a traceback the last line, which names the error."""
        return reason_of(self.error)


def reason_of(error: str) -> str:
    """Return an error in one line; of a traceback the last line, which names the error."""
    lines = error.strip().splitlines()
    return lines[-1] if lines else "unknown error"


def failure_path(out: Path, identity: Mapping[str, Any], variant: str = "") -> Path:
    """Return where the failure of a cell is kept: in a file with its key, else under the name its record would have."""
    there = keyed(out / FOLDER, identity)
    return there[0] if there else out / FOLDER / record_name(identity, variant)


def find_failure(out: Path, identity: Mapping[str, Any]) -> Failure | None:
    """Return how the cell failed last, or None; raises RecordError when the file there is damaged."""
    path = failure_path(out, identity)
    return read_failure(path) if path.exists() else None


def write_failure(out: Path, identity: Mapping[str, Any], error: str, variant: str = "") -> Path:
    """Write that a cell failed, replacing what it said of an earlier attempt; return the file's path."""
    path = failure_path(out, identity, variant)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        before = find_failure(out, identity)
    except RecordError:
        before = None  # a damaged file says nothing worth keeping
    values = {
        "schema": SCHEMA,
        "key": identity_key(identity),
        "identity": dict(identity),
        "error": error,
        "attempts": (before.attempts if before else 0) + 1,
        "ended": now(),
    }
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    return path


def remove_failure(out: Path, identity: Mapping[str, Any]) -> None:
    """Forget that a cell failed, and the folder when no other failure is left."""
    path = failure_path(out, identity)
    path.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


def read_failure(path: Path) -> Failure:
    """Read one failure; raises RecordError naming the file when it is none."""
    try:
        values = parsed_json(path.read_text(encoding="utf-8"))
        if values["schema"] != SCHEMA:
            raise RecordError(f"{path} has schema {str(values['schema'])[:60]!r}; this version reads {SCHEMA}")
        if values["key"] != identity_key(values["identity"]):
            raise RecordError(f"{path} has a key that does not fit its identity: it was edited; delete it")
        return Failure(dict(values["identity"]), str(values["error"]), int(values["attempts"]), str(values["ended"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise RecordError(f"{path} is no failure that this version wrote ({reason}); delete it") from error


def read_failures(out: Path) -> tuple[list[Failure], list[str]]:
    """Return the failures kept in the folder of records `out`, by file name, and one line for each damaged file."""
    failures, problems = [], []
    for path in sorted((out / FOLDER).glob("[!.]*.json")):
        try:
            failures.append(read_failure(path))
        except RecordError as error:
            problems.append(str(error))
    return failures, problems
