"""Who holds what: parts never overlap, sequences never cross, and masks are independent Bernoulli draws."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from laws import for_all
from mlecs_bench.data.partition import (
    Partition,
    draw_exact_masks,
    draw_masks,
    given_masks,
    limit_tests,
    limited,
    partition,
    rates_of,
    split_frames,
    split_sequences,
)
from mlecs_bench.errors import DataError, UsageError
from mlecs_bench.seeds import PROTOCOL_SEEDS, rng

SIZES = [(11_544, 3), (9_680, 3), (9_680, 20), (160, 7), (41, 1), (8, 1), (8, 2), (8, 3)]
MODALITIES = ("acce", "depth", "rgb")


def parts_of(cut):
    return [cut.public, *cut.devices]


def rows_of(part):
    return [*part.train, *part.test]


def ur_fall(seed=0, shuffled=True):
    """Return groups and strata of 30 falls and 40 activities of 20 to 200 samples each, in mixed order."""
    generator = np.random.default_rng(seed)
    names = [f"fall-{i:02d}" for i in range(30)] + [f"adl-{i:02d}" for i in range(40)]
    groups = [name for name in names for _ in range(int(generator.integers(20, 200)))]
    if shuffled:
        groups = [groups[i] for i in generator.permutation(len(groups))]
    return groups, [name.split("-")[0] for name in groups]


def sequences_of(rows, groups):
    return {groups[row] for row in rows}


# ------------------------------------------------------------------------------------------------------- frame split


@for_all("seed", PROTOCOL_SEEDS)
@for_all(("n", "n_devices"), SIZES)
def test_parts_are_disjoint_and_cover_all_but_the_unused(n, n_devices, seed):
    cut = split_frames(n, n_devices, seed)
    rows = [row for part in parts_of(cut) for row in rows_of(part)]
    assert len(rows) == len(set(rows)) == n - cut.unused
    assert set(rows) <= set(range(n))
    assert 0 <= cut.unused < 4 + n_devices
    assert {type(row) for row in rows} == {int}


@for_all(("n", "quarter", "train"), [(11_544, 2_886, 2_597), (9_680, 2_420, 2_178)])
def test_the_papers_data_sets_have_the_papers_sizes(n, quarter, train):
    cut = split_frames(n, 3, 27)
    for part in parts_of(cut):
        assert (len(rows_of(part)), len(part.train), len(part.test)) == (quarter, train, quarter - train)
    assert cut.unused == 0


def test_every_party_trains_on_nine_tenths_rounded_down():
    for n, n_devices in [*SIZES, *((n, 1) for n in range(40, 480, 4))]:
        cut = split_frames(n, n_devices, 27)
        for part in parts_of(cut):
            assert len(part.train) == 9 * len(rows_of(part)) // 10
        assert len(rows_of(cut.public)) == n // 4
        assert {len(rows_of(part)) for part in cut.devices} == {3 * (n // 4) // n_devices}


@for_all("n_devices", [1, 3, 5, 10, 20])
def test_the_public_part_does_not_depend_on_the_number_of_devices(n_devices):
    assert split_frames(9_680, n_devices, 34).public == split_frames(9_680, 2, 34).public
    groups, strata = ur_fall()
    assert split_sequences(groups, strata, n_devices, 34).public == split_sequences(groups, strata, 2, 34).public


@for_all("split", ["frame", "sequence"])
def test_a_seed_draws_the_same_partition_every_time_and_another_seed_another(split):
    groups, strata = ur_fall()
    cuts = [partition(groups, strata, split, 3, seed) for seed in PROTOCOL_SEEDS]
    assert cuts == [partition(groups, strata, split, 3, seed) for seed in PROTOCOL_SEEDS]
    assert len({cut.public.train for cut in cuts}) == len(PROTOCOL_SEEDS)


def test_every_sample_is_equally_likely_to_be_public():
    n, seeds = 40, 2_000
    counts = Counter(row for seed in range(seeds) for row in rows_of(split_frames(n, 3, seed).public))
    assert stats.chisquare([counts[row] for row in range(n)]).pvalue > 1e-4
    assert sum(counts.values()) == seeds * n // 4


@for_all("n_devices", range(1, 8))
def test_too_few_samples_are_refused_exactly_when_a_party_would_train_or_test_on_none(n_devices):
    verdicts = set()
    for n in range(48):
        sizes = (n // 4, 3 * (n // 4) // n_devices)
        possible = all(9 * size // 10 >= 1 and size - 9 * size // 10 >= 1 for size in sizes)
        verdicts.add(possible)
        if possible:
            assert all(part.train and part.test for part in parts_of(split_frames(n, n_devices, 27)))
        else:
            with pytest.raises(UsageError, match=f"{n} samples are too few for {n_devices} devices"):
                split_frames(n, n_devices, 27)
    assert verdicts == {True, False}


# ---------------------------------------------------------------------------------------------------- sequence split


@for_all("seed", PROTOCOL_SEEDS)
@for_all("n_devices", [1, 3, 5, 10, 20])
def test_no_sequence_crosses_parties_or_train_and_test(n_devices, seed):
    groups, strata = ur_fall(seed)
    cut = split_sequences(groups, strata, n_devices, seed)
    sides = [side for part in parts_of(cut) for side in (part.train, part.test)]
    held = [sequences_of(side, groups) for side in sides]
    assert sum(map(len, held)) == len(set().union(*held)) == 70
    assert sorted(row for side in sides for row in side) == list(range(len(groups)))
    assert cut.unused == 0


@for_all("seed", PROTOCOL_SEEDS)
@for_all("n_devices", [1, 3, 5, 10, 20])
def test_at_least_three_tenths_of_every_partys_sequences_are_for_testing(n_devices, seed):
    groups, strata = ur_fall()
    for part in parts_of(split_sequences(groups, strata, n_devices, seed)):
        train, test = sequences_of(part.train, groups), sequences_of(part.test, groups)
        assert train
        assert 10 * len(test) >= 3 * (len(train) + len(test))
        assert len(test) <= math.ceil(0.3 * len(train | test)) + 2, "no more than rounding up each stratum asks for"


@for_all("seed", PROTOCOL_SEEDS)
@for_all("n_devices", [1, 3, 5, 10, 20])
def test_devices_hold_every_stratum_and_all_sequences_within_one_of_each_other(n_devices, seed):
    groups, strata = ur_fall()
    cut = split_sequences(groups, strata, n_devices, seed)
    held = [Counter(name.split("-")[0] for name in sequences_of(rows_of(part), groups)) for part in cut.devices]
    for counts in ([h["fall"] for h in held], [h["adl"] for h in held], [h.total() for h in held]):
        assert max(counts) - min(counts) <= 1
    public = Counter(name.split("-")[0] for name in sequences_of(rows_of(cut.public), groups))
    assert public == {"fall": 30 // 4, "adl": 40 // 4}


@for_all("seed", PROTOCOL_SEEDS)
@for_all("n_devices", [1, 3, 5])
def test_a_stratum_of_a_party_is_tested_where_it_has_two_sequences(n_devices, seed):
    groups, strata = ur_fall()
    for part in parts_of(split_sequences(groups, strata, n_devices, seed)):
        for kind in ("fall", "adl"):
            train, test = (
                [name for name in sequences_of(rows, groups) if name.startswith(kind)]
                for rows in (part.train, part.test)
            )
            assert len(train) + len(test) >= 2
            assert train
            assert 10 * len(test) >= 3 * (len(train) + len(test))


@for_all("n_devices", [27, 30, 70, 1_000])
def test_more_devices_than_pairs_of_sequences_are_refused(n_devices):
    groups, strata = ur_fall()
    with pytest.raises(UsageError, match=f"70 sequences are too few for {n_devices} devices"):
        split_sequences(groups, strata, n_devices, 27)


def test_the_most_devices_possible_are_served():
    groups, strata = ur_fall()
    private = 70 - 30 // 4 - 40 // 4
    cut = split_sequences(groups, strata, private // 2, 27)
    assert all(part.train and part.test for part in parts_of(cut))


def test_sequences_go_where_their_names_send_them_whatever_the_order_of_samples():
    mixed, mixed_strata = ur_fall()
    ordered, ordered_strata = ur_fall(shuffled=False)
    one, other = (
        split_sequences(groups, strata, 3, 27) for groups, strata in ((mixed, mixed_strata), (ordered, ordered_strata))
    )
    for a, b in zip(parts_of(one), parts_of(other), strict=True):
        assert sequences_of(a.train, mixed) == sequences_of(b.train, ordered)
        assert sequences_of(a.test, mixed) == sequences_of(b.test, ordered)


@for_all("seed", PROTOCOL_SEEDS)
def test_a_test_limit_keeps_some_test_samples_in_their_order_and_all_training_samples(seed):
    groups, strata = ur_fall()
    for cut in (split_frames(900, 4, seed), split_sequences(groups, strata, 4, seed)):
        for limit in (1, 7, 30):
            limited = limit_tests(cut, limit, seed)
            for before, after in zip(parts_of(cut), parts_of(limited), strict=True):
                assert after.train == before.train
                assert len(after.test) == min(limit, len(before.test))
                assert [row for row in before.test if row in set(after.test)] == list(after.test)
            left_out = sum(len(part.test) for part in parts_of(cut)) - sum(len(p.test) for p in parts_of(limited))
            assert limited.unused == cut.unused + left_out
        assert limit_tests(cut, 10**6, seed) == limit_tests(cut, None, seed) == cut


def test_a_smaller_test_limit_takes_some_of_a_larger_ones_and_another_seed_others():
    cut = split_frames(4_000, 3, 27)
    small, large = (parts_of(limit_tests(cut, limit, 27)) for limit in (10, 60))
    assert all(set(one.test) < set(other.test) for one, other in zip(small, large, strict=True))
    assert small != parts_of(limit_tests(cut, 10, 34))


def test_every_test_sample_is_equally_likely_to_be_kept():
    cut, kept = split_frames(400, 1, 0), Counter()
    for seed in range(1_500):
        kept.update(limit_tests(cut, 10, seed).devices[0].test)
    assert set(kept) == set(cut.devices[0].test)
    assert stats.chisquare([kept[row] for row in cut.devices[0].test]).pvalue > 1e-3


def test_the_named_splits_are_the_functions_and_another_name_is_refused():
    groups, strata = ur_fall()
    assert partition(groups, strata, "frame", 3, 27) == split_frames(len(groups), 3, 27)
    assert partition(groups, strata, "sequence", 3, 27) == split_sequences(groups, strata, 3, 27)
    with pytest.raises(DataError, match="unknown split 'subject'; use frame or sequence"):
        partition(groups, strata, "subject", 3, 27)


# ------------------------------------------------------------------------------------------------------------ limits

LIMITS = [(None, None), (5, None), (None, 7), (5, 7), (1, 1), (10_000, 10_000)]


@for_all("seed", PROTOCOL_SEEDS)
@for_all(("private", "public"), LIMITS)
@for_all("split", ["frame", "sequence"])
def test_a_limit_leaves_some_of_the_training_rows_in_their_order_and_all_testing_rows(private, public, split, seed):
    groups, strata = ur_fall()
    cut = partition(groups, strata, split, 3, seed)
    kept = limited(cut, private, public, seed)
    for before, after, limit in zip(parts_of(cut), parts_of(kept), [public, *[private] * 3], strict=True):
        assert after.test == before.test
        assert len(after.train) == (len(before.train) if limit is None else min(limit, len(before.train)))
        chosen = set(after.train)
        assert after.train == tuple(row for row in before.train if row in chosen)
        assert {type(row) for row in after.train} == {int}


@for_all("seed", PROTOCOL_SEEDS)
@for_all(("private", "public"), LIMITS)
@for_all(("n", "n_devices"), SIZES)
def test_every_sample_is_held_once_or_counted_as_unused(n, n_devices, private, public, seed):
    kept = limited(split_frames(n, n_devices, seed), private, public, seed)
    rows = [row for part in parts_of(kept) for row in rows_of(part)]
    assert len(rows) == len(set(rows)) == n - kept.unused


def test_no_limit_and_one_that_binds_nobody_change_nothing():
    cut = split_frames(160, 3, 27)
    assert limited(cut, None, None, 27) == limited(cut, 36, 36, 27) == cut
    assert limited(cut, 35, None, 27).unused == cut.unused + 3, "each device has 36 training rows"


def test_what_a_limit_keeps_depends_on_the_seed_and_the_party_alone():
    cut = split_frames(9_680, 3, 27)
    kept = limited(cut, 64, 100, 27)
    assert kept == limited(cut, 64, 100, 27)
    assert kept.devices == limited(cut, 64, None, 27).devices
    assert kept.public == limited(cut, None, 100, 27).public
    alone = Partition(cut.public, cut.devices[:1], cut.unused)
    assert limited(alone, 64, 100, 27).devices == kept.devices[:1]
    assert limited(cut, 64, 100, 34).devices != kept.devices
    pairs = zip(cut.devices, kept.devices, strict=True)
    places = [[before.train.index(row) for row in after.train] for before, after in pairs]
    assert places[0] != places[1], "no two devices draw the same places"


def test_every_training_row_is_equally_likely_to_be_kept():
    cut, seeds = split_frames(96, 3, 27), 1_500
    kept = [limited(cut, 7, 5, seed) for seed in range(seeds)]
    for j, part in enumerate(parts_of(cut)):
        counts = Counter(row for one in kept for row in parts_of(one)[j].train)
        # Draws without replacement spread less than chi square allows for, so the test errs on the side of passing.
        assert stats.chisquare([counts[row] for row in part.train]).pvalue > 1e-4
        assert set(counts) == set(part.train)


# ------------------------------------------------------------------------------------------------------------- masks


def held_counts(rates, n_devices, seeds, min_modalities):
    counts = Counter()
    for seed in range(seeds):
        counts.update(m for held in draw_masks(rates, n_devices, seed, min_modalities).devices for m in held)
    return counts


@for_all(
    "rates",
    [dict.fromkeys(MODALITIES, 0.5), dict.fromkeys(MODALITIES, 0.7), {"acce": 0.9, "depth": 0.5, "rgb": 0.2}],
)
def test_each_modality_is_held_at_its_rate(rates):
    seeds, n_devices = 1_000, 3
    counts = held_counts(rates, n_devices, seeds, min_modalities=0)
    for name, rate in rates.items():
        assert stats.binomtest(counts[name], seeds * n_devices, rate).pvalue > 1e-4


@for_all("rho", [0.3, 0.5, 0.8])
def test_redrawing_empty_devices_raises_the_rate_by_the_chance_of_one(rho):
    seeds, n_devices = 1_000, 3
    counts = held_counts(dict.fromkeys(MODALITIES, rho), n_devices, seeds, min_modalities=1)
    expected = rho / (1 - (1 - rho) ** 3)
    for name in MODALITIES:
        assert stats.binomtest(counts[name], seeds * n_devices, expected).pvalue > 1e-4


def test_modalities_and_devices_are_drawn_independently():
    seeds = 2_000
    bits = np.array(
        [
            [m in held for held in draw_masks(dict.fromkeys(MODALITIES, 0.5), 3, seed, 0).devices for m in MODALITIES]
            for seed in range(seeds)
        ],
        dtype=float,
    )
    assert np.abs(np.corrcoef(bits.T) - np.eye(9)).max() < 4.5 / np.sqrt(seeds)


def test_a_third_of_all_seeds_would_hold_an_empty_device_at_rho_one_half():
    seeds = 2_000
    empty = sum(() in draw_masks(dict.fromkeys(MODALITIES, 0.5), 3, seed, 0).devices for seed in range(seeds))
    assert stats.binomtest(empty, seeds, 1 - (1 - 0.5**3) ** 3).pvalue > 1e-4


@for_all("n_devices", [1, 3, 20])
@for_all("seed", PROTOCOL_SEEDS)
def test_rate_one_holds_everything_without_a_redraw(n_devices, seed):
    masks = draw_masks(dict.fromkeys(MODALITIES, 1.0), n_devices, seed)
    assert masks.devices == (MODALITIES,) * n_devices
    assert (masks.redraws, masks.rate) == (0, 1.0)


@for_all("min_modalities", [0, 1, 2, 3])
@for_all("seed", range(8))
def test_every_device_holds_the_least_number_of_modalities_in_sorted_order(min_modalities, seed):
    masks = draw_masks({"rgb": 0.4, "acce": 0.3, "depth": 0.5}, 5, seed, min_modalities)
    assert all(len(held) >= min_modalities for held in masks.devices)
    assert all(held == tuple(sorted(set(held) & set(MODALITIES))) for held in masks.devices)
    assert masks.rate == sum(len(held) for held in masks.devices) / 15


@for_all("min_modalities", [0, 1, 2])
@for_all("seed", range(8))
def test_masks_and_redraws_equal_a_replay_of_each_devices_stream(min_modalities, seed):
    rates, devices, redraws = {"acce": 0.3, "depth": 0.5, "rgb": 0.2}, [], 0
    for j in range(6):
        numbers = iter(rng(seed, "masks", j).random(600).tolist())
        rows = ([next(numbers) < rate for rate in (0.3, 0.5, 0.2)] for _ in range(200))
        for row in rows:
            if sum(row) >= min_modalities:
                devices.append(tuple(itertools.compress(MODALITIES, row)))
                break
            redraws += 1
    masks = draw_masks(rates, 6, seed, min_modalities)
    assert (masks.devices, masks.redraws) == (tuple(devices), redraws)


def test_the_number_of_redraws_is_geometric():
    seeds, empty = 2_000, 0.7**3
    redraws = [draw_masks(dict.fromkeys(MODALITIES, 0.3), 1, seed).redraws for seed in range(seeds)]
    expected = [seeds * empty**k * (1 - empty) for k in range(4)] + [seeds * empty**4]
    observed = [redraws.count(k) for k in range(4)] + [sum(k >= 4 for k in redraws)]
    assert stats.chisquare(observed, expected).pvalue > 1e-4


@for_all("seed", PROTOCOL_SEEDS)
def test_more_devices_do_not_change_the_first_ones(seed):
    rates = dict.fromkeys(MODALITIES, 0.5)
    many = draw_masks(rates, 20, seed).devices
    for n_devices in (1, 3, 5, 10):
        assert draw_masks(rates, n_devices, seed).devices == many[:n_devices]


@for_all("seed", PROTOCOL_SEEDS)
def test_a_higher_rate_only_adds_modalities(seed):
    low, high = (draw_masks(dict.fromkeys(MODALITIES, rho), 20, seed, 0).devices for rho in (0.4, 0.8))
    assert all(set(a) <= set(b) for a, b in zip(low, high, strict=True))
    assert low != high


@for_all("rho", [0.5, 1])
def test_one_rate_holds_for_every_modality(rho):
    assert rates_of(rho, MODALITIES) == dict.fromkeys(MODALITIES, float(rho))


def test_rates_by_name_are_kept_in_the_order_of_the_modalities():
    assert list(rates_of({"rgb": 0.1, "acce": 1, "depth": 0.3}, MODALITIES).items()) == [
        ("acce", 1.0),
        ("depth", 0.3),
        ("rgb", 0.1),
    ]


@for_all(
    ("rho", "message"),
    [
        ({"acce": 0.5, "rgb": 0.5}, "no rate for modality 'depth'"),
        ({"acce": 0.5, "depth": 0.5, "rgb": 0.5, "audio": 0.5}, "unknown modality 'audio'"),
        ({}, "no rate for modality 'acce'"),
    ],
)
def test_rates_must_name_exactly_the_modalities(rho, message):
    with pytest.raises(UsageError, match=f"rho has {message}; the dataset's modalities are acce, depth, rgb"):
        rates_of(rho, MODALITIES)


def test_exact_masks_hold_as_many_pairs_as_the_rates_say_and_every_modality_nearly_as_often():
    for rate, n_devices, seed in itertools.product((0.34, 0.5, 0.7, 0.8, 1.0), (3, 4, 10, 50), PROTOCOL_SEEDS):
        masks = draw_exact_masks(dict.fromkeys(MODALITIES, rate), n_devices, seed)
        counts = Counter(name for held in masks.devices for name in held)
        assert abs(sum(counts.values()) - 3 * n_devices * rate) <= 0.5 + 1e-9
        assert masks.rate == pytest.approx(sum(counts.values()) / (3 * n_devices))
        relieved = masks.redraws == 1_000  # what a device takes over may be of any modality
        assert relieved or max(counts.values()) - min(counts[name] for name in MODALITIES) <= 1
        assert min(map(len, masks.devices)) >= 1
        assert masks == draw_exact_masks(dict.fromkeys(MODALITIES, rate), n_devices, seed)


def test_exact_masks_are_drawn_uniformly_and_without_replacement():
    rates = dict.fromkeys(MODALITIES, 0.5)
    drawn = [draw_exact_masks(rates, 2, seed).devices for seed in range(2_000)]
    # One holder of each modality, and neither device without any: six ways, all equally likely.
    found = Counter(drawn)
    assert len(found) == 6
    assert stats.chisquare(list(found.values())).pvalue > 1e-4


def test_exact_rates_by_modality_are_met_one_by_one_where_they_are_whole():
    for seed in PROTOCOL_SEEDS:
        masks = draw_exact_masks({"acce": 0.2, "depth": 0.6, "rgb": 1.0}, 10, seed, min_modalities=0)
        assert Counter(name for held in masks.devices for name in held) == {"acce": 2, "depth": 6, "rgb": 10}


def test_exact_rates_that_leave_a_device_without_modality_are_refused_with_one_that_would_do():
    with pytest.raises(UsageError, match=r"0\.2 give 10 devices 6 modalities.* at least 0\.34, or min-modalities 0"):
        draw_exact_masks(dict.fromkeys(MODALITIES, 0.2), 10, 27)
    assert min(map(len, draw_exact_masks(dict.fromkeys(MODALITIES, 0.34), 10, 27).devices)) == 1
    assert sum(map(len, draw_exact_masks(dict.fromkeys(MODALITIES, 0.2), 10, 27, 0).devices)) == 6


def test_given_masks_are_held_as_they_are():
    masks = given_masks([("rgb", "acce"), ()], MODALITIES)
    assert (masks.devices, masks.redraws, masks.rate) == ((("acce", "rgb"), ()), 0, pytest.approx(1 / 3))
