"""What the workers `ray` take for an address, and what they do with cells that are lost; Ray itself is played."""

from __future__ import annotations

import importlib.util
import socket
import sys
import types

import pytest

from mlecs_bench.doors.hookspecs import WorkersRequest
from mlecs_bench.errors import UsageError
from mlecs_bench.execution.event_lines import event_line
from mlecs_bench.execution.jobs import CellResult
from mlecs_bench.execution.losses import MOST_LOSSES
from mlecs_plugins.workers import ray_workers
from sweep_fakes import make_jobs


class Lost(Exception):  # noqa: N818  # it stands for several errors of Ray's
    pass


class PlayedRay(types.ModuleType):
    """A cluster of so many CPUs, whose tasks say what they are told to: an exception is raised in its place."""

    def __init__(self, cpus, said):
        super().__init__("ray")
        self.cpus, self.said, self.options, self.cancelled = cpus, list(said), [], 0
        self.exceptions = types.SimpleNamespace(RayError=Lost, RayTaskError=ZeroDivisionError)

    def is_initialized(self):
        return True

    def cluster_resources(self):
        return {"CPU": float(self.cpus)}

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": float(self.cpus)}}]

    def put(self, part):
        return part

    def remote(self, **options):
        self.options.append(options)
        task = types.SimpleNamespace(remote=lambda parcel, parts: iter(self.said.pop(0)))
        return lambda function: types.SimpleNamespace(options=lambda name: task)

    def wait(self, waiting, **_):
        return waiting[:1], waiting[1:]

    def get(self, word):
        if isinstance(word, Exception):
            raise word
        return word

    def cancel(self, words, *, force):
        self.cancelled += force


@pytest.fixture
def play(monkeypatch, tmp_path):
    """Return a function that makes workers on a played cluster, and what they tell."""
    monkeypatch.setattr(ray_workers.Sender, "parcel", lambda self, job: "a parcel")
    monkeypatch.setattr(ray_workers.Sender, "data", lambda self, job: [b"data"])

    def make(said, cpus=2, size=10):
        ray, told = PlayedRay(cpus, said), []
        monkeypatch.setitem(sys.modules, "ray", ray)
        return ray, ray_workers.RayWorkers(WorkersRequest(size, 1, told.append, argument="1.2.3.4:6379")), told

    return make


def failed(job, error):
    return event_line(CellResult(job.seed, error=error).event(job.ref))


def test_a_lost_cell_is_given_again_by_us_alone_and_after_three_losses_it_fails(play, tmp_path):
    first, second, _ = make_jobs(tmp_path)
    said = [[Lost("one")], [Lost("two")], [failed(first, "its own error")], *([[]] * MOST_LOSSES)]
    ray, workers, told = play(said)
    for job in (first, second):
        workers.start(job)
        for _ in range(10):
            workers.wait(0.0)
    assert {options["max_retries"] for options in ray.options} == {0}
    assert len(ray.options) == 3 + MOST_LOSSES
    ends = {event.cell: event.values["error"] for event in told if event.kind == "cell_end"}
    assert ends[first.ref] == "its own error"
    assert f"lost {MOST_LOSSES} times" in ends[second.ref]
    assert "its task ended without a word" in ends[second.ref]
    notes = [event.values["text"] for event in told if event.kind == "note"]
    assert notes[0] == "a cell was lost (Lost: one) and is tried again, attempt 2"
    assert len(notes) == 2 + MOST_LOSSES - 1
    workers.stop()
    workers.stop()


def test_the_cluster_is_given_a_little_more_than_it_has_room_for_and_no_more_than_there_is(play, tmp_path):
    jobs = make_jobs(tmp_path)
    for cpus, size, expected in ((2, 100, 5), (2, 3, 3), (0, 100, 1), (64, 100, 100)):
        ray, workers, _ = play([[]] * 9, cpus, size)
        assert workers.free == expected
        workers.start(jobs[0])
        assert workers.free == expected - 1
        workers.stop()
        assert ray.cancelled == 1
        assert not list(tmp_path.glob(".shared*"))


def test_a_cell_that_no_node_can_run_is_told_of_once(play, tmp_path):
    _, workers, told = play([[]] * 9, cpus=0)
    for job in make_jobs(tmp_path):
        workers.start(job)
    assert [event.values["text"] for event in told] == [
        "no node of the Ray cluster has 1 CPU, which a cell needs; it waits until one comes"
    ]
    workers.stop()


def test_an_address_is_refused_before_anything_is_prepared(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for text in ("", "host", "host:", ":6379", "host:port", "ray://host:10001"):
        with pytest.raises(UsageError, match=r"take the address of a cluster, ray:HOST:PORT"):
            ray_workers.check_address(text)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ray_workers.check_address(f"127.0.0.1:{port}")
    with pytest.raises(UsageError, match=rf"no Ray cluster answers at 127.0.0.1:{port} .* ray start --head"):
        ray_workers.check_address(f"127.0.0.1:{port}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"not installed: pip install 'mlecs-bench\[ray\]'"):
        ray_workers.check_address("127.0.0.1:6379")
