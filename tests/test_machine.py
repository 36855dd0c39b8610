"""Cores and memory are those that the process may use, not the machine's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mlecs_bench.machine import machine_id, process_lives, process_started, usable_cores, usable_memory

GIB = 2**30
V2 = "31 24 0:27 {root} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "32 24 0:28 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 24 0:29 {root} /sys/fs/cgroup/memory rw master:11 - cgroup cgroup rw,memory\n"
)


def machine(root, mounts, own, files):
    """A root folder with what the kernel says of control groups."""
    for name, text in {"proc/self/mountinfo": mounts, "proc/self/cgroup": own, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def many_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


@pytest.mark.usefixtures("many_cores")
def test_the_tightest_group_around_the_process_counts(tmp_path):
    below = "sys/fs/cgroup/"
    cases = [
        # cgroup v2: own group, and a tighter one around it; "max" is no limit
        (V2.format(root="/"), "0::/a/b\n", {"a/cpu.max": "250000 100000", "a/b/cpu.max": "max 100000"}, 2),
        (V2.format(root="/"), "0::/a/b\n", {"a/cpu.max": "800000 100000", "a/b/cpu.max": "300000 100000"}, 3),
        (V2.format(root="/"), "0::/job\n", {"job/cpu.max": "50000 100000"}, 1),
        (V2.format(root="/"), "0::/job\n", {"other/cpu.max": "100000 100000", "cpu.max": "garbage"}, 64),
        # in a container: the mount begins at the process's group, whose name is the host's, or "/.."
        (V2.format(root="/docker/abc"), "0::/docker/abc\n", {"cpu.max": "400000 100000"}, 4),
        (V2.format(root="/"), "0::/../../other\n", {"cpu.max": "400000 100000"}, 4),
        # cgroup v1
        (V1.format(root="/"), "4:cpu,cpuacct:/slurm/j1\n", {"cpu,cpuacct/slurm/j1/cpu.cfs_quota_us": "500000",
            "cpu,cpuacct/slurm/j1/cpu.cfs_period_us": "100000"}, 5),
        (V1.format(root="/docker/abc"), "4:cpu,cpuacct:/docker/abc\n", {"cpu,cpuacct/cpu.cfs_quota_us": "600000",
            "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 6),
        (V1.format(root="/"), "4:cpu,cpuacct:/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 64),
        ("", "", {}, 64),
    ]  # fmt: skip
    for number, (mounts, own, files, expected) in enumerate(cases):
        root = machine(tmp_path / str(number), mounts, own, {below + name: text for name, text in files.items()})
        assert usable_cores(root) == expected, cases[number]


def test_memory_is_the_machines_or_the_tightest_limit(tmp_path):
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cases = [
        (V2.format(root="/"), "0::/a/b\n", {"a/memory.max": str(GIB // 2), "a/b/memory.max": "max"}, GIB // 2),
        (V2.format(root="/"), "0::/a\n", {"a/memory.max": str(2**60)}, whole),
        (V1.format(root="/"), "5:memory:/a\n", {"memory/a/memory.limit_in_bytes": str(GIB // 4)}, GIB // 4),
        (V1.format(root="/"), "5:memory:/a\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, whole),
        ("", "", {}, whole),
    ]
    for number, (mounts, own, files, expected) in enumerate(cases):
        root = machine(tmp_path / str(number), mounts, own, {f"sys/fs/cgroup/{n}": text for n, text in files.items()})
        assert usable_memory(root) == expected, cases[number]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_a_process_that_was_put_on_one_core_has_one():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_process_is_known_by_its_number_and_its_start():
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert process_lives(child.pid)
        assert process_started(child.pid).isdecimal()
        assert process_started(child.pid) == process_started(child.pid)
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process_lives(child.pid) is False, "it has ended, though nobody has collected it"
    assert process_lives(child.pid) is False
    assert process_started(child.pid) == ""
    assert process_lives(os.getpid()) is True
    assert [process_lives(pid) for pid in (0, -1, 10**30)] == [False] * 3
    assert machine_id() == machine_id() != ""


def test_where_a_process_cannot_be_asked_after_nothing_is_said(monkeypatch):
    monkeypatch.setattr(os, "name", "nt")
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("on Windows this would end it"))
    assert process_lives(1) is None
