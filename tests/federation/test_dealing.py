"""Parties under other laws and with samples that lack modalities: what is whole, what is thinned, who agrees on it."""

from __future__ import annotations

import numpy as np

import toy
from mlecs_bench.data.partition import Columns, deal
from mlecs_bench.plan.conditions import condition
from mlecs_bench.seeds import PROTOCOL_SEEDS


def present(data, name):
    return data.batch(data.rows).present[name].numpy()


def test_who_holds_what_follows_the_law_and_the_seed_and_not_the_algorithm(profile, samples):
    for written in ("quantity:0.8", "dirichlet:2,clusters=3", "shards:2", "group"):
        one = toy.toy_federation(profile, samples, partition=written)
        other = toy.toy_federation(profile, samples, partition=written, public_stage=False, algo="standalone")
        assert one.layout == other.layout
        asked = condition("partition", written).dealing
        if asked.law == "quantity":
            columns = Columns(samples.column("group"), samples.column("stratum"))
            assert one.layout.partition == deal(columns, "frame", 3, 27, asked)


def test_samples_of_devices_lack_modalities_and_public_ones_are_whole(profile, samples):
    usual = toy.toy_federation(profile, samples, rho=0.9)
    thinned = toy.toy_federation(profile, samples, rho=0.9, sample_rho=0.5)
    assert thinned.layout == usual.layout
    gone = 0
    for one, other in zip((thinned.server, *thinned.devices), (usual.server, *usual.devices), strict=True):
        public = [(one.train, other.train)] if one is thinned.server else [(one.public, other.public)]
        for own, whole in public:
            for name in own.modalities:
                np.testing.assert_array_equal(present(own, name), present(whole, name))
                np.testing.assert_array_equal(own.modality(name, own.rows), whole.modality(name, whole.rows))
        if one is thinned.server:
            continue
        for own, whole in ((one.train, other.train), (one.test, other.test)):
            seen = np.stack([present(own, name) for name in own.modalities])
            before = np.stack([present(whole, name) for name in own.modalities])
            assert not (seen & ~before).any()
            assert seen.any(axis=0)[before.any(axis=0)].all(), "something is left of every sample"
            gone += int((before & ~seen).sum())
            for name, flags in zip(own.modalities, seen, strict=True):
                assert not own.modality(name, own.rows[~flags]).any(), "what is absent is zeros"
    assert gone > 0


def test_with_no_least_number_of_modalities_a_sample_may_show_nothing(profile, samples):
    bare = toy.toy_federation(profile, samples, sample_rho=0.2, min_modalities=0)
    empty = [
        ~np.stack([present(device.train, name) for name in device.modalities]).any(axis=0)
        for device in bare.devices
        if device.modalities
    ]
    assert np.concatenate(empty).any()


def test_a_sample_shows_the_pool_what_it_shows_its_device(profile, samples):
    one = toy.toy_federation(profile, samples, algo="centralised", rho=1.0, sample_rho=0.5, pool=True)
    pool = one.server.pool
    for device in one.devices:
        for name in device.modalities:
            np.testing.assert_array_equal(
                present(device.train, name), pool.batch(device.train.rows).present[name].numpy()
            )


def test_what_a_sample_lacks_does_not_depend_on_how_many_devices_there_are(profile, samples):
    for seed in PROTOCOL_SEEDS[:2]:
        few, many = (toy.toy_federation(profile, samples, seed, n_devices=n, rho=1.0, sample_rho=0.5) for n in (2, 5))
        seen = [
            {
                row: bool(flag)
                for d in one.devices
                for row, flag in zip(d.train.rows, present(d.train, "text"), strict=True)
            }
            for one in (few, many)
        ]
        shared = seen[0].keys() & seen[1].keys()
        assert shared
        assert all(seen[0][row] == seen[1][row] for row in shared)
