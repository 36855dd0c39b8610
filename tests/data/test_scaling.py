"""Laws of standardising: plain means and deviations, of the rows that one may look at and of no other."""

from __future__ import annotations

import math

import datasets
import numpy as np
import pytest

from mlecs_bench.data.samples import Manifest, Modality, PartyData, PooledData, Samples, features_of
from mlecs_bench.data.scaling import LEAST_SHARE, Scaling
from mlecs_bench.errors import AccessError, DataError

N = 40
MODALITIES = (
    Modality("plain", (3,), "float32", "vector"),
    Modality("scaled", (3,), "float32", "vector", standardise=True),
    Modality("series", (2, 3), "float32", "series", standardise=True),
)
MODALITIES = tuple(sorted(MODALITIES, key=lambda m: m.name))


def samples_of(seed: int = 0, poison: tuple[int, ...] = (), has: np.ndarray | None = None) -> Samples:
    """Return samples with random values; rows of `poison` hold enormous ones."""
    generator = np.random.default_rng(seed)
    values = {m.name: generator.normal(3, 2, (N, *m.shape)).astype(np.float32) for m in MODALITIES}
    columns: dict[str, object] = {name: [str(i) for i in range(N)] for name in ("id", "target", "group", "stratum")}
    for m in MODALITIES:
        values[m.name][list(poison)] = 1e20
        columns[m.name] = values[m.name].reshape(N, -1).tolist()
        columns[f"has_{m.name}"] = [True] * N if has is None else has.tolist()
    manifest = Manifest("d", "1", "v", False, "generation", MODALITIES, "p", (), 4, N, "0", "none")
    return Samples(manifest, datasets.Dataset.from_dict(columns, features=features_of(MODALITIES)))


def test_mean_and_deviation_are_those_of_a_loop():
    for seed in range(5):
        generator = np.random.default_rng(seed)
        for shape in ((30, 4), (12, 5, 4)):
            values = generator.normal(generator.normal(0, 5, 4), [1.0, 2.0, 3.0, 2.0], shape).astype(np.float32)
            scaling = Scaling.of(values)
            for d in range(4):
                column = [float(v) for v in values[..., d].ravel()]
                mean = math.fsum(column) / len(column)
                deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in column) / len(column))
                np.testing.assert_allclose([scaling.mean[d], scaling.scale[d]], [mean, deviation], rtol=1e-5)
            scaled = scaling.apply(values)
            assert scaled.dtype == np.float32
            np.testing.assert_allclose(scaled.reshape(-1, 4).mean(0), 0, atol=1e-5)
            np.testing.assert_allclose(scaled.reshape(-1, 4).std(0), 1, atol=1e-5)


def test_a_dimension_that_hardly_moves_is_not_blown_up():
    values = np.zeros((4, 2), dtype=np.float32)
    values[:, 0], values[:, 1] = [1, -1, 1, -1], [15.9, 15.9, 15.9, 15.9001]
    scaling = Scaling.of(values)
    np.testing.assert_allclose(scaling.scale, [1.0, LEAST_SHARE * math.sqrt(0.5)], rtol=1e-5)
    np.testing.assert_allclose(scaling.mean[1], 15.9, rtol=1e-4)


def test_values_that_never_move_lose_their_mean_alone_and_without_samples_nothing_is_changed():
    constant = np.full((3, 2), 7, dtype=np.float32)
    np.testing.assert_array_equal(Scaling.of(constant).apply(constant), np.zeros((3, 2)))
    np.testing.assert_array_equal(Scaling.of(constant[:0]).apply(constant), constant)


def test_only_the_named_rows_that_have_the_modality_count():
    for seed in range(3):
        rows = np.random.default_rng(seed).permutation(N)[:15]
        has = np.ones(N, dtype=bool)
        has[rows[:5]] = False
        clean = samples_of(seed, has=has)
        others = tuple(sorted({*range(N)} - set(rows[5:].tolist())))
        poisoned = samples_of(seed, poison=others, has=has)
        for name in ("scaled", "series"):
            oracle = Scaling.of(clean.array(name)[rows[5:]]).apply(clean.array(name)[rows[5:]])
            for samples in (clean, poisoned):
                seen = samples.standardised(rows.tolist()).values(name, rows[5:])
                np.testing.assert_array_equal(seen, oracle)


def test_what_asks_for_no_scaling_keeps_its_bits_and_what_is_stored_stays_as_it_is():
    samples = samples_of()
    scaled = samples.standardised(range(10))
    index = np.arange(N)
    np.testing.assert_array_equal(scaled.values("plain", index), samples.array("plain"))
    np.testing.assert_array_equal(scaled.array("scaled"), samples.array("scaled"))
    np.testing.assert_array_equal(samples.values("scaled", index), samples.array("scaled"))
    assert not np.allclose(scaled.values("scaled", index), samples.array("scaled"))


def test_a_party_sees_standardised_values():
    samples = samples_of().standardised(range(20))
    party = PartyData(samples, [30, 31], ["scaled"], "d00")
    expected = samples.values("scaled", np.array([31]))
    assert not np.allclose(expected, samples.array("scaled")[[31]])
    for data in (party, party.part([31])):
        np.testing.assert_array_equal(data.batch([31]).inputs["scaled"].numpy(), expected)
    with pytest.raises(AccessError, match="sample '30', which is not in its data"):
        party.part([31]).batch([30])


def test_a_pool_is_standardised_and_a_part_of_it_shows_no_more_than_the_whole():
    samples = samples_of().standardised(range(20))
    shares = [PartyData(samples, [30, 31], ["scaled"], "d00"), PartyData(samples, [32], ["series"], "d01")]
    pool = PooledData(samples, shares, "server")
    for data in (pool, pool.part([31, 32])):
        batch = data.batch([31, 32])
        np.testing.assert_array_equal(batch.inputs["scaled"][0], samples.values("scaled", np.array([31]))[0])
        assert not batch.inputs["scaled"][1].any()
        assert batch.present["scaled"].tolist() == [True, False]
        assert batch.present["series"].tolist() == [False, True]


@pytest.mark.parametrize(("dtype", "shape"), [("uint8", (3,)), ("int64", (3,)), ("float32", ())])
def test_only_numbers_with_an_axis_are_standardised(dtype, shape):
    modality = Modality("m", shape, dtype, "vector", standardise=True)
    with pytest.raises(DataError, match="must be float32 with an axis"):
        Manifest("d", "1", "v", False, "generation", (modality,), "p", (), 4, N, "0", "none")
