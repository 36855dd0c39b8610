"""A cell is held by one process, on any file system, and by nobody once its holder is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest
import torch

from mlecs_bench.federation import lease
from mlecs_bench.federation.lease import EXPIRY, CellInUse, held, is_held
from mlecs_bench.federation.messages import Message
from mlecs_bench.federation.turns import FileTurns, Refusal, Reply, Turn
from mlecs_bench.machine import machine_id, process_started


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".checkpoints" / "0123.lock"


def left_behind(path, age=0.0, **changed):
    """A lease that this process, or another as `changed` says, touched `age` seconds ago."""
    values = {"machine": machine_id(), "pid": os.getpid(), "started": process_started(os.getpid()), "token": "theirs"}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values | changed))
    os.utime(path, (time.time() - age,) * 2)


def ended_process():
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as child:
        pass
    return child.pid


def files(path):
    return sorted(p.name for p in path.parent.iterdir())


def test_a_lease_is_held_once_and_leaves_nothing(path):
    assert not is_held(path)
    with held(path) as mine:
        mine.check()
        assert is_held(path)
        with pytest.raises(CellInUse, match=r"another process is running this cell \(0123"):
            held(path).__enter__()
        mine.check()
    assert not is_held(path)
    assert files(path) == []


def test_a_lease_is_over_with_its_process_here_and_after_its_expiry_elsewhere(path):
    gone = ended_process()
    for over, about in (
        (False, {"age": 0}),
        (False, {"age": 10 * EXPIRY}),  # the process is there: it may be stopped, but it can go on
        (True, {"pid": gone}),
        (True, {"started": "1"}),  # its number was given to another
        (False, {"machine": "elsewhere", "pid": gone, "age": EXPIRY / 2}),
        (True, {"machine": "elsewhere", "age": EXPIRY + 5}),
    ):
        left_behind(path, **about)
        assert is_held(path) is not over, about
        if over:
            with held(path) as mine:
                mine.check()
        else:
            with pytest.raises(CellInUse):
                held(path).__enter__()
            path.unlink()
        assert files(path) == []


def test_a_file_that_is_no_lease_is_one_until_it_is_old(path):
    path.parent.mkdir()
    for text in ("", "{", "[1]", '{"machine": 3}', "\x00\xff"):
        path.write_text(text)
        assert is_held(path)
        os.utime(path, (time.time() - EXPIRY - 5,) * 2)
        assert not is_held(path)
        with held(path):
            pass


def test_the_holder_touches_its_lease(path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.01)
    with held(path):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert is_held(path)
        assert path.stat().st_mtime > 0
    time.sleep(0.03)
    assert files(path) == [], "no thread brings it back"


def test_a_holder_that_was_taken_over_may_save_nothing_more_and_takes_nothing_away(path):
    with held(path) as mine:
        left_behind(path, machine="elsewhere")
        with pytest.raises(CellInUse, match="has taken over this cell"):
            mine.check()
    assert json.loads(path.read_text())["token"] == "theirs"  # noqa: S105
    path.unlink()
    with held(path) as mine:
        path.unlink()
        with pytest.raises(CellInUse):
            mine.check()


def test_of_many_that_want_a_lease_that_is_over_one_gets_it(path):
    gone = ended_process()
    for attempt in range(6):
        left_behind(path, pid=gone)
        begin, won, together = threading.Barrier(6), [], []

        def take(begin=begin, won=won, together=together):
            begin.wait()
            try:
                with held(path) as mine:
                    won.append(mine)
                    together.append(len(won))
                    time.sleep(0.01)
                    mine.check()
                    won.remove(mine)
            except CellInUse:
                pass

        threads = [threading.Thread(target=take) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert together, "somebody got it"
        assert set(together) == {1}, "nobody while another had it"
        assert files(path) == [], attempt


def test_one_that_died_while_taking_over_holds_nobody_up_for_long(path):
    left_behind(path, pid=ended_process())
    taken = path.with_suffix(".taken")
    taken.touch()
    with pytest.raises(CellInUse):
        held(path).__enter__()
    os.utime(taken, (time.time() - EXPIRY - 5,) * 2)
    with held(path) as mine:
        mine.check()
    assert files(path) == []


def test_the_file_systems_clock_decides_not_this_machines(path, monkeypatch):
    left_behind(path, machine="elsewhere", age=EXPIRY / 2)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert is_held(path)


def test_devices_save_nothing_once_another_process_has_the_cell(path):
    folder = path.with_suffix("")
    reply = Reply(Message(), None, {}, {}, {"training": 0.0, "evaluation": 0.0})
    with held(path) as ours:
        turns = FileTurns(folder, "key", ours.text)
        turns.save("d00", Turn(1, {"model/a": torch.ones(1)}, reply))
        before = {file.name: file.read_bytes() for file in folder.iterdir()}
        left_behind(path, token="another process")  # noqa: S106  # no secret
        with pytest.raises(CellInUse, match="another process has taken over this cell"):
            turns.save("d00", Turn(2, {"model/a": torch.zeros(1)}, reply))
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    with pytest.raises(CellInUse):  # and so it is for a fleet elsewhere, whose answer travels
        raise Refusal.from_bytes(Refusal.of(CellInUse("taken over")).to_bytes()).error()
