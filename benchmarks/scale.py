"""What sweeps of many cells cost beside the cells: planning, locking, records, status and report, by number of cells.

    python benchmarks/scale.py --cells 100,1000,10000

Cells are no work here: a worker takes the lease of a cell, writes a made-up record of the usual shape and gives the
lease back. All else is what a sweep does. Every number of cells is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlecs_bench.doors.events import Event, Tell
from mlecs_bench.doors.registry import Registry
from mlecs_bench.execution.jobs import CellResult, Execution, Job
from mlecs_bench.execution.protocol import plan_jobs, resolve_all
from mlecs_bench.execution.sweep import run_jobs
from mlecs_bench.federation.checkpoint import cell_lock, checkpoint_folder, remove_checkpoint
from mlecs_bench.federation.communication import communication
from mlecs_bench.federation.ledger import Direction, Ledger, Transfer
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.records.names import option_words
from mlecs_bench.records.results import SCHEMA, record_files, write_record
from mlecs_bench.report.folder import report
from mlecs_bench.session.status_file import StatusFile, read_statuses

ALGORITHMS = ("ml-ecs", "standalone", "multi-fedavg", "co-plms", "fedilora")
MIB = 2**20


def specs_of(n: int) -> list[RunSpec]:
    """Return specs of `n` cells: algorithms, rates and seeds, in about the proportions of a study."""
    n_seeds = 5 if n <= 1000 else 25
    rates = n // (len(ALGORITHMS) * n_seeds)
    return [
        RunSpec(algo, "vast", round(0.2 + 0.75 * i / max(1, rates), 4), seeds=tuple(range(1, n_seeds + 1)))
        for i in range(rates)
        for algo in ALGORITHMS
    ]


def record_of(job: Job) -> dict[str, Any]:
    """Return a record of the usual shape with made-up scores."""
    draw = random.Random(job.key)  # noqa: S311  # made-up scores
    ids, metrics = job.plan.device_ids, [name for name, by in job.identity["scorers"].items() if by]

    def scores() -> dict[str, Any]:
        return {"value": draw.random(), "n": 20, "higher_is_better": True}

    points = {point: {m: {d: scores() for d in ids} for m in metrics} for point in ("local", "received")}
    server = {m: scores() for m in metrics} if job.plan.server_score else None
    losses = {d: {"private": draw.random()} for d in (*ids, "server")}
    rounds = [{"round": t, "losses": losses} for t in range(1, job.plan.rounds)]
    rounds.append({"round": job.plan.rounds, "losses": losses, "client": points["local"], "server": server})
    return {
        "schema": SCHEMA,
        "key": job.key,
        "identity": dict(job.identity),
        "realised": {
            "modalities": {d: ["audio", "vision"] for d in ids},
            "redraws": 0,
            "rate": 0.5,
            "structures": {d: {"slm": "mini", "rank": 8, "encoder_width": 64} for d in ids},
            "random_encoders": {},
            "samples": {party: {"train": 128, "test": 20} for party in ("server", *ids)},
        },
        "metrics": {"client": points, "server": server, "rounds": rounds},
        "comm": comm_of(job),
        "cost": {"seconds": {"training": 10.0, "evaluation": 5.0}, "steps": {"private": 40}},
        "provenance": {"packages": {"torch": "2.13.0"}, "started": "2030-01-01T00:00:00Z"},
    }


def comm_of(job: Job) -> dict[str, Any]:
    """Return what a record says was sent: an adapter each way, by every device in every round."""
    ways: tuple[Direction, Direction] = ("down", "up")
    rounds = range(1, job.plan.rounds + 1)
    sent = [Transfer(t, id_, way, "lora", 1000, 4000) for t in rounds for id_ in job.plan.device_ids for way in ways]
    return communication(Ledger(sent), job.plan.rounds, dict.fromkeys(job.plan.device_ids, 10_000))


class NoWork:
    """Workers whose cells are no work: each is locked, told of, and has its record at once."""

    def __init__(self, tell: Tell, size: int = 16) -> None:
        self._tell = tell
        self._size = size
        self._jobs: deque[Job] = deque()

    @property
    def free(self) -> int:
        """How many more jobs there is room for."""
        return self._size - len(self._jobs)

    def start(self, job: Job) -> None:
        """Take a job."""
        self._jobs.append(job)

    def wait(self, seconds: float) -> None:
        """End all jobs that were taken."""
        while self._jobs:
            job = self._jobs.popleft()
            folder = checkpoint_folder(job.execution.out, job.key)
            with cell_lock(folder) as lease:
                self._tell(Event("cell_start", job.ref))
                for device in job.plan.device_ids:
                    self._tell(Event("device_end", job.ref, round=1, device=device))
                lease.check()
                record = record_of(job)
                path = write_record(job.execution.out, record, option_words(job.plan.departures))
                remove_checkpoint(folder)
            self._tell(CellResult(job.seed, path, record).event(job.ref))

    def stop(self) -> None:
        """Forget what was taken."""
        self._jobs.clear()


def resident() -> float:
    """Return the MiB of memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


def measure(n: int, folder: Path) -> dict[str, Any]:
    """Return seconds and MiB of every part for `n` cells."""
    found: dict[str, Any] = {"cells": n}
    registry = Registry.installed()
    observers, _ = registry.observers()
    execution = Execution(folder / "out", folder / "cache")
    warm = plan_jobs(resolve_all(specs_of(25)[:1], registry, execution, observers)[0], registry, execution, observers)
    del warm  # data are prepared, and packages loaded
    before = resident()

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        started, cpu = time.perf_counter(), time.process_time()
        yield
        found[name], found[f"{name} CPU"] = time.perf_counter() - started, time.process_time() - cpu
        found[f"{name} MiB"] = resident() - before

    with timed("plan"):
        plans, _ = resolve_all(specs_of(n), registry, execution, observers)
        jobs = plan_jobs(plans, registry, execution, observers)
    found["cells"] = len(jobs)

    def carry_out(name: str, make: Callable[[int, Tell], NoWork]) -> None:
        observers, _ = registry.observers()
        status = StatusFile(execution.out, 16)
        observers.register(status, name="status-file")
        with timed(name):
            run_jobs(jobs, make, observers)
        status.close("done")

    carry_out("run", lambda _, tell: NoWork(tell))
    carry_out("skip", lambda _, tell: NoWork(tell))
    with timed("status"):
        read_statuses(execution.out)
        record_files(execution.out)
    with timed("report"):
        report(execution.out)
    found["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def main() -> None:
    """Measure, and print a table and its growth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cells", default="100,1000,10000", help="numbers of cells, with commas")
    parser.add_argument("--one", type=int, help="measure one number in this process, and print JSON")
    given = parser.parse_args()
    if given.one:
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            print(json.dumps(measure(given.one, Path(folder))))
        return
    for n in map(int, given.cells.split(",")):
        command = [sys.executable, __file__, "--one", str(n)]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        cells = row.pop("cells")
        for what, kind in (("wall", ""), ("CPU", " CPU")):
            names = ("plan", "run", "skip", "status", "report")
            parts = [f"{name} {1000 * row[name + kind] / cells:.2f} ms" for name in names]
            print(f"{cells:>6} cells, {what} of each: {', '.join(parts)}; report {row['report' + kind]:.1f} s in all")
        memory = [f"{name} {row[f'{name} MiB']:.0f}" for name in ("plan", "run", "skip", "report")]
        print(f"       MiB more than at the start after: {', '.join(memory)}; peak {row['peak MiB']:.0f}")


if __name__ == "__main__":
    main()
