"""Laws of Standalone: nobody talks to anybody."""

from __future__ import annotations

import dataclasses

import pytest

import toy
from mlecs_bench.errors import AccessError
from mlecs_bench.federation.build import Federation


def federation_of(profile, samples, **changes) -> Federation:
    return toy.toy_federation(profile, samples, public_stage=False, **({"rounds": 2, "steps": 2} | changes))


def test_nothing_is_ever_sent(profile, samples):
    outcome = toy.run_toy("standalone", federation_of(profile, samples), samples)
    assert outcome.comm["entries"] == []
    assert {r["value"] for r in outcome.comm["ratios"].values()} == {0}


def test_device_alone_is_bit_for_bit_the_device_in_company(profile, samples):
    together = federation_of(profile, samples)
    joint = toy.run_toy("standalone", together, samples)
    for j in (0, -1):
        device = together.devices[j]
        federation = federation_of(profile, samples)
        alone = dataclasses.replace(federation, devices=(federation.devices[j],))
        alone.server.devices = {device.id: device.modalities}
        single = toy.run_toy("standalone", alone, samples)
        assert not toy.differing(alone.devices[0].state(), device.state())
        for moment in ("local", "received"):
            ours, theirs = (o.metrics["client"][moment] for o in (single, joint))
            assert all(ours[metric][device.id] == theirs[metric][device.id] for metric in ours)
        assert single.metrics["server"] == joint.metrics["server"]


def test_both_moments_of_evaluation_agree(profile, samples):
    client = toy.run_toy("standalone", federation_of(profile, samples), samples).metrics["client"]
    assert client["local"] == client["received"]


def poison(*datasets) -> None:
    """Make any reading of these data sets fail."""
    for data in datasets:

        def refuse(*_: object, owner: str = data.owner) -> None:
            raise AccessError(f"{owner} was read")

        data.batch = data.targets = refuse


def test_device_reads_its_own_private_training_data_only(profile, samples):
    federation = federation_of(profile, samples)
    algorithm = toy.toy_cell("standalone", federation, samples).algorithm
    reader, *others = federation.devices
    poison(federation.server.train, federation.server.test, reader.public, reader.test)
    poison(*(data for d in others for data in (d.train, d.test, d.public)))
    algorithm.local_update(reader, 1)
    assert reader.steps == {"private": 2}
    with pytest.raises(AccessError, match="d01 was read"):
        algorithm.local_update(others[0], 1)


def test_public_data_is_used_when_asked_for(profile, samples):
    options = {"use_public": True}
    info = toy.ALGORITHMS["standalone"]
    assert info.needs(info.options(**options)).public_stage
    assert not info.needs(info.options()).public_stage
    federation = toy.toy_federation(profile, samples, public_stage=True, rounds=1, steps=2, rho=1.0)
    outcome = toy.run_toy("standalone", federation, samples, options=options)
    assert outcome.cost["steps"] == {"private": 6, "public": 6, "server": 2}
    without = federation_of(profile, samples, rounds=1, rho=1.0)
    toy.run_toy("standalone", without, samples)
    assert toy.differing(federation.devices[0].state(), without.devices[0].state())
    assert not toy.differing(federation.server.state(), without.server.state())


def test_server_trains_on_the_public_data_and_rests_its_encoders_if_the_profile_says_so(profile, samples):
    for trains in (True, False):
        federation = federation_of(dataclasses.replace(profile, server_trains_encoders=trains), samples)
        before = federation.server.state()
        toy.toy_cell("standalone", federation, samples).algorithm.aggregate(federation.server, {}, 1)
        moved = {k.split("/")[1] for k in toy.differing(before, federation.server.state())}
        assert moved == {"projector", "fusion", "soft_prompt", "lora"} | ({"encoder"} if trains else set())


def test_every_part_of_a_device_learns(profile, samples):
    federation = federation_of(profile, samples, rho=1.0)
    device = federation.devices[0]
    before = device.model.state()
    toy.toy_cell("standalone", federation, samples).algorithm.local_update(device, 1)
    still = set(before) - toy.differing(before, device.model.state())
    assert still <= {f"projector/{m}/missing" for m in toy.NAMES}
