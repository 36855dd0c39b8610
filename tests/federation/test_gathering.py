"""Laws of rounds without some of the devices: who takes part is drawn, what they miss is kept, and bits stay bits."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch

import toy
from fleet_cells import LosingFleet
from mlecs_bench.errors import NotFiniteError
from mlecs_bench.federation.attendance import Attendance
from mlecs_bench.federation.build import Builder, Federation
from mlecs_bench.federation.engine import CellRun
from mlecs_bench.federation.fleet import InProcessFleet
from mlecs_bench.federation.host import DeviceHost
from mlecs_bench.federation.mailbox import Mailbox
from mlecs_bench.federation.messages import Message
from mlecs_bench.federation.roster import BuiltDevices
from mlecs_bench.federation.turns import DeviceMissing, MemoryTurns, StaleTurn
from mlecs_bench.plan.conditions import Conditions, condition
from mlecs_bench.testing import toy as made
from mlecs_bench.testing.fleets import ReversedFleet
from mlecs_bench.testing.steps import Listening

IDS = ("d00", "d01", "d02")
HARSH = {
    "participation": {"devices": 2, "min_devices": 2, "too_few": "repeat"},
    "dropout": {"before": 0.15, "during": 0.15, "after": 0.15},
    "faults": {"byzantine": "stale", "count": 1, "server_restart": 0.2},
}
"""All that can happen to a round at once."""


def conditions(**given: object) -> Conditions:
    return Conditions(**{name: condition(name, written) for name, written in given.items()})


def attendance(seed: int = 27, n: int = 10, samples=None, **given: object) -> Attendance:
    held = {f"d{j:02d}": (samples or [1] * n)[j] for j in range(n)}
    return Attendance(conditions(**given), seed, held)


def federation(profile, samples, algo="multi-fedavg", seed=27, rounds=3, **changes):
    plan = toy.toy_plan(profile, toy.needs_of(algo), **({"rounds": rounds, "steps": 1} | changes))
    return toy.copied_federation(plan, seed, samples)


def run(profile, samples, algo="multi-fedavg", seed=27, cell=None, **changes):
    """Return the outcome of a toy run, what was sent in it, and the state that it left."""
    parties = federation(profile, samples, algo, seed, **changes)
    heard = Listening()
    outcome = toy.run_toy(algo, parties, samples, evaluator=toy.Unscored(), **({"carry": heard} | (cell or {})))
    return outcome, heard.sent, toy.state_of(parties)


def test_devices_are_drawn_by_the_law_that_was_asked_for():
    """Uniform: each as often; weighted: as numpy draws without replacement by the weights; away: never."""
    counts = {law: Counter() for law in ("uniform", "weighted")}
    weights, n = [5, 1, 1, 1, 2], 1500
    there = {law: attendance(n=5, samples=weights, participation={"devices": 2, "sampling": law}) for law in counts}
    for law, t in itertools.product(counts, range(1, n + 1)):
        asked = there[law].asked(t, 1)
        assert len(asked) == 2
        assert asked == sorted(asked)
        counts[law].update(asked)
    shares = np.asarray(weights) / sum(weights)
    # Exactly, by all ordered pairs: p_i + sum_j p_j p_i / (1 - p_j).
    exact = [p + sum(q * p / (1 - q) for k, q in enumerate(shares) if k != j) for j, p in enumerate(shares)]
    for law, wanted in (("uniform", [0.4] * 5), ("weighted", exact)):
        found = [counts[law][f"d{j:02d}"] / n for j in range(5)]
        assert np.allclose(found, wanted, atol=4 * math.sqrt(0.25 / n)), law
    some = attendance(n=4, participation={"away": {"d1": "2-3", "d03": "3-"}})
    assert [some.asked(t, 1) for t in (1, 2, 3, 4)] == [
        ["d00", "d01", "d02", "d03"],
        ["d00", "d02", "d03"],
        ["d00", "d02"],
        ["d00", "d01", "d02"],
    ]


def test_draws_depend_on_seed_round_and_attempt_alone():
    given = {"participation": 0.3, "dropout": {"before": 0.2, "during": 0.2, "after": 0.2}}
    first, second = attendance(**given), attendance(**given)
    places = list(itertools.product((1, 2, 3, 4), (1, 2)))
    forward = {place: (first.asked(*place), first.drops(*place)) for place in places}
    backward = {place: (second.asked(*place), second.drops(*place)) for place in reversed(places)}
    assert forward == backward
    assert len({json.dumps(found) for found in forward.values()}) == len(places)
    assert attendance(seed=34, **given).asked(1, 1) != first.asked(1, 1)
    alone = attendance(dropout=given["dropout"])
    assert alone.drops(1, 1) == first.drops(1, 1), "who is asked has no say in who drops out"


def test_dropouts_and_restarts_are_as_frequent_as_their_probabilities():
    there = attendance(dropout={"before": 0.1, "during": 0.2, "after": 0.3}, faults={"server_restart": 0.25})
    rounds = range(1, 401)
    counts = Counter(when for t in rounds for when in there.drops(t, 1).values())
    for when, p in (("before", 0.1), ("during", 0.2), ("after", 0.3)):
        assert abs(counts[when] / 4000 - p) < 4 * math.sqrt(p * (1 - p) / 4000)
    assert abs(sum(there.restarts(t, 1) for t in rounds) / 400 - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 400)


def test_a_mailbox_keeps_the_newest_of_every_name_and_one_copy_for_all():
    weights, ids = torch.arange(1000.0), torch.arange(3)
    box = Mailbox()
    box.put({f"d{j:02d}": Message({"lora/a": weights, "ids/x": ids}, {"t": 1}) for j in range(100)})
    box.put({f"d{j:02d}": Message({"lora/a": weights.clone() + 1, "lora/e": torch.zeros(0)}) for j in range(100)})
    assert box.bytes == weights.nbytes + ids.nbytes
    weights.zero_()  # what the sender does with its tensors afterwards is its own
    restored = Mailbox.from_state(box.state())
    for one in (box, restored):
        found = one.of("d07")
        assert torch.equal(found.tensors["lora/a"], torch.arange(1000.0) + 1)
        assert (found.tensors["ids/x"].tolist(), dict(found.scalars)) == ([0, 1, 2], {"t": 1})
        one.clear(f"d{j:02d}" for j in range(100))
        assert (one.bytes, one.state(), one.of("d07")) == (0, {}, Message())


@pytest.mark.slow
def test_absent_devices_neither_train_nor_send_and_get_the_newest_of_what_they_missed(profile, samples):
    """ML-ECS sends sample ids in round 1 alone: a device that comes in round 3 gets them with its anchors."""
    away = {"participation": {"away": {"d01": "1-2", "d02": "2-"}}}
    outcome, sent, _ = run(profile, samples, "ml-ecs", **away)
    down = {(s.device, s.round): s.message for s in sent if s.direction == "down"}
    up = {(s.device, s.round) for s in sent if s.direction == "up"}
    assert up == {("d00", 1), ("d00", 2), ("d00", 3), ("d02", 1), ("d01", 3)}
    assert down.keys() == up | {(id_, 4) for id_ in IDS}
    late, usual = down["d01", 3], down["d00", 3]
    assert set(late.tensors) == set(usual.tensors) | {"ids/public"}
    assert all(torch.equal(late.tensors[name], usual.tensors[name]) for name in usual.tensors)
    last = down["d02", 4].tensors
    assert torch.equal(last["fused/public"], usual.tensors["fused/public"]), "the anchors of round 3 are the newest"
    assert all(torch.equal(last[name], tensor) for name, tensor in down["d00", 4].tensors.items())
    assert [(row["asked"], row["reported"], row["skipped"]) for row in outcome.attended] == [
        (["d00", "d02"], ["d00", "d02"], False),
        (["d00"], ["d00"], False),
        (["d00", "d01"], ["d00", "d01"], False),
    ]
    assert outcome.cost["steps"] == {"private": 5, "public": 5, "server": 3}
    rows = {(e["direction"], e["kind"]): e["messages"] for e in outcome.comm["entries"]}
    assert (rows["up", "lora"], rows["down", "ids"]) == (5, 3)


def test_a_round_in_which_too_few_report_is_skipped_and_what_the_server_knows_stays(profile, samples):
    """All but d00 are away in round 2, where two are needed: the server of round 3 sends what it sent in round 2."""
    given = {"participation": {"min_devices": 2, "away": {"d01": "2", "d02": "2"}}}
    outcome, sent, _ = run(profile, samples, **given)
    down = {(s.device, s.round): s.message for s in sent if s.direction == "down"}
    assert [row["skipped"] for row in outcome.attended] == [False, True, False]
    assert not toy.differing(down["d00", 2].tensors, down["d00", 3].tensors)
    assert toy.differing(down["d00", 3].tensors, down["d00", 4].tensors)


@pytest.mark.slow
def test_a_repeated_round_asks_those_again_who_have_not_reported_and_counts_every_message(profile, samples):
    """Found by its draws: a round that needs a second attempt has each report merged once, and its bytes counted."""
    given = {
        "participation": {"min_devices": 3, "too_few": "repeat", "attempts": 9},
        "dropout": {"during": 0.2, "after": 0.2},
    }
    seed = next(
        s
        for s in itertools.count()
        if {"during", "after"} <= set((d := attendance(s, 3, **given)).drops(1, 1).values()) and not d.drops(1, 2)
    )
    outcome, sent, state = run(profile, samples, seed=seed, rounds=1, **given)
    plain, heard, usual = run(profile, samples, seed=seed, rounds=1)
    drops = attendance(seed, 3, **given).drops(1, 1)
    row = outcome.attended[0]
    assert (row["attempts"], row["reported"], row["lost"]) == (2, list(IDS), {})
    down = Counter(s.device for s in sent if s.direction == "down" and s.round == 1)
    assert down == {id_: 2 if id_ in drops else 1 for id_ in IDS}
    up = {e["kind"]: e["messages"] for e in outcome.comm["entries"] if e["direction"] == "up"}
    again = sum(when == "after" for when in drops.values())
    assert up == {e["kind"]: 3 + again for e in plain.comm["entries"] if e["direction"] == "up"}
    assert outcome.cost["steps"] == plain.cost["steps"], "a device that has done its round answers from what it keeps"
    assert not toy.differing(state, usual)
    assert len(heard) < len(sent)


@pytest.mark.slow
def test_what_becomes_of_a_device_that_drops_out(profile, samples):
    """before: no byte; during: the bytes down, and its state is as before; after: it keeps its state, nobody else."""
    found = {}
    for when in ("before", "during", "after"):
        given = {"dropout": {when: 0.5}}
        seed = next(s for s in itertools.count() if list(attendance(s, 3, **given).drops(1, 1)) == ["d01"])
        outcome, _, state = run(profile, samples, "standalone", seed=seed, rounds=1, **given)
        initial = toy.state_of(federation(profile, samples, "standalone", seed, 1, **given))
        changed = {name for name in toy.differing(initial, state) if name.startswith("d01:")}
        other, _, _ = run(profile, samples, "multi-fedavg", seed=seed, rounds=1, **given)
        moved = {e["direction"]: e["messages"] for e in other.comm["entries"] if e["kind"] == "scalar"}
        found[when] = (bool(changed), moved.get("up"), outcome.attended[0]["lost"])
        assert outcome.cost["steps"]["private"] == (3 if when == "after" else 2)
    assert found == {
        "before": (False, 2, {"d01": "before"}),
        "during": (False, 2, {"d01": "during"}),
        "after": (True, 3, {"d01": "after"}),
    }


@pytest.mark.parametrize(
    "algo", [pytest.param("fedilora", marks=pytest.mark.slow), pytest.param("ml-ecs", marks=pytest.mark.nightly)]
)
def test_with_everything_that_can_happen_bits_do_not_depend_on_order_or_on_kills(profile, samples, tmp_path, algo):
    class KilledError(Exception):
        pass

    def kill_after(n):
        seen = itertools.count()

        def tell(event):
            if event.kind in ("device_end", "round_end") and next(seen) == n:
                raise KilledError

        return tell

    for seed in (27, 34) if algo == "ml-ecs" else (27,):
        reference, _, state = run(profile, samples, algo, seed, rounds=4, **HARSH)
        assert any(row["attempts"] > 1 or row["lost"] for row in reference.attended)
        turned, _, other = run(
            profile, samples, algo, seed, rounds=4, cell={"fleet": lambda h: ReversedFleet(InProcessFleet(h))}, **HARSH
        )
        assert (turned.metrics, turned.comm, turned.attended) == (reference.metrics, reference.comm, reference.attended)
        assert not toy.differing(state, other)
        folder = tmp_path / str(seed)
        for n in itertools.chain((1, 0, 2, 1), itertools.repeat(10**6)):
            parties = federation(profile, samples, algo, seed, rounds=4, **HARSH)
            cell = toy.toy_cell(algo, parties, samples, evaluator=toy.Unscored(), folder=folder, tell=kill_after(n))
            try:
                outcome = CellRun(cell).run()
                break
            except KilledError:
                continue
        assert (outcome.metrics, outcome.comm, outcome.attended) == (
            reference.metrics,
            reference.comm,
            reference.attended,
        )
        assert outcome.cost["steps"] == reference.cost["steps"]
        assert not toy.differing(state, toy.state_of(parties))


@pytest.mark.slow
def test_faulty_uploads_are_what_they_are_called_and_the_server_refuses_what_is_not_finite(profile, samples):
    _, plain, _ = run(profile, samples)
    sent = {(s.device, s.round): s.message for s in plain if s.direction == "up"}
    merged = {}

    def watch(faults, rounds=2):
        found = {}

        class Noting:
            def __init__(self, algorithm):
                self._algorithm = algorithm

            def __getattr__(self, name):
                return getattr(self._algorithm, name)

            def aggregate(self, server, uploads, t):
                found[t] = {id_: upload.copied() for id_, upload in uploads.items()}
                self._algorithm.aggregate(server, uploads, t)

        info = toy.ALGORITHMS["multi-fedavg"]
        cell = {"algorithm": Noting(info.build(info.options()))}
        outcome, _, _ = run(profile, samples, rounds=rounds, cell=cell, faults=faults)
        return outcome, found

    name = "lora/" + next(n.removeprefix("lora/") for n in sent["d01", 1].tensors if n.endswith("lora_B"))
    own = sent["d01", 1].tensors[name]
    for kind in ("sign-flip", "noise", "stale", "repeated"):
        outcome, merged = watch({"byzantine": kind, "devices": ["d1"]})
        assert merged[1]["d00"].tensors[name].equal(sent["d00", 1].tensors[name]), "the others send what they should"
        got = merged[1]["d01"].tensors[name]
        if kind == "sign-flip":
            assert got.equal(-own)
        if kind == "noise":
            ratio = float((got - own).square().mean().sqrt() / own.square().mean().sqrt())
            assert 0.5 < ratio < 1.5
        if kind == "stale":
            assert got.equal(own), "there is none before the first"
            assert merged[2]["d01"].tensors[name].equal(own)
        if kind == "repeated":
            assert got.equal(own)
            up = {e["kind"]: e["messages"] for e in outcome.comm["entries"] if e["direction"] == "up"}
            assert up["lora"] == 6 + 2
    outcome, merged = watch({"byzantine": "nan", "devices": ["d1"]})
    assert [list(row["lost"].items()) for row in outcome.attended] == [[("d01", "refused")]] * 2
    assert all(list(uploads) == ["d00", "d02"] for uploads in merged.values())
    with pytest.raises(NotFiniteError, match=r"^d01: tensor '.*' holds NaN"):
        watch({"byzantine": "nan", "devices": ["d1"], "refused": "stop"})


@pytest.mark.slow
def test_a_device_that_is_really_lost_ends_the_run_unless_the_plan_goes_on_with_fewer(profile, samples):
    cell = {"fleet": lambda host: LosingFleet(InProcessFleet(host))}
    with pytest.raises(DeviceMissing, match=r"^d01 has gone$"):
        run(profile, samples, cell=cell)
    outcome, sent, _ = run(profile, samples, cell=cell, participation={"min_devices": 2})
    assert outcome.attended[1]["lost"] == {"d01": "missing"}
    assert list(outcome.missing) == [{"round": 2, "device": "d01", "reason": "d01 has gone"}]
    assert {s.device for s in sent if (s.direction, s.round) == ("down", 3)} == set(IDS)
    for lost in (3, 4):  # when all are scored
        cell = {"fleet": lambda host, lost=lost: LosingFleet(InProcessFleet(host), lost)}
        with pytest.raises(DeviceMissing, match=r"^d01 cannot be scored; run the command again when it is there$"):
            run(profile, samples, cell=cell, participation={"min_devices": 2})


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["fedilora", pytest.param("co-plms", marks=pytest.mark.nightly)])
def test_devices_that_come_and_go_give_the_bits_of_devices_that_stay_and_leave_nothing_behind(profile, samples, algo):
    given = {"participation": 2, "dropout": {"during": 0.2}, "compression": "topk:0.1"}
    kept = toy.run_toy(algo, federation(profile, samples, algo, **given), samples)
    plan = federation(profile, samples, algo, **given).plan
    builder = Builder(plan, 27, samples, made.registry())
    info = toy.ALGORITHMS[algo]
    roster, scoring = BuiltDevices(builder, IDS), toy.evaluator(samples)
    travels = plan.conditions.compression
    host = DeviceHost(roster, info.build(info.options()), scoring, MemoryTurns(), compression=travels)
    built = Federation(plan, builder.server(), (), builder.layout, {})
    outcome = toy.run_toy(algo, built, samples, fleet=lambda _: InProcessFleet(host))
    assert (outcome.metrics, outcome.comm, outcome.attended) == (kept.metrics, kept.comm, kept.attended)
    backbones = [backbone for backbone, _ in builder._factory._backbones.values()]
    names = [name for backbone in backbones for name in backbone._adapters]
    assert names
    assert not [name for name in names if name.startswith("d0")]
    assert not [name for backbone in backbones for name in backbone._peft.peft_config if name.startswith("d0")]


def test_a_device_whose_files_are_gone_is_refused(profile, samples, tmp_path):
    class KilledError(Exception):
        pass

    def tell(event):
        if (event.kind, event.round) == ("round_end", 2):
            raise KilledError

    given = {"participation": {"away": {"d01": "2"}}}
    parties = federation(profile, samples, **given)
    with pytest.raises(KilledError):
        toy.run_toy("multi-fedavg", parties, samples, evaluator=toy.Unscored(), folder=tmp_path, tell=tell)
    for path in tmp_path.glob("d01-*"):
        path.unlink()
    parties = federation(profile, samples, **given)
    with pytest.raises(StaleTurn, match=r"^d01 has state of round 0 and the server of round 1: files are missing$"):
        CellRun(toy.toy_cell("multi-fedavg", parties, samples, folder=tmp_path)).start()
