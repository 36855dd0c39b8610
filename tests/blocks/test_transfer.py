"""Pooled divergence and the transfer loss against scipy, loops and hand values."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from scipy.stats import entropy

from laws import for_all
from mlecs_bench.blocks.alignment import PairIndex
from mlecs_bench.blocks.transfer import REST_FLOOR, PoolError, pair_divergences, pooled_kl, transfer_loss
from mlecs_bench.errors import MlecsError
from mlecs_bench.seeds import rng

POOLS = for_all("pool", ["topk", "sorted", "avg", "none"])
SEEDS = for_all("seed", range(5))


def random_logits(seed: int, name: str, *shape: int, scale: float = 3.0) -> torch.Tensor:
    return torch.from_numpy(scale * rng(seed, name).standard_normal(shape)).float()


def probabilities(logits: torch.Tensor) -> np.ndarray:
    return softmax(logits.double().numpy(), axis=-1)


def divergence(p: list[float], q: list[float]) -> float:
    """Return KL of two lists of bins, each with its rest at least at the floor."""
    p, q = ([*bins[:-1], max(bins[-1], REST_FLOOR)] for bins in (p, q))
    return float(rel_entr(p, q).sum())


def topk_oracle(teacher: torch.Tensor, student: torch.Tensor, k: int, table: list[int]) -> list[float]:
    """Merge, rank and pool one row at a time with dictionaries."""
    rows = []
    for p, q in zip(probabilities(teacher), probabilities(student), strict=True):
        merged: dict[int, float] = {}
        for i, j in enumerate(table):
            if j >= 0:
                merged[j] = merged.get(j, 0.0) + p[i]
        bins = sorted(merged, key=lambda j: -merged[j])[:k]
        p_bins, q_bins = [merged[j] for j in bins], [q[j] for j in bins]
        rows.append(divergence([*p_bins, 1 - sum(p_bins)], [*q_bins, 1 - sum(q_bins)]))
    return rows


def sorted_oracle(teacher: torch.Tensor, student: torch.Tensor, k: int) -> list[float]:
    k = min(k, teacher.shape[-1], student.shape[-1])
    rows = []
    for pair in zip(probabilities(teacher), probabilities(student), strict=True):
        p, q = (sorted(row, reverse=True) for row in pair)
        rows.append(divergence([*p[:k], sum(p[k:])], [*q[:k], sum(q[k:])]))
    return rows


def avg_oracle(teacher: torch.Tensor, student: torch.Tensor, k: int) -> list[float]:
    """Average each of k bins from floor(b V / k) to ceil((b + 1) V / k), the definition of adaptive pooling."""

    def pooled(row: np.ndarray) -> np.ndarray:
        size = len(row)
        return softmax([row[b * size // k : -(-(b + 1) * size // k)].mean() for b in range(k)])

    rows = zip(teacher.double().numpy(), student.double().numpy(), strict=True)
    return [entropy(pooled(p), pooled(q)) for p, q in rows]


@SEEDS
@for_all("k", [1, 4, 30, 64])
def test_topk_is_the_divergence_of_the_teachers_best_tokens_and_the_rest(seed, k):
    teacher, student = random_logits(seed, "t", 7, 30), random_logits(seed, "s", 7, 30)
    expected = topk_oracle(teacher, student, k, list(range(30)))
    np.testing.assert_allclose(pooled_kl(teacher, student, "topk", k, None), expected, rtol=1e-4, atol=1e-6)


@SEEDS
@for_all("k", [1, 3, 8, 50])
def test_topk_merges_teacher_ids_of_one_student_id_and_sends_the_others_to_the_rest(seed, k):
    teacher, student = random_logits(seed, "t", 6, 20), random_logits(seed, "s", 6, 15)
    table = rng(seed, "map").integers(-1, 9, size=20)
    expected = topk_oracle(teacher, student, k, table.tolist())
    given = pooled_kl(teacher, student, "topk", k, torch.from_numpy(table))
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-6)


def test_merged_bins_by_hand():
    teacher = torch.tensor([[0.3, 0.3, 0.35, 0.05]]).log()
    student = torch.tensor([[0.25, 0.5, 0.25]]).log()
    table = torch.tensor([1, 1, 0, -1])  # bins: student's 1 has 0.6, rest 0.4
    expected = 0.6 * math.log(0.6 / 0.5) + 0.4 * math.log(0.4 / 0.5)
    assert pooled_kl(teacher, student, "topk", 1, table).item() == pytest.approx(expected, abs=1e-6)


def test_padded_columns_of_either_model_go_to_the_rest():
    teacher, student = random_logits(0, "t", 4, 13), random_logits(0, "s", 4, 10)
    shared = [*range(10), -1, -1, -1]
    wide = pooled_kl(teacher, student, "topk", 6, None)
    np.testing.assert_allclose(wide, topk_oracle(teacher, student, 6, shared), rtol=1e-4)
    torch.testing.assert_close(wide, pooled_kl(teacher, student, "topk", 6, torch.tensor(shared)))
    back = pooled_kl(student, teacher, "topk", 6, None)
    np.testing.assert_allclose(back, topk_oracle(student, teacher, 6, list(range(10))), rtol=1e-4)


@SEEDS
@for_all(("k", "sizes"), [(1, (30, 30)), (5, (30, 18)), (25, (30, 18)), (40, (12, 30))])
def test_sorted_compares_the_ranked_probabilities_of_any_two_vocabularies(seed, k, sizes):
    teacher, student = (random_logits(seed, name, 6, size) for name, size in zip("ts", sizes, strict=True))
    expected = sorted_oracle(teacher, student, k)
    np.testing.assert_allclose(pooled_kl(teacher, student, "sorted", k, None), expected, rtol=1e-4, atol=1e-6)


def test_sorted_does_not_see_a_renaming_of_tokens():
    teacher, student = random_logits(1, "t", 3, 20), random_logits(1, "s", 3, 20)
    order = torch.from_numpy(rng(1, "order").permutation(20))
    first, second = (pooled_kl(teacher, s, "sorted", 6, None) for s in (student, student[:, order]))
    torch.testing.assert_close(first, second)


@SEEDS
@for_all(("k", "sizes"), [(4, (32, 32)), (5, (32, 19)), (1, (9, 9))])
def test_avg_is_the_divergence_of_the_averaged_logits(seed, k, sizes):
    teacher, student = (random_logits(seed, name, 6, size) for name, size in zip("ts", sizes, strict=True))
    expected = avg_oracle(teacher, student, k)
    np.testing.assert_allclose(pooled_kl(teacher, student, "avg", k, None), expected, rtol=1e-4, atol=1e-6)


@SEEDS
def test_none_is_the_full_divergence(seed):
    teacher, student = random_logits(seed, "t", 6, 25), random_logits(seed, "s", 6, 25)
    expected = [entropy(p, q) for p, q in zip(probabilities(teacher), probabilities(student), strict=True)]
    np.testing.assert_allclose(pooled_kl(teacher, student, "none", 3, None), expected, rtol=1e-4, atol=1e-6)


def test_topk_of_all_tokens_is_the_full_divergence():
    teacher, student = random_logits(2, "t", 6, 25), random_logits(2, "s", 6, 25)
    full = pooled_kl(teacher, student, "none", 1, None)
    torch.testing.assert_close(pooled_kl(teacher, student, "topk", 25, None), full, rtol=1e-4, atol=1e-6)


@SEEDS
def test_coarser_pools_see_less(seed):
    teacher, student = random_logits(seed, "t", 6, 40), random_logits(seed, "s", 6, 40)
    values = [pooled_kl(teacher, student, "topk", k, None) for k in (2, 8, 20, 40)]
    for coarse, fine in pairwise(values):
        assert (coarse <= fine + 1e-6).all()


@POOLS
@SEEDS
def test_divergence_is_positive_and_zero_only_for_equal_pooled_distributions(pool, seed):
    teacher, student = random_logits(seed, "t", 8, 30), random_logits(seed, "s", 8, 30)
    assert (pooled_kl(teacher, student, pool, 6, None) > 1e-3).all()
    shifted = teacher + torch.arange(8.0)[:, None]  # a softmax does not see a constant
    assert pooled_kl(teacher, shifted, pool, 6, None).abs().max() < 1e-6
    for scale in (1e-4, 1.0, 30.0, 1e3):  # nearly equal, ordinary and very peaked distributions
        near = scale * teacher + 1e-3 * student
        assert (pooled_kl(scale * teacher, near, pool, 6, None) > -1e-6).all()


def test_students_that_differ_only_inside_the_rest_are_equal_to_topk():
    teacher = torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log()
    student = torch.tensor([[0.5, 0.3, 0.19, 0.01]]).log()
    assert pooled_kl(teacher, student, "topk", 2, None).abs().item() < 1e-6
    assert pooled_kl(teacher, student, "topk", 3, None).item() > 0.05


@POOLS
def test_a_student_that_excludes_the_teachers_token_gives_finite_values_and_gradients(pool):
    teacher, student = torch.zeros(3, 12), torch.zeros(3, 12)
    teacher[:, 2] = 1e4
    student[:, 9] = 1e4
    teacher[1] = 0.0
    student[2] = -teacher[2]
    student.requires_grad_()
    value = pooled_kl(teacher, student, pool, 5, None)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(student.grad).all()
    if pool in {"topk", "none"}:
        assert value[0].item() == pytest.approx(1e4, rel=1e-3)
        assert student.grad[0, 2].item() == pytest.approx(-1.0, abs=1e-3)  # pulled up towards the teacher's token


def test_a_merged_token_that_the_teacher_never_says_adds_nothing():
    teacher, student = torch.tensor([[1e4, 0.0, 0.0, 0.0]]), torch.zeros(1, 3, requires_grad=True)
    value = pooled_kl(teacher, student, "topk", 3, torch.tensor([0, 1, 1, -1]))
    value.backward()
    assert value.item() == pytest.approx(math.log(3), abs=1e-5)
    torch.testing.assert_close(student.grad, torch.tensor([[1 / 3 - 1, 1 / 3, 1 / 3]]))


@for_all("pool", ["topk", "sorted"])
def test_a_pool_without_a_rest_has_finite_gradients(pool):
    teacher, student = random_logits(0, "t", 3, 7), random_logits(0, "s", 3, 7).requires_grad_()
    pooled_kl(teacher, student, pool, 7, None).sum().backward()
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().min() > 0


def test_the_rest_is_floored_on_both_sides():
    peaked, flat = torch.tensor([[100.0, 0.0, 0.0, 0.0]]), torch.zeros(1, 4)
    expected = 0.25 * math.log(0.25) + 0.75 * math.log(0.75 / REST_FLOOR)
    assert pooled_kl(flat, peaked, "sorted", 1, None).item() == pytest.approx(expected, rel=1e-5)
    expected = math.log(4) + REST_FLOOR * math.log(REST_FLOOR / 0.75)
    assert pooled_kl(peaked, flat, "sorted", 1, None).item() == pytest.approx(expected, rel=1e-5)


@POOLS
@SEEDS
def test_gradient_is_the_slope_of_the_value(pool, seed):
    teacher = random_logits(seed, "t", 3, 11).double()
    student = random_logits(seed, "s", 3, 11).double().requires_grad_()
    table = None if pool == "none" else torch.from_numpy(rng(seed, "map").integers(-1, 11, size=11))
    assert torch.autograd.gradcheck(lambda logits: pooled_kl(teacher, logits, pool, 4, table), student)


@POOLS
@for_all("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_compared_in_float32(pool, dtype):
    teacher, student = random_logits(3, "t", 4, 20).to(dtype), random_logits(3, "s", 4, 20).to(dtype)
    value = pooled_kl(teacher, student, pool, 5, None)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, pooled_kl(teacher.float(), student.float(), pool, 5, None))


def test_none_refuses_different_vocabularies():
    with pytest.raises(ValueError, match="pool 'none' needs two models of one vocabulary, got 5 and 6 ids"):
        pooled_kl(torch.zeros(1, 5), torch.zeros(1, 6), "none", 1, None)
    with pytest.raises(MlecsError, match="2 ids differ"):
        pooled_kl(torch.zeros(1, 3), torch.zeros(1, 3), "none", 1, torch.tensor([1, 0, 2]))
    padded = torch.tensor([0, 1, -1])
    assert pooled_kl(torch.zeros(1, 3), torch.zeros(1, 3), "none", 1, padded).item() == 0.0


@pytest.mark.usefixtures("unchecked")
def test_requests_without_a_meaning_are_refused():
    one = torch.zeros(1, 3)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        pooled_kl(one, one, "topk", 0, None)
    with pytest.raises(ValueError, match="one of topk, sorted, avg, none, got 'max'"):
        pooled_kl(one, one, "max", 2, None)
    with pytest.raises(ValueError, match="teacher's 3 ids, got 4"):
        pooled_kl(one, one, "topk", 2, torch.arange(4))
    with pytest.raises(PoolError, match="use sorted"):
        pooled_kl(one, one, "topk", 2, torch.full((3,), -1))


# The index of a batch


def test_pair_index_pads_and_masks():
    index = PairIndex.of([[(0, 0), (2, 1)], [(0, 0)], [(0, 0), (1, 3), (4, 5)]])
    assert index.u.tolist() == [[0, 2, 0], [0, 0, 0], [0, 1, 4]]
    assert index.v.tolist() == [[0, 1, 0], [0, 0, 0], [0, 3, 5]]
    assert index.mask.tolist() == [[True, True, False], [True, False, False], [True, True, True]]
    assert (index.u.dtype, index.mask.dtype) == (torch.int64, torch.bool)
    assert index.rows == (5, 6)
    assert len(index) == 3


def test_swapping_a_pair_index_twice_changes_nothing():
    index = PairIndex.of([[(0, 0), (2, 1)], [(1, 4)]])
    once, twice = index.swapped(), index.swapped().swapped()
    assert (once.u.tolist(), once.v.tolist(), once.rows) == (index.v.tolist(), index.u.tolist(), (5, 3))
    assert (twice.u.tolist(), twice.v.tolist(), twice.rows) == (index.u.tolist(), index.v.tolist(), index.rows)


def test_pair_index_without_samples_is_refused_but_a_sample_may_have_no_pairs():
    with pytest.raises(ValueError, match="at least one sample"):
        PairIndex.of([])
    assert PairIndex.of([[], []]).mask.shape == (2, 0)


# The loss over a batch

PAIRS = [[(0, 0), (2, 1), (3, 2)], [(0, 0)], [(0, 0), (1, 2), (2, 3), (4, 4)]]


REDUCTIONS = for_all("reduction", ["mean", "sum"])


def loss_of(teacher, student, pairs: PairIndex, *, pool: str, k: int, reduction: str = "mean") -> torch.Tensor:
    return transfer_loss(
        pair_divergences(teacher, student, pairs, pool=pool, k=k, vocabulary_map=None), len(pairs), reduction
    )


@POOLS
@SEEDS
def test_each_pair_has_the_divergence_of_its_two_rows(pool, seed):
    teacher, student = random_logits(seed, "t", 3, 6, 20), random_logits(seed, "s", 3, 5, 20)
    expected = [
        pooled_kl(teacher[i, a][None], student[i, b][None], pool, 6, None).item()
        for i, pairs in enumerate(PAIRS)
        for a, b in pairs
    ]
    found = pair_divergences(teacher, student, PairIndex.of(PAIRS), pool=pool, k=6, vocabulary_map=None)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_mean_is_over_all_pairs_of_the_batch_and_sum_over_those_of_a_sample():
    divergences = torch.tensor([0.5, 1.0, 3.0, 0.25, 2.0, 0.0, 1.25, 4.0])  # 3 + 1 + 4 pairs of three samples
    assert transfer_loss(divergences, 3).item() == 12 / 8
    assert transfer_loss(divergences, 3, "mean").item() == 12 / 8
    assert transfer_loss(divergences, 3, "sum").item() == 12 / 3


@POOLS
@SEEDS
def test_sum_is_the_mean_times_pairs_per_sample_in_value_and_gradient(pool, seed):
    teacher = random_logits(seed, "t", 3, 6, 20)
    found = {}
    for reduction in ("mean", "sum"):
        student = random_logits(seed, "s", 3, 5, 20).requires_grad_()
        loss = loss_of(teacher, student, PairIndex.of(PAIRS), pool=pool, k=6, reduction=reduction)
        loss.backward()
        found[reduction] = (loss.detach(), student.grad)
    for mean, total in zip(*found.values(), strict=True):
        torch.testing.assert_close(total, mean * 8 / 3, rtol=1e-5, atol=1e-8)


@POOLS
@SEEDS
def test_longer_answers_of_the_same_positions_leave_the_mean_and_stretch_the_sum(pool, seed):
    teacher, student = random_logits(seed, "t", 3, 5, 20), random_logits(seed, "s", 3, 5, 20)
    longer = PairIndex.of([[(a + 5 * turn, b + 5 * turn) for turn in range(4) for a, b in pairs] for pairs in PAIRS])
    for reduction, factor in (("mean", 1.0), ("sum", 4.0)):
        once = loss_of(teacher, student, PairIndex.of(PAIRS), pool=pool, k=6, reduction=reduction)
        repeated = (teacher.repeat(1, 4, 1), student.repeat(1, 4, 1))
        stretched = loss_of(*repeated, longer, pool=pool, k=6, reduction=reduction)
        assert stretched.item() == pytest.approx(factor * once.item(), rel=1e-5)


def test_in_the_mean_every_position_weighs_the_same_whatever_the_length_of_its_answer():
    """A batch of one answer of 4 and one of 1 positions is the mean over the 5, not the mean of two means."""
    teacher, student = random_logits(0, "t", 2, 4, 20), random_logits(0, "s", 2, 4, 20)
    pairs = [[(k, k) for k in range(4)], [(0, 0)]]
    both = loss_of(teacher, student, PairIndex.of(pairs), pool="topk", k=6).item()
    long, short = (
        loss_of(teacher[[i]], student[[i]], PairIndex.of([pairs[i]]), pool="topk", k=6).item() for i in (0, 1)
    )
    assert both == pytest.approx((4 * long + short) / 5, rel=1e-5)


def test_swapped_pairs_transfer_in_the_other_direction():
    one, other = random_logits(0, "t", 3, 6, 20), random_logits(0, "s", 3, 5, 20)
    back = loss_of(other, one, PairIndex.of(PAIRS).swapped(), pool="topk", k=6)
    turned = PairIndex.of([[(b, a) for a, b in pairs] for pairs in PAIRS])
    assert torch.equal(back, loss_of(other, one, turned, pool="topk", k=6))
    there = loss_of(one, other, PairIndex.of(PAIRS), pool="topk", k=6)
    assert abs(there.item() - back.item()) > 0.01


@POOLS
def test_only_paired_rows_of_the_student_get_gradients_and_the_teacher_none(pool):
    teacher = random_logits(0, "t", 3, 6, 20).requires_grad_()
    student = random_logits(0, "s", 3, 5, 20).requires_grad_()
    loss_of(teacher, student, PairIndex.of(PAIRS), pool=pool, k=6).backward()
    assert teacher.grad is None
    touched = {(i, row) for i, row in (student.grad.abs().sum(-1) > 0).nonzero().tolist()}
    assert touched == {(i, b) for i, pairs in enumerate(PAIRS) for _, b in pairs}


@POOLS
@for_all("scale", [1.0, 30.0])
def test_identical_models_give_no_loss_and_no_gradient(pool, scale):
    logits = random_logits(0, "t", 3, 5, 40, scale=scale)
    student = logits.clone().requires_grad_()
    same = PairIndex.of([[(k, k) for k in range(n)] for n in (5, 2, 4)])
    loss = loss_of(logits, student, same, pool=pool, k=6)
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert student.grad.abs().max() < 1e-6


@POOLS
def test_a_student_that_follows_the_gradient_reaches_the_teacher(pool):
    teacher = random_logits(0, "t", 2, 3, 12, scale=1.0)
    student = random_logits(0, "s", 2, 3, 12, scale=1.0).requires_grad_()
    same = PairIndex.of([[(k, k) for k in range(3)]] * 2)
    optimizer = torch.optim.Adam([student], lr=0.1)
    values = []
    for _ in range(200):
        loss = loss_of(teacher, student, same, pool=pool, k=5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[0] > 0.03
    assert values[-1] < 1e-3 * values[0]


def test_unused_rows_may_hold_anything():
    teacher, student = random_logits(0, "t", 3, 6, 20), random_logits(0, "s", 3, 5, 20)
    index = PairIndex.of(PAIRS)
    loss = loss_of(teacher, student, index, pool="topk", k=6)
    teacher[1, 1:], student[1, 1:] = math.nan, math.inf
    assert torch.equal(loss, loss_of(teacher, student, index, pool="topk", k=6))


@POOLS
@REDUCTIONS
def test_a_batch_without_pairs_costs_nothing(pool, reduction):
    student = random_logits(0, "s", 2, 3, 20).requires_grad_()
    loss = loss_of(student.detach(), student, PairIndex.of([[], []]), pool=pool, k=6, reduction=reduction)
    loss.backward()
    assert loss.item() == 0.0
    assert not student.grad.any()


@pytest.mark.usefixtures("unchecked")
@for_all(
    ("teacher_shape", "student_shape", "side"),
    [((2, 5, 9), (3, 5, 9), "teacher"), ((3, 4, 9), (3, 5, 9), "teacher"), ((3, 5, 9), (3, 4, 9), "student")],
)
def test_logits_that_do_not_fit_the_pairs_are_refused(teacher_shape, student_shape, side):
    with pytest.raises(ValueError, match=rf"{side} logits must be \(3, at least 5, vocabulary\)"):
        pair_divergences(
            torch.zeros(teacher_shape),
            torch.zeros(student_shape),
            PairIndex.of(PAIRS),
            pool="topk",
            k=3,
            vocabulary_map=None,
        )
