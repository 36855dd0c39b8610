"""Laws of the engine: resumable from any moment, and strict about the contract.

That a run is repeatable to the bit, and blind to the order of devices and to what carries messages, is proved by the
checks of the contract for every algorithm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import torch

import toy
from mlecs_bench.doors.events import Event, Tell
from mlecs_bench.doors.scoring import Metric
from mlecs_bench.errors import MessageError, MlecsError, PluginError
from mlecs_bench.execution.jobs import cell_ref
from mlecs_bench.federation.build import Federation
from mlecs_bench.federation.checkpoint import server_file
from mlecs_bench.federation.engine import CellRun
from mlecs_bench.federation.fleet import InProcessFleet
from mlecs_bench.federation.messages import Message
from mlecs_bench.testing.fleets import Around, BytesFleet, ReversedFleet

ALGOS = ("ml-ecs", "multi-fedavg")
ROUNDS = 2


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: what it measured, what it sent, and the state it left."""

    metrics: dict
    comm: dict
    steps: dict
    state: dict[str, torch.Tensor]


def federation_of(profile, samples, algo: str, seed: int = 27, **changes) -> Federation:
    plan = toy.toy_plan(profile, toy.needs_of(algo), **({"rounds": ROUNDS, "steps": 1} | changes))
    return toy.copied_federation(plan, seed, samples)


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
    """One uninterrupted run of each algorithm."""
    return {algo: run_of(algo, federation_of(profile, samples, algo), samples) for algo in ALGOS}


def test_another_seed_gives_other_numbers(profile, samples, reference):
    other = run_of("multi-fedavg", federation_of(profile, samples, "multi-fedavg", seed=34), samples)
    assert other.metrics["client"] != reference["multi-fedavg"].metrics["client"]


class Cheap:
    """An evaluator that measures nothing."""

    def score(self, model, test, prompt):
        return {"x": Metric(0.0, len(test))}


class KilledError(Exception):
    """Stands for the death of the process."""


def kill_at(kind: str, round_: int, device: str = "") -> Tell:
    """Return what kills the run when it is told of an event."""

    def tell(event: Event) -> None:
        if (event.kind, event.round, event.device) == (kind, round_, device):
            raise KilledError

    return tell


KILLS = (
    (0, ("device_end", 1, "d01")),  # a device has not begun its first round
    (0, ("round_end", 1)),
    (1, ("device_end", 2, "d00")),  # one device is ahead of the others and of the server
    (1, ("device_end", 2, "server")),  # all devices have kept the round, the server has not
    (1, ("round_end", 2)),
    (2, ("score_end", 3, "d01")),  # within the last exchange
)
"""The last round that the server has saved, and the event at which the run that goes on from there is killed."""


def test_run_that_is_killed_anywhere_and_goes_on_is_the_uninterrupted_run(profile, samples, reference, tmp_path):
    for algo, expected in reference.items():
        folder = tmp_path / algo
        for finished, kill in KILLS:
            cell = toy.toy_cell(
                algo, federation_of(profile, samples, algo), samples, folder=folder, tell=kill_at(*kill)
            )
            run = CellRun(cell)
            assert run.start() == finished
            with pytest.raises(KilledError):
                run.run()
        federation = federation_of(profile, samples, algo)
        run = CellRun(toy.toy_cell(algo, federation, samples, folder=folder))
        assert run.start() == ROUNDS
        outcome = run.run()
        assert_same(Run(outcome.metrics, outcome.comm, outcome.cost["steps"], toy.state_of(federation)), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "others", [{}, {"participation": {"fraction": 0.7, "min_devices": 1}, "dropout": {"during": 0.2, "after": 0.3}}]
)
def test_compressed_runs_are_the_same_in_any_order_over_bytes_and_after_kills(others, profile, samples, tmp_path):
    def parties(compression: str = "topk:0.1") -> Federation:
        return federation_of(profile, samples, "multi-fedavg", rounds=3, compression=compression, **others)

    def ran(federation: Federation, **changes) -> Run:
        return run_of("multi-fedavg", federation, samples, evaluator=toy.Unscored(), **changes)

    expected, plain = ran(parties()), ran(parties("none"))
    sizes = [sum(row["bytes"] for row in run.comm["entries"]) for run in (expected, plain)]
    assert sizes[0] < 0.8 * sizes[1]
    assert [row["round"] for row in expected.comm["by_round"]] == [row["round"] for row in plain.comm["by_round"]]
    for around in (ReversedFleet, BytesFleet):
        assert_same(ran(parties(), fleet=lambda host, around=around: around(InProcessFleet(host))), expected)
    kills = (("device_end", 2, "d01"), ("round_end", 2), ("device_end", 3, "d00"), ("round_end", 3))
    for kill in kills:
        with suppress(KilledError):  # who takes part is drawn
            ran(parties(), folder=tmp_path, tell=kill_at(*kill))
    assert_same(ran(parties(), folder=tmp_path), expected)


def test_server_that_lost_its_checkpoint_starts_afresh_with_its_devices(profile, samples, reference, tmp_path):
    """After one round the devices answer it from what they keep; after two they begin again."""
    for event in (("round_end", 1), ("round_end", 2), ("score_end", 3, "d01")):
        federation = federation_of(profile, samples, "multi-fedavg")
        with pytest.raises(KilledError):
            run_of("multi-fedavg", federation, samples, folder=tmp_path, tell=kill_at(*event))
        server_file(tmp_path).unlink()
        again = run_of("multi-fedavg", federation_of(profile, samples, "multi-fedavg"), samples, folder=tmp_path)
        assert_same(again, reference["multi-fedavg"])
        server_file(tmp_path).unlink()


def test_checkpoint_of_another_cell_is_not_taken_over(profile, samples, tmp_path):
    federation = federation_of(profile, samples, "standalone", rounds=1, steps=1)

    def start(key: str) -> int:
        return CellRun(toy.toy_cell("standalone", federation, samples, folder=tmp_path, key=key)).start()

    with pytest.raises(KilledError):
        toy.run_toy("standalone", federation, samples, folder=tmp_path, key="one", tell=kill_at("round_end", 1))
    assert start("two") == 0
    assert start("one") == 1


def test_round_is_reported_after_it_is_saved(profile, samples, tmp_path):
    seen = []

    def tell(event: Event) -> None:
        if event.kind in ("device_end", "round_end") or event.round == 2:
            kept = sorted(path.name.split(".")[0] for path in tmp_path.iterdir())
            seen.append((event.kind, event.device, kept))

    federation = federation_of(profile, samples, "standalone", rounds=1, steps=1)
    toy.run_toy("standalone", federation, samples, folder=tmp_path, tell=tell)
    first, last = ([f"{id_}-round00000{t}" for id_ in ("d00", "d01", "d02")] for t in (1, 2))
    assert seen == [
        *(("device_end", f"d0{j}", first[: j + 1]) for j in range(3)),
        ("device_end", "server", first),
        ("round_end", "", [*first, "server"]),
        *(("score_end", f"d0{j}", sorted([*first, *last[: j + 1], "server"])) for j in range(3)),
    ]


def test_evaluating_every_round_changes_no_number_of_the_last(profile, samples, reference):
    for algo, expected in reference.items():
        run = run_of(algo, federation_of(profile, samples, algo), samples, evaluate_all=True)
        assert run.metrics["client"] == expected.metrics["client"]
        assert run.metrics["server"] == expected.metrics["server"]
        assert not toy.differing(run.state, expected.state)
        assert [row["losses"] for row in run.metrics["rounds"]] == [row["losses"] for row in expected.metrics["rounds"]]
        assert all("client" in row for row in run.metrics["rounds"])
        assert ["client" in row for row in expected.metrics["rounds"]] == [False, True]


class Scripted:
    """An algorithm that sends what it is told and writes down what it sees; what is received changes the device."""

    def __init__(self, down: Mapping[str, Message] | None = None, train=None) -> None:
        self.down, self.train, self.seen = down or {}, train, []

    def broadcast(self, server, t):
        self.seen.append(("broadcast", t))
        return self.down

    def receive(self, device, message, t):
        self.seen.append(("receive", device.id, t, sorted(message.tensors)))
        with torch.no_grad():
            next(iter(device.model.part("lora").values())).add_(1.0)

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


def test_round_runs_in_the_documented_order_with_two_evaluation_points(profile, samples):
    algorithm = Scripted({"d01": Message({"x/y": torch.zeros(1)})})
    outcome = scripted(profile, samples, algorithm)
    assert algorithm.seen == [
        ("broadcast", 1),
        ("receive", "d00", 1, []), ("update", "d00", 1), ("score", "d00"),
        ("receive", "d01", 1, ["x/y"]), ("update", "d01", 1), ("score", "d01"),
        ("aggregate", {"d00": 0, "d01": 1}, 1),
        ("score", "server"),
        ("broadcast", 2),
        ("receive", "d00", 2, []), ("score", "d00"),
        ("receive", "d01", 2, ["x/y"]), ("score", "d01"),
    ]  # fmt: skip  # a turn in a line
    assert set(outcome.metrics["client"]) == {"local", "received"}


def test_every_scoring_is_reported_once_it_is_done(profile, samples):
    for evaluate, scored_rounds in (("last", [2]), ("all", [1, 2])):
        algorithm, told = Scripted(), []

        def tell(event: Event, algorithm=algorithm, told=told) -> None:
            if event.kind == "score_end":
                told.append((event.round, event.device, algorithm.seen[-1]))

        changes = {"rounds": 2, "evaluate_all": evaluate == "all", "server_score": True, "tell": tell}
        scripted(profile, samples, algorithm, **changes)
        points = [(t, id_) for t in scored_rounds for id_ in ("d00", "d01", "server")] + [(3, "d00"), (3, "d01")]
        assert told == [(t, id_, ("score", id_)) for t, id_ in points]
        plan = toy.toy_plan(profile, rounds=2, n_devices=2, evaluate=evaluate)
        assert len(told) == cell_ref(plan, 27).scorings


def test_server_is_scored_only_if_the_algorithm_trains_it(profile, samples):
    algorithm = Scripted()
    outcome = scripted(profile, samples, algorithm, server_score=False)
    assert outcome.metrics["server"] is None
    assert ("score", "server") not in algorithm.seen


def test_broadcast_to_an_unknown_device_is_refused(profile, samples):
    with pytest.raises(PluginError, match="round 1 addresses 'd07'"):
        scripted(profile, samples, Scripted({"d07": Message()}))


def test_party_that_takes_more_steps_than_its_budget_is_refused(profile, samples):
    for stage, allowed in {"private": 1, "public": 0, "server": 1}.items():
        for taken in (allowed, allowed + 1):
            greedy = Scripted(train=lambda device, t: device.count_steps(stage, taken))  # noqa: B023  # called at once
            wanted = f"d00 took {taken} {stage} steps in round 1; the budget is {allowed}"
            with pytest.raises(PluginError, match=wanted) if taken > allowed else nullcontext():
                scripted(profile, samples, greedy)


def test_party_that_trains_after_the_last_round_is_refused(profile, samples):
    class Late(Scripted):
        def broadcast(self, server, t):
            if t == 2:
                self.late(server)
            return super().broadcast(server, t)

        def receive(self, device, message, t):
            if t == 2:
                self.late(device)

        def late(self, party):
            if party.id == self.who:
                party.count_steps("private", 1)

    for who in ("server", "d01"):
        algorithm = Late()
        algorithm.who = who
        with pytest.raises(PluginError, match=f"^{who} trained after the last round"):
            scripted(profile, samples, algorithm)


def test_message_that_may_not_travel_stops_the_run_and_is_not_counted(profile, samples):
    algorithm = Scripted({"d00": Message({"x/y": torch.tensor([float("nan")])})})
    federation = federation_of(profile, samples, "standalone", rounds=1, steps=1, n_devices=2)
    run = CellRun(toy.toy_cell("standalone", federation, samples, algorithm=algorithm, evaluator=Cheap()))
    with pytest.raises(MessageError, match="'x/y' holds NaN"):
        run.run()
    assert run._ledger.entries == []


def test_fleet_that_loses_a_device_or_names_another_is_refused(profile, samples):
    class Losing(Around):
        def exchange(self, asks):
            return (pair for pair in super().exchange(asks) if pair[0] != "d01")

    class Strange(Around):
        def hello(self, after):
            return {"d07" if id_ == "d01" else id_: one for id_, one in super().hello(after).items()}

    class Changed(Around):
        def __init__(self, fleet, **changes):
            super().__init__(fleet)
            self.changes = changes

        def hello(self, after):
            return {id_: dataclasses.replace(one, **self.changes) for id_, one in super().hello(after).items()}

    refused = (
        (Losing, "^d01 gave no reply in round 1$"),
        (Strange, "^the devices d00, d07 are here, expected d00, d01$"),
        (lambda fleet: Changed(fleet, data="f" * 64), "^d00 holds data with digest ffffffffffff, the server 0000"),
        (lambda fleet: Changed(fleet, versions={}), "^d00 runs mlecs-bench None, the server "),
    )
    for around, wanted in refused:
        with pytest.raises(MlecsError, match=wanted):
            scripted(profile, samples, Scripted(), fleet=lambda host: around(InProcessFleet(host)))  # noqa: B023  # called at once


def test_received_tensor_shares_no_memory_with_the_sender(profile, samples):
    class Vandal(Scripted):
        def receive(self, device, message, t):
            message.tensors["x/y"].fill_(9.0)

    sent = torch.zeros(2)
    scripted(profile, samples, Vandal({id_: Message({"x/y": sent}) for id_ in ("d00", "d01")}))
    assert not sent.any()


def test_last_broadcast_is_counted(reference):
    for run in reference.values():
        rows = {row["round"]: row for row in run.comm["by_round"]}
        assert set(rows) == {1, 2, 3}
        assert rows[3]["up_params"] == 0 < rows[3]["down_params"]
        total = {key: sum(row[key] for row in rows.values()) for key in ("up_params", "down_params")}
        for direction in ("up", "down"):
            entries = [e for e in run.comm["entries"] if e["direction"] == direction]
            assert sum(e["params"] for e in entries) == total[f"{direction}_params"]


def test_steps_are_counted_per_stage(profile, samples):
    cases = (
        ("ml-ecs", "paper", {"private": 1, "public": 1, "server": 1}),
        ("standalone", "paper", {"private": 1, "server": 1}),
        ("standalone", "equal", {"private": 2, "server": 1}),
        ("multi-fedavg", "equal", {"private": 2}),
    )
    for algo, budget, per_round in cases:
        federation = federation_of(profile, samples, algo, rounds=2, steps=1, budget=budget)
        steps = run_of(algo, federation, samples, evaluator=Cheap()).steps
        parties = {"private": 3, "public": 3, "server": 1}
        assert steps == {stage: 2 * parties[stage] * n for stage, n in per_round.items()}


def test_training_that_diverges_stops_in_one_line(profile, samples):
    wild = dataclasses.replace(profile.learning_rates, connector=1e30)
    federation = federation_of(dataclasses.replace(profile, learning_rates=wild), samples, "standalone", steps=2)
    with pytest.raises(MlecsError, match="d00 diverged in stage private of round 1") as caught:
        run_of("standalone", federation, samples)
    assert "\n" not in str(caught.value)


def test_a_run_keeps_the_servers_checkpoint_and_two_rounds_of_every_device(profile, samples, tmp_path: Path):
    federation = federation_of(profile, samples, "multi-fedavg", rounds=3, steps=1)
    toy.run_toy("multi-fedavg", federation, samples, folder=tmp_path)
    devices = {f"d0{j}-round00000{t}.safetensors" for j in range(3) for t in (3, 4)}
    assert {p.name for p in tmp_path.iterdir()} == {"server.safetensors", *devices}


def test_memory_that_is_no_tensor_is_named(profile, samples):
    federation = federation_of(profile, samples, "standalone")
    federation.devices[1].memory["round"] = 3
    with pytest.raises(PluginError, match=r"d01.memory\['round'\] is a int; store a tensor"):
        federation.devices[1].state()
