"""A long sweep of small cells in one worker process, watched: are its memory and its open files flat over time?

    python tests/campaigns/flat_sweep.py --minutes 60 --out FOLDER

prints a row now and then: minutes, records so far, and for the sweep's own process and its worker the memory that is
theirs (PSS and RSS, in MiB), open files and threads. It ends with exit code 1 where one of these grows after the
warm-up, the first quarter of the time. Linux alone: it reads /proc.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
CELLS = 4000
"""More than an hour gets through."""
STUDY = """title: A flat sweep
blocks:
  cells:
    algo: ml-ecs
    dataset: vast
    rho: 0.7
    rounds: 1
    steps: 1
    private_limit: 8
    public_limit: 8
    test_limit: 1
    seeds: [{seeds}]
"""
GROWTH = {"pss": 24.0, "rss": 24.0, "files": 2, "threads": 1}
"""How much more the last quarter may hold than the second: MiB, files, threads."""


@dataclass(frozen=True)
class Reading:
    """What one process holds at one time, and how many records there are by then."""

    minute: float
    cells: int
    process: str
    pss: float
    rss: float
    files: int
    threads: int


def holdings(pid: int) -> dict[str, float]:
    """Return the memory (MiB), open files and threads of a process."""
    proc = Path("/proc") / str(pid)
    rows = (line.split() for line in (proc / "smaps_rollup").read_text().splitlines()[1:])
    sizes = {row[0].rstrip(":").lower(): int(row[1]) / 1024 for row in rows}
    files, threads = (len(list((proc / name).iterdir())) for name in ("fd", "task"))
    return {"pss": sizes["pss"], "rss": sizes["rss"], "files": files, "threads": threads}


def worker_of(pid: int) -> int | None:
    """Return the child of a process that holds most memory: the worker, beside Python's tracker of resources."""
    children = (Path("/proc") / str(pid) / "task" / str(pid) / "children").read_text().split()
    sizes = {int(child): holdings(int(child))["rss"] for child in children}
    return max(sizes, key=lambda child: sizes[child]) if sizes else None


def readings(process: subprocess.Popen[bytes], records: Path, minutes: float, every: float) -> Iterator[Reading]:
    """Yield what a sweep and its worker hold, every so many seconds, for so many minutes."""
    started = time.monotonic()
    while (passed := time.monotonic() - started) < minutes * 60:
        time.sleep(min(every, minutes * 60 - passed))
        if process.poll() is not None:
            raise SystemExit(f"the sweep ended by itself with exit code {process.returncode}")
        minute, cells = (time.monotonic() - started) / 60, len(list(records.glob("*.json")))
        try:
            found = {"sweep": holdings(process.pid)}
            worker = worker_of(process.pid)
            found |= {} if worker is None else {"worker": holdings(worker)}
        except FileNotFoundError:
            continue  # one that ends while it is looked at
        for name, held in found.items():
            yield Reading(minute, cells, name, **held)  # type: ignore[arg-type]


def growths(found: Sequence[Reading], minutes: float) -> dict[tuple[str, str], float]:
    """Return by process and quantity how much more its median is in the last quarter of the time than in the second."""
    grown: dict[tuple[str, str], float] = {}
    for process in ("sweep", "worker"):
        own = [reading for reading in found if reading.process == process]
        second = [reading for reading in own if 0.25 <= reading.minute / minutes < 0.5]
        last = [reading for reading in own if reading.minute / minutes >= 0.75]
        for what in GROWTH:
            before, after = (statistics.median(getattr(r, what) for r in part) for part in (second, last))
            grown[process, what] = after - before
    return grown


def flat_sweep(out: Path, minutes: float, every: float, cells: int) -> list[str]:
    """Sweep into `out` for so many minutes, print what is held, and return one line for each thing that grows."""
    out.mkdir(parents=True, exist_ok=True)
    study = out / "flat.yaml"
    study.write_text(STUDY.format(seeds=", ".join(map(str, range(1, cells + 1)))), encoding="utf-8")
    command = [sys.executable, "-m", "mlecs_bench", "sweep", "--study", str(study), "--workers", "1", "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MLECS_BENCH_CACHE": str(out / "cache")}
    print("minute  cells  process  PSS MiB  RSS MiB  files  threads", flush=True)
    found: list[Reading] = []
    with subprocess.Popen([*command, "--out", str(out / "sweep")], env=environment) as process:
        try:
            for one in readings(process, out / "sweep" / "records", minutes, every):
                found.append(one)
                print(
                    f"{one.minute:6.1f} {one.cells:6d}  {one.process:7s} {one.pss:8.1f} {one.rss:8.1f} "
                    f"{one.files:6d} {one.threads:8d}",
                    flush=True,
                )
        finally:
            process.send_signal(signal.SIGTERM)  # which a background process cannot ignore as it does Ctrl-C
            process.wait()
    grown = growths(found, minutes)
    for (name, what), by in grown.items():
        print(f"{name} {what}: {by:+.1f} from the second quarter to the last (at most {GROWTH[what]:+.1f})")
    return [f"{name} {what} grows by {by:.1f}" for (name, what), by in grown.items() if by > GROWTH[what]]


def main() -> int:
    """Read the arguments and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--cells", type=int, default=CELLS, help="how many are planned")
    parser.add_argument("--out", type=Path, help="where the records stay (default: a folder that is deleted)")
    asked = parser.parse_args()
    if asked.out is not None:
        problems = flat_sweep(asked.out, asked.minutes, asked.every, asked.cells)
    else:
        with tempfile.TemporaryDirectory(prefix="flat-sweep-") as folder:
            problems = flat_sweep(Path(folder), asked.minutes, asked.every, asked.cells)
    print("\n".join(problems) if problems else "flat")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
