"""Provenance says what made a record, and nothing about who or where."""

from __future__ import annotations

import getpass
import importlib.metadata
import json
import os
import platform
import re
import socket
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from mlecs_bench.records import provenance as module
from mlecs_bench.records.provenance import PACKAGES, git_state, hardware, installed_version, now, provenance

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout that the package seems to run from, with a stand-in for git: returns a function that writes it."""
    root = tmp_path / "checkout"
    (root / "mlecs_bench").mkdir(parents=True)
    (root / ".git").mkdir()
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    monkeypatch.setattr(module, "__file__", str(root / "mlecs_bench" / "records" / "provenance.py"))
    monkeypatch.setenv("PATH", str(bin_))
    git_state.cache_clear()

    def write_git(script):
        (bin_ / "git").write_text(f"#!/bin/sh\n{script}\n")
        (bin_ / "git").chmod(0o755)

    write_git("exit 1")
    yield root, write_git
    git_state.cache_clear()


def git_script(root, changes):
    """Return a script that answers as git does in `root`, and fails anywhere else or for any other question."""
    return f"""
[ "$PWD" = "{root}" ] || exit 128
case "$*" in
  *"rev-parse HEAD"*) echo {SHA} ;;
  *"status --porcelain"*) printf '{changes}' ;;
  *) exit 129 ;;
esac"""


@pytest.mark.parametrize(("changes", "dirty"), [("", False), (" M results/a.json\\n", True), ("?? new\\n", True)])
def test_a_checkout_has_its_commit_and_whether_it_was_changed(checkout, changes, dirty):
    root, write_git = checkout
    write_git(git_script(root.resolve(), changes))
    assert git_state() == {"commit": SHA, "dirty": dirty}


@pytest.mark.parametrize(
    ("file", "dirty"), [(None, False), ("results/study/a.json", False), ("mlecs_bench/new.py", True), ("README", True)]
)
def test_records_make_no_checkout_dirty_and_anything_else_does(tmp_path, monkeypatch, file, dirty):
    code = tmp_path / "mlecs_bench" / "records" / "provenance.py"
    code.parent.mkdir(parents=True)
    code.touch()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "README").touch()

    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    if file:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("new")
    monkeypatch.setattr(module, "__file__", str(code))
    git_state.cache_clear()
    found = git_state()
    git_state.cache_clear()
    assert found is not None
    assert found["dirty"] is dirty


def test_an_installed_package_has_no_commit_even_if_git_would_answer(checkout):
    root, write_git = checkout
    write_git(git_script(root.resolve(), ""))
    (root / ".git").rmdir()
    assert git_state() is None


def test_a_checkout_whose_git_fails_has_no_commit(checkout):
    _, write_git = checkout
    write_git("echo fatal: detected dubious ownership >&2; exit 128")
    assert git_state() is None


def test_a_machine_without_git_has_no_commit(checkout, tmp_path):
    (tmp_path / "bin" / "git").unlink()
    assert git_state() is None


@pytest.mark.parametrize("package", ["torch", "numpy", "transformers"])
def test_versions_are_those_of_the_installed_distributions(package):
    assert installed_version(package) == importlib.metadata.version(package)


def test_a_package_that_is_not_installed_has_no_version():
    assert installed_version("no-such-distribution-anywhere") is None


def test_the_time_is_utc_to_the_second(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        before = datetime.now(UTC).replace(microsecond=0)
        text = now()
        after = datetime.now(UTC)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text)
    assert before <= datetime.fromisoformat(text) <= after


def test_a_cpu_run_names_no_gpu():
    assert hardware("cpu") == {"machine": platform.machine(), "cores": os.cpu_count(), "gpu": None}


def test_a_cuda_run_names_the_gpu_it_ran_on(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    assert hardware("cuda:1")["gpu"] == "GPU of cuda:1"


def test_the_block_holds_versions_revision_hardware_and_times(checkout):
    root, write_git = checkout
    write_git(git_script(root.resolve(), ""))
    started = now()
    block = provenance("cpu", started)
    assert set(block) == {"packages", "python", "system", "git", "hardware", "started", "ended"}
    assert set(block["packages"]) == set(PACKAGES) >= {"mlecs-bench", "torch", "transformers", "peft", "datasets"}
    assert block["packages"]["torch"] == importlib.metadata.version("torch")
    assert (block["python"], block["system"]) == (platform.python_version(), platform.system())
    assert block["git"] == {"commit": SHA, "dirty": False}
    assert block["started"] == started <= block["ended"]
    assert json.loads(json.dumps(block, allow_nan=False)) == block


def texts_in(value):
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts_in(item)]
    return [value] if isinstance(value, str) else []


def test_no_path_user_or_host_is_told(checkout, monkeypatch):
    root, write_git = checkout
    write_git(git_script(root.resolve(), f" M {Path.home()}/secret\\n"))
    monkeypatch.setenv("USER", "ada-lovelace")
    monkeypatch.setenv("LOGNAME", "ada-lovelace")
    monkeypatch.setattr(socket, "gethostname", lambda: "difference-engine")
    monkeypatch.setattr(platform, "node", lambda: "difference-engine")
    assert getpass.getuser() == "ada-lovelace"
    texts = texts_in(provenance("cpu", now()))
    assert len(texts) > len(PACKAGES) // 2
    for text in texts:
        assert os.sep not in text
        assert "ada-lovelace" not in text
        assert "difference-engine" not in text
