"""The laws of dealing against the partitioners of Flower Datasets: what they draw has the same distribution.

Run by `tox -e partitions`: Flower Datasets asks for older packages than this project has.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

partitioners = pytest.importorskip("flwr_datasets.partitioner", reason="it has an environment of its own, partitions")
datasets = pytest.importorskip("datasets")

from mlecs_bench.data.groups import count_groups  # noqa: E402  # what is not there is named first
from mlecs_bench.data.laws import Dealing, Units, deal_units  # noqa: E402
from mlecs_bench.data.partition import Columns, deal  # noqa: E402

SEEDS = range(250)
LABELS = [f"k{i % 4}" for i in range(400)]
N_DEVICES, LEAST = 5, 10
LIKELY, UNLIKELY = 1e-3, 1e-6


def theirs(partitioner: object, columns: dict[str, list[str]]) -> list[list[int]]:
    """Return the rows of every partition of Flower Datasets."""
    n = len(next(iter(columns.values())))
    partitioner.dataset = datasets.Dataset.from_dict({**columns, "row": list(range(n))})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says how often it draws again
        return [partitioner.load_partition(j)["row"][:] for j in range(partitioner.num_partitions)]


def ours(dealing: Dealing, labels: list[str], seed: int) -> list[list[int]]:
    """Return the units of every device, in a mixed order as the splits give it."""
    order = np.random.default_rng(seed + 10_000).permutation(len(labels))
    units = Units([(int(i),) for i in order], [labels[int(i)] for i in order], 2)
    return [[int(order[i]) for i in own] for own in deal_units(units, N_DEVICES, dealing, seed).devices]


def figures(devices: list[list[int]], labels: list[str]) -> Iterator[tuple[str, float]]:
    """Yield what a partition looks like: sizes, and how labels are shared out."""
    counts = np.array([[sum(labels[i] == kind for i in own) for kind in sorted(set(labels))] for own in devices])
    yield "the first device's samples", float(counts[0].sum())
    yield "the last device's samples", float(counts[-1].sum())
    yield "the largest device", float(counts.sum(axis=1).max())
    yield "the first device's share of the first label", float(counts[0, 0])
    yield "the last device's share of the last label", float(counts[-1, -1])
    yield "the commonest label of the first device", float(counts[0].max() / counts[0].sum())
    yield "the labels of the second device", float((counts[1] > 0).sum())
    yield "how unlike the devices are", float(stats.entropy(counts.T + 1e-12).mean())


def samples_of(draws: list[list[list[int]]], labels: list[str]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for devices in draws:
        for name, value in figures(devices, labels):
            found.setdefault(name, []).append(value)
    return found


def p_values(one: list[list[list[int]]], other: list[list[list[int]]], labels: list[str]) -> dict[str, float]:
    """Return by figure how likely two sets of partitions of one law differ as much (Kolmogorov and Smirnov)."""
    a, b = samples_of(one, labels), samples_of(other, labels)
    return {name: float(stats.ks_2samp(a[name], b[name]).pvalue) for name in a}


def flower_dirichlet(alpha: float, labels: list[str], least: int = LEAST) -> list[list[list[int]]]:
    return [
        theirs(
            partitioners.DirichletPartitioner(N_DEVICES, "label", alpha, min_partition_size=least, seed=seed),
            {"label": labels},
        )
        for seed in SEEDS
    ]


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_dirichlet_is_the_law_of_its_dirichlet_partitioner(alpha):
    expected = flower_dirichlet(alpha, LABELS)
    found = [ours(Dealing("dirichlet", alpha, LEAST), LABELS, seed) for seed in SEEDS]
    assert min(p_values(found, expected, LABELS).values()) > LIKELY
    other = [ours(Dealing("dirichlet", 3 * alpha, LEAST), LABELS, seed) for seed in SEEDS]
    assert min(p_values(other, expected, LABELS).values()) < UNLIKELY, "the test tells laws apart"


def test_quantity_is_the_law_of_its_dirichlet_partitioner_over_one_label():
    expected = flower_dirichlet(1.0, ["one"] * 400, 4)  # it gives up after ten draws
    found = [ours(Dealing("quantity", 1.0, 4), LABELS, seed) for seed in SEEDS]
    values = p_values(found, expected, ["one"] * 400)
    assert min(values.values()) > LIKELY


@pytest.mark.parametrize("per_device", [1, 2, 4])
def test_shards_are_those_of_its_shard_partitioner_and_dealt_alike(per_device):
    def blocks(devices: list[list[int]]) -> Counter[tuple[int, ...]]:
        return Counter(tuple(sum(LABELS[i] == kind for i in own) for kind in sorted(set(LABELS))) for own in devices)

    expected, found = Counter[tuple[int, ...]](), Counter[tuple[int, ...]]()
    for seed in SEEDS:
        flower = partitioners.ShardPartitioner(N_DEVICES, "label", num_shards_per_partition=per_device, seed=seed)
        parts, own = theirs(flower, {"label": LABELS}), ours(Dealing("shards", per_device), LABELS, seed)
        assert sorted(map(len, parts)) == sorted(map(len, own))
        expected.update(blocks(parts))
        found.update(blocks(own))
    kinds = sorted(key for key, count in (expected + found).items() if count >= 20)
    assert sum(expected[key] + found[key] for key in kinds) > 0.8 * (expected + found).total()
    if len(kinds) > 1:
        table = [[counts[key] for key in kinds] for counts in (expected, found)]
        assert stats.chi2_contingency(table).pvalue > LIKELY


def test_groups_are_the_natural_ids_of_its_natural_id_partitioner():
    generator = np.random.default_rng(0)
    owners = [f"user{int(i):02d}" for i in generator.integers(12, size=400)]
    natural = partitioners.NaturalIdPartitioner("user")
    parts = theirs(natural, {"user": owners})
    dealing = Dealing("group")
    columns = Columns(owners, [""] * 400, (), owners)
    assert count_groups(columns, "frame", dealing) == len(parts)
    cut = deal(columns, "frame", len(parts), 27, dealing)
    public = {*cut.public.train, *cut.public.test}
    for part, rows in zip(cut.devices, parts, strict=True):
        assert {*part.train, *part.test} == set(rows) - public
