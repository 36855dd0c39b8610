"""Laws of the engine: repeatable to the bit, blind to order and transport, resumable, and strict about the contract."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from mlecs_bench.federation.link import SerialisingLink

import toy
from mlecs_bench.errors import MlecsError, PluginError
from mlecs_bench.execution.jobs import cell_ref
from mlecs_bench.federation.build import Federation
from mlecs_bench.federation.engine import CellRun, Events
from mlecs_bench.federation.messages import Message
from mlecs_bench.metrics.base import Metric

ALGOS = tuple(toy.ALGORITHMS)
ROUNDS = 2


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: what it measured, what it sent, and the state it left."""

    metrics: dict
    comm: dict
    steps: dict
    state: dict[str, torch.Tensor]


def federation_of(profile, samples, algo: str, seed: int = 27, **changes) -> Federation:
    settings = {"rounds": ROUNDS, "steps": 1} | changes
    return toy.toy_federation(profile, samples, seed, needs=toy.needs_of(algo), **settings)


def run_of(algo: str, federation: Federation, samples, **changes) -> Run:
    outcome = toy.run_toy(algo, federation, samples, **changes)
    return Run(outcome.metrics, outcome.comm, outcome.cost["steps"], toy.state_of(federation))


def assert_same(one: Run, other: Run) -> None:
    assert one.metrics == other.metrics
    assert one.comm == other.comm
    assert one.steps == other.steps
    assert not toy.differing(one.state, other.state)


@pytest.fixture(scope="module")
def reference(profile, samples) -> dict[str, Run]:
    """One uninterrupted run of every algorithm."""
    return {algo: run_of(algo, federation_of(profile, samples, algo), samples) for algo in ALGOS}


@pytest.mark.parametrize("algo", ALGOS)
def test_same_seed_gives_the_same_bits(algo, profile, samples, reference):
    torch.rand(5)
    assert_same(run_of(algo, federation_of(profile, samples, algo), samples), reference[algo])


def test_another_seed_gives_other_numbers(profile, samples, reference):
    other = run_of("standalone", federation_of(profile, samples, "standalone", seed=34), samples)
    assert other.metrics["client"] != reference["standalone"].metrics["client"]


@pytest.mark.parametrize("algo", ALGOS)
def test_order_of_devices_does_not_matter(algo, profile, samples, reference):
    federation = federation_of(profile, samples, algo)
    turned = dataclasses.replace(federation, devices=federation.devices[::-1])
    assert_same(run_of(algo, turned, samples), reference[algo])


@pytest.mark.parametrize("algo", ALGOS)
def test_serialising_link_gives_the_same_bits(algo, profile, samples, reference):
    assert_same(run_of(algo, federation_of(profile, samples, algo), samples, link=SerialisingLink()), reference[algo])


class Cheap:
    """An evaluator that measures nothing."""

    def score(self, model, test, prompt):
        return {"x": Metric(0.0, len(test))}


class KilledError(Exception):
    """Stands for the death of the process."""


def kill_after(round_: int, device: str | None) -> Events:
    """Return events that kill the run when a device of a round is done, or when the round is."""

    def device_end(t: int, id_: str) -> None:
        if (t, id_) == (round_, device):
            raise KilledError

    def round_end(t: int, scores: Mapping[str, float]) -> None:
        if t == round_ and device is None:
            raise KilledError

    return Events(device_end, round_end)


@pytest.mark.parametrize("algo", ALGOS)
def test_run_resumed_after_any_round_is_the_uninterrupted_run(algo, profile, samples, reference, tmp_path):
    path = tmp_path / "cell.safetensors"
    # Killed after round 1; after a device in round 2, whose work is lost; after round 2, before the last broadcast.
    for finished, kill in ((0, (1, None)), (1, (2, "d01")), (1, (2, None))):
        cell = toy.toy_cell(
            algo, federation_of(profile, samples, algo), samples, checkpoint=path, events=kill_after(*kill)
        )
        run = CellRun(cell)
        assert run.resume() == finished
        with pytest.raises(KilledError):
            run.run()
    federation = federation_of(profile, samples, algo)
    run = CellRun(toy.toy_cell(algo, federation, samples, checkpoint=path))
    assert run.resume() == ROUNDS
    outcome = run.run()
    resumed = Run(outcome.metrics, outcome.comm, outcome.cost["steps"], toy.state_of(federation))
    assert_same(resumed, reference[algo])


def test_checkpoint_of_another_cell_is_not_taken_over(profile, samples, tmp_path):
    path = tmp_path / "cell.safetensors"
    federation = federation_of(profile, samples, "standalone", rounds=1, steps=1)
    toy.run_toy("standalone", federation, samples, checkpoint=path, key="one")
    assert CellRun(toy.toy_cell("standalone", federation, samples, checkpoint=path, key="two")).resume() == 0
    assert CellRun(toy.toy_cell("standalone", federation, samples, checkpoint=path, key="one")).resume() == 1


def test_round_is_reported_after_its_checkpoint_is_written(profile, samples, tmp_path):
    path, seen = tmp_path / "cell.safetensors", []
    events = Events(
        lambda t, device: seen.append((t, device, path.is_file())), lambda t, scores: seen.append((t, path.is_file()))
    )
    federation = federation_of(profile, samples, "standalone", rounds=1, steps=1)
    toy.run_toy("standalone", federation, samples, checkpoint=path, events=events)
    devices = [(1, id_, False) for id_ in ("d00", "d01", "d02", "server")]
    assert seen == [*devices, (1, True)]


@pytest.mark.parametrize("algo", ALGOS)
def test_evaluating_every_round_changes_no_number_of_the_last(algo, profile, samples, reference):
    run = run_of(algo, federation_of(profile, samples, algo), samples, evaluate_all=True)
    expected = reference[algo]
    assert run.metrics["client"] == expected.metrics["client"]
    assert run.metrics["server"] == expected.metrics["server"]
    assert not toy.differing(run.state, expected.state)
    assert [row["losses"] for row in run.metrics["rounds"]] == [row["losses"] for row in expected.metrics["rounds"]]
    assert all("client" in row for row in run.metrics["rounds"])
    assert ["client" in row for row in expected.metrics["rounds"]] == [False, True]


class Scripted:
    """An algorithm that sends what it is told and writes down what it sees."""

    def __init__(self, down: Mapping[str, Message] | None = None, train=None) -> None:
        self.down, self.train, self.seen = down or {}, train, []

    def broadcast(self, server, t):
        self.seen.append(("broadcast", t))
        return self.down

    def receive(self, device, message, t):
        self.seen.append(("receive", device.id, t, sorted(message.tensors)))

    def local_update(self, device, t):
        self.seen.append(("update", device.id, t))
        if self.train is not None:
            self.train(device, t)
        return Message(scalars={"j": int(device.id[1:])})

    def aggregate(self, server, uploads, t):
        self.seen.append(("aggregate", {k: m.scalars["j"] for k, m in uploads.items()}, t))


class Watch:
    """An evaluator that writes the moments of evaluation into an algorithm's diary."""

    def __init__(self, algorithm: Scripted) -> None:
        self.algorithm = algorithm

    def score(self, model, test, prompt):
        self.algorithm.seen.append(("score", model.name))
        return {"x": Metric(0.0, len(test))}


def scripted(profile, samples, algorithm: Scripted, **changes):
    federation = federation_of(profile, samples, "standalone", rounds=1, steps=1, n_devices=2)
    return toy.run_toy(
        "standalone", federation, samples, **({"algorithm": algorithm, "evaluator": Watch(algorithm)} | changes)
    )


def test_round_runs_in_the_documented_order_with_two_moments_of_evaluation(profile, samples):
    algorithm = Scripted({"d01": Message({"x/y": torch.zeros(1)})})
    outcome = scripted(profile, samples, algorithm)
    receive = [("receive", "d00", 1, []), ("receive", "d01", 1, ["x/y"])]
    updates = [("update", "d00", 1), ("score", "d00"), ("update", "d01", 1), ("score", "d01")]
    last = [("broadcast", 2), ("receive", "d00", 2, []), ("receive", "d01", 2, ["x/y"])]
    assert algorithm.seen == [
        ("broadcast", 1),
        *receive,
        *updates,
        ("aggregate", {"d00": 0, "d01": 1}, 1),
        ("score", "server"),
        *last,
        ("score", "d00"),
        ("score", "d01"),
    ]
    assert set(outcome.metrics["client"]) == {"local", "received"}


@pytest.mark.parametrize(("evaluate", "scored_rounds"), [("last", [2]), ("all", [1, 2])])
def test_every_scoring_is_reported_once_it_is_done(evaluate, scored_rounds, profile, samples):
    algorithm, told = Scripted(), []
    events = Events(score_end=lambda t, id_: told.append((t, id_, algorithm.seen[-1])))
    changes = {"rounds": 2, "evaluate_all": evaluate == "all", "server_score": True, "events": events}
    scripted(profile, samples, algorithm, **changes)
    moments = [(t, id_) for t in scored_rounds for id_ in ("d00", "d01", "server")] + [(3, "d00"), (3, "d01")]
    assert told == [(t, id_, ("score", id_)) for t, id_ in moments]
    assert len(told) == cell_ref(toy.toy_spec(rounds=2, n_devices=2, evaluate=evaluate), 27).scorings


def test_server_is_scored_only_if_the_algorithm_trains_it(profile, samples):
    algorithm = Scripted()
    outcome = scripted(profile, samples, algorithm, server_score=False)
    assert outcome.metrics["server"] is None
    assert ("score", "server") not in algorithm.seen


def test_broadcast_to_an_unknown_device_is_refused(profile, samples):
    with pytest.raises(PluginError, match="round 1 addresses 'd07'"):
        scripted(profile, samples, Scripted({"d07": Message()}))


@pytest.mark.parametrize("stage", ["private", "public", "server"])
def test_algorithm_that_takes_more_steps_than_its_budget_is_refused(stage, profile, samples):
    allowed = {"private": 1, "public": 0, "server": 1}[stage]
    scripted(profile, samples, Scripted(train=lambda device, t: device.count_steps(stage, allowed)))
    greedy = Scripted(train=lambda device, t: [device.count_steps(stage, allowed), device.count_steps(stage, 1)])
    with pytest.raises(MlecsError, match=f"d00 took {allowed + 1} {stage} steps in round 1; the budget is {allowed}"):
        scripted(profile, samples, greedy)


def test_received_tensor_shares_no_memory_with_the_sender(profile, samples):
    class Vandal(Scripted):
        def receive(self, device, message, t):
            message.tensors["x/y"].fill_(9.0)

    sent = torch.zeros(2)
    scripted(profile, samples, Vandal({id_: Message({"x/y": sent}) for id_ in ("d00", "d01")}))
    assert not sent.any()


@pytest.mark.parametrize("algo", ALGOS)
def test_last_broadcast_is_counted(algo, reference):
    rows = {row["round"]: row for row in reference[algo].comm["by_round"]}
    if algo == "standalone":
        assert rows == {}
        return
    assert set(rows) == {1, 2, 3}
    assert rows[3]["up_params"] == 0 < rows[3]["down_params"]
    total = {key: sum(row[key] for row in rows.values()) for key in ("up_params", "down_params")}
    for direction in ("up", "down"):
        entries = [e for e in reference[algo].comm["entries"] if e["direction"] == direction]
        assert sum(e["params"] for e in entries) == total[f"{direction}_params"]


@pytest.mark.parametrize(
    ("algo", "budget", "per_round"),
    [
        ("ml-ecs", "paper", {"private": 1, "public": 1, "server": 1}),
        ("standalone", "paper", {"private": 1, "server": 1}),
        ("standalone", "equal", {"private": 2, "server": 1}),
        ("multi-fedavg", "equal", {"private": 2}),
    ],
)
def test_steps_are_counted_per_stage(algo, budget, per_round, profile, samples):
    federation = federation_of(profile, samples, algo, rounds=2, steps=1, budget=budget)
    steps = run_of(algo, federation, samples, evaluator=Cheap()).steps
    parties = {"private": 3, "public": 3, "server": 1}
    assert steps == {stage: 2 * parties[stage] * n for stage, n in per_round.items()}


@pytest.mark.parametrize("algo", ALGOS)
def test_device_lives_on_from_its_state_and_the_next_message_alone(algo, profile, samples):
    first, fresh = (federation_of(profile, samples, algo) for _ in range(2))
    algorithm = toy.toy_cell(algo, first, samples).algorithm
    for device in first.devices:
        down = algorithm.broadcast(first.server, 1).get(device.id, Message()).copied()
        algorithm.receive(device, down, 1)
    uploads = {d.id: algorithm.local_update(d, 1).copied() for d in first.devices}
    algorithm.aggregate(first.server, uploads, 1)
    saved = {d.id: d.state() for d in first.devices}
    down = {id_: m.copied() for id_, m in algorithm.broadcast(first.server, 2).items()}
    for old, new in zip(first.devices, fresh.devices, strict=True):
        old.start_round()
        new.load_state(saved[old.id])
        results = []
        for device in (old, new):
            algorithm.receive(device, down.get(device.id, Message()).copied(), 2)
            results.append((algorithm.local_update(device, 2), device.state()))
        (upload, state), (again, state_again) = results
        assert not toy.differing(upload.tensors, again.tensors)
        assert upload.scalars == again.scalars
        assert not toy.differing(state, state_again)


@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize(
    "changes",
    [
        {"n_devices": 1, "rho": 1.0},
        {"n_devices": 3, "rho": {"audio": 1.0, "text": 1e-9, "video": 1e-9}},
        {"n_devices": 3, "rho": 1e-9, "min_modalities": 0},
    ],
    ids=["one-device", "one-modality", "no-modality"],
)
def test_extreme_federations_survive(algo, changes, profile, samples):
    federation = federation_of(profile, samples, algo, rounds=1, steps=1, **changes)
    run = run_of(algo, federation, samples)
    scores = run.metrics["client"]["received"]["loss"]
    assert len(scores) == changes["n_devices"]
    assert all(0 < s["value"] < 20 for s in scores.values())


@pytest.mark.parametrize("algo", ["ml-ecs", "multi-fedavg"])
def test_twenty_devices_survive(algo, profile, tmp_path):
    from mlecs_bench.data.samples import Samples

    samples = Samples.open(toy.make_prepared(tmp_path / "large", n=560))
    federation = federation_of(profile, samples, algo, rounds=1, steps=1, n_devices=20)
    sizes = {len(d.modalities) for d in federation.devices}
    assert sizes == {1, 2, 3}
    run = run_of(algo, federation, samples, evaluator=Cheap())
    assert len(run.metrics["client"]["local"]["x"]) == 20


def test_training_that_diverges_stops_in_one_line(profile, samples):
    wild = dataclasses.replace(profile.learning_rates, connector=1e30)
    federation = federation_of(dataclasses.replace(profile, learning_rates=wild), samples, "standalone", steps=2)
    with pytest.raises(MlecsError, match="d00 diverged in stage private of round 1") as caught:
        run_of("standalone", federation, samples)
    assert "\n" not in str(caught.value)


def test_checkpoint_is_one_file_without_leftovers(profile, samples, tmp_path: Path):
    federation = federation_of(profile, samples, "multi-fedavg", rounds=1, steps=1)
    toy.run_toy("multi-fedavg", federation, samples, checkpoint=tmp_path / "cell.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["cell.safetensors"]


def test_memory_that_is_no_tensor_is_named(profile, samples):
    federation = federation_of(profile, samples, "standalone")
    federation.devices[1].memory["round"] = 3
    with pytest.raises(PluginError, match=r"d01.memory\['round'\] is a int; store a tensor"):
        federation.devices[1].state()
