"""Laws of dealing: nobody's sample is another's, devices have enough, and shares follow their distributions."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from laws import for_all
from mlecs_bench.data.laws import Dealing, Units, ceil_share, deal_units, floor_share
from mlecs_bench.data.partition import Columns, Partition, deal, limit_tests, limited, partition
from mlecs_bench.data.parts import fewest_units
from mlecs_bench.errors import UsageError
from mlecs_bench.seeds import PROTOCOL_SEEDS, rng

LABELS = ("down", "sit", "up", "walk")
LAWS = [Dealing("iid"), Dealing("dirichlet", 0.3), Dealing("shards", 2), Dealing("group"), Dealing("quantity", 0.5)]
N_GROUPS = 48


def columns(n: int = 2_000, seed: int = 0) -> Columns:
    """Return n samples of four labels in 48 sequences of two strata, 12 users and mixed order."""
    generator = np.random.default_rng(seed)
    sequence = np.sort(generator.integers(N_GROUPS, size=n))
    kinds = [LABELS[int(i)] for i in generator.choice(len(LABELS), size=n, p=(0.1, 0.2, 0.3, 0.4))]
    groups = [f"s{i:02d}" for i in sequence]
    return Columns(groups, [f"kind{i % 2}" for i in sequence], kinds, [f"user{i % 12:02d}" for i in sequence])


def of_sequences(data: Columns) -> Columns:
    """Return the columns with one kind per sequence, as laws that deal sequences are given them."""
    return Columns(data.groups, data.strata, [f"k{int(group[1:]) % 4}" for group in data.groups], data.owners)


def rows_of(cut: Partition) -> list[list[int]]:
    return [[*part.train, *part.test] for part in (cut.public, *cut.devices)]


def n_public(cut: Partition) -> int:
    return len(rows_of(cut)[0])


# ------------------------------------------------------------------------------------------------ as it always was

TODAYS = {
    ("frame", 11_544, 3): {27: "d8d6c8ad2efbc543", 34: "b98b88a61b11e6dd"},
    ("frame", 9_680, 20): {27: "3de5d4cfe0e94bd5", 34: "c2799a29d1c6b91f"},
    ("frame", 163, 7): {27: "7856935a730598b2", 34: "55d82fdb53b645aa"},
    ("frame", 8, 1): {27: "8aa35ab607b31324", 34: "2f9f520116316e1e"},
    ("sequence", 70, 3): {27: "02a91eb2efb811eb", 34: "015274069dd0a15f"},
    ("sequence", 70, 20): {27: "1b9b19a65559d01c", 34: "3f2f92e62929792c"},
}
"""Digests of partitions from before there were laws."""


def ur_fall() -> tuple[list[str], list[str]]:
    generator = np.random.default_rng(0)
    names = [f"fall-{i:02d}" for i in range(30)] + [f"adl-{i:02d}" for i in range(40)]
    groups = [name for name in names for _ in range(int(generator.integers(20, 200)))]
    groups = [groups[i] for i in generator.permutation(len(groups))]
    return groups, [name.split("-")[0] for name in groups]


def test_the_usual_partition_is_bit_for_bit_what_it_was_before_there_were_laws():
    for (split, n, n_devices), digests in TODAYS.items():
        groups, strata = ur_fall() if split == "sequence" else ([""] * n, [""] * n)
        for seed, digest in digests.items():
            cut = partition(groups, strata, split, n_devices, seed)
            assert cut == deal(Columns(groups, strata), split, n_devices, seed, Dealing(number=None))
            text = json.dumps([[p.train, p.test] for p in (cut.public, *cut.devices)] + [cut.unused])
            assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest, (split, n, n_devices, seed)
            assert cut.redraws == 0


def test_the_usual_shares_written_out_are_the_usual_partition():
    data = columns()
    for split, share in (("frame", 0.1), ("sequence", 0.3)):
        written = Dealing("iid", None, 2, share, 0.25)
        assert deal(data, split, 5, 27, written) == deal(data, split, 5, 27)


def test_a_share_is_rounded_as_a_fraction_is():
    for percent in range(1, 100):
        for n in range(400):
            exact = Fraction(percent, 100) * n
            assert floor_share(percent / 100, n) == exact.__floor__()
            assert ceil_share(percent / 100, n) == exact.__ceil__()
            assert floor_share(1 - percent / 100, n) == (n - exact).__floor__()


# ------------------------------------------------------------------------------------------- what holds for every law


@for_all("seed", PROTOCOL_SEEDS)
@for_all("law", LAWS)
@for_all("split", ["frame", "sequence"])
def test_every_sample_is_held_once_or_unused_and_every_party_trains_and_tests(split, law, seed):
    data = columns() if split == "frame" else of_sequences(columns())
    dealing = Dealing(law.law, law.number, min_samples=30)
    cut = deal(data, split, 5, seed, dealing)
    parties = rows_of(cut)
    rows = [row for own in parties for row in own]
    assert len(rows) == len(set(rows)) == len(data.groups) - cut.unused
    assert set(rows) <= set(range(len(data.groups)))
    assert all(part.train and part.test for part in (cut.public, *cut.devices))
    assert all(len(own) >= 30 for own in parties[1:])
    assert deal(data, split, 5, seed, dealing) == cut != deal(data, split, 5, seed + 1, dealing)
    if split == "sequence":
        sides = [{data.groups[row] for row in side} for p in (cut.public, *cut.devices) for side in (p.train, p.test)]
        assert sum(map(len, sides)) == len(set().union(*sides)), "no sequence crosses parties, or training and testing"


@for_all("seed", PROTOCOL_SEEDS)
@for_all("split", ["frame", "sequence"])
def test_all_laws_but_group_share_the_public_part_and_leave_nobody_out_but_for_rounding(split, seed):
    data = columns() if split == "frame" else of_sequences(columns())
    cuts = {law.law: deal(data, split, 4, seed, law) for law in LAWS if law.law != "group"}
    assert {cut.public for cut in cuts.values()} == {cuts["iid"].public}
    assert cuts["dirichlet"].unused == cuts["quantity"].unused == 0
    longest = max(Counter(data.groups).values()) if split == "sequence" else 1
    assert cuts["shards"].unused <= (4 * 2 - 1) * longest


@for_all("share", [0.05, 0.2, 0.5])
@for_all("law", LAWS)
def test_shares_for_testing_and_for_the_public_are_what_was_asked_for(law, share):
    data = columns()
    cut = deal(data, "frame", 5, 27, Dealing(law.law, law.number, 40, share, 0.4))
    for part in (cut.public, *cut.devices):
        assert len(part.train) == floor_share(1 - share, len(part.train) + len(part.test))
    assert abs(n_public(cut) - 0.4 * 2_000) <= (12 if law.law == "group" else 1)
    whole = deal(of_sequences(data), "sequence", 3, 27, Dealing(law.law, law.number, 2, share, 0.4))
    for part in (whole.public, *whole.devices):
        train, test = ({data.groups[row] for row in side} for side in (part.train, part.test))
        assert len(test) >= ceil_share(share, len(train) + len(test))


def test_limits_keep_the_redraws_of_a_law():
    data, dealing = columns(300), Dealing("dirichlet", 0.1, min_samples=20)
    cut = next(cut for seed in range(50) if (cut := deal(data, "frame", 4, seed, dealing)).redraws)
    assert limited(cut, 5, 5, 0).redraws == limit_tests(cut, 1, 0).redraws == cut.redraws


# ------------------------------------------------------------------------------------------------------ single laws


def units(kinds: list[str], least: int = 2) -> Units:
    return Units([(i,) for i in range(len(kinds))], kinds, least)


def by_a_loop(kinds: list[str], n_devices: int, alpha: float, seed: int, least: int) -> tuple[list[set[int]], int]:
    """Return what a plain loop makes of the Dirichlet law with the draws of its stream."""
    stream = rng(seed, "partition", "law")
    for redraws in range(1_000):
        devices: list[set[int]] = [set() for _ in range(n_devices)]
        for kind in sorted(set(kinds)):
            own = [i for i, other in enumerate(kinds) if other == kind]
            before, start = 0.0, 0
            for j, share in enumerate(stream.dirichlet([alpha] * n_devices)):
                before += float(share)
                end = len(own) if j == n_devices - 1 else int(before * len(own))
                devices[j] |= set(own[start:end])
                start = end
        if min(map(len, devices)) >= least:
            return devices, redraws
    raise AssertionError


def test_dirichlet_and_quantity_are_what_a_loop_over_labels_and_devices_gives():
    generator, redrawn = np.random.default_rng(1), 0
    for seed in range(60):
        kinds = [LABELS[int(i)] for i in generator.integers(4, size=int(generator.integers(60, 300)))]
        n_devices, alpha = int(generator.integers(2, 7)), float(generator.choice([0.2, 0.5, 3.0]))
        for law, seen in (("dirichlet", kinds), ("quantity", [""] * len(kinds))):
            dealt = deal_units(units(kinds), n_devices, Dealing(law, alpha, 5), seed)
            expected, redraws = by_a_loop(seen, n_devices, alpha, seed, 5)
            assert [set(own) for own in dealt.devices] == expected
            assert dealt.redraws == redraws
            redrawn += redraws
    assert redrawn > 0


def test_a_devices_share_of_a_label_and_of_all_samples_follows_its_beta_distribution():
    n_devices, alpha, size, seeds = 5, 0.5, 500, 250
    kinds = [label for label in ("a", "b") for _ in range(size)]
    of_a, of_b, of_all = [], [], []
    for seed in range(seeds):
        own = deal_units(units(kinds, 1), n_devices, Dealing("dirichlet", alpha, 1), seed).devices[seed % n_devices]
        of_a.append(sum(i < size for i in own) / size)
        of_b.append(sum(i >= size for i in own) / size)
        sizes = deal_units(units(kinds, 1), n_devices, Dealing("quantity", alpha, 1), seed).devices
        of_all.append(len(sizes[seed % n_devices]) / len(kinds))
    wanted = stats.beta(alpha, (n_devices - 1) * alpha)
    for shares in (of_a, of_b):
        assert abs(np.mean(shares) - 1 / n_devices) < 4 * wanted.std() / np.sqrt(seeds)
    assert abs(stats.spearmanr(of_a, of_b).statistic) < 0.25, "labels are drawn apart"
    large = [
        stats.kstest([x for x in shares if x > 0.02], wanted_above(wanted, 0.02)).pvalue for shares in (of_a, of_b)
    ]
    assert min(large) > 1e-4
    assert stats.kstest([x for x in of_all if x > 0.02], wanted_above(wanted, 0.02)).pvalue > 1e-4


def wanted_above(law, floor):
    """Return the distribution function of a law given that it is above a floor, where redraws are rare."""
    below = law.cdf(floor)
    return lambda x: (law.cdf(x) - below) / (1 - below)


def test_quantity_leaves_labels_as_they_are_mixed():
    data = columns(20_000)
    counts = np.zeros((5, 4))
    cut = deal(data, "frame", 5, 34, Dealing("quantity", 0.5, 200))
    for j, own in enumerate(rows_of(cut)[1:]):
        counts[j] = [sum(data.kinds[row] == label for row in own) for label in LABELS]
    assert stats.chi2_contingency(counts).pvalue > 1e-4
    assert max(counts.sum(axis=1)) > 2 * min(counts.sum(axis=1))


@for_all(("n_devices", "per_device"), [(2, 1), (5, 2), (4, 5), (10, 2)])
def test_shards_are_blocks_of_sorted_labels_of_one_size(n_devices, per_device):
    kinds = [str(int(i)) for i in np.random.default_rng(2).integers(10, size=600)]
    size = 600 // (n_devices * per_device)
    dealt = deal_units(units(kinds), n_devices, Dealing("shards", per_device), 27)
    order = sorted(range(600), key=lambda i: (kinds[i], i))
    blocks = [frozenset(order[k * size : (k + 1) * size]) for k in range(n_devices * per_device)]
    for own in dealt.devices:
        inside = [block for block in blocks if block <= set(own)]
        assert len(inside) == per_device
        assert set(own) == frozenset().union(*inside)


def test_every_shard_is_equally_likely_to_go_to_a_device_and_with_every_other():
    kinds = [str(i // 10) for i in range(60)]
    firsts, pairs = Counter(), Counter()
    for seed in range(1_200):
        own = deal_units(units(kinds), 3, Dealing("shards", 2), seed).devices[0]
        shards = tuple(sorted({i // 10 for i in own}))
        firsts.update(shards)
        pairs[shards] += 1
    assert stats.chisquare([firsts[i] for i in range(6)]).pvalue > 1e-4
    assert len(pairs) == 15
    assert stats.chisquare(list(pairs.values())).pvalue > 1e-4


# -------------------------------------------------------------------------------------------------------- refusals


def refusal(*args: object) -> str:
    with pytest.raises(UsageError) as caught:
        deal(*args)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_number_that_a_refusal_names_works():
    data, seen = columns(120), Counter()
    for law, number in (("dirichlet", 0.01), ("quantity", 0.02), ("shards", 40), ("iid", None), ("group", None)):
        for n_devices, least in ((3, 2), (6, 10), (9, 25), (60, 3)):
            dealing = Dealing(law, number, least)
            try:
                deal(data, "frame", n_devices, 27, dealing)
                continue
            except UsageError as error:
                words = str(error)
            assert "\n" not in words
            cure = words.partition(";")[2]
            (name, value) = re.search(r"([a-z-]+)[: ]([\d.e+]+) would do", cure).groups()
            again = {
                law: (n_devices, Dealing(law, float(value), least)),
                "n-devices": (int(float(value)), dealing),
                "min-samples": (1, Dealing(law, number, int(float(value)))),
            }[name]
            assert again != (n_devices, dealing)
            deal(data, "frame", again[0], 27, again[1])
            seen[law] += 1
    assert len(seen) == 5


def test_the_usual_partition_names_the_most_devices_that_it_can_serve():
    for split, data in (("frame", columns(60)), ("sequence", of_sequences(columns(600)))):
        most = int(re.search(r"use at most (\d+) devices", refusal(data, split, 500, 27))[1])
        deal(data, split, most, 27)
        assert "too few" in refusal(data, split, most + 1, 27)
    assert refusal(columns(7), "frame", 1, 27).endswith("; use more data")


def test_a_public_share_that_leaves_the_server_too_little_names_one_that_does_not():
    data = columns(60)
    words = refusal(data, "frame", 2, 27, Dealing(public_share=0.01))
    assert words == "public-share 0.01 makes 0 samples public, and the server needs 2; public-share 0.04 would do"
    deal(data, "frame", 2, 27, Dealing(public_share=0.04))
    few = of_sequences(columns(300))
    share = re.search(r"public-share (\S+) would do", refusal(few, "sequence", 2, 27, Dealing(public_share=0.02)))
    deal(few, "sequence", 2, 27, Dealing(public_share=float(share[1])))


def test_parties_need_more_where_more_is_for_testing():
    for split in ("frame", "sequence"):
        for percent in range(1, 100):
            dealing = Dealing(test_share=percent / 100)
            fewest = fewest_units(dealing, split)
            exact = Fraction(percent, 100)
            trained = [(n - n * exact).__floor__() for n in range(fewest + 1)]
            assert trained[fewest] >= 1
            assert all(trained[n] < 1 for n in range(2, fewest))


def test_an_equal_deal_of_unequal_sequences_names_how_many_devices_have_enough():
    data = of_sequences(columns())
    words = refusal(data, "sequence", 5, 27, Dealing(min_samples=1_000))
    assert "5 devices of at least 2 sequences of 1000 samples each" in words
    words = refusal(data, "sequence", 5, 27, Dealing(min_samples=290))
    deal(data, "sequence", int(re.search(r"; n-devices (\d) would do", words)[1]), 27, Dealing(min_samples=290))
