"""Runs sections of measurements, each in a process of its own with a time limit, and keeps all that they report.

The file is written anew after every value, in one step: whatever ends a section or this process, what was measured
before is there.
"""

from __future__ import annotations

import importlib
import json
import math
import multiprocessing
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from mlecs_bench.federation.processes import how_it_ended, interrupts_wait, start_process
from mlecs_bench.files import write_text
from mlecs_bench.records.provenance import installed_version, now, provenance

SCHEMA = 1
LEAST_SECONDS = 10.0
"""A section is not begun with less time: its process imports for most of that."""
STOP_SECONDS = 3.0
"""How long a section may take to leave before it is killed."""
ALSO = ("accelerate", "bitsandbytes")
"""Packages beside those of a record whose versions matter here."""


class NotRunError(Exception):
    """A section cannot be run here; the message says why."""


@dataclass(frozen=True)
class Options:
    """What every section is run with: the torch device, tiny sizes or true ones, a folder that all sections share for
    prepared data and files that are not kept, and a folder of the user's language models.
    """

    device: str
    tiny: bool
    folder: Path
    models: Path | None = None


Report = Callable[[str, Any], None]
"""Takes a name and a JSON value: what was measured is kept from then on."""


@dataclass(frozen=True)
class Section:
    """One section: where its `measure(options, report)` is (module:function), and how many seconds it may take.

    Only the section's own process imports it.
    """

    name: str
    measure: str
    seconds: float


def run_sections(sections: Sequence[Section], options: Options, out: Path, seconds: float) -> dict[str, Any]:
    """Run sections one after the other for at most `seconds` in all; return what is then in `out`.

    Sections that `out` holds already, of the same device and sizes, stay unless they are among `sections`.
    """
    document = _begun(sections, options, out)
    deadline = time.monotonic() + seconds
    for section in sections:
        limit = min(section.seconds, deadline - time.monotonic())
        entry = document["sections"][section.name]
        if limit < LEAST_SECONDS:
            entry["why"] = "no time was left"
        else:
            _run(section, options, limit, entry, lambda: _write(out, document))
        _write(out, document)
        print(f"{section.name:12s} {entry['status']:12s} {entry.get('seconds', 0):6.1f} s  {entry.get('why', '')}")
    return document


def _begun(sections: Sequence[Section], options: Options, out: Path) -> dict[str, Any]:
    document: dict[str, Any] = {"schema": SCHEMA, "device": options.device, "tiny": options.tiny, "sections": {}}
    if out.is_file():
        before = json.loads(out.read_text(encoding="utf-8"))
        if all(before.get(name) == document[name] for name in ("schema", "device", "tiny")):
            document = before
    for section in sections:
        document["sections"][section.name] = {"status": "not run", "why": "it was not reached", "results": {}}
    _write(out, document)
    return document


def _run(section: Section, options: Options, limit: float, entry: dict[str, Any], keep: Callable[[], None]) -> None:
    """Run one section; `entry` becomes what is told of it, and `keep` is called after every change."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(theirs, section.measure, options), name=section.name)
    started = time.monotonic()
    with interrupts_wait():
        process.start()
    theirs.close()  # only the process may hold the end that it writes to: its death closes it
    entry |= {"status": "stopped", "why": "this process was ended", "limit_seconds": limit}
    try:
        for kind, value in _told(ours, started + limit):
            if kind == "result":
                entry["results"][value[0]] = tidy(value[1])
            else:
                entry |= value
            entry["seconds"] = tidy(time.monotonic() - started)
            keep()
        if entry["status"] == "stopped":
            over = time.monotonic() - started >= limit
            entry["status"] = "out of time" if over else "failed"
            entry["why"] = f"more than {limit:.0f} s" if over else f"the process {how_it_ended(process)}"
        else:
            process.join(STOP_SECONDS)
        entry["seconds"] = tidy(time.monotonic() - started)
    finally:
        _end(process)


def _told(pipe: Connection, deadline: float) -> Any:
    """Yield what a process says until it is done or the time is over."""
    while pipe.poll(max(0.0, deadline - time.monotonic())):
        try:
            yield pipe.recv()
        except (EOFError, OSError):
            return


def _end(process: SpawnProcess) -> None:
    process.terminate()
    process.join(STOP_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def _measure(pipe: Connection, measure: str, options: Options) -> None:
    """Be the process of a section."""
    start_process(1, None)
    try:
        pipe.send(("entry", {"provenance": _provenance(options.device)}))
        module, _, function = measure.partition(":")
        work = getattr(importlib.import_module(module), function)
        work(options, lambda name, value: pipe.send(("result", (name, value))))
        ended = {"status": "done", "why": ""}
    except NotRunError as error:
        ended = {"status": "not run", "why": str(error)}
    except Exception as error:  # noqa: BLE001  # whatever goes wrong costs this section alone
        traceback.print_exc()
        ended = {"status": "failed", "why": one_line(error)}
    pipe.send(("entry", ended))
    pipe.close()


def _provenance(device: str) -> dict[str, Any]:
    import torch

    found = provenance(device, now())
    del found["ended"]  # that is told by the section's seconds
    found["packages"] |= {name: installed_version(name) for name in ALSO}
    if device.startswith("cuda"):
        torch.cuda.set_device(torch.device(device))  # memory is counted on the current one
        properties = torch.cuda.get_device_properties(torch.device(device))
        found["hardware"] |= {"gpu_bytes": properties.total_memory, "cuda": torch.version.cuda}
    return found


def one_line(error: BaseException) -> str:
    """Return what went wrong in one line."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:200]}".rstrip(": ")


def tidy(value: Any) -> Any:
    """Return a JSON value with floats of six digits, and None for those that are no numbers."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: tidy(item) for name, item in value.items()}
    return [tidy(item) for item in value] if isinstance(value, list | tuple) else value


def _write(out: Path, document: dict[str, Any]) -> None:
    write_text(out, json.dumps(document, indent=1, allow_nan=False) + "\n")
