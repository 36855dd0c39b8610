"""Batches of a training stage: passes over the samples, never a short batch, never a sample twice in one."""

from __future__ import annotations

from collections import Counter

import numpy as np

from laws import for_all
from mlecs_bench.blocks.supervised import batches
from mlecs_bench.seeds import rng


@for_all("seed", [27, 34])
@for_all(("n", "size"), [(1, 1), (1, 4), (3, 8), (8, 8), (12, 4), (13, 4), (15, 4), (100, 7)])
def test_a_pass_takes_every_sample_once_except_those_that_fill_no_batch(n, size, seed):
    full = min(n, size)
    per_pass = n // full
    drawn = batches(n, size, 5 * per_pass, rng(seed, "batches"))
    assert [len(b) for b in drawn] == [full] * (5 * per_pass)
    for start in range(0, len(drawn), per_pass):
        taken = Counter(np.concatenate(drawn[start : start + per_pass]).tolist())
        assert set(taken.values()) == {1}
        assert set(taken) <= set(range(n))
        assert len(taken) == n - n % full
    assert {b.dtype for b in drawn} == {np.dtype(np.int64)}


@for_all("n", [9, 10, 11, 12])
def test_every_sample_gets_its_turn_in_the_long_run(n):
    taken = Counter(np.concatenate(batches(n, 4, 4000, rng(27, "batches"))).tolist())
    counts = [taken[i] for i in range(n)]
    assert min(counts) > 0.9 * 16_000 / n
    assert max(counts) < 1.1 * 16_000 / n


def test_passes_are_shuffled_anew():
    drawn = batches(40, 4, 30, rng(27, "batches"))
    passes = [tuple(np.concatenate(drawn[start : start + 10]).tolist()) for start in (0, 10, 20)]
    assert len(set(passes)) == 3
    assert tuple(range(40)) not in passes


@for_all("steps", [0, 1, 7])
def test_more_steps_only_append_batches(steps):
    few, many = (batches(13, 4, k, rng(27, "batches")) for k in (steps, 20))
    assert len(few) == steps
    assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=False))
