"""Paired tests, Holm's correction, verdicts and the overall test against scipy, loops and values worked by hand."""

from __future__ import annotations

import itertools
import math
import statistics
import subprocess
import sys

import numpy as np
import pytest
from scipy import integrate, stats

from mlecs_bench.report.statistics import (
    ALPHA,
    EXACT_UNITS,
    MARGIN,
    POWER,
    RANDOM_FLIPS,
    ROUNDING,
    Difference,
    SignFlip,
    detectable_effect,
    differences_by_seed,
    holm,
    paired_difference,
    sign_flip,
    t_interval,
    verdict,
)
from mlecs_bench.seeds import PROTOCOL_SEEDS

OURS = {27: 0.40, 34: 0.42, 46: 0.39, 52: 0.45, 93: 0.44}
THEIRS = {27: 0.35, 34: 0.40, 46: 0.36, 52: 0.37, 93: 0.42}


def two_scores(seed: int, n: int, gain: float = 0.02) -> tuple[dict[int, float], dict[int, float]]:
    generator = np.random.default_rng(seed)
    a = generator.normal(0.4 + gain, 0.05, n)
    b = generator.normal(0.4, 0.05, n)
    return dict(enumerate(a.tolist())), dict(enumerate(b.tolist()))


def a_difference(mean: float, low: float, high: float) -> Difference:
    return Difference(5, mean, 0.01, low, high, 0.5, 0.02, PROTOCOL_SEEDS)


# Paired differences


def test_a_difference_worked_by_hand():
    # Differences 0.05, 0.02, 0.03, 0.08, 0.02: mean 0.04, squares about it 0.0026, so sd² is 0.00065; t(0.975, 4).
    found = paired_difference(OURS, THEIRS)
    half = 2.7764451 * math.sqrt(0.00065 / 5)
    assert (found.n, found.seeds) == (5, PROTOCOL_SEEDS)
    assert found.mean == pytest.approx(0.04)
    assert found.sd == pytest.approx(math.sqrt(0.00065))
    assert (found.low, found.high) == pytest.approx((0.04 - half, 0.04 + half), rel=1e-7)
    assert found.detectable == pytest.approx(1.68 * math.sqrt(0.00065), rel=0.005)


def test_p_and_interval_are_those_of_the_paired_t_test():
    for n in (2, 3, 5, 12):
        for seed in range(3):
            a, b = two_scores(seed, n)
            found = paired_difference(a, b)
            oracle = stats.ttest_rel([a[s] for s in range(n)], [b[s] for s in range(n)])
            interval = oracle.confidence_interval(0.95)
            assert found.p == pytest.approx(oracle.pvalue)
            assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_scores_are_paired_by_seed_whatever_their_order():
    shuffled = {seed: THEIRS[seed] for seed in (93, 27, 52, 34, 46)}
    assert paired_difference(OURS, shuffled) == paired_difference(OURS, THEIRS)


def test_a_seed_that_only_one_of_them_has_is_left_out():
    both = (27, 46, 93)
    theirs = {s: THEIRS[s] for s in both}
    found = paired_difference(OURS, {**theirs, 1: 0.99})
    assert found == paired_difference({s: OURS[s] for s in both}, theirs)
    assert (found.n, found.seeds) == (3, both)


def test_swapping_the_two_turns_the_difference_round():
    for seed in range(3):
        a, b = two_scores(seed, 5)
        forth, back = paired_difference(a, b), paired_difference(b, a)
        assert (back.mean, back.low, back.high) == (-forth.mean, -forth.high, -forth.low)
        assert (back.sd, back.p, back.detectable, back.seeds) == (forth.sd, forth.p, forth.detectable, forth.seeds)


def test_where_lower_is_better_positive_means_lower():
    for seed in range(3):
        a, b = two_scores(seed, 5)
        assert paired_difference(a, b, higher_is_better=False) == paired_difference(b, a)


def test_without_a_common_seed_there_is_no_number():
    assert paired_difference({27: 0.4}, {34: 0.4}) == Difference(0, None, None, None, None, None, None, ())
    assert paired_difference({}, {}).n == 0


def test_one_common_seed_gives_a_mean_alone():
    found = paired_difference({27: 0.5, 34: 0.1}, {27: 0.25})
    assert found == Difference(1, 0.25, None, None, None, None, None, (27,))


def test_equal_scores_have_p_1_and_the_interval_zero():
    found = paired_difference(OURS, OURS)
    assert found == Difference(5, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, PROTOCOL_SEEDS)
    assert verdict(found, found.p) == "tied"


def test_the_same_gain_on_every_seed_has_p_0_and_a_point_as_interval():
    for gain, expected in ((0.25, "better"), (-0.25, "worse")):
        a = dict.fromkeys(PROTOCOL_SEEDS, 0.5 + gain)
        b = dict.fromkeys(PROTOCOL_SEEDS, 0.5)
        found = paired_difference(a, b)
        assert found == Difference(5, gain, 0.0, gain, gain, 0.0, 0.0, PROTOCOL_SEEDS)
        assert verdict(found, found.p) == expected


def test_rounding_noise_is_no_difference():
    a = {27: 0.1 + 0.2, 34: 0.3, 46: 0.7 + 0.1}
    b = {27: 0.3, 34: 0.3, 46: 0.8}
    assert any(a[s] != b[s] for s in a)
    assert paired_difference(a, b) == Difference(3, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, (27, 34, 46))


def test_rounding_noise_about_a_gain_is_no_spread():
    b = {27: 0.3, 34: 0.5, 46: 0.77, 52: 0.11, 93: 0.9}
    a = {seed: score + 0.1 for seed, score in b.items()}
    assert len({a[s] - b[s] for s in b}) > 1
    found = paired_difference(a, b)
    assert (found.sd, found.p) == (0.0, 0.0)
    assert found.low == found.mean == found.high == pytest.approx(0.1)


def test_one_seed_with_rounding_noise_alone_differs_by_zero():
    assert paired_difference({27: 0.1 + 0.2}, {27: 0.3}).mean == 0.0


def test_spread_is_judged_against_the_size_of_the_scores():
    for scale in (1e-6, 1.0, 1e6):
        for spread in (1e-14, 1e-13, 1e-11, 1e-9):
            b = dict.fromkeys(range(4), 0.0)
            a = {0: scale, 1: scale * (1 - spread), 2: scale * (1 + spread), 3: scale}
            found = paired_difference(a, b)
            assert (found.sd == 0) is (spread < ROUNDING)
            assert verdict(found, found.p, margin=0.0) == "better"


def test_a_score_that_is_not_finite_is_refused():
    for score in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            paired_difference({27: score}, {27: 0.4})


def test_differences_come_by_seed_ascending():
    found = differences_by_seed({52: 0.5, 27: 0.75, 1: 0.5}, {27: 0.25, 52: 1.0}, higher_is_better=True)
    assert list(found.items()) == [(27, 0.5), (52, -0.5)]
    assert differences_by_seed({1: 0.5}, {1: 0.75}, higher_is_better=False) == {1: 0.25}


# Intervals


def test_the_interval_is_that_of_the_one_sample_t_test():
    for confidence in (0.8, 0.95, 0.99):
        for n in (2, 5, 20):
            values = np.random.default_rng(n).normal(0.3, 0.1, n).tolist()
            oracle = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
            assert t_interval(values, confidence) == pytest.approx((oracle.low, oracle.high))


def test_there_is_no_interval_below_two_values():
    for values in ([], [0.4]):
        assert t_interval(values) is None


def test_the_interval_of_equal_values_is_a_point():
    for values in ([0.7] * 3, [0.0, 0.0], [0.3, 0.1 + 0.2, 0.3]):
        low, high = t_interval(values)
        assert low == high == pytest.approx(values[0])


# Power


def power_by_integration(effect: float, n: int, alpha: float) -> float:
    """Average P(mean exceeds its bound) over the distribution of the sd: the power without the noncentral t."""
    critical = stats.t.ppf(1 - alpha / 2, n - 1)

    def density(spread: float) -> float:  # `spread` is the sd times √(n - 1)
        bound = critical * spread / math.sqrt(n - 1)
        return stats.chi.pdf(spread, n - 1) * stats.norm.sf(bound - effect * math.sqrt(n))

    return integrate.quad(density, 0, math.inf, limit=200)[0]


def test_the_detectable_effect_is_found_with_the_power_asked_for():
    for alpha, power in ((ALPHA, POWER), (0.01, 0.9)):
        for n in (2, 3, 5, 10, 100):
            assert power_by_integration(detectable_effect(n, alpha, power), n, alpha) == pytest.approx(power, abs=1e-6)


def test_simulated_t_tests_find_the_detectable_effect_four_times_in_five():
    for n in (3, 5, 10):
        samples = np.random.default_rng(n).normal(detectable_effect(n), 1.0, (40_000, n))
        oracle = stats.ttest_1samp(samples, 0.0, axis=1)
        found = np.mean((oracle.pvalue < ALPHA) & (oracle.statistic > 0))
        assert found == pytest.approx(POWER, abs=0.008)  # four standard errors of 0.002


def test_five_seeds_detect_a_gain_of_1_68_sds():
    assert detectable_effect(5) == pytest.approx(1.68, abs=0.005)


def test_more_seeds_detect_smaller_gains_and_many_those_of_the_normal_distribution():
    effects = [detectable_effect(n) for n in (2, 3, 4, 5, 10, 100)]
    assert effects == sorted(effects, reverse=True)
    normal = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / math.sqrt(1000)
    assert detectable_effect(1000) == pytest.approx(normal, rel=0.002)


def test_below_two_seeds_no_gain_is_detectable():
    for n in (0, 1):
        assert detectable_effect(n) is None


def test_an_impossible_power_is_refused():
    for alpha, power in ((0.0, 0.8), (0.05, 1.0), (0.05, 0.05), (0.8, 0.05)):
        with pytest.raises(ValueError, match="0 < alpha < power < 1"):
            detectable_effect(5, alpha, power)


# Holm


def test_holm_worked_by_hand():
    for given, adjusted in (
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # 0.04 alone would be 0.04: raised to its predecessor's
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.5, 0.9, 0.4], [1.0, 1.0, 1.0]),
        ([0.0, 1.0], [0.0, 1.0]),
        ([None, 0.02, None, 0.01], [None, 0.02, None, 0.02]),
        ([None, None], [None, None]),
    ):
        assert holm(given) == [None if p is None else pytest.approx(p) for p in adjusted]


def test_holm_does_not_depend_on_the_order():
    for seed in range(3):
        p_values = [*np.random.default_rng(seed).beta(0.3, 2, 5).tolist(), None]
        expected = dict(zip(p_values, holm(p_values), strict=True))
        for order in itertools.islice(itertools.permutations(p_values), 0, None, 37):
            assert holm(order) == [expected[p] for p in order]


def test_holm_keeps_the_order_and_lies_between_the_raw_p_and_bonferronis():
    for seed in range(3):
        p_values = np.random.default_rng(seed).beta(0.3, 2, 12).tolist()
        adjusted = holm(p_values)
        by_raw = [a for _, a in sorted(zip(p_values, adjusted, strict=True))]
        assert by_raw == sorted(by_raw)
        assert all(p <= a <= min(1.0, 12 * p) for p, a in zip(p_values, adjusted, strict=True))


def test_holm_rejects_what_the_step_down_procedure_rejects():
    for seed in range(5):
        p_values = np.random.default_rng(seed).beta(0.2, 4, 10).tolist()
        rejected = set()
        for step, place in enumerate(np.argsort(p_values)):
            if p_values[place] > ALPHA / (10 - step):
                break
            rejected.add(int(place))
        assert {place for place, p in enumerate(holm(p_values)) if p <= ALPHA} == rejected


def test_holm_refuses_what_is_no_p_value():
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            holm([0.5, p])


# Verdicts


def test_verdicts():
    for mean, low, high, p, expected in (
        (0.03, 0.01, 0.05, 0.01, "better"),
        (-0.03, -0.05, -0.01, 0.01, "worse"),
        (0.03, 0.01, 0.05, 0.0499, "better"),
        (0.03, 0.01, 0.05, ALPHA, "undecided"),
        (0.03, -0.01, 0.07, 0.3, "undecided"),
        (0.03, 0.01, 0.05, None, "undecided"),
        (0.0, -MARGIN, MARGIN, 0.9, "tied"),
        (0.003, 0.001, MARGIN, 0.01, "tied"),
        (0.003, 0.001, 0.0051, 0.01, "better"),
        (-0.003, -0.0051, -0.001, 0.01, "worse"),
        (0.0, -0.0051, 0.004, 0.9, "undecided"),
        (0.0, -0.004, 0.0051, 0.9, "undecided"),
        (0.001, -0.001, 0.003, None, "tied"),
    ):
        assert verdict(a_difference(mean, low, high), p) == expected


def test_a_wider_margin_ties_more():
    difference = a_difference(0.03, 0.01, 0.05)
    assert verdict(difference, 0.01, margin=0.05) == "tied"
    assert verdict(difference, 0.01, margin=0.0) == "better"


def test_one_seed_decides_nothing_even_when_a_p_is_given():
    assert verdict(paired_difference({27: 0.9}, {27: 0.1}), 0.0) == "undecided"
    assert verdict(paired_difference({27: 0.9}, {34: 0.1}), 0.0) == "undecided"


def test_a_gain_of_exactly_the_margin_is_a_tie():
    found = paired_difference(dict.fromkeys(range(5), 0.505), dict.fromkeys(range(5), 0.5))
    assert found.high > MARGIN
    assert verdict(found, found.p) == "tied"


# Overall test


def by_loops(blocks) -> tuple[float, float]:
    """Return the statistic and its p by flipping the differences themselves and taking everything from scratch."""
    units = sorted({seed for block in blocks.values() for seed in block})

    def statistic(signs: dict[int, int]) -> float:
        means = []
        for block in blocks.values():
            flipped = [signs[seed] * d for seed, d in block.items()]
            scale = math.sqrt(statistics.fmean(d * d for d in flipped))
            means.append(statistics.fmean(flipped) / scale if scale else 0.0)
        return statistics.fmean(means)

    observed = statistic(dict.fromkeys(units, 1))
    choices = list(itertools.product((1, -1), repeat=len(units)))
    flipped = [statistic(dict(zip(units, signs, strict=True))) for signs in choices]
    return observed, sum(abs(s) >= abs(observed) - 1e-9 for s in flipped) / len(choices)


def some_blocks(seed: int) -> dict[str, dict[int, float]]:
    """Two rates of one dataset and one of another, on different scales, with a seed missing here and there."""
    generator = np.random.default_rng(seed)
    sizes = {"vast, rho 0.5": (0.02, (1, 2, 3, 4)), "vast, rho 0.8": (0.02, (2, 3, 4, 5)), "ur-fall": (3.0, (1, 2, 3))}
    return {
        name: dict(zip(seeds, (scale * generator.normal(0.7, 1.0, len(seeds))).tolist(), strict=True))
        for name, (scale, seeds) in sizes.items()
    }


def test_the_overall_test_is_what_loops_over_all_flips_give():
    for seed in range(6):
        blocks = some_blocks(seed)
        statistic, p = by_loops(blocks)
        found = sign_flip(blocks)
        assert found.statistic == pytest.approx(statistic)
        assert found.p == pytest.approx(p)
        assert (found.units, found.flips, found.exact) == (5, 32, True)


def test_one_block_is_scipys_permutation_test_of_the_mean():
    for seed in range(3):
        values = np.random.default_rng(seed).normal(0.5, 1.0, 8)
        oracle = stats.permutation_test(
            (values,), np.mean, permutation_type="samples", vectorized=False, n_resamples=math.inf
        )
        found = sign_flip({"block": dict(enumerate(values.tolist()))})
        assert found.p == pytest.approx(oracle.pvalue)


def test_the_smallest_p_is_two_of_all_flips():
    found = sign_flip({"block": {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.1, 5: 0.2}})
    assert (found.p, found.units, found.flips) == (2 / 32, 5, 32)


def test_all_blocks_of_one_seed_flip_together_whatever_their_dataset():
    block = {1: 0.1, 2: 0.2, 3: 0.3}
    for names in (["a"], ["vast, rho 0.5", "vast, rho 0.8"], ["vast", "ur-fall", "other"]):
        found = sign_flip(dict.fromkeys(names, block))
        assert (found.units, found.p) == (3, 2 / 8)
        assert found.statistic == pytest.approx(sign_flip({"a": block}).statistic)


def test_the_statistic_of_equal_differences_is_one_and_of_a_block_of_zeros_zero():
    blocks = {"a": dict.fromkeys(range(5), 0.03), "b": dict.fromkeys(range(5), 0.0)}
    assert sign_flip({"a": blocks["a"]}).statistic == pytest.approx(1.0)
    assert sign_flip(blocks).statistic == pytest.approx(0.5)


def test_the_scale_of_a_metric_does_not_count():
    blocks = some_blocks(1)
    scaled = {**blocks, "ur-fall": {seed: 1000 * d for seed, d in blocks["ur-fall"].items()}}
    found, expected = sign_flip(scaled), sign_flip(blocks)
    assert found.p == expected.p
    assert found.statistic == pytest.approx(expected.statistic)


def test_turning_every_difference_turns_the_statistic_and_keeps_p():
    blocks = some_blocks(2)
    turned = {name: {seed: -d for seed, d in block.items()} for name, block in blocks.items()}
    found, expected = sign_flip(turned), sign_flip(blocks)
    assert found.p == expected.p
    assert found.statistic == pytest.approx(-expected.statistic)


def test_zeros_alone_have_p_1():
    assert sign_flip({"a": {1: 0.0, 2: 0.0}}) == SignFlip(0.0, 1.0, 2, 4, exact=True)


def test_without_differences_the_overall_test_shows_nothing():
    for blocks in ({}, {"a": {}}):
        assert sign_flip(blocks) == SignFlip(0.0, 1.0, 0, 1, exact=True)


def test_a_block_without_differences_does_not_count():
    blocks = some_blocks(3)
    assert sign_flip({**blocks, "empty": {}}) == sign_flip(blocks)


def test_flips_that_tie_with_the_observed_one_count_despite_rounding():
    for differences, p in (
        ((0.1, 0.2, -0.1), 6 / 8),  # sums 0.4, 0.2, 0.2 and 0 in size, each twice; observed 0.2
        ((0.1, 0.2, -0.2), 1.0),  # sums 0.5, 0.3, 0.1 and 0.1 in size, each twice; observed 0.1
    ):
        assert sign_flip({"a": dict(enumerate(differences))}).p == p


def test_twenty_units_are_still_enumerated():
    values = np.random.default_rng(0).normal(0.4, 1.0, EXACT_UNITS)
    found = sign_flip({"a": dict(enumerate(values.tolist()))})
    assert (found.exact, found.flips) == (True, 2**20)
    assert (found.p * 2**20) % 2 == 0  # with a flip always counts its opposite


def binomial_p(n: int, positive: int) -> float:
    """Return the exact p for n differences of one size: the sum of signs is binomial."""
    return min(1.0, 2 * float(stats.binom.sf(max(positive, n - positive) - 1, n, 0.5)))


def test_enumerated_and_drawn_flips_agree_with_the_binomial_distribution():
    for n, positive in ((20, 14), (21, 15), (40, 26)):
        values = {seed: 0.25 if seed < positive else -0.25 for seed in range(n)}
        found = sign_flip({"a": values})
        exact = binomial_p(n, positive)
        error = 0.0 if found.exact else 4 * math.sqrt(exact * (1 - exact) / RANDOM_FLIPS)
        assert found.exact is (n <= EXACT_UNITS)
        assert found.flips == (2**n if found.exact else RANDOM_FLIPS)
        assert found.p == pytest.approx(exact, abs=error + 1e-12)


def test_drawn_flips_come_from_the_named_seed_and_never_give_p_zero():
    generator = np.random.default_rng(5)
    blocks = {"a": dict(enumerate(generator.normal(0.3, 1.0, 25).tolist()))}
    found = [sign_flip(blocks, seed=seed).p for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    sure = sign_flip({"a": dict.fromkeys(range(60), 0.1)})
    assert sure.p == 1 / (RANDOM_FLIPS + 1)


def test_importing_the_module_loads_neither_scipy_nor_numpy():
    code = "import sys, mlecs_bench.report.statistics; print({'scipy', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
