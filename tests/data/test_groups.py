"""The law group: a device is one group and nobody else, as many as there can be, whatever the seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from laws import for_all
from mlecs_bench.data.groups import count_groups
from mlecs_bench.data.laws import Dealing
from mlecs_bench.data.partition import Columns, deal
from mlecs_bench.errors import UsageError
from mlecs_bench.seeds import PROTOCOL_SEEDS

GROUP = Dealing("group")


def users(sizes: dict[str, int], sequences_of: int = 5) -> Columns:
    """Return users with so many samples in mixed order, each in sequences of a few samples; "" is no user."""
    owners = [user for user, size in sizes.items() for _ in range(size)]
    counts: Counter[str] = Counter()
    groups = []
    for owner in owners:
        groups.append(f"{owner}-{counts[owner] // sequences_of:02d}")
        counts[owner] += 1
    order = np.random.default_rng(0).permutation(len(owners))
    owners, groups = ([values[int(i)] for i in order] for values in (owners, groups))
    return Columns(groups, [""] * len(groups), (), owners)


SIZES = {"ann": 40, "bob": 21, "cay": 3, "dan": 12, "eve": 1, "": 30}


def owners_of(data: Columns, rows: object) -> set[str]:
    return {data.owners[row] for row in rows}


@for_all("seed", PROTOCOL_SEEDS)
@for_all("split", ["frame", "sequence"])
def test_all_devices_are_the_groups_in_the_order_of_their_names(split, seed):
    data = users(SIZES)
    expected = ["ann", "bob", "cay", "dan"] if split == "frame" else ["ann", "bob", "dan"]
    assert count_groups(data, split, GROUP) == len(expected)
    cut = deal(data, split, len(expected), seed, GROUP)
    assert [owners_of(data, [*part.train, *part.test]) for part in cut.devices] == [{name} for name in expected]
    assert all(part.train and part.test for part in (cut.public, *cut.devices))


@for_all("seed", PROTOCOL_SEEDS)
def test_a_quarter_of_every_group_is_public_and_the_rest_its_devices(seed):
    data = users(SIZES)
    cut = deal(data, "frame", 4, seed, GROUP)
    public = Counter(data.owners[row] for row in (*cut.public.train, *cut.public.test))
    assert public == {"ann": 10, "bob": 5, "dan": 3}
    for part, owner in zip(cut.devices, ("ann", "bob", "cay", "dan"), strict=True):
        assert len(part.train) + len(part.test) == SIZES[owner] - SIZES[owner] // 4
    assert cut.unused == SIZES["eve"] + SIZES[""]


def test_fewer_devices_are_groups_drawn_alike():
    data, drawn = users(SIZES), Counter()
    for seed in range(600):
        cut = deal(data, "frame", 2, seed, GROUP)
        names = [owners_of(data, part.train).pop() for part in cut.devices]
        assert names == sorted(names)
        drawn.update(names)
    assert stats.chisquare([drawn[name] for name in ("ann", "bob", "cay", "dan")]).pvalue > 1e-4


def test_how_many_groups_can_be_devices_is_what_every_seed_serves():
    generator = np.random.default_rng(3)
    for _ in range(15):
        data = users({f"u{i:02d}": int(generator.integers(1, 40)) for i in range(12)}, int(generator.integers(1, 6)))
        for split in ("frame", "sequence"):
            dealing = Dealing("group", None, int(generator.integers(2, 15)), None, float(generator.choice([0.25, 0.4])))
            possible = count_groups(data, split, dealing)
            for seed in (0, 1):
                if possible:
                    cut = deal(data, split, possible, seed, dealing)
                    assert min(len(part.train) + len(part.test) for part in cut.devices) >= dealing.min_samples
                with pytest.raises(UsageError, match=f"{possible} of 12 groups have min-samples"):
                    deal(data, split, possible + 1, seed, dealing)


def test_a_sequence_of_two_groups_is_refused_by_name():
    data = Columns(["s1", "s1", "s2"], ["", "", ""], (), ["ann", "bob", "ann"])
    with pytest.raises(UsageError, match=r"sequence 's1' is of two groups, 'ann' and 'bob'.*use --split frame"):
        deal(data, "sequence", 1, 27, GROUP)
