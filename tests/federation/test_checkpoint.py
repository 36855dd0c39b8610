"""Checkpoints survive a kill at any moment, and a cell is run by one process at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save

from mlecs_bench.errors import MlecsError
from mlecs_bench.federation.checkpoint import (
    Checkpoint,
    cell_lock,
    checkpoint_path,
    load_checkpoint,
    remove_checkpoint,
    save_checkpoint,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
PROGRESS = {"round": 3, "loss": 0.1, "tiny": 5e-324, "none": None, "rows": [{"a": [1, 2.0, True]}], "größe": "é"}

CHILD = """
import os, signal, sys
from pathlib import Path
import torch
from mlecs_bench.federation.checkpoint import Checkpoint, cell_lock, save_checkpoint

path = Path(sys.argv[1])
with cell_lock(path):
    save_checkpoint(path, Checkpoint({"a": torch.full((1000,), 1.0)}, {"round": 1}))
    print("saved", flush=True)
    sys.stdin.readline()
    # The bytes of the new file are written when it is synchronised; its name has not changed yet.
    os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
    save_checkpoint(path, Checkpoint({"a": torch.full((1000,), 2.0)}, {"round": 2}))
"""


class Crash(BaseException):
    """Stands for a kill: nothing may catch it."""


def checkpoint_of(round_):
    return Checkpoint({"d00:lora/a": torch.full((50,), float(round_))}, {"round": round_})


def assert_is_round(path, round_):
    loaded = load_checkpoint(path)
    assert loaded is not None
    assert loaded.progress == {"round": round_}
    assert torch.equal(loaded.tensors["d00:lora/a"], torch.full((50,), float(round_)))


def names_beside(path):
    return sorted(p.name for p in path.parent.iterdir())


@pytest.fixture
def path(tmp_path):
    return checkpoint_path(tmp_path, "0123456789abcdef" * 4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_come_back_bit_for_bit(path, dtype):
    values = (10 * torch.rand(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).to(dtype)
    tensors = {"a": values, "view": values.clone().T[1:], "0-d": values[1, 2].clone(), "empty": values[:0]}
    save_checkpoint(path, Checkpoint(tensors, PROGRESS))
    loaded = load_checkpoint(path)
    assert set(loaded.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded.tensors[name].dtype == dtype
        assert torch.equal(loaded.tensors[name], tensor)


def test_the_progress_comes_back_as_it_was(path):
    save_checkpoint(path, Checkpoint({}, PROGRESS))
    loaded = load_checkpoint(path)
    assert (dict(loaded.progress), dict(loaded.tensors)) == (PROGRESS, {})


def test_there_is_none_before_the_first_and_the_last_one_counts(path):
    assert load_checkpoint(path) is None
    for round_ in (1, 2, 3):
        save_checkpoint(path, checkpoint_of(round_))
        assert_is_round(path, round_)
    assert names_beside(path) == [path.name]


def test_cells_have_files_of_their_own_beside_the_records(tmp_path):
    keys = [f"{i:064x}"[::-1] for i in range(100)]
    paths = {checkpoint_path(tmp_path, key) for key in keys}
    assert len(paths) == len(keys)
    assert {p.parent for p in paths} == {tmp_path / ".checkpoints"}


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_crash_before_the_rename_keeps_the_old_checkpoint(path, monkeypatch, moment):
    save_checkpoint(path, checkpoint_of(1))

    def crash(*_args, **_kwargs):
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(os, moment, crash)
        with pytest.raises(Crash):
            save_checkpoint(path, checkpoint_of(2))
    assert_is_round(path, 1)
    save_checkpoint(path, checkpoint_of(3))
    assert_is_round(path, 3)
    assert names_beside(path) == [path.name], "what the crash left behind is gone"


def test_progress_that_is_not_json_keeps_the_old_checkpoint(path):
    save_checkpoint(path, checkpoint_of(1))
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_checkpoint(path, Checkpoint({}, {"loss": float("nan")}))
    assert_is_round(path, 1)


def test_a_checkpoint_that_was_cut_off_is_named(path):
    save_checkpoint(path, checkpoint_of(1))
    data = path.read_bytes()
    for length in [*range(12), *range(12, len(data), 11), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(MlecsError, match="is not a checkpoint") as caught:
            load_checkpoint(path)
        assert str(path) in str(caught.value)
        assert "delete it to start this cell again" in str(caught.value)


@pytest.mark.parametrize(
    "metadata", [None, {"other": "{}"}] + [{"progress": text} for text in ("", "{", "5", "null", "[1]", '"ab"')]
)
def test_a_safetensors_file_of_something_else_is_named(path, metadata):
    path.parent.mkdir()
    path.write_bytes(save({"a": torch.ones(2)}, metadata=metadata))
    with pytest.raises(MlecsError, match="is not a checkpoint") as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("data", [b"garbage", b"\x00" * 100, b"\xff" * 100, json.dumps(PROGRESS).encode()])
def test_garbage_is_named(path, data):
    path.parent.mkdir()
    path.write_bytes(data)
    with pytest.raises(MlecsError, match=path.name):
        load_checkpoint(path)


def test_removing_a_cell_leaves_no_file_and_may_be_done_twice(path):
    save_checkpoint(path, checkpoint_of(1))
    with cell_lock(path):
        remove_checkpoint(path)
    assert names_beside(path) == []
    remove_checkpoint(path)
    assert load_checkpoint(path) is None


def test_a_lock_is_held_once_and_free_afterwards(path):
    for _ in range(2):
        with cell_lock(path), pytest.raises(MlecsError, match=f"another process is running this cell .{path.stem}"):
            cell_lock(path).__enter__()


def test_a_lock_is_free_after_an_error(path):
    with pytest.raises(KeyError), cell_lock(path):
        raise KeyError
    with cell_lock(path):
        pass


def test_locks_of_two_cells_do_not_touch(path, tmp_path):
    with cell_lock(path), cell_lock(checkpoint_path(tmp_path, "f" * 64)):
        pass


def test_another_process_excludes_us_until_it_is_killed_and_its_last_checkpoint_is_whole(path):
    command = [sys.executable, "-c", CHILD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "saved\n"
        with pytest.raises(MlecsError, match="another process"), cell_lock(path):
            pass
        child.communicate("\n", timeout=60)
    assert child.returncode == -signal.SIGKILL
    with cell_lock(path):
        loaded = load_checkpoint(path)
    assert loaded.progress == {"round": 1}
    assert torch.equal(loaded.tensors["a"], torch.full((1000,), 1.0))
