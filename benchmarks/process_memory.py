"""What processes take of the memory: the sum of PSS, in which a page that several share is divided among them."""

from __future__ import annotations

import os
from pathlib import Path

KIB_PER_MIB = 1024


def descendants() -> list[int]:
    """Return this process and all that it has started, and that those have."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended meanwhile
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return found


def pss() -> float:
    """Return the PSS in MiB of this process and all that it has started."""
    total = 0
    for pid in descendants():
        try:
            rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next((int(row.split()[1]) for row in rows if row.startswith("Pss:")), 0)
    return total / KIB_PER_MIB
