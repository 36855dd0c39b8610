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
    cell_in_use,
    cell_lock,
    checkpoint_folder,
    load_checkpoint,
    remove_checkpoint,
    save_checkpoint,
    server_file,
)
from mlecs_bench.federation.lease import CellInUse

DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
PROGRESS = {"round": 3, "loss": 0.1, "tiny": 5e-324, "none": None, "rows": [{"a": [1, 2.0, True]}], "größe": "é"}

CHILD = """
import os, signal, sys
from pathlib import Path
import torch
from mlecs_bench.federation.checkpoint import Checkpoint, cell_lock, save_checkpoint, server_file

folder = Path(sys.argv[1])
path = server_file(folder)
with cell_lock(folder):
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
def folder(tmp_path):
    return checkpoint_folder(tmp_path, "0123456789abcdef" * 4)


@pytest.fixture
def path(folder):
    return server_file(folder)


def test_tensors_come_back_bit_for_bit(path):
    for dtype in DTYPES:
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


def test_cells_have_folders_of_their_own_beside_the_records(tmp_path):
    keys = [f"{i:064x}"[::-1] for i in range(100)]
    folders = {checkpoint_folder(tmp_path, key) for key in keys}
    assert len(folders) == len(keys)
    assert {p.parent for p in folders} == {tmp_path / ".checkpoints"}
    assert {server_file(p).parent for p in folders} == folders


def test_a_crash_before_the_rename_keeps_the_old_checkpoint(path, monkeypatch):
    def crash(*_args, **_kwargs):
        raise Crash

    for moment in ("fsync", "replace"):
        save_checkpoint(path, checkpoint_of(1))
        with monkeypatch.context() as patched:
            patched.setattr(os, moment, crash)
            with pytest.raises(Crash):
                save_checkpoint(path, checkpoint_of(2))
        assert_is_round(path, 1)
        assert names_beside(path) == [path.name]
        save_checkpoint(path, checkpoint_of(3))
        assert_is_round(path, 3)


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


def test_a_safetensors_file_of_something_else_is_named(path):
    path.parent.mkdir(parents=True)
    for metadata in (None, {"other": "{}"}, *({"progress": text} for text in ("", "{", "5", "null", "[1]", '"ab"'))):
        path.write_bytes(save({"a": torch.ones(2)}, metadata=metadata))
        with pytest.raises(MlecsError, match="is not a checkpoint") as caught:
            load_checkpoint(path)
        assert str(path) in str(caught.value)


def test_a_turned_bit_of_a_tensor_or_of_the_progress_is_noticed(path):
    save_checkpoint(path, Checkpoint({"a": torch.arange(9.0), "none": torch.ones(0)}, PROGRESS))
    data = path.read_bytes()
    for at in (data.index(b"0.1"), data.index(b"round"), data.index(b"F32"), *range(len(data) - 36, len(data), 5)):
        for bit in range(8):
            path.write_bytes(data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :])
            with pytest.raises(MlecsError, match="delete it to start this cell again"):
                load_checkpoint(path)


def test_a_checkpoint_without_its_digest_is_damaged_and_one_of_0_1_0_has_none(path):
    save_checkpoint(path, checkpoint_of(1))
    progress = json.dumps({"round": 2})
    path.write_bytes(save(dict(checkpoint_of(2).tensors), metadata={"checked_progress": progress}))
    with pytest.raises(MlecsError, match="was damaged after it was written; delete it"):
        load_checkpoint(path)
    path.write_bytes(save(dict(checkpoint_of(2).tensors), metadata={"progress": progress}))
    assert_is_round(path, 2)


def test_garbage_is_named(path):
    path.parent.mkdir(parents=True)
    for data in (b"garbage", b"\x00" * 100, b"\xff" * 100, json.dumps(PROGRESS).encode()):
        path.write_bytes(data)
        with pytest.raises(MlecsError, match=path.name):
            load_checkpoint(path)


def test_removing_a_cell_leaves_no_file_and_may_be_done_twice(folder):
    save_checkpoint(server_file(folder), checkpoint_of(1))
    save_checkpoint(folder / "d00-round000001.safetensors", checkpoint_of(1))
    save_checkpoint(folder.with_suffix(".safetensors"), checkpoint_of(1))  # where 0.1.0 kept it
    with cell_lock(folder):
        remove_checkpoint(folder)
    assert names_beside(folder) == []
    remove_checkpoint(folder)
    assert load_checkpoint(server_file(folder)) is None


def test_a_lock_is_held_once_and_free_afterwards(folder):
    assert not cell_in_use(folder)
    for _ in range(2):
        with cell_lock(folder):
            assert cell_in_use(folder)
            with pytest.raises(CellInUse, match=f"another process is running this cell .{folder.name}"):
                cell_lock(folder).__enter__()
    assert not cell_in_use(folder)


def test_a_lock_is_free_after_an_error(folder):
    with pytest.raises(KeyError), cell_lock(folder):
        raise KeyError
    with cell_lock(folder):
        pass


def test_locks_of_two_cells_do_not_touch(folder, tmp_path):
    with cell_lock(folder), cell_lock(checkpoint_folder(tmp_path, "f" * 64)):
        pass


def test_another_process_excludes_us_until_it_is_killed_and_its_last_checkpoint_is_whole(folder):
    command = [sys.executable, "-c", CHILD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "saved\n"
        with pytest.raises(MlecsError, match="another process"), cell_lock(folder):
            pass
        child.communicate("\n", timeout=60)
    assert child.returncode == -signal.SIGKILL
    with cell_lock(folder):
        loaded = load_checkpoint(server_file(folder))
    assert loaded.progress == {"round": 1}
    assert torch.equal(loaded.tensors["a"], torch.full((1000,), 1.0))
    remove_checkpoint(folder)
    assert names_beside(folder) == [], "what the kill left behind goes with the cell"
