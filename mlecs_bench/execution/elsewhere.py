"""Cells on machines that need share no files with this one: what goes there, what is done there, what comes home.

A parcel is JSON: the plan, the seed, and how events name the cell. The prepared data go as an archive, once per
machine, which keeps them. There a cell runs in a folder of its own, whose files come home as an archive. Where the
folder of the records, or that of the data, is the same on both sides, nothing is copied, and a cell that was lost goes
on from its last round.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import secrets
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.data.cache import default_cache_dir
from mlecs_bench.data.samples import MANIFEST_FILE
from mlecs_bench.doors.events import CellRef, Event
from mlecs_bench.doors.registry import KINDS, Registry
from mlecs_bench.errors import MlecsError, PluginError
from mlecs_bench.execution.archives import parts_of, unpack
from mlecs_bench.execution.cell import run_job
from mlecs_bench.execution.event_lines import event_line, event_of
from mlecs_bench.execution.jobs import CellResult, Execution, Job
from mlecs_bench.execution.protocol import jobs_of
from mlecs_bench.federation.fleet import open_samples
from mlecs_bench.federation.host import own_versions
from mlecs_bench.federation.lease import CellInUse, held
from mlecs_bench.models.hub import go_offline, is_offline
from mlecs_bench.plan.plan import plan_from_json
from mlecs_bench.records.names import option_words
from mlecs_bench.records.results import find_record, read_record, record_files, write_record

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE = "package:"
"""What a path in an installed package begins with on the way, since packages lie elsewhere on other machines."""
KEPT_SECONDS = 7 * 86400.0
"""How long what a machine had begun for a sweep, and nobody asked for again, is kept there."""
WAIT_SECONDS = 0.2

Parts = Iterable[bytes]
Word = str | bytes
"""What comes home while a cell runs: a line of an event, or a part of the archive of its files."""


def home() -> Path:
    """Return where a machine keeps data and unfinished cells of sweeps that other machines have asked for."""
    return default_cache_dir() / "elsewhere"


@dataclass
class Sender:
    """The side that asks: makes parcels of jobs, and records of what comes home.

    `shared` is a file that machines find which share the folder of the records.
    """

    out: Path
    shared: Path = field(init=False)

    def __post_init__(self) -> None:
        self.shared = self.out / f".shared-{secrets.token_hex(8)}"
        self.out.mkdir(parents=True, exist_ok=True)
        self.shared.touch()

    def parcel(self, job: Job) -> str:
        """Return what a machine needs to run a job, but for the data."""
        execution = job.execution
        carried = ("fleet", "save_predictions", "save_models")
        return json.dumps({
            "plan": _packed(job.plan.to_values()),
            "seed": job.seed,
            "ref": dataclasses.asdict(job.ref),
            "lost": list(job.lost),
            "execution": {name: getattr(execution, name) for name in carried},
            "shared": str(self.shared.resolve()),
            "data": [str(job.data.resolve()), manifest_digest(job.data)],
            "versions": own_versions(),
            "offline": is_offline(),
        })  # fmt: skip  # what a machine needs, a line each

    def data(self, job: Job) -> Parts:
        """Return the prepared data of a job as an archive, part by part."""
        return parts_of(job.data)

    def close(self) -> None:
        """Take away what machines look for; the files of records stay."""
        self.shared.unlink(missing_ok=True)


class Arrivals:
    """What has come home of one job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._parts: list[bytes] = []

    def event(self, word: Word) -> Event | None:
        """Take one word; return the event that it tells of, if it is one. The files of a cell are there at its end.

        Raises MlecsError for files that cannot be written, or a record that is none.
        """
        if isinstance(word, bytes):
            self._parts.append(word)
            return None
        event = event_of(word)
        if event.kind != "cell_end" or not self._parts:
            return event
        path = bring_home(self._parts, self._job)
        return CellResult(self._job.seed, path, read_record(path)).event(self._job.ref)


def manifest_digest(folder: Path) -> str:
    """Return what tells prepared data from other ones: the sha256 of its manifest, which holds a digest of the data."""
    return hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()


def bring_home(parts: Parts, job: Job) -> Path:
    """Write the files of a cell that ran elsewhere into the folder of the records; return the path of its record.

    A record that is there already stays, and so do its answers and models; RecordError where its numbers differ.
    """
    out = job.execution.out
    folder = out / f".arrived-{secrets.token_hex(8)}"
    try:
        unpack(parts, folder)
        (found,) = record_files(folder)
        record = read_record(found)
        if find_record(out, job.identity) is None:
            for path in sorted(folder.rglob("*")):
                _move(path, out / path.relative_to(folder), but=found)
        return write_record(out, record, option_words(job.plan.departures))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(path: Path, target: Path, but: Path) -> None:
    """Move one file of a folder, but the record, to its place in another one, in one step."""
    if path.is_file() and path != but:
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)


# ------------------------------------------------------------------------------------------------------------ elsewhere


def run_parcel(parcel: str, data: Callable[[], Parts], say: Callable[[Word], None]) -> None:
    """Run the job of a parcel on this machine, and say what happens; every error becomes part of the cell's end.

    `data()` fetches the archive of the prepared data; it is called where they are not here yet.
    """
    values = json.loads(parcel)
    ref = CellRef(**values["ref"])

    def tell(event: Event) -> None:
        say(event_line(event))

    try:
        _check_versions(values["versions"])
        if values["offline"]:
            go_offline()
        with _workplace(values) as (out, shared):
            there, digest = values["data"]
            job = _job(values, ref, out, data_folder(there, digest, data))
            ends: list[Event] = []
            run_job(job, lambda event: ends.append(event) if event.kind == "cell_end" else tell(event))
            end = ends[0]
            if not shared and end.values["record"] is not None:
                for part in parts_of(out):
                    say(part)
                end = dataclasses.replace(end, values={**end.values, "path": None})  # it gets one at home
            tell(end)
    except (MlecsError, OSError) as error:
        tell(CellResult(ref.seed, error=f"on the machine that it was sent to: {error}").event(ref))
    except Exception:  # noqa: BLE001  # a defect in one cell must not take the others down; the traceback is kept
        tell(CellResult(ref.seed, error=traceback.format_exc()).event(ref))


def _check_versions(wanted: Mapping[str, str]) -> None:
    here = own_versions()
    other = next((name for name, version in wanted.items() if here.get(name) != version), None)
    if other is not None:
        raise PluginError(f"{other} is {here.get(other)} there and {wanted[other]} here; install the same")


def _job(values: Mapping[str, Any], ref: CellRef, out: Path, data: Path) -> Job:
    """Return the job of a parcel; raises MlecsError where it would be another cell than the one that was sent."""
    registry = Registry.installed()
    plan = plan_from_json(json.dumps(_unpacked(values["plan"])), registry)
    plan = dataclasses.replace(plan, seeds=(values["seed"],))
    execution = Execution(out, default_cache_dir(), **values["execution"])
    (job,) = jobs_of(plan, data, open_samples(data), registry, execution)
    if job.key != ref.key:
        raise MlecsError("data, models or scorers differ there, so the cell would be another one; install the same")
    return dataclasses.replace(job, ref=ref, lost=tuple(values["lost"]))


@contextmanager
def _workplace(values: Mapping[str, Any]) -> Iterator[tuple[Path, bool]]:
    """Give the folder in which a cell runs, and whether it is that of the records, which both sides share.

    One that is not shared goes when the cell has its record; else it stays for the next attempt.
    """
    shared = Path(values["shared"])
    if shared.is_file():
        yield shared.parent, True
        return
    cells = home() / "cells"
    _forget_old(cells)
    out = cells / values["ref"]["key"][:16]
    out.mkdir(parents=True, exist_ok=True)
    os.utime(out)
    yield out, False
    if record_files(out):
        shutil.rmtree(out, ignore_errors=True)


def _forget_old(folder: Path) -> None:
    """Delete what nobody has asked for in a week."""
    for path in folder.glob("*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def data_folder(there: str, digest: str, fetch: Callable[[], Parts]) -> Path:
    """Return a folder with the prepared data: the sender's where it is shared, else the one that is kept here.

    Of several processes of this machine one fetches it.
    """
    same = Path(there)
    with suppress(OSError):
        if manifest_digest(same) == digest:
            return same
    kept = home() / "data" / f"{same.name}-{digest[:16]}"
    while not (kept / MANIFEST_FILE).is_file():
        with suppress(CellInUse), held(kept.with_suffix(".lock")):
            if not (kept / MANIFEST_FILE).is_file():
                unpack(fetch(), kept)
        time.sleep(0 if (kept / MANIFEST_FILE).is_file() else WAIT_SECONDS)
    return kept


def _packed(value: Any) -> Any:
    """Return JSON values in which paths into installed packages are told by their package."""
    if isinstance(value, str):
        for name, folder in _packages().items():
            if value == folder or value.startswith(folder + os.sep):
                return f"{PACKAGE}{name}{value[len(folder) :]}"
        return value
    return _mapped(_packed, value)


def _unpacked(value: Any) -> Any:
    """Return what `_packed` made with the paths of this machine; raises PluginError for a package that it lacks."""
    if isinstance(value, str) and value.startswith(PACKAGE):
        name, slash, rest = value.removeprefix(PACKAGE).partition("/")
        if name not in _packages():
            raise PluginError(f"the package '{name}' is not installed there; install the same")
        return f"{_packages()[name]}{slash}{rest}"
    return _mapped(_unpacked, value)


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {name: change(item) for name, item in value.items()}
    return [change(item) for item in value] if isinstance(value, list) else value


@cache
def _packages() -> dict[str, str]:
    """Return the folders of the packages that plugins come from, by name."""
    registry = Registry.installed()
    targets = [entry.target for kind in KINDS for entry in registry.entries(kind)]
    found = {}
    for name in sorted({target.partition(":")[0].partition(".")[0] for target in targets}):
        with suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.submodule_search_locations:
                found[name] = next(iter(spec.submodule_search_locations))
    return found
