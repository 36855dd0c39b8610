"""Many processes of several hosts share the cells of a folder, as jobs of an array do; one is killed in mid-cell."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter

import pytest

HOSTS, CELLS = 6, 48
HOST = """
import os, random, sys, time
from pathlib import Path
from mlecs_bench.federation import lease
from mlecs_bench.files import create

folder, host = Path(sys.argv[1]), sys.argv[2]
lease.machine_id = lambda: host  # no host can ask another one's kernel for a process
lease.BEAT, lease.EXPIRY = 0.1, 1.5
cells = [f"c{n:02}" for n in range(int(sys.argv[3]))]
random.seed(host)
while left := [cell for cell in cells if not (folder / "records" / cell).exists()]:
    cell = random.choice(left)
    try:
        with lease.held(folder / "locks" / f"{cell}.lock") as mine:
            if (folder / "records" / cell).exists():
                continue
            with (folder / "begun").open("a") as begun:
                begun.write(f"{cell} {host}\\n")
            time.sleep(3600 if host == sys.argv[4] and len(left) < len(cells) - 4 else random.uniform(0, 0.02))
            mine.check()
            assert create(folder / "records" / cell, host.encode()), cell
    except lease.CellInUse:
        time.sleep(0.01)
"""


@pytest.mark.nightly
def test_every_cell_of_a_shared_folder_is_run_once_though_a_host_dies(tmp_path):
    (tmp_path / "records").mkdir()
    victim = "host0"
    hosts = {
        name: subprocess.Popen([sys.executable, "-c", HOST, str(tmp_path), name, str(CELLS), victim])
        for name in (f"host{n}" for n in range(HOSTS))
    }
    deadline = time.monotonic() + 120
    try:
        while len(list((tmp_path / "records").iterdir())) < CELLS - 1:  # all but the one in which the victim stands
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(2.0)  # longer than a lease lasts that nobody touches
        assert len(list((tmp_path / "records").iterdir())) == CELLS - 1, "a lease that is touched is not taken over"
        hosts[victim].kill()
        for name, process in hosts.items():
            assert process.wait(60) == (-9 if name == victim else 0)
    finally:
        for process in hosts.values():
            process.kill()
    begun = [line.split() for line in (tmp_path / "begun").read_text().splitlines()]
    times = Counter(cell for cell, _ in begun)
    held = [cell for cell, host in begun if host == victim][-1]
    assert len(times) == CELLS
    assert {cell: n for cell, n in times.items() if n != 1} == {held: 2}
    assert (tmp_path / "records" / held).read_text() != victim
    assert len({host for _, host in begun}) > 1
    assert not list((tmp_path / "locks").iterdir()), "no lease, no probe and no part is left"
