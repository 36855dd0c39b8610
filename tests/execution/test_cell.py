"""Cells: what observers hear of one agrees with its record; workers in processes of their own."""

from __future__ import annotations

import math
import multiprocessing
import re
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from fake_jobs import FakeJob, FakePlan
from mlecs_bench.cli.run import run as run_command
from mlecs_bench.data.parts import Part, Partition
from mlecs_bench.doors.events import Event
from mlecs_bench.doors.hookspecs import hookimpl
from mlecs_bench.doors.registry import Registry
from mlecs_bench.execution.cell import _dealt, run_job
from mlecs_bench.execution.jobs import Execution
from mlecs_bench.execution.protocol import run
from mlecs_bench.execution.workers import STOP_SECONDS, LocalWorkers
from mlecs_bench.plan.conditions import Conditions, condition
from mlecs_bench.testing.cells import no_observers, toy_plan
from mlecs_bench.testing.installed import installed

ROUNDS, DEVICES = 3, ("d00", "d01")


class Watcher:
    """An observer that keeps the events and the plans that come with them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.plans: list[object] = []

    @hookimpl
    def mlecs_event(self, event, plan):
        self.events.append(event)
        self.plans.append(plan)

    def of(self, kind: str, **fields: object) -> list[Event]:
        """Return the events of a kind whose fields have these values."""
        found = [event for event in self.events if event.kind == kind]
        return [event for event in found if all(getattr(event, name) == value for name, value in fields.items())]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A run of one seed, scored in every round: its plan, what an observer heard, and its record."""
    out = tmp_path_factory.mktemp("cell")
    watcher, observers = Watcher(), no_observers()
    observers.register(watcher)
    with installed():
        plan = toy_plan(Registry.installed(), algo="ml-ecs", rounds=ROUNDS, evaluate="all")
        (result,) = run(plan, Execution(out, out / "cache"), observers)
    assert result.error is None
    return plan, watcher, result.record


def test_observers_are_told_in_order_with_the_plan(told):
    plan, watcher, record = told
    kinds = [event.kind for event in watcher.events if event.kind != "data"]
    turn = [*["device_end", "score_end"] * (len(DEVICES) + 1), "round_end"]
    assert kinds == ["cells", "cell_start", *turn * ROUNDS, *["score_end"] * len(DEVICES), "cell_end"]
    assert all(plan_ is plan for event, plan_ in zip(watcher.events, watcher.plans, strict=True) if event.cell)
    assert {event.cell.key for event in watcher.events if event.cell} == {record["key"]}
    assert [event.round for event in watcher.of("round_end")] == [1, 2, 3]
    assert {event.round for event in watcher.of("score_end")} == {1, 2, 3, ROUNDS + 1}
    assert watcher.events[-1].values["record"] == record


def test_what_a_round_tells_of_every_party_adds_up_to_the_record(told):
    _, watcher, record = told
    rounds = watcher.of("round_end")
    for event, row in zip(rounds, record["metrics"]["rounds"], strict=True):
        parties = event.values["parties"]
        assert list(parties) == ["server", *DEVICES]
        assert {id_: party["losses"] for id_, party in parties.items()} == row["losses"]
        for name, by_device in row["client"].items():
            assert {id_: parties[id_]["scores"][name] for id_ in DEVICES} == by_device
        assert parties["server"]["scores"] == row["server"]
        headline = next(iter(row["client"]))
        mean = sum(score["value"] for score in row["client"][headline].values()) / len(DEVICES)
        assert event.values["scores"] == {headline: mean}
    steps = Counter()
    for event in rounds:
        for party in event.values["parties"].values():
            steps.update(party["steps"])
    assert steps == record["cost"]["steps"]


def test_what_rounds_tell_of_traffic_is_what_the_record_counts(told):
    _, watcher, record = told
    by_round = {row["round"]: row for row in record["comm"]["by_round"]}
    for event in watcher.of("round_end"):
        parties, row = event.values["parties"], by_round[event.round]
        for way in ("down", "up"):
            assert sum(parties[id_]["sent"][way] for id_ in DEVICES) == parties["server"]["sent"][way]
            assert parties["server"]["sent"][way] == row[f"{way}_params"]
    total = Counter()
    for entry in record["comm"]["entries"]:
        total[entry["direction"]] += entry["params"]
    sent = Counter()
    for event in watcher.of("round_end"):
        sent.update(event.values["parties"]["server"]["sent"])
    last = by_round[ROUNDS + 1]
    assert sent["up"] == total["up"] > 0
    assert sent["down"] + last["down_params"] == total["down"] > sent["down"]


def test_what_events_tell_of_seconds_is_what_the_record_counts(told):
    _, watcher, record = told
    seconds = record["cost"]["seconds"]
    trained = math.fsum(event.values["seconds"] for event in watcher.of("device_end"))
    scored = math.fsum(event.values["seconds"] for event in watcher.of("score_end"))
    assert trained == pytest.approx(seconds["training"])
    assert scored == pytest.approx(seconds["evaluation"])
    for event in watcher.of("round_end"):
        for id_, party in event.values["parties"].items():
            (end,) = watcher.of("device_end", round=event.round, device=id_)
            assert party["seconds"]["training"] == end.values["seconds"] > 0
            assert (party["losses"], party["steps"]) == (end.values["losses"], end.values["steps"])


def test_a_gpu_out_of_memory_is_one_line_that_says_what_would_need_less():
    told: list[Event] = []
    run_job(FakeJob(FakePlan("memory"), 1), told.append)
    error = told[-1].values["error"]
    assert error.startswith("the GPU's memory ran out (CUDA out of memory. Tried to allocate 2.00 GiB); ")
    assert "\n" not in error
    for flag in re.findall(r"--[\w-]+", error):
        assert any(flag in parameter.opts for parameter in run_command.params)


# Workers in processes of their own


def worked(workers: LocalWorkers, told: list[Event], job: FakeJob) -> str:
    """Run a job and return the error that it ends with."""
    workers.start(job)
    deadline = time.monotonic() + 60
    while not any(event.kind == "cell_end" and event.cell == job.ref for event in told):
        assert time.monotonic() < deadline
        workers.wait(0.1)
    return told[-1].values["error"]


def test_a_worker_that_dies_costs_its_own_job_and_is_replaced_and_all_stop_at_once(tmp_path: Path):
    told: list[Event] = []
    workers = LocalWorkers(1, 1, told.append)
    assert workers.free == 1
    first = worked(workers, told, FakeJob(FakePlan("error"), 1))
    assert first.startswith("no data in process ")
    assert worked(workers, told, FakeJob(FakePlan("error"), 2)) == first  # the process lives on
    assert worked(workers, told, FakeJob(FakePlan("defect"), 3)).endswith("ZeroDivisionError: a defect\n")
    unsendable = worked(workers, told, FakeJob(lambda: None, 4))
    assert unsendable.startswith("the cell could not be given to a worker process (")
    assert "\n" not in unsendable
    death = worked(workers, told, FakeJob(FakePlan("kill"), 5))
    assert death == (
        "the worker process was killed by SIGKILL, perhaps because memory ran out; every finished round is kept"
    )
    workers.start(FakeJob(FakePlan("sleep"), 6))
    (process,) = multiprocessing.active_children()
    assert process.pid != int(first.rpartition(" ")[2])
    assert workers.free == 0
    before = time.monotonic()
    workers.stop()
    workers.stop()
    assert time.monotonic() - before < STOP_SECONDS + 5
    assert not process.is_alive()
    assert [event.cell.seed for event in told] == [1, 2, 3, 4, 5]


def test_a_record_counts_labels_redraws_and_what_samples_kept_only_where_these_are_not_as_usual():
    part = [Part((0, 2, 3), (1,)), Part((4, 5), (6,))]
    samples = SimpleNamespace(
        targets=["up", "up", "down", "up", "sit", "up", "down"], manifest=SimpleNamespace(labels=("down", "sit", "up"))
    )

    def dealt(settings, labels=("down", "sit", "up"), rates=()):
        samples.manifest.labels = labels
        conditions = Conditions(partition=condition("partition", settings))
        plan = SimpleNamespace(conditions=conditions, device_ids=("d00",))
        layout = SimpleNamespace(partition=Partition(part[0], (part[1],), 0, redraws=4))
        builder = SimpleNamespace(layout=layout, sample_rates=dict(rates))
        return _dealt(SimpleNamespace(builder=builder, samples=samples, recipe=SimpleNamespace(plan=plan)))

    classes = {"server": {"down": 1, "sit": 0, "up": 2}, "d00": {"down": 0, "sit": 1, "up": 1}}
    assert dealt("dirichlet:0.3") == {"partition_redraws": 4, "classes": classes}
    assert dealt("public-share=0.3", labels=()) == {"partition_redraws": 4}
    assert dealt(None) == {}
    assert dealt(None, rates={"rgb": 0.5}) == {"sample_rates": {"rgb": 0.5}}
