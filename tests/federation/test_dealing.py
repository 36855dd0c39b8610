"""Parties under other laws and with samples that lack modalities: what is whole, what is thinned, who agrees on it."""

from __future__ import annotations

import numpy as np

import toy
from mlecs_bench.data.kinds import sample_kinds
from mlecs_bench.data.partition import Columns, deal
from mlecs_bench.doors.hookspecs import Needs
from mlecs_bench.federation.build import lay_out
from mlecs_bench.plan.conditions import condition


def present(data, name):
    return data.batch(data.rows).present[name].numpy()


def shown(federation, name):
    """Return by row whether a training sample of a device has a modality."""
    parties = [device.train for device in federation.devices]
    return {row: flag for data in parties for row, flag in zip(data.rows.tolist(), present(data, name), strict=True)}


def test_who_holds_what_follows_the_law_and_the_seed_and_not_the_algorithm(profile, samples):
    groups, strata = samples.column("group"), samples.column("stratum")
    columns = Columns(groups, strata, sample_kinds(samples.targets, labels=False, n_clusters=3), strata)
    for written in ("quantity:0.8", "dirichlet:2,clusters=3", "shards:2,clusters=3,test-share=0.4", "group:stratum"):
        laid = [
            lay_out(toy.toy_plan(profile, Needs(), n_devices=2, partition=written, algo=algo), 27, samples)
            for algo in ("ml-ecs", "standalone")
        ]
        assert laid[0] == laid[1]
        assert laid[0].partition == deal(columns, "frame", 2, 27, condition("partition", written).dealing)


def test_samples_of_devices_lack_modalities_and_public_ones_are_whole(profile, samples):
    usual = toy.toy_federation(profile, samples, rho=0.9)
    thinned = toy.toy_federation(profile, samples, rho=0.9, sample_rho=0.5)
    assert thinned.layout == usual.layout
    views = [(thinned.server.train, usual.server.train), (thinned.server.test, usual.server.test)]
    views += [(one.public, other.public) for one, other in zip(thinned.devices, usual.devices, strict=True)]
    for own, whole in views:
        for name in own.modalities:
            np.testing.assert_array_equal(present(own, name), present(whole, name))
            np.testing.assert_array_equal(own.modality(name, own.rows), whole.modality(name, whole.rows))
    gone = 0
    for one, other in zip(thinned.devices, usual.devices, strict=True):
        for own, whole in ((one.train, other.train), (one.test, other.test)):
            seen, before = (np.stack([present(data, name) for name in own.modalities]) for data in (own, whole))
            assert not (seen & ~before).any()
            assert seen.any(axis=0)[before.any(axis=0)].all(), "something is left of every sample"
            for name, lost in zip(own.modalities, before & ~seen, strict=True):
                assert not own.modality(name, own.rows[lost]).any(), "what is absent is zeros"
                gone += int(lost.sum())
    assert gone > 0


def test_with_no_least_number_of_modalities_a_sample_may_show_nothing(profile, samples):
    bare = toy.toy_federation(profile, samples, sample_rho=0.2, min_modalities=0, n_devices=2, rho=1.0)
    for device in bare.devices:
        assert not np.stack([present(device.train, name) for name in device.modalities]).any(axis=0).all()


def test_a_sample_shows_the_pool_what_it_shows_its_device(profile, samples):
    one = toy.toy_federation(profile, samples, needs=Needs(pool=True), n_devices=2, rho=1.0, sample_rho=0.5)
    for device in one.devices:
        pooled = one.server.pool.batch(device.train.rows).present
        for name in device.modalities:
            np.testing.assert_array_equal(present(device.train, name), pooled[name].numpy())


def test_what_a_sample_lacks_does_not_depend_on_how_many_devices_there_are(profile, samples):
    few, many = (
        shown(toy.toy_federation(profile, samples, n_devices=n, rho=1.0, sample_rho=0.5), "text") for n in (1, 3)
    )
    shared = few.keys() & many.keys()
    assert len(shared) > 50
    assert all(few[row] == many[row] for row in shared)
