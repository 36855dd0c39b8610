"""Modalities that come and go, and scores without each: parties follow, what is away rests, static changes no bit."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

import toy
from mlecs_bench.api import Message
from mlecs_bench.data.samples import PartyData, Sight
from mlecs_bench.doors.hookspecs import Needs
from mlecs_bench.errors import AccessError
from mlecs_bench.federation.engine import CellRun
from mlecs_bench.federation.turns import Reply
from mlecs_bench.models.unified import PARTS
from mlecs_bench.testing.bits import LossEvaluator
from mlecs_bench.testing.fleets import Around, ReversedFleet
from mlecs_plugins.ml_ecs import mma

ALL = toy.NAMES
HELD = [("audio", "text"), ALL, ("video",)]
LOSES = {"d0": {2: ["audio"], 3: ["audio", "text"]}, "d2": {2: ["text", "video"]}}
"""d00 is without text in round 2, d02 gains it there."""
TWO_ROUNDS = {"d0": {2: ["audio"]}, "d2": {2: ["text", "video"]}}
DRIFT = Needs(public_stage=True, copes=("drift",))


def drifting(profile, samples, schedule=LOSES, needs=DRIFT, **changes):
    return toy.federation_of(
        profile, samples, HELD, needs=needs, **({"rounds": 3, "steps": 1, "schedule": schedule} | changes)
    )


def test_parties_see_the_modalities_of_the_round_and_keep_those_of_the_last_one(profile, samples):
    federation = drifting(profile, samples)
    first, _, last = federation.devices
    expected = {1: (("audio", "text"), ("video",)), 2: (("audio",), ("text", "video"))}
    expected |= dict.fromkeys((3, 4), (("audio", "text"), ("text", "video")))
    for t in (1, 2, 3, 4, 2, 1):  # in any order: nothing depends on the rounds before
        for party in (federation.server, *federation.devices):
            party.start_round(t)
        assert (first.modalities, last.modalities) == expected[t]
        assert federation.server.devices == {"d00": expected[t][0], "d01": ALL, "d02": expected[t][1]}
        for device in federation.devices:
            assert device.train.modalities == device.test.modalities == device.public.modalities == device.modalities
            assert device.built_for == device.model.modalities == federation.server.built_for[device.id]
    assert [device.built_for for device in federation.devices] == [("audio", "text"), ALL, ("text", "video")]


def test_a_modality_that_is_away_cannot_be_read_and_batches_have_it_nowhere(profile, samples):
    device = drifting(profile, samples).devices[0]
    kept = device.train.part(device.train.rows[:2])
    device.start_round(2)
    for data in (device.train, device.public, device.test, kept):
        batch = data.batch(data.rows[:2])
        assert list(batch.inputs) == ["audio"]
        assert batch.present["text"].tolist() == [False, False]
        for read in (lambda data=data: data.modality("text", data.rows[:1]), lambda batch=batch: batch.inputs["text"]):
            with pytest.raises(AccessError, match=r"d00 asked for modality 'text' but holds only \['audio'\]"):
                read()
    device.start_round(3)
    assert list(kept.batch(kept.rows).inputs) == ["audio", "text"]


def test_what_stands_in_for_a_modality_that_is_away_is_that_for_a_sample_without_it(profile, samples):
    device = drifting(profile, samples).devices[1]
    with torch.no_grad():
        device.model.connector.missing["text"].fill_(0.5)
    device.model.switch(training=False)
    batch = device.test.batch(device.test.rows)
    batch.present["text"][:] = False
    absent = device.model.represent(batch)
    with device.test.sight.without("text"):
        away = device.model.represent(device.test.batch(device.test.rows))
    assert torch.equal(absent.fused, away.fused)
    assert not away.present["text"].any()
    assert torch.equal(away.hidden["text"], torch.full_like(away.hidden["text"], 0.5))


def test_encoder_and_projector_of_a_modality_that_is_away_rest_and_all_else_is_trained(profile, samples):
    federation = drifting(profile, samples, needs=toy.needs_of("standalone"))
    before, after = {}, {}

    def note(cell):
        algorithm = cell.algorithm

        class Noting(type(algorithm)):
            def local_update(self, device, t):
                before[device.id, t] = device.model.state()
                message = super().local_update(device, t)
                after[device.id, t] = device.model.state()
                return message

        algorithm.__class__ = Noting
        return cell

    CellRun(note(toy.toy_cell("standalone", federation, samples, evaluator=toy.Unscored()))).run()
    assert len(after) == 9
    for (id_, t), state in after.items():
        held = federation.layout.schedule.held(int(id_[1:]), t)
        moved = toy.differing(before[id_, t], state)
        for name in state:
            part, modality = name.split("/")[:2]
            rests = part in ("encoder", "projector") and not name.endswith("/missing") and modality not in held
            if rests:
                assert name not in moved, (id_, t)
        assert {name.split("/")[0] for name in moved} == set(PARTS), (id_, t)
    away = "projector/text/missing"
    assert away in toy.differing(before["d00", 2], after["d00", 2])
    assert away not in toy.differing(before["d00", 1], after["d00", 1])


def test_multi_fedavg_averages_an_encoder_over_those_that_hold_its_modality_in_the_round(profile, samples):
    federation = drifting(profile, samples, TWO_ROUNDS, needs=toy.needs_of("multi-fedavg"), rounds=2)
    uploads = {}

    def listen(message: Message, device, direction, t):
        if direction == "up":
            uploads[t, device] = message.copied()
        return message.copied()

    toy.run_toy("multi-fedavg", federation, samples, evaluator=toy.Unscored(), carry=listen)
    holders = {1: {"audio": "d00 d01", "text": "d00 d01", "video": "d01 d02"}}
    holders[2] = {"audio": "d00 d01", "text": "d01 d02", "video": "d01 d02"}
    for t, by_modality in holders.items():
        for part, (m, ids) in itertools.product(("encoder", "projector"), by_modality.items()):
            sent = {
                id_
                for (u, id_), up in uploads.items()
                if u == t and any(n.startswith(f"{part}/{m}/") for n in up.tensors)
            }
            assert sent == set(ids.split()), (t, part, m)
    weights = {id_: uploads[2, id_].scalars["num_samples"] for id_ in ("d01", "d02")}
    for name, tensor in federation.server.slm.part("encoder").items():
        if name.startswith("text/"):  # by hand: of the two that hold it in the last round
            mean = sum(weights[id_] * uploads[2, id_].tensors[f"encoder/{name}"] for id_ in weights)
            assert torch.allclose(tensor, mean / sum(weights.values()), atol=1e-7)
    # d00 lacks text in round 2, so no average comes down: its encoder is what its own first round has left.
    own = {n: t for n, t in uploads[1, "d00"].of_kind("encoder").items() if n.startswith("text/")}
    kept = {n: t for n, t in federation.devices[0].model.part("encoder").items() if n.startswith("text/")}
    assert kept.keys() == own.keys()
    assert not toy.differing(kept, own)


def test_fusion_layers_are_averaged_among_models_built_for_the_same_modalities(profile, samples):
    held = [("audio",), ("audio", "text"), ("text",)]
    schedule = {"d0": {2: ["text"]}, "d2": {2: ["text", "audio"]}}
    options = {"exchange": ["lora", "fusion"]}
    needs = toy.needs_of("multi-fedavg", **options)
    federation = toy.federation_of(profile, samples, held, needs=needs, rounds=2, schedule=schedule)
    toy.run_toy("multi-fedavg", federation, samples, evaluator=toy.Unscored(), options=options)
    one, *others = (device.model.part("fusion") for device in federation.devices)
    assert len(one) == 4
    for other in others:
        assert not toy.differing(one, other)


def test_ml_ecs_weighs_devices_and_aligns_by_the_modalities_of_the_round(profile, samples):
    needs, schedule = toy.needs_of("ml-ecs"), TWO_ROUNDS | {"d1": {2: "none"}}
    federation = drifting(profile, samples, schedule, needs, rounds=2, min_modalities=0)
    uploads = {}

    def listen(message: Message, device, direction, t):
        if direction == "up":
            uploads.setdefault(t, {})[device] = message.copied()
        return message.copied()

    outcome = toy.run_toy("ml-ecs", federation, samples, evaluator=toy.Unscored(), carry=listen)
    assert [mma.modality_weights(uploads[t]) for t in (1, 2)] == [
        {"d00": 2.0, "d01": 3.0, "d02": 1.0},
        {"d00": 1.0, "d01": 0.0, "d02": 2.0},
    ]
    contrasted = [
        {id_ for id_, logs in row["losses"].items() if "ccl/contrast" in logs} for row in outcome.metrics["rounds"]
    ]
    assert contrasted == [{"d00", "d01", "d02"}, {"d00", "d02"}]


def test_fedmllm_pulls_by_what_a_device_lacks_in_the_round(profile, samples):
    from mlecs_baselines.fedmllm import FedMllm, FedMllmOptions

    algorithm, device = FedMllm(FedMllmOptions()), drifting(profile, samples).devices[0]
    found = []
    for t in (1, 2, 3):
        device.start_round(t)
        found.append(algorithm.strength(device) / algorithm.options.mu)
    assert found == pytest.approx([1 / 3, 2 / 3, 1 / 3])


def test_the_pool_of_a_round_is_what_both_parties_hold_in_it_and_passes_over_it_are_counted_anew(profile, samples):
    needs = Needs(private_stages=0, pool=True, copes=("drift",))
    federation = drifting(profile, samples, needs=needs, local_epochs=1, steps=None)
    cut, schedule = federation.layout.partition, federation.layout.schedule
    for t in (1, 2, 3, 4):
        for party in (federation.server, *federation.devices):
            party.start_round(t)
        for j, device in enumerate(federation.devices):
            expected = {row: set(device.modalities) for row in cut.public.train}
            for i, part in enumerate(cut.devices):
                common = set(schedule.held(j, t)) & set(schedule.held(i, t))
                expected |= {row: common for row in part.train if common}
            pool = device.pool
            assert sorted(pool.rows) == sorted(expected)
            batch = pool.batch(pool.rows)
            for i, row in enumerate(pool.rows.tolist()):
                present = {m for m in device.built_for if batch.present[m][i]}
                assert present == {m for m in expected[row] if samples.presence[m][row]}
            assert device.training.budget.pooled == 2 * (len(pool) // 4)


@pytest.mark.slow
def test_a_schedule_that_changes_nothing_gives_the_bits_of_none(profile, samples):
    needs, told = toy.needs_of("ml-ecs"), {"d0": {1: ["audio", "text"], 2: ["audio", "text"]}}
    runs = {}
    for schedule in ("static", told):
        federation = toy.federation_of(profile, samples, HELD, needs=needs, schedule=schedule, steps=1)
        outcome = toy.run_toy("ml-ecs", federation, samples, evaluator=LossEvaluator())
        runs[str(schedule)] = (outcome.metrics, outcome.comm, toy.state_of(federation))
    (one, sent, state), (other, sent_too, state_too) = runs.values()
    assert (one, sent) == (other, sent_too)
    assert not toy.differing(state, state_too)


@pytest.mark.slow
def test_round_1_of_failures_is_that_of_no_schedule(profile, samples):
    needs = toy.needs_of("multi-fedavg")
    first = []
    for schedule in ("static", "markov:fail=1,repair=1"):
        federation = toy.federation_of(profile, samples, HELD, needs=needs, schedule=schedule, steps=1)
        first.append(toy.run_toy("multi-fedavg", federation, samples, evaluator=toy.Unscored()).metrics["rounds"])
    (one, other), (failing, away) = first
    assert one == failing
    assert other != away


# Without each modality


def test_scores_without_a_modality_are_those_of_a_party_that_lacks_it_and_others_keep_theirs(profile, samples):
    federation = toy.federation_of(profile, samples, HELD, needs=toy.needs_of("ml-ecs"), steps=1)
    scores = LossEvaluator()
    outcome = toy.run_toy("ml-ecs", federation, samples, robustness=True, evaluator=scores)
    received, found = outcome.metrics["client"]["received"], outcome.metrics["without"]
    assert list(found) == list(ALL)
    assert outcome.metrics["server"] is not None
    for modality, of in found.items():
        assert set(of["server"]) == set(outcome.metrics["server"])
        for party, built in [(federation.server, ALL), *((d, d.built_for) for d in federation.devices)]:
            now = [m for m in built if m != modality]
            test = PartyData(samples, party.test.rows, Sight(built, now), party.id)
            for metric, score in scores.score(party.model, test, party.prompt).items():
                is_server = party is federation.server
                assert (of["server"][metric] if is_server else of["client"][metric][party.id]) == score.to_json()
                if modality not in built:
                    assert of["client"][metric][party.id] == received[metric][party.id]


def test_being_scored_without_each_modality_changes_no_other_number(profile, samples):
    usual, robust = (
        toy.run_toy(
            "fedilora", toy.federation_of(profile, samples, HELD), samples, evaluator=LossEvaluator(), robustness=on
        )
        for on in (False, True)
    )
    assert {k: v for k, v in robust.metrics.items() if k != "without"} == usual.metrics
    assert all(of["server"] is None for of in robust.metrics["without"].values())


def test_a_reply_travels_and_is_kept_with_its_scores_without_each_modality(profile, samples, tmp_path):
    federation = drifting(profile, samples, needs=toy.needs_of("multi-fedavg"))
    cell = toy.toy_cell(
        "multi-fedavg", federation, samples, folder=tmp_path, robustness=True, evaluator=LossEvaluator()
    )
    asked = []

    class Twice:
        def __init__(self, fleet):
            self.hello, self._fleet = fleet.hello, fleet

        def exchange(self, asks):
            replies = dict(self._fleet.exchange(asks))
            again = {id_: Reply.from_bytes(reply.to_bytes()) for id_, reply in self._fleet.exchange(asks)}
            for id_, reply in replies.items():
                asked.append(again[id_].without == reply.without)
                assert (reply.without is not None) == asks[id_].last
            yield from again.items()

    outcome = CellRun(dataclasses.replace(cell, fleet=Twice(cell.fleet))).run()
    assert asked == [True] * 12
    assert set(outcome.metrics["without"]) == set(ALL)


@pytest.mark.slow
def test_with_failures_absence_and_scores_without_each_order_and_resume_change_no_bit(profile, samples, tmp_path):
    needs = toy.needs_of("ml-ecs")
    varying = {"schedule": "markov:fail=0.5,repair=0.5", "participation": 2, "dropout": 0.3, "rounds": 4}

    def cell(folder, around=Around, **more):
        federation = toy.federation_of(profile, samples, HELD, needs=needs, steps=1, min_modalities=0, **varying)
        made = toy.toy_cell(
            "ml-ecs", federation, samples, folder=folder, evaluator=LossEvaluator(), robustness=True, **more
        )
        return federation, dataclasses.replace(made, fleet=around(made.fleet))

    def stop(event):
        if event.kind == "device_end" and event.round == 3:
            raise KeyboardInterrupt

    federation, made = cell(tmp_path / "one")
    one = CellRun(made).run()
    _, stopped = cell(tmp_path / "other", ReversedFleet, tell=stop)
    with pytest.raises(KeyboardInterrupt):
        CellRun(stopped).run()
    again, made = cell(tmp_path / "other", ReversedFleet)
    other = CellRun(made).run()
    assert one.metrics == other.metrics
    assert one.comm == other.comm
    assert not toy.differing(toy.state_of(federation), toy.state_of(again))
