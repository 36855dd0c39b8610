"""Laws of Centralised: every model is trained on the training data of all, as much as others are on theirs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import toy
from mlecs_bench.blocks import supervised
from mlecs_bench.data.samples import PooledData
from mlecs_bench.doors.hookspecs import Needs
from mlecs_bench.errors import AccessError
from mlecs_bench.federation.build import Federation
from mlecs_bench.seeds import rng, torch_stream

NEEDS = toy.needs_of("centralised")


def federation_of(profile, samples, **changes) -> Federation:
    return toy.toy_federation(profile, samples, needs=NEEDS, **({"rounds": 2, "steps": 2} | changes))


def run(federation: Federation, samples, **changes):
    return toy.run_toy("centralised", federation, samples, **changes)


def test_nothing_is_ever_sent_and_both_moments_of_evaluation_agree(profile, samples):
    outcome = run(federation_of(profile, samples, n_devices=2, steps=1), samples)
    assert outcome.comm["entries"] == []
    assert {r["value"] for r in outcome.comm["ratios"].values()} == {0}
    client = outcome.metrics["client"]
    assert client["local"] == client["received"]
    assert outcome.metrics["server"] is not None


def test_a_device_takes_the_steps_of_a_public_and_a_private_stage_under_either_budget(profile, samples):
    for budget in ("paper", "equal"):
        federation = federation_of(profile, samples, rounds=1, steps=3, budget=budget, n_devices=1)
        outcome = run(federation, samples, evaluator=toy.Unscored())
        assert outcome.cost["steps"] == {"pooled": 2 * 3, "server": 3}
        control = toy.toy_plan(profile, Needs(public_stage=True), steps=3, budget=budget).training.budget
        assert federation.server.training.budget.pooled == control.private + control.public


def own_data_as_pool(federation: Federation, samples) -> Federation:
    """Let everybody's pool hold one's own training data alone."""
    for party in (federation.server, *federation.devices):
        party._pool = PooledData(samples, [party.train], party.id)
    return federation


def streams_of_private_stages(monkeypatch) -> None:
    """Let stages on the pool draw batches and dropout as a private stage does."""
    monkeypatch.setattr(supervised, "rng", lambda seed, *path: rng(seed, *map(renamed, path)))
    monkeypatch.setattr(supervised, "torch_stream", lambda seed, *path: torch_stream(seed, *map(renamed, path)))


def renamed(part: str | int) -> str | int:
    return "private" if part == "pooled" else part


def test_where_nobody_has_the_data_of_others_it_is_standalone_bit_for_bit(profile, samples, monkeypatch):
    """Under an equal budget Standalone takes 2q private steps, as many as Centralised takes on the pool."""
    streams_of_private_stages(monkeypatch)
    settings = {"rounds": 2, "steps": 1, "n_devices": 2}
    ours = own_data_as_pool(federation_of(profile, samples, **settings), samples)
    theirs = toy.toy_federation(profile, samples, public_stage=False, budget="equal", **settings)
    assert not toy.differing(toy.state_of(ours), toy.state_of(theirs)), "the same start"
    one = run(ours, samples, evaluator=toy.Unscored())
    other = toy.run_toy("standalone", theirs, samples, evaluator=toy.Unscored())
    assert not toy.differing(toy.state_of(ours), toy.state_of(theirs))
    assert one.cost["steps"] == {"pooled": 8, "server": 2}
    assert other.cost["steps"] == {"private": 8, "server": 2}
    everybodys = federation_of(profile, samples, **settings)
    run(everybodys, samples, evaluator=toy.Unscored())
    for party, alone in zip((everybodys.server, *everybodys.devices), (ours.server, *ours.devices), strict=True):
        assert toy.differing(party.state(), alone.state()), "the data of others make a difference"


def test_alone_a_device_has_its_own_and_the_public_samples(profile, samples):
    federation = federation_of(profile, samples, n_devices=1, rho=1.0)
    (device,) = federation.devices
    wanted = sorted([*device.train.rows.tolist(), *device.public.rows.tolist()])
    assert sorted(device.pool.rows.tolist()) == sorted(federation.server.pool.rows.tolist()) == wanted


def refuse_all_but_the_pool(federation: Federation) -> None:
    """Make any reading of what is not a pool fail."""
    parties = (federation.server, *federation.devices)
    views = [view for party in parties for view in (party.train, party.test)]
    for data in (*views, *(device.public for device in federation.devices)):

        def refuse(*_: object, owner: str = data.owner) -> None:
            raise AccessError(f"{owner} was read")

        data.batch = data.targets = refuse


def test_every_party_reads_its_pool_alone_and_finds_all_parties_samples_there(profile, samples):
    federation = federation_of(profile, samples, rho=1.0, rounds=1, steps=6, n_devices=2)
    owners = {"server": federation.server.train.rows} | {d.id: d.train.rows for d in federation.devices}
    seen: dict[str, set[int]] = {}
    for party in (federation.server, *federation.devices):
        read, rows = party.pool.batch, seen.setdefault(party.id, set())

        def batch(chosen: np.ndarray, read=read, rows=rows):
            rows.update(chosen.tolist())
            return read(chosen)

        party.pool.batch = batch
    refuse_all_but_the_pool(federation)
    run(federation, samples, evaluator=toy.Unscored())
    for party, rows in seen.items():
        sources = {owner for owner, own in owners.items() if rows & set(own.tolist())}
        assert sources == set(owners), party
        assert rows <= set(federation.server.pool.rows.tolist())


def test_a_device_without_modalities_learns_from_the_answers_of_all(profile, samples):
    federation = toy.federation_of(profile, samples, [(), ("audio", "text")], needs=NEEDS, rounds=1, steps=1)
    bare, other = federation.devices
    assert set(other.pool.rows) == set(federation.server.pool.rows)
    assert set(bare.pool.rows) == set(federation.server.pool.rows) | set(bare.train.rows)
    before = bare.state()
    toy.toy_cell("centralised", federation, samples).algorithm.local_update(bare, 1)
    assert bare.steps == {"pooled": 2}
    assert {name.split("/")[1] for name in toy.differing(before, bare.state())} >= {"lora"}


def test_every_part_of_a_device_learns_and_the_servers_encoders_if_the_profile_says_so(profile, samples):
    for trains in (True, False):
        federation = federation_of(dataclasses.replace(profile, server_trains_encoders=trains), samples, rho=1.0)
        server, device = federation.server, federation.devices[0]
        algorithm = toy.toy_cell("centralised", federation, samples).algorithm
        before = server.state(), device.model.state()
        algorithm.local_update(device, 1)
        algorithm.aggregate(server, {}, 1)
        assert set(device.model.state()) == set(before[1])
        still = set(before[1]) - toy.differing(before[1], device.model.state())
        assert still <= {f"projector/{m}/missing" for m in toy.NAMES}
        moved = {k.split("/")[1] for k in toy.differing(before[0], server.state())}
        assert moved == {"projector", "fusion", "soft_prompt", "lora"} | ({"encoder"} if trains else set())


def test_the_card_names_it_as_a_bound_and_no_method_of_a_paper():
    info = toy.ALGORITHMS["centralised"]
    assert (info.paper, info.exchanges, info.server_score) == ("none: a control row of ours", (), True)
    assert "not a federation" in info.summary
    assert Needs(private_stages=0, pool=True, copes=("absence", "drift")) == NEEDS


def test_samples_of_others_miss_what_their_devices_lack(profile, samples):
    """What a device trains on of another's sample depends on the modalities of both, and on nothing else."""
    federation = toy.federation_of(profile, samples, [("audio", "text"), ("text", "video")], needs=NEEDS)
    one, other = federation.devices
    foreign = one.pool.batch(other.train.rows)
    assert set(foreign.inputs) == {"audio", "text"}
    assert not foreign.present["audio"].any()
    assert not foreign.inputs["audio"].any()
    assert foreign.present["text"].all()
    with pytest.raises(AccessError, match="asked for modality 'video'"):
        one.pool.modality("video", other.train.rows)
