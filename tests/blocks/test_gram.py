"""Gram volumes and the contrastive loss against loops of numpy determinants and the formulas written out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from laws import for_all
from mlecs_bench.blocks.gram import EPSILON, contrastive_loss, pairwise_volume, volume
from mlecs_bench.errors import DataError, PluginError, UsageError

SEEDS = (0, 1, 2)


def vectors(seed, *shape, shared=0.0, dtype=torch.float64):
    """Random vectors; `shared` adds a common direction, so that they are correlated."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return (drawn + shared * torch.ones(shape[-1], dtype=torch.float64)).to(dtype)


def oracle_volume(rows):
    """Eq. 6 of normalised rows by the determinant, one set, without smoothing."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return math.sqrt(max(np.linalg.det(units @ units.T), 0.0))


def oracle_pairwise(anchors, others, present=None):
    """Every pair by itself; absent vectors are really left out."""
    present = np.ones(others.shape[:2], dtype=bool) if present is None else present.numpy()
    anchors, others = anchors.numpy(), others.numpy()
    table = [[oracle_volume(np.vstack([a, o[p]])) for o, p in zip(others, present, strict=True)] for a in anchors]
    return torch.tensor(table, dtype=torch.float64)


def oracle_loss(volumes, temperature):
    """½ (A2O + O2A) written as in the paper's formulas, with the sign and index that make it a contrast."""
    odds = np.exp(-volumes.numpy() / temperature)
    a2o = [-math.log(odds[v, v] / odds[v, :].sum()) for v in range(len(odds))]
    o2a = [-math.log(odds[v, v] / odds[:, v].sum()) for v in range(len(odds))]
    return (np.mean(a2o) + np.mean(o2a)) / 2


@for_all("k", [1, 2, 3, 5])
def test_orthonormal_vectors_span_volume_one(k):
    assert volume(torch.eye(8, dtype=torch.float64)[:k]).item() == pytest.approx(1, abs=1e-12)


@for_all("degrees", [5, 30, 90, 135, 170])
def test_two_vectors_span_the_sine_of_their_angle(degrees):
    angle = math.radians(degrees)
    pair = torch.tensor([[3.0, 0.0, 0.0], [2 * math.cos(angle), 2 * math.sin(angle), 0.0]], dtype=torch.float64)
    assert volume(pair, eps=0).item() == pytest.approx(abs(math.sin(angle)), abs=1e-12)
    assert volume(pair).item() == pytest.approx(abs(math.sin(angle)), abs=2e-6)
    assert pairwise_volume(pair[:1], pair[None, 1:]).item() == pytest.approx(abs(math.sin(angle)), abs=2e-6)


@for_all("sign", [1.0, -1.0])
def test_duplicate_and_antipodal_vectors_span_almost_nothing(sign):
    rows = vectors(0, 3, 16)
    rows[2] = sign * rows[0]
    assert 0 <= volume(rows, eps=0).item() < 1e-7
    assert volume(rows).item() < 5e-4
    assert pairwise_volume(rows[:1].float(), rows[None, 1:].float()).item() < 1e-3


def test_three_unit_vectors_with_cosine_one_half_span_sqrt_one_half():
    gram = torch.full((3, 3), 0.5, dtype=torch.float64).fill_diagonal_(1)
    rows = functional.pad(torch.linalg.cholesky(gram), (0, 5))
    assert volume(rows).item() == pytest.approx(math.sqrt(0.5), abs=1e-6)
    assert pairwise_volume(rows[:1], rows[None, 1:]).item() == pytest.approx(math.sqrt(0.5), abs=1e-6)


@for_all("seed", SEEDS)
def test_volume_ignores_order_sign_scale_and_rotation(seed):
    rows = vectors(seed, 4, 6)
    rotation = torch.linalg.qr(vectors(seed + 10, 6, 6))[0]
    factors = torch.tensor([1e-3, -7.0, 1e4, -1.0], dtype=torch.float64).unsqueeze(1)
    expected = volume(rows).item()
    for changed in (rows[[2, 0, 3, 1]], rows * factors, rows @ rotation):
        assert volume(changed).item() == pytest.approx(expected, rel=1e-9)


def test_more_vectors_than_dimensions_span_almost_nothing():
    rows = vectors(0, 5, 3)
    assert volume(rows, eps=0).item() < 1e-7
    assert volume(rows).item() < 1e-3
    assert pairwise_volume(rows[:1], rows[None, 1:]).item() < 1e-3


def test_volume_keeps_leading_shape_and_works_in_wide_types():
    rows = vectors(0, 2, 5, 3, 16, dtype=torch.float16)
    assert volume(rows).shape == (2, 5)
    assert volume(rows).dtype == torch.float32
    assert volume(rows.double()).dtype == torch.float64


@for_all("seed", SEEDS)
@for_all("k", [2, 3, 4, 5])
@for_all("d", [8, 64])
@for_all("shared", [0.0, 0.7])
def test_pairwise_volumes_equal_a_loop_of_determinants(seed, k, d, shared):
    anchors = vectors(seed, 6, d, shared=shared)
    others = vectors(seed + 100, 5, k - 1, d, shared=shared)
    expected = oracle_pairwise(anchors, others)
    torch.testing.assert_close(pairwise_volume(anchors, others), expected, atol=1e-6, rtol=0)
    single = pairwise_volume(anchors.float(), others.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, atol=5e-6, rtol=0)


@for_all("k", [2, 3, 4])
def test_pairwise_volume_is_the_smoothed_determinant_even_for_dependent_vectors(k):
    anchors = torch.ones(3, 8, dtype=torch.float64)
    others = torch.ones(2, k - 1, 8, dtype=torch.float64)
    others[1] += 1e-4 * vectors(0, k - 1, 8)
    sets = torch.cat([anchors[:, None, None].expand(3, 2, 1, 8), others.expand(3, 2, k - 1, 8)], dim=2)
    torch.testing.assert_close(pairwise_volume(anchors, others), volume(sets), atol=0, rtol=1e-5)


@for_all("seed", SEEDS)
@for_all("k", [2, 3, 4])
def test_absent_vectors_are_dropped_whatever_their_values(seed, k):
    patterns = [p for p in itertools.product([True, False], repeat=k - 1) if any(p)] * 2
    present = torch.tensor(patterns)
    anchors, others = vectors(seed, 4, 12, shared=0.3), vectors(seed + 50, len(patterns), k - 1, 12, shared=0.3)
    expected = oracle_pairwise(anchors, others, present)
    for junk in (0.0, 5.0, math.nan, math.inf):
        filled = others.masked_fill(~present.unsqueeze(-1), junk).requires_grad_()
        result = pairwise_volume(anchors, filled, present)
        torch.testing.assert_close(result.detach(), expected, atol=1e-6, rtol=0)
        result.sum().backward()
        assert torch.isfinite(filled.grad).all()
        assert (filled.grad[~present] == 0).all()
        assert (filled.grad[present].norm(dim=-1) > 0).all()


def test_more_anchors_than_a_block_give_the_same_columns():
    anchors, others = vectors(0, 600, 6, dtype=torch.float32), vectors(1, 3, 2, 6, dtype=torch.float32)
    weights = vectors(2, 600, 3, dtype=torch.float32)
    whole, parts = others.clone().requires_grad_(), others.clone().requires_grad_()
    result = pairwise_volume(anchors, whole)
    pieces = torch.cat([pairwise_volume(piece, parts) for piece in anchors.split(100)])
    torch.testing.assert_close(result, pieces)
    (result * weights).sum().backward()
    (pieces * weights).sum().backward()
    torch.testing.assert_close(whole.grad, parts.grad, atol=1e-4, rtol=1e-4)


@for_all("k", [2, 3, 4, 5])
def test_gradient_equals_finite_differences(k):
    anchors, others = vectors(0, 2, 5).requires_grad_(), vectors(1, 3, k - 1, 5).requires_grad_()
    present = torch.ones(3, k - 1, dtype=torch.bool)
    present[1, 1:] = False
    assert torch.autograd.gradcheck(pairwise_volume, (anchors, others))
    assert torch.autograd.gradcheck(lambda a, o: pairwise_volume(a, o, present), (anchors, others))
    assert torch.autograd.gradcheck(lambda a: pairwise_volume(a, others.detach()), (anchors,))
    assert torch.autograd.gradcheck(lambda o: pairwise_volume(anchors.detach(), o), (others,))
    assert torch.autograd.gradcheck(lambda o: contrastive_loss(anchors, o[:2], 0.2).loss, (others,))


def test_gradient_equals_that_of_the_determinant():
    anchors, others = vectors(0, 7, 9, shared=0.5).requires_grad_(), vectors(1, 7, 3, 9, shared=0.5).requires_grad_()
    sets = torch.cat([anchors[:, None, None].expand(7, 7, 1, 9), others.expand(7, 7, 3, 9)], dim=2)
    logits, targets = -volume(sets) / 0.1, torch.arange(7)
    plain = (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2
    loss = contrastive_loss(anchors, others, 0.1).loss
    assert loss.item() == pytest.approx(plain.item(), abs=1e-9)
    for ours, theirs in zip(
        torch.autograd.grad(loss, (anchors, others)), torch.autograd.grad(plain, (anchors, others)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-6)


def test_a_second_derivative_is_refused_not_wrong():
    anchors, others = vectors(0, 3, 6).requires_grad_(), vectors(1, 3, 1, 6).requires_grad_()
    (first,) = torch.autograd.grad(pairwise_volume(anchors, others).square().sum(), anchors, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_nan_input_gives_nan_not_a_number():
    others = vectors(0, 3, 2, 6)
    others[1, 0, 0] = math.nan
    result = pairwise_volume(vectors(1, 3, 6), others)
    assert result[:, 1].isnan().all()
    assert result[:, [0, 2]].isfinite().all()


@pytest.mark.usefixtures("unchecked")
def test_wrong_shapes_empty_samples_and_temperatures_are_refused():
    with pytest.raises(PluginError, match=r"got \(3, 6\) and \(3, 6\)"):
        pairwise_volume(torch.ones(3, 6), torch.ones(3, 6))
    with pytest.raises(PluginError, match="'present' must be bool"):
        pairwise_volume(torch.ones(3, 6), torch.ones(3, 2, 6), torch.ones(3, 2))
    present = torch.tensor([[True, True], [False, False], [True, False]])
    with pytest.raises(DataError, match="1 of 3 samples"):
        pairwise_volume(torch.ones(3, 6), torch.ones(3, 2, 6), present)
    with pytest.raises(DataError, match="3 of 3 samples"):
        pairwise_volume(torch.ones(3, 6), torch.ones(3, 0, 6))
    with pytest.raises(PluginError, match="4 anchors for 3 samples"):
        contrastive_loss(torch.ones(4, 6), torch.ones(3, 1, 6), 1.0)
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="temperature must be positive"):
            contrastive_loss(torch.ones(2, 4), torch.ones(2, 1, 4), temperature)


@for_all("seed", SEEDS)
@for_all("k", [2, 3, 4])
@for_all("temperature", [1.0, 0.07])
def test_loss_and_means_equal_the_formulas(seed, k, temperature):
    anchors, others = vectors(seed, 6, 16, shared=0.4), vectors(seed + 9, 6, k - 1, 16, shared=0.4)
    volumes = oracle_pairwise(anchors, others)
    loss, matched, mismatched = contrastive_loss(anchors.requires_grad_(), others.requires_grad_(), temperature)
    off_diagonal = volumes[~torch.eye(6, dtype=torch.bool)]
    assert loss.item() == pytest.approx(oracle_loss(volumes, temperature), abs=1e-5)
    assert matched.item() == pytest.approx(volumes.diagonal().mean().item(), abs=1e-6)
    assert mismatched.item() == pytest.approx(off_diagonal.mean().item(), abs=1e-6)
    assert not matched.requires_grad
    assert not mismatched.requires_grad


@for_all("b", [2, 4, 16])
@for_all("temperature", [1.0, 0.1])
def test_perfectly_aligned_orthogonal_samples_reach_the_known_minimum(b, temperature):
    anchors = torch.eye(16, dtype=torch.float64)[:b]
    loss = contrastive_loss(anchors, anchors.unsqueeze(1), temperature).loss
    expected = math.log(1 + (b - 1) * math.exp(-1 / temperature))
    assert loss.item() == pytest.approx(expected, abs=1e-3 / temperature)  # the smoothed V_vv is 4.5e-4, not 0


def test_collapsed_own_modalities_and_random_high_dimensional_vectors_give_about_log_b():
    collapsed = contrastive_loss(vectors(1, 8, 32), vectors(0, 8, 1, 32).expand(8, 2, 32), 0.1).loss
    assert collapsed.item() == pytest.approx(math.log(8), abs=1e-2)
    for k in (2, 3, 4):
        loss = contrastive_loss(vectors(0, 32, 4096), vectors(1, 32, k - 1, 4096), 1.0).loss
        assert loss.item() == pytest.approx(math.log(32), abs=1e-2)


@for_all("k", [2, 3, 4])
def test_permuting_the_anchors_raises_the_loss(k):
    anchors = vectors(0, 8, 32)
    others = anchors.unsqueeze(1) + 0.5 * vectors(1, 8, k - 1, 32)
    aligned, permuted = (contrastive_loss(a, others, 0.1).loss for a in (anchors, anchors.roll(1, dims=0)))
    assert permuted > aligned + 0.5


@for_all("k", [2, 3, 4])
def test_a_hundred_sgd_steps_bring_matched_below_mismatched(k):
    anchors, inputs = vectors(0, 16, 32, dtype=torch.float32), vectors(1, 16, k - 1, 24, dtype=torch.float32)
    weights = (0.2 * vectors(2, k - 1, 24, 32, dtype=torch.float32)).requires_grad_()
    losses = []
    for _ in range(100):
        terms = contrastive_loss(anchors, torch.einsum("bmf,mfd->bmd", inputs, weights), 0.1)
        (gradient,) = torch.autograd.grad(terms.loss, weights)
        weights.data.sub_(0.5 * gradient)
        losses.append(terms.loss.item())
    assert losses[-1] < losses[0] - 0.5
    assert terms.matched < terms.mismatched - 0.1


@for_all("seed", SEEDS)
def test_loss_ignores_modality_order_and_vector_lengths(seed):
    anchors, others = vectors(seed, 5, 12), vectors(seed + 3, 5, 3, 12)
    expected = contrastive_loss(anchors, others, 0.1).loss.item()
    lengths = 10 ** vectors(seed + 6, 5, 3, 1).clamp(-3, 3)
    for changed in (others[:, [2, 0, 1]], others * lengths):
        assert contrastive_loss(anchors * 8, changed, 0.1).loss.item() == pytest.approx(expected, abs=1e-9)


def test_samples_without_vectors_are_skipped():
    anchors, others = vectors(0, 5, 12), vectors(1, 5, 2, 12)
    present = torch.tensor([[True, True], [False, False], [True, False], [False, True], [False, False]])
    kept = [0, 2, 3]
    result = contrastive_loss(anchors, others, 0.1, present)
    volumes = oracle_pairwise(anchors[kept], others[kept], present[kept])
    assert result.loss.item() == pytest.approx(oracle_loss(volumes, 0.1), abs=1e-5)


@for_all("case", ["one sample", "no sample", "no modality", "one usable"])
def test_nothing_to_contrast_gives_zero_loss_and_zero_gradient(case):
    sizes = {"one sample": (1, 2), "no sample": (0, 2), "no modality": (4, 0), "one usable": (3, 1)}
    b, m = sizes[case]
    present = torch.tensor([[True], [False], [False]]) if case == "one usable" else None
    anchors, others = torch.ones(b, 6, requires_grad=True), torch.ones(b, m, 6, requires_grad=True)
    terms = contrastive_loss(anchors, others, 0.1, present)
    assert [t.item() for t in terms] == [0, 0, 0]
    terms.loss.backward()
    assert (anchors.grad == 0).all()
    assert (others.grad == 0).all()


DEGENERATE = {
    "all identical": lambda base, own, nearly: (torch.ones(4, 8), torch.ones_like(own)),
    "others equal their anchor": lambda base, own, nearly: (base, base.unsqueeze(1) + 0 * own),
    "others opposite to their anchor": lambda base, own, nearly: (base, -base.unsqueeze(1) + 0 * own),
    "nearly equal to the anchor": lambda base, own, nearly: (base, base.unsqueeze(1) + nearly),
    "own vectors collapsed": lambda base, own, nearly: (base, own[:, :1] + 0 * own),
    "own vectors nearly collapsed": lambda base, own, nearly: (base, own[:, :1] + nearly),
    "zero anchors": lambda base, own, nearly: (0 * base, own),
    "zero others": lambda base, own, nearly: (base, 0 * own),
    "one zero vector": lambda base, own, nearly: (base, torch.cat([0 * own[:, :1], own[:, 1:]], dim=1)),
    "all zero": lambda base, own, nearly: (0 * base, 0 * own),
    "tiny": lambda base, own, nearly: (1e-38 * base, 1e-38 * own),
    "below the normal range of float16": lambda base, own, nearly: (2e-6 * base, 2e-6 * own),
    "huge": lambda base, own, nearly: (1e30 * base, 1e30 * own),
    "more vectors than dimensions": lambda base, own, nearly: (base[:, :2], own[..., :2]),
}


def degenerate_inputs(name, m):
    base, drawn = vectors(3, 4, 8, dtype=torch.float32), vectors(4, 2, 4, m, 8, dtype=torch.float32)
    return DEGENERATE[name](base, drawn[0], 1e-4 * drawn[1])


@for_all("m", [1, 2, 3])
@for_all("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@for_all("name", DEGENERATE)
def test_degenerate_vectors_give_finite_volumes_and_gradients(name, dtype, m):
    anchors, others = (t.clamp(-6e4, 6e4).to(dtype).requires_grad_() for t in degenerate_inputs(name, m))
    terms = contrastive_loss(anchors, others, 0.07)
    terms.loss.backward()
    assert all(torch.isfinite(t) for t in terms)
    assert 0 <= terms.matched <= 1
    assert 0 <= terms.mismatched <= 1
    pairwise = torch.autograd.grad(pairwise_volume(anchors, others).sum(), others)[0]
    plain = torch.autograd.grad(volume(others).sum(), others)[0]
    assert all(torch.isfinite(gradient).all() for gradient in (anchors.grad, others.grad, pairwise, plain))


def test_single_precision_gradient_near_collapse_stays_close_to_double_precision():
    anchors, others = degenerate_inputs("own vectors nearly collapsed", 3)
    wide = others.double().requires_grad_()
    narrow = others.clone().requires_grad_()
    pairwise_volume(anchors, narrow).sum().backward()
    pairwise_volume(anchors.double(), wide).sum().backward()
    torch.testing.assert_close(narrow.grad.double(), wide.grad, atol=1e-3 * wide.grad.abs().max().item(), rtol=0)


@for_all("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input_is_computed_in_single_precision(dtype):
    anchors, others = (
        vectors(0, 6, 32, dtype=dtype).requires_grad_(),
        vectors(1, 6, 2, 32, dtype=dtype).requires_grad_(),
    )
    terms = contrastive_loss(anchors, others, 0.1)
    expected = contrastive_loss(anchors.detach().float(), others.detach().float(), 0.1)
    terms.loss.backward()
    assert terms.loss.dtype == torch.float32
    assert terms.loss.item() == expected.loss.item()
    assert anchors.grad.dtype == others.grad.dtype == dtype


def test_autocast_does_not_lower_the_precision():
    anchors = vectors(0, 6, 32, dtype=torch.float32).requires_grad_()
    others = vectors(1, 6, 2, 32, dtype=torch.float32)
    plain = torch.autograd.grad(contrastive_loss(anchors, others, 0.1).loss, anchors)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = contrastive_loss(anchors, others, 0.1).loss
        cast = torch.autograd.grad(loss, anchors)[0]
    assert torch.equal(plain, cast)


def test_anchors_without_gradient_get_none_and_change_nothing():
    anchors, others = vectors(0, 6, 12), vectors(1, 6, 2, 12).requires_grad_()
    contrastive_loss(anchors, others, 0.1).loss.backward()
    with_both = others.grad.clone()
    others.grad = None
    contrastive_loss(anchors.clone().requires_grad_(), others, 0.1).loss.backward()
    assert anchors.grad is None
    assert torch.equal(others.grad, with_both)


def test_repeated_backward_passes_agree():
    anchors, others = vectors(0, 6, 12).requires_grad_(), vectors(1, 6, 2, 12).requires_grad_()
    loss = contrastive_loss(anchors, others, 0.1).loss
    first = torch.autograd.grad(loss, (anchors, others), retain_graph=True)
    second = torch.autograd.grad(loss, (anchors, others))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_smoothing_floor_is_the_documented_one():
    pair = torch.ones(1, 4, dtype=torch.float64)
    assert pairwise_volume(pair, pair.unsqueeze(1)).item() == pytest.approx(math.sqrt(2 * EPSILON), rel=1e-6)
    many = vectors(0, 200, 7, dtype=torch.float32)
    volumes = pairwise_volume(many, many.unsqueeze(1)).diagonal()
    assert volumes.min().item() > 0.999 * math.sqrt(EPSILON)
    assert volumes.max().item() < 1.5e-3


def test_a_vector_too_short_for_a_direction_counts_as_zero():
    anchors, others = vectors(0, 3, 6), (1e-14 * vectors(1, 3, 1, 6)).requires_grad_()
    result = pairwise_volume(anchors, others)
    result.sum().backward()
    assert result.max().item() < 5e-4
    assert (others.grad == 0).all()
