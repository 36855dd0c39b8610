"""Modalities over rounds: the laws of the draws, against closed forms and counts of our own."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from laws import for_all
from mlecs_bench.data.schedules import as_told, duty, markov, static

SURE = 1e-4
"""A law that holds fails a test with less than this probability; seeds are fixed, so it does so never or always."""
NAMES = ("a", "b", "c")


def up(schedule, name: str) -> np.ndarray:
    """Return by device and round whether a modality is there."""
    return np.array([[name in held for held in rounds] for rounds in schedule.devices])


@for_all(("fail", "repair"), [(0.2, 0.5), (0.5, 0.1), (1.0, 1.0), (0.3, 1.0)])
def test_the_share_that_is_there_in_a_round_is_that_of_a_two_state_chain_that_starts_there(fail, repair):
    n, rounds = 2000, 8
    found = up(markov([("a",)] * n, fail, repair, rounds, seed=5, least=0), "a")
    steady = repair / (fail + repair)
    for t in range(rounds):
        share = steady + (1 - steady) * (1 - fail - repair) ** t
        assert stats.binomtest(int(found[:, t].sum()), n, min(1, max(0, share))).pvalue > SURE, t + 1


def runs(found: np.ndarray, state: bool) -> list[int]:
    """Return the lengths of the stretches of a state that end before the last round, of all devices."""
    whole = [[(k, len(list(g))) for k, g in itertools.groupby(row)][:-1] for row in found.tolist()]
    return [length for stretches in whole for k, length in stretches if k == state]


@for_all(("fail", "repair"), [(0.2, 0.5), (0.4, 0.3)])
def test_times_to_failure_and_to_repair_are_geometric(fail, repair):
    found = up(markov([("a",)] * 20, fail, repair, 1500, seed=3, least=0), "a")
    for state, rate in ((True, fail), (False, repair)):
        lengths = runs(found, state)
        most = 8
        counts = [sum(length == k for length in lengths) for k in range(1, most)]
        counts.append(len(lengths) - sum(counts))
        law = [*stats.geom(rate).pmf(range(1, most)), stats.geom(rate).sf(most - 1)]
        assert stats.chisquare(counts, np.array(law) * len(lengths)).pvalue > SURE, state


def test_modalities_of_a_device_and_devices_fail_independently():
    schedule = markov([NAMES] * 3000, 0.4, 0.5, 3, seed=8, least=0)
    one, other = (up(schedule, name)[:, 2] for name in NAMES[:2])
    assert stats.chi2_contingency(np.histogram2d(one, other, 2)[0]).pvalue > SURE
    assert stats.chi2_contingency(np.histogram2d(one[:-1], one[1:], 2)[0]).pvalue > SURE


def test_the_last_modality_of_a_device_does_not_fail_and_of_several_each_is_as_likely_to_stay():
    fail, n = 0.6, 3000
    schedule = markov([("a", "b")] * n, fail, 0.5, 2, seed=1, least=1)
    counts = Counter(schedule.held(j, 2) for j in range(n))
    alone = fail * (1 - fail) + fail**2 / 2  # it stays and the other fails; or both would, and it is drawn to stay
    law = {("a", "b"): (1 - fail) ** 2, ("a",): alone, ("b",): alone}
    assert counts.keys() == law.keys()
    assert stats.chisquare([counts[held] for held in law], [n * p for p in law.values()]).pvalue > SURE
    certain = markov([("a",), NAMES, ()], 1.0, 0.1, 50, seed=2, least=1)
    assert set(certain.devices[0]) == {("a",)}
    assert min(map(len, certain.devices[1])) == 1
    assert set(certain.devices[2]) == {()}


def test_a_duty_cycle_is_shifted_by_a_place_that_is_uniform():
    on, off, n = 3, 2, 1500
    schedule = duty([("a",)] * n, on, off, 12, seed=4, least=0)
    cycle = [True] * on + [False] * off
    shifts = {tuple((cycle * 4)[place : place + 12]): place for place in range(on + off)}
    counts = Counter(shifts[tuple(row)] for row in up(schedule, "a").tolist())
    assert stats.chisquare([counts[place] for place in range(on + off)]).pvalue > SURE


def test_a_duty_cycle_leaves_a_device_one_of_what_it_held_before_and_goes_on_as_it_would():
    masks, free = [NAMES] * 40, duty([NAMES] * 40, 1, 4, 15, seed=6, least=0)
    kept = duty(masks, 1, 4, 15, seed=6, least=1)
    empty = 0
    for rounds, bare in zip(kept.devices, free.devices, strict=True):
        for before, held, own in zip((NAMES, *rounds), rounds, bare, strict=False):
            empty += not own
            assert held == own if own else len(held) == 1 and set(held) <= set(before)
    assert empty > 100


@for_all("draw", [lambda m, t: markov(m, 0.3, 0.4, t, 9, 1), lambda m, t: duty(m, 2, 1, t, 9, 1)])
def test_a_device_draws_from_its_own_stream_and_more_rounds_go_on_from_fewer(draw):
    masks = [NAMES, ("a",), (), ("b", "c")]
    whole = draw(masks, 20)
    assert draw(masks[:2], 20).devices == whole.devices[:2]
    assert tuple(rounds[:7] for rounds in whole.devices) == draw(masks, 7).devices
    assert whole.devices != draw(masks[::-1], 20).devices[::-1]


def test_what_is_told_holds_from_its_round_on():
    schedule = as_told([("a",), ("b",)], {0: {2: ("b", "c"), 4: ()}}, 5)
    assert schedule.devices == ((("a",), ("b", "c"), ("b", "c"), (), ()), (("b",),) * 5)
    assert (schedule.held(0, 5), schedule.held(0, 6), schedule.ever(0)) == ((), (), NAMES)
    assert schedule.rates(3) == pytest.approx([2 / 6, 3 / 6, 3 / 6, 1 / 6, 1 / 6])


def test_without_a_schedule_everybody_always_holds_what_was_dealt():
    schedule = static([("a",), ()])
    assert [schedule.held(j, t) for j in (0, 1) for t in (1, 9)] == [("a",), ("a",), (), ()]
    assert (schedule.ever(0), schedule.rates(2)) == (("a",), [0.25])
