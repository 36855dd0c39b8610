"""Comparisons of rows against scipy, Holm's correction worked by hand, and which tests make up a family."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from scipy import stats

from hand_made import make_record, with_identity
from mlecs_bench.doors.hookspecs import Control
from mlecs_bench.report.arrange import Arm, Cards, Setting, arrange, control_key
from mlecs_bench.report.comparisons import compare_rows, family, overall
from mlecs_bench.report.comparisons import families as families_of
from mlecs_bench.report.frame import BOTH_POINTS, build_rows
from mlecs_bench.seeds import PROTOCOL_SEEDS
from study_records import lower_is_better, runs

OURS = (0.40, 0.42, 0.39, 0.45, 0.44)
CLOSE = (0.35, 0.40, 0.36, 0.37, 0.42)
FAR = (0.30, 0.28, 0.31, 0.29, 0.33)


def arranged(*records: Sequence[dict[str, Any]]) -> Setting:
    (setting,) = arrange(build_rows([one for group in records for one in group]), candidate="ml-ecs")
    return setting


def arm(setting: Setting, label: str) -> Arm:
    return next(one for one in setting.arms if one.label == label)


def families(setting: Setting, dataset: str = "vast", **changes: Any):
    """Return the family of ml-ecs in the average score, unless told otherwise, by baseline and rate."""
    data = next(one for one in setting.data if one.name == dataset)
    asked = {"metric": "rouge_lsum", "stat": "avg", "n_devices": 3, "candidate": arm(setting, "ml-ecs"), **changes}
    return {(c.baseline.label, c.rho): c for c in family(setting, data=data, **asked)}


def two_seeds(t: float) -> tuple[float, float]:
    """Return scores that beat 0.1 on both seeds by differences with this t.

    Two differences d and e have t = (d + e) / |d - e| and, with one degree of freedom, p = 1 - 2 atan(t) / pi.
    """
    return 0.1 + 0.01 * (t + 1), 0.1 + 0.01 * (t - 1)


def p_of(t: float) -> float:
    return 1 - 2 * math.atan(t) / math.pi


# Single comparisons


def test_a_comparison_is_the_paired_t_test_of_both_rows():
    found = families(arranged(runs("ml-ecs", OURS), runs("close", CLOSE)))["close", "0.5"]
    oracle = stats.ttest_rel(OURS, CLOSE)
    interval = oracle.confidence_interval(0.95)
    assert found.difference.p == pytest.approx(oracle.pvalue)
    assert (found.difference.low, found.difference.high) == pytest.approx((interval.low, interval.high))
    assert found.adjusted_p == found.difference.p
    assert found.verdict == "better"
    assert list(found.by_seed) == list(PROTOCOL_SEEDS)
    assert list(found.by_seed.values()) == pytest.approx([a - b for a, b in zip(OURS, CLOSE, strict=True)])
    assert found.relative == pytest.approx(100 * (statistics.mean(OURS) / statistics.mean(CLOSE) - 1))
    assert (found.candidate.label, found.data.label, found.n_devices) == ("ml-ecs", "vast", 3)


def test_where_lower_is_better_a_lower_score_is_a_gain():
    groups = [lower_is_better(runs("ml-ecs", CLOSE)), lower_is_better(runs("close", OURS))]
    found = families(arranged(*groups))["close", "0.5"]
    assert found.difference.mean == pytest.approx(0.04)
    assert found.verdict == "better"
    assert found.relative == pytest.approx(100 * 0.04 / statistics.mean(OURS))


def test_only_common_seeds_count_and_only_their_records_are_named():
    ours, theirs = runs("ml-ecs", OURS[:4], PROTOCOL_SEEDS[:4]), runs("close", CLOSE[1:], PROTOCOL_SEEDS[1:])
    found = families(arranged(ours, theirs))["close", "0.5"]
    assert found.difference.seeds == PROTOCOL_SEEDS[1:4]
    assert found.difference.p == pytest.approx(stats.ttest_rel(OURS[1:4], CLOSE[1:4]).pvalue)
    assert found.relative == pytest.approx(100 * (sum(OURS[1:4]) / sum(CLOSE[1:4]) - 1))
    assert set(found.records) == {record["key"] for record in [*ours[1:], *theirs[:3]]}
    assert len(found.records) == 6


def test_without_a_common_seed_nothing_is_claimed():
    setting = arranged(runs("ml-ecs", OURS[:2], (1, 2)), runs("close", CLOSE[:2], (3, 4)))
    found = families(setting)["close", "0.5"]
    assert (found.difference.n, found.difference.mean, found.relative, found.adjusted_p) == (0, None, None, None)
    assert (found.verdict, found.records, dict(found.by_seed)) == ("undecided", (), {})


def test_there_is_no_share_of_a_mean_that_is_not_positive():
    for theirs in ((-0.1, 0.1), (-0.3, -0.1)):
        found = families(arranged(runs("ml-ecs", (0.4, 0.5), (1, 2)), runs("close", theirs, (1, 2))))["close", "0.5"]
        assert found.difference.mean == pytest.approx(0.45 - statistics.mean(theirs))
        assert found.relative is None


def test_the_point_of_evaluation_decides_which_scores_of_the_devices_are_compared():
    ours, theirs = runs("ml-ecs", OURS), runs("close", CLOSE)
    for record in theirs:
        for score in record["metrics"]["client"]["received"]["rouge_lsum"].values():
            score["value"] += 0.2
    setting = arranged(ours, theirs)
    assert families(setting)["close", "0.5"].difference.mean == pytest.approx(0.04)
    assert families(setting, eval_point="received")["close", "0.5"].difference.mean == pytest.approx(-0.16)


# Both points of evaluation


def after(records, by: float):
    """Return records whose devices have `by` more after the last broadcast."""
    for record in records:
        for score in record["metrics"]["client"]["received"]["rouge_lsum"].values():
            score["value"] += by
    return records


def both_points(setting: Setting, stat="avg", points=BOTH_POINTS):
    data = setting.data[0]
    return {
        one.first.baseline.label: one
        for one in families_of(setting, arm(setting, "ml-ecs"), "rouge_lsum", stat, data, 3, points)
    }


def test_a_verdict_holds_at_both_points_or_it_is_undecided():
    setting = arranged(runs("ml-ecs", OURS), runs("a", FAR), after(runs("b", FAR), 0.3), runs("c", OURS))
    found = both_points(setting)
    verdicts = {name: [one.verdict for one in found[name].at] for name in found}
    assert verdicts == {"a": ["better"] * 2, "b": ["better", "worse"], "c": ["tied"] * 2}
    assert {name: one.verdict for name, one in found.items()} == {"a": "better", "b": "undecided", "c": "tied"}
    assert [found["b"].scored(one) for one in found["b"].at] == ["local", "received"]


def test_each_point_is_a_family_of_its_own():
    setting = arranged(runs("ml-ecs", OURS), runs("a", CLOSE), after(runs("b", FAR), 0.1))
    found = both_points(setting)
    for point in BOTH_POINTS:
        alone = families(setting, eval_point=point)
        for name in ("a", "b"):
            (here,) = [one for one in found[name].at if one.eval_point == point]
            assert here == alone[name, "0.5"]


def test_what_is_the_same_at_both_points_and_a_server_count_once():
    setting = arranged(after(runs("ml-ecs", OURS), -0.05), after(runs("a", CLOSE), -0.05))
    for stat, scored in (("server", ""), ("avg", "local")):
        one = both_points(setting, stat, ("local",))["a"]
        assert [one.scored(c) for c in one.at] == [scored]
    assert len(both_points(setting, "server", ("local",))["a"].at) == 1
    for row in setting.rows.values():  # to the last bit
        cells = {**row.cells, ("received", "rouge_lsum", "avg"): row.cells["local", "rouge_lsum", "avg"]}
        object.__setattr__(row, "cells", cells)
    one = both_points(setting)["a"]
    assert ([one.scored(c) for c in one.at], one.verdict) == (["both"], "better")


# Families


def test_controls_are_of_the_family_whatever_their_options():
    floor = Control("floor", "a with public data", "nothing sent")
    plain, public = (
        [with_identity(record, algo={"options": {"public": public}}) for record in runs("a", scores)]
        for public, scores in ((False, FAR), (True, CLOSE))
    )
    central = runs("central", OURS)
    controls = {
        control_key(public[0]["identity"]): floor,
        control_key(central[0]["identity"]): Control("ceiling", "all in one place", "all data"),
    }
    records = [*runs("ml-ecs", OURS), *plain, *public, *central]
    cards = Cards(defaults={"a": {"tau": 1.0, "public": False}}, controls=controls)
    (setting,) = arrange(build_rows(records), "ml-ecs", cards)
    found = families(setting)
    assert [name for name, _ in found] == ["a", "a with public data", "all in one place"]
    assert found["a", "0.5"].adjusted_p == pytest.approx(3 * stats.ttest_rel(OURS, FAR).pvalue)
    assert list(families(setting, candidate=arm(setting, "a"))) == [
        ("a with public data", "0.5"), ("ml-ecs", "0.5"), ("all in one place", "0.5"),
    ]  # fmt: skip  # one row


def test_holm_counts_baselines_and_rates_worked_by_hand():
    # p of t = 3, 2 and 1 are 0.205, 0.295 and 0.5; times 3, 2 and 1 that is 0.614, 0.590 and 0.5, so all become 0.614.
    common = {"seeds": (1, 2)}
    setting = arranged(
        runs("ml-ecs", two_seeds(2), **common),
        runs("ml-ecs", two_seeds(1), rho=0.7, **common),
        runs("a", (0.1, 0.1), **common),
        runs("a", (0.1, 0.1), rho=0.7, **common),
        runs("b", [v - w + 0.1 for v, w in zip(two_seeds(2), two_seeds(3), strict=True)], **common),
    )
    found = families(setting)
    assert list(found) == [("a", "0.5"), ("a", "0.7"), ("b", "0.5")]
    assert [c.difference.p for c in found.values()] == pytest.approx([p_of(2), p_of(1), p_of(3)])
    assert [c.adjusted_p for c in found.values()] == pytest.approx([3 * p_of(3)] * 3)


def test_the_correction_can_take_a_verdict_back():
    # Against four baselines alike, p = 0.033 becomes 0.13.
    scores = (0.36, 0.41, 0.37, 0.40, 0.43)
    alone = families(arranged(runs("ml-ecs", OURS), runs("a", scores)))["a", "0.5"]
    many = families(arranged(runs("ml-ecs", OURS), *(runs(name, scores) for name in "abcd")))["a", "0.5"]
    assert 0.0125 < alone.difference.p < 0.05
    assert alone.verdict == "better"
    assert many.difference == alone.difference
    assert many.adjusted_p == pytest.approx(4 * alone.difference.p)
    assert many.verdict == "undecided"


def test_a_family_is_of_one_dataset_one_score_and_one_number_of_devices():
    vast = [runs("ml-ecs", OURS), runs("a", CLOSE), runs("b", FAR)]
    four = [
        make_record(algo=algo, seed=seed, local=(v, v, v, v))
        for algo, values in (("ml-ecs", OURS), ("a", CLOSE))
        for seed, v in zip(PROTOCOL_SEEDS, values, strict=True)
    ]
    fall = [runs("ml-ecs", OURS, dataset="ur-fall"), runs("a", FAR, dataset="ur-fall")]
    alone, among = families(arranged(*vast)), families(arranged(*vast, *fall, four))
    assert {key: (c.adjusted_p, c.verdict) for key, c in among.items()} == {
        key: (c.adjusted_p, c.verdict) for key, c in alone.items()
    }
    assert alone["a", "0.5"].adjusted_p == pytest.approx(stats.ttest_rel(OURS, CLOSE).pvalue)
    assert alone["b", "0.5"].adjusted_p == pytest.approx(2 * stats.ttest_rel(OURS, FAR).pvalue)
    of_fall = families(arranged(*vast, *fall, four), dataset="ur-fall")
    assert list(of_fall) == [("a", "0.5")]
    assert of_fall["a", "0.5"].adjusted_p == pytest.approx(stats.ttest_rel(OURS, FAR).pvalue)


def test_a_baseline_without_a_server_is_no_test_of_the_servers():
    setting = arranged(runs("ml-ecs", OURS), runs("a", CLOSE), runs("b", FAR, server=False))
    found = families(setting, stat="server")
    assert list(found) == [("a", "0.5")]
    assert found["a", "0.5"].adjusted_p == pytest.approx(stats.ttest_rel(OURS, CLOSE).pvalue)
    assert list(families(setting)) == [("a", "0.5"), ("b", "0.5")]


def test_a_rate_that_one_of_them_lacks_is_no_test():
    setting = arranged(runs("ml-ecs", OURS), runs("a", CLOSE), runs("a", CLOSE, rho=0.7))
    assert list(families(setting)) == [("a", "0.5")]


def test_ablations_and_variants_are_no_baselines_unless_asked_for():
    ours, other = (
        [with_identity(r, algo={"options": {"tau": 2.0}}) for r in runs(a, FAR)[:3]] for a in ("ml-ecs", "a")
    )
    setting = arranged(runs("ml-ecs", OURS), runs("ml-ecs/no-amt", CLOSE), ours, other, runs("a", CLOSE))
    assert list(families(setting)) == [("a", "0.5")]
    asked = [arm(setting, label) for label in ("ml-ecs/no-amt", "ml-ecs (tau=2.0)")]
    assert list(families(setting, baselines=asked)) == [("ml-ecs/no-amt", "0.5"), ("ml-ecs (tau=2.0)", "0.5")]


# The overall test


def test_all_scores_of_one_seed_flip_together_whatever_the_dataset():
    # All differences are positive, so only the observed flip and its opposite reach as far: 2 of 2^5.
    vast = [runs("ml-ecs", OURS), runs("a", CLOSE), runs("b", FAR)]
    fall = [runs("ml-ecs", OURS, dataset="ur-fall"), runs("a", FAR, dataset="ur-fall")]
    setting = arranged(*vast, *fall)
    one = list(families(setting).values())
    both = [*one, *families(setting, dataset="ur-fall").values()]
    for found in (overall(one), overall(both)):
        assert (found.units, found.p) == (5, 2 / 2**5)
    assert 0 < overall(both).statistic <= 1


def test_blocks_of_several_settings_all_count():
    # The gain of one setting is the loss of the other, in which the two algorithms have changed places.
    other = [with_identity(record, training={"rounds": 9}) for record in [*runs("ml-ecs", CLOSE), *runs("close", OURS)]]
    settings = arrange(build_rows([*runs("ml-ecs", OURS), *runs("close", CLOSE), *other]), candidate="ml-ecs")
    comparisons = [c for setting in settings for c in families(setting).values()]
    assert len(comparisons) == 2
    assert overall(comparisons).statistic == pytest.approx(0, abs=1e-12)
    assert overall(comparisons[:1]).statistic != pytest.approx(0, abs=0.1)


def test_without_any_comparison_the_overall_test_claims_nothing():
    found = overall([])
    assert (found.statistic, found.p, found.units) == (0, 1, 0)


def test_a_score_that_a_row_lacks_makes_no_comparison():
    setting = arranged(runs("ml-ecs", OURS), runs("a", CLOSE))
    ours, theirs = (
        (place, setting.rows[place]) for place in sorted(setting.rows, key=lambda p: p.arm.label != "ml-ecs")
    )
    assert compare_rows(ours, theirs, "bertscore", "avg", "local") is None
    assert compare_rows(ours, theirs, "rouge_lsum", "avg", "local").difference.n == 5
