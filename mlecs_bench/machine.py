"""What this process may use of its machine: cores, memory, and which other processes are alive.

A scheduler, a container or `taskset` gives a process less than the machine has. Cores are those that the process may
be placed on, cut by the quota of its control groups; memory is the machine's, cut by their limits. Formats: the
kernel's cgroup-v2.rst, cgroup-v1/memory.rst and scheduler/sched-bwc.rst, and proc(5) for mountinfo.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path("/")
"""Where /proc and what is mounted are looked for."""


def usable_cores(root: Path = ROOT) -> int:
    """Return how many cores this process may use: at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([allowed, *_quotas(root)])))


def usable_memory(root: Path = ROOT) -> int | None:
    """Return the bytes of memory that this process may use, or None where that cannot be told."""
    try:
        whole = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, OSError, ValueError):
        whole = []
    return min([*whole, *_memory_limits(root)], default=None)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the cores' worth of time that each group around this process may use."""
    for folder in _groups(root, None):
        limit, _, period = _text(folder / "cpu.max").partition(" ")
        if limit.isdecimal() and period.isdecimal() and int(period):
            yield int(limit) / int(period)
    for folder in _groups(root, "cpu"):
        limit, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if limit.isdecimal() and period.isdecimal() and int(period):  # -1 is no limit
            yield int(limit) / int(period)


def _memory_limits(root: Path) -> Iterator[int]:
    """Yield the limits of the groups around this process; "max" is none, and version 1 says a huge number for it."""
    files = [folder / "memory.max" for folder in _groups(root, None)]
    files += [folder / "memory.limit_in_bytes" for folder in _groups(root, "memory")]
    yield from (int(limit) for limit in map(_text, files) if limit.isdecimal() and int(limit))


def _groups(root: Path, controller: str | None) -> Iterator[Path]:
    """Yield the folders of the control groups around this process, the innermost first; None stands for version 2."""
    own = _own_group(root, controller)
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, *rest) = before.split(), after.split() or [""]
        wanted = kind == "cgroup2" if controller is None else kind == "cgroup" and controller in rest[-1].split(",")
        if own is None or not wanted or len(fields) < 5:
            continue
        mounted, place = fields[3], root / fields[4].lstrip("/")
        # In a container the mount may begin at the process's own group, of which /proc tells the host's name.
        inside = own.removeprefix(mounted.rstrip("/")) if own.startswith(mounted) else ""
        parts = [part for part in inside.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield place.joinpath(*parts[:depth])


def _own_group(root: Path, controller: str | None) -> str | None:
    """Return the path of this process's group of a controller, or of version 2."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number == "0" and not controllers) if controller is None else controller in controllers.split(","):
            return path
    return None


def _text(path: Path) -> str:
    """Return what a small file holds, "" where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


@cache
def machine_id() -> str:
    """Return what names the machine, since it was started, and the container in which process numbers have a meaning.

    Two processes with equal names see each other's process numbers.
    """
    try:
        processes = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        processes = ""
    started = _text(Path("/proc/sys/kernel/random/boot_id"))
    return " ".join(part for part in (socket.gethostname(), started, processes) if part)


def process_started(pid: int) -> str:
    """Return when a process was started, in the kernel's ticks: with its number, what names it. "" if not known."""
    fields = _stat(pid)
    return fields[19] if len(fields) > 19 else ""


def _stat(pid: int) -> list[str]:
    """Return what the kernel says of a process, from its state on: proc(5), after a name that may hold anything."""
    return _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()


def process_lives(pid: int) -> bool | None:
    """Is there a process with this number on this machine? None where that cannot be asked."""
    if os.name != "posix":
        return None  # on Windows os.kill would end it
    if pid <= 0:
        return False  # would name a group of processes
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's process is alive
    return _stat(pid)[:1] not in (["Z"], ["X"])  # ended, but nobody has asked how
