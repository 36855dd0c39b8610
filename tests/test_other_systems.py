"""What Linux can show of systems that lack its calls: no module needs them, and what replaces them works."""

from __future__ import annotations

import importlib
import re
import signal
import sys
from pathlib import Path

import pytest

import mlecs_baselines
import mlecs_bench
import mlecs_plugins
from mlecs_bench.federation.processes import interrupts_wait

LACKING = ("fcntl", "grp", "pwd", "resource", "termios")
"""Modules that Windows does not have."""


def test_no_module_of_ours_needs_what_windows_lacks():
    needs = re.compile(rf"^\s*(import|from) ({'|'.join(LACKING)})\b", re.MULTILINE)
    folders = (Path(package.__file__).parent for package in (mlecs_bench, mlecs_plugins, mlecs_baselines))
    files = [path for folder in folders for path in folder.rglob("*.py")]
    found = [path.name for path in files if needs.search(path.read_text(encoding="utf-8"))]
    assert len(files) > 100
    assert found == []


@pytest.mark.parametrize("name", LACKING)
def test_leases_files_and_machine_work_without(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)
    for module in ("mlecs_bench.machine", "mlecs_bench.files", "mlecs_bench.federation.lease"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    lease = importlib.import_module("mlecs_bench.federation.lease")
    with lease.held(tmp_path / "a.lock"):
        assert lease.is_held(tmp_path / "a.lock")


def test_processes_start_where_signals_have_no_masks(monkeypatch):
    monkeypatch.delattr(signal, "pthread_sigmask")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupts_wait():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
