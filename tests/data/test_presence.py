"""Samples that lack modalities: at the rate, by their ids, and as if they had never had them."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
from scipy import stats

from laws import for_all
from mlecs_bench.data.parts import Part
from mlecs_bench.data.presence import draw_absent, thinning
from mlecs_bench.data.samples import PartyData, Samples
from mlecs_bench.testing import toy

ALL = np.ones(3, bool)
RATES = (0.7, 0.3, 0.1)


def ids(n: int) -> list[str]:
    return [f"s{i}" for i in range(n)]


def test_each_modality_is_there_at_its_rate_and_apart_from_the_others():
    n = 4_000
    absent = draw_absent(ids(n), np.ones((n, 3), bool), ALL, RATES, 27, fill=False)
    for m, rate in enumerate(RATES):
        assert stats.binomtest(int((~absent[:, m]).sum()), n, rate).pvalue > 1e-4
    patterns = Counter(map(tuple, ~absent))
    every = list(itertools.product([False, True], repeat=3))
    expected = [n * np.prod([r if on else 1 - r for r, on in zip(RATES, bits, strict=True)]) for bits in every]
    assert stats.chisquare([patterns[bits] for bits in every], expected).pvalue > 1e-4


@for_all("held", [(True, True, True), (False, True, True), (False, False, True)])
def test_a_sample_that_would_show_nothing_follows_the_law_of_draws_that_show_something(held):
    n = 3_000
    absent = draw_absent(ids(n), np.ones((n, 3), bool), np.array(held), RATES, 34, fill=True)
    seen = ~absent & np.array(held)
    assert seen.any(axis=1).all()
    own = [rate if on else 0.0 for rate, on in zip(RATES, held, strict=True)]
    every = [bits for bits in itertools.product([False, True], repeat=3) if any(bits)]
    chances = {b: float(np.prod([r if on else 1 - r for r, on in zip(own, b, strict=True)])) for b in every}
    possible = {bits: chance / sum(chances.values()) for bits, chance in chances.items() if chance}
    counts = Counter(map(tuple, seen))
    assert set(counts) <= set(possible)
    if len(possible) > 1:
        assert stats.chisquare([counts[b] for b in possible], [n * p for p in possible.values()]).pvalue > 1e-4


def test_a_tiny_rate_leaves_one_modality_and_costs_no_draws():
    absent = draw_absent(ids(500), np.ones((500, 3), bool), ALL, (1e-9, 1e-9, 1e-9), 27, fill=True)
    assert ((~absent).sum(axis=1) == 1).all()
    assert stats.chisquare((~absent).sum(axis=0)).pvalue > 1e-4


def test_a_sample_lacks_the_same_whoever_draws_it_and_another_seed_draws_others():
    there = np.random.default_rng(0).random((60, 3)) < 0.8
    whole = draw_absent(ids(60), there, ALL, RATES, 27, fill=True)
    some = [41, 3, 17]
    alone = draw_absent([f"s{i}" for i in some], there[some], ALL, RATES, 27, fill=True)
    np.testing.assert_array_equal(alone, whole[some])
    assert not (whole & ~there).any(), "what was never there is not made absent"
    assert (draw_absent(ids(60), there, ALL, RATES, 34, fill=True) != whole).any()
    assert not draw_absent(ids(60), there, ALL, (1.0, 1.0, 1.0), 27, fill=True).any()
    assert draw_absent([], there[:0], ALL, RATES, 27, fill=True).shape == (0, 3)


def test_a_thinned_sample_is_one_that_never_had_the_modality():
    columns = toy.make_columns(80)
    samples = Samples(toy.make_manifest(80), toy.make_table(columns))
    parts = [Part(tuple(range(10, 30)), tuple(range(30, 40))), Part(tuple(range(40, 70)), tuple(range(70, 75)))]
    held = [("audio", "text", "video"), ("text", "video")]
    rates = dict.fromkeys(toy.NAMES, 0.5)
    drawn = thinning(samples, parts, held, rates, 27, fill=True)
    poorer = dict(columns)
    for name in toy.NAMES:
        gone = drawn.absent[name]
        assert gone[10:75].any()
        assert not gone[:10].any()
        assert not gone[75:].any()
        poorer[name] = np.where(gone.reshape(-1, *[1] * (columns[name].ndim - 1)), 0, columns[name])
        poorer[f"has_{name}"] = columns[f"has_{name}"] & ~gone
    same = Samples(toy.make_manifest(80), toy.make_table(poorer))
    for one, other in ((samples.thinned(drawn.absent), same), (samples, samples)):
        a, b = (PartyData(of, range(80), toy.NAMES, "d00").batch(range(80)) for of in (one, other))
        for name in toy.NAMES:
            np.testing.assert_array_equal(a.present[name].numpy(), b.present[name].numpy())
            np.testing.assert_array_equal(a.inputs[name].numpy(), b.inputs[name].numpy())


def test_the_realised_shares_count_what_devices_could_see():
    samples = toy.samples()
    parts = [Part(tuple(range(0, 40)), (40, 41)), Part(tuple(range(50, 90)), (90, 91))]
    drawn = thinning(samples, parts, [("audio",), ("audio", "text")], dict.fromkeys(toy.NAMES, 0.4), 27, fill=True)
    rows = np.array([*range(42), *range(50, 92)])
    has = samples.presence["audio"][rows]
    assert drawn.shares["audio"] == (has & ~drawn.absent["audio"][rows]).sum() / has.sum()
    assert drawn.shares["text"] == (~drawn.absent["text"][50:92]).mean()
    assert "video" not in drawn.shares
