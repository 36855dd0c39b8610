"""Laws of standardised modalities: every party scales alike, by the public training samples and by no other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import toy
from mlecs_bench.data.samples import Samples
from mlecs_bench.federation.build import Builder
from mlecs_bench.testing import toy as made

SEEDS = (27, 34, 46)
SCALED = ("audio", "video")


def samples_of(poison: np.ndarray | None = None) -> Samples:
    """Return the toy samples, two modalities of which ask for scaling; rows of `poison` hold enormous values."""
    columns = made.make_columns()
    manifest = made.make_manifest()
    modalities = tuple(dataclasses.replace(m, standardise=m.name in SCALED) for m in manifest.modalities)
    for name in SCALED if poison is not None else ():
        columns[name] = columns[name].copy()
        columns[name][poison] = 1e6
    return Samples(dataclasses.replace(manifest, modalities=modalities), made.make_table(columns))


def built(profile, samples: Samples, seed: int, split: str) -> Builder:
    """Return a builder of outlines, whose parties have the same data as others and take no time."""
    return Builder(toy.toy_plan(profile, rho=1.0, split=split), seed, samples, made.registry(), outline=True)


def parts(builder: Builder):
    """Yield what every party of a seed can read."""
    for party in (builder.server(), *map(builder.device, builder.plan.device_ids)):
        yield party.id, party.train, party.test
        if hasattr(party, "public"):
            yield f"{party.id} public", party.public, party.public


def oracle(samples: Samples, name: str, measured: list[int], rows: np.ndarray) -> np.ndarray:
    """Return standardised values by NumPy alone, in double precision; no dimension of the toy data is near constant."""
    known = [row for row in measured if samples.presence[name][row]]
    values = samples.array(name).astype(np.float64)
    axes = tuple(range(values.ndim - 1))
    mean, deviation = values[known].mean(axis=axes), values[known].std(axis=axes)
    return (values[rows] - mean) / np.maximum(deviation, 0.1 * np.sqrt((deviation**2).mean()))


@pytest.mark.parametrize("split", ["frame", "sequence"])
def test_every_party_sees_its_samples_scaled_by_the_public_training_samples(profile, split):
    samples = samples_of()
    for seed in SEEDS:
        builder = built(profile, samples, seed, split)
        measured = list(builder.layout.partition.public.train)
        for who, train, test in parts(builder):
            for data in (train, test):
                batch = data.batch(data.rows)
                for name in data.modalities:
                    if name in SCALED:
                        expected = oracle(samples, name, measured, data.rows)
                        np.testing.assert_allclose(batch.inputs[name], expected, rtol=1e-4, atol=1e-4, err_msg=who)
                    else:
                        np.testing.assert_array_equal(batch.inputs[name], samples.array(name)[data.rows])


@pytest.mark.parametrize("split", ["frame", "sequence"])
def test_neither_test_samples_nor_private_ones_enter_the_statistics(profile, split):
    for seed in SEEDS:
        clean = built(profile, samples_of(), seed, split)
        public = np.array(clean.layout.partition.public.train)
        others = np.setdiff1d(np.arange(made.N_SAMPLES), public)
        poisoned = built(profile, samples_of(others), seed, split)
        assert poisoned.layout == clean.layout
        for name in SCALED:
            one, other = (b.samples.values(name, public) for b in (clean, poisoned))
            np.testing.assert_array_equal(one, other)


def test_where_nothing_asks_for_scaling_samples_are_used_as_they_are(profile, samples):
    assert built(profile, samples, 27, "frame").samples is samples


def test_an_outline_reads_no_values(profile, monkeypatch):
    def read(self, modality):
        raise AssertionError(f"{modality} was read")

    samples = samples_of()
    monkeypatch.setattr(Samples, "array", read)
    assert len(list(parts(built(profile, samples, 27, "frame")))) == 1 + 2 * 3
