"""Gram volume and the cross-modal contrastive loss (paper Eq. 5-8), for all pairs at once.

Notation. A sample v has k - 1 non-anchor vectors; their unit vectors are the rows of O_v. An anchor a_u is a unit
vector too. The smoothed Gram matrix of a set X of unit rows is (1 - ε) X Xᵀ + ε I: its diagonal stays 1, so volumes
stay in (0, 1], and its smallest eigenvalue is at least ε, so nothing below divides by zero. To keep the formulas short
O and a are from here on the unit vectors times sqrt(1 - ε), and M_v = O_v O_vᵀ + ε I.

Forward. Let M = L Lᵀ (Cholesky) and Q = L⁻¹ O. Adding an anchor to the set adds one Schur complement:

    V_uv = W_v D_uv,   W_v = sqrt(det M_v) = Π diag L_v,   D_uv = sqrt(1 - |Q_v a_u|²) >= sqrt(ε).

W is the volume of the sample's own vectors and D the distance of the anchor to their span. Q_v a_u for all pairs is one
matrix product of (U, d) with (d, (k - 1) B). The largest tensor is that of size U x (k - 1) B; no U x B x k x k exists.

Backward. With G = ∂loss/∂V, H_uv = G_uv W_v / D_uv, p_uv = Q_v a_u and T_v = Σ_u H_uv p_uv a_uᵀ,

    ∂loss/∂a_u = (radial part) - Σ_v H_uv Q_vᵀ p_uv,
    ∂loss/∂O_v = L_v⁻ᵀ [(σ_v I + T_v Q_vᵀ) Q_v - T_v],   σ_v = Σ_u G_uv V_uv,

and the radial part vanishes because the length of a unit vector is fixed. So the Cholesky factor needs no derivative.

Precision. The per-sample work (normalise, Gram, Cholesky) is done in float64, the U x B work in the inputs' own
float32 or float64. Against the unsmoothed determinant the smoothing costs about ε / (2 sin θ) for two vectors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlecs_bench.errors import DataError, PluginError, UsageError

EPSILON = 1e-7  # ours: two equal vectors get volume sqrt(2 ε) = 4.5e-4; float32 resolves D² to about 1e-7
SMALLEST_NORM = 1e-12  # ours: a shorter vector has no direction; it counts as zero and gets no gradient
ANCHOR_BLOCK = 256  # ours: anchors per block, so that a block of U x (k - 1) B products stays near the cache


class ContrastiveTerms(NamedTuple):
    """The contrastive loss and two detached means that show whether it works (0-dim tensors)."""

    loss: Float[Tensor, ""]
    """½ (A2O + O2A) as in Eq. 11, the only entry that carries a gradient."""
    matched: Float[Tensor, ""]
    """Mean of V_vv: the anchor with its own sample's vectors."""
    mismatched: Float[Tensor, ""]
    """Mean of V_uv over u ≠ v: the anchor with another sample's vectors."""


def volume(vectors: Float[Tensor, "*batch k d"], eps: float = EPSILON) -> Float[Tensor, "*batch"]:
    """Return the volume spanned by the L2-normalised rows (Eq. 5-6): sqrt(det((1 - ε) X Xᵀ + ε I)).

    The plain definition, computed in float64, for reference. The paper does not mention the normalisation; without
    it a volume could be changed by scaling the vectors. `eps=0` is Eq. 6 to the letter, but then dependent rows have no
    gradient. Zero rows have no direction and give a volume near 0.

    Args:
        vectors: any floating type, any k >= 1 (k > d gives a volume near 0).
        eps: smoothing ε in [0, 1).

    Returns:
        Volumes in [0, 1]; float64 for float64 input, else float32.
    """
    rows = _unit_rows(vectors, eps)[0]
    gram = rows @ rows.mT + eps * torch.eye(rows.shape[-2], dtype=rows.dtype, device=rows.device)  # (..., k, k)
    squared: Tensor = torch.linalg.det(gram)
    return squared.clamp_min(0).sqrt().to(_working_dtype(vectors))


def pairwise_volume(
    anchors: Float[Tensor, "U d"], others: Float[Tensor, "B m d"], present: Bool[Tensor, "B m"] | None = None
) -> Float[Tensor, "U B"]:
    """Return V({a_u} ∪ {o_v}) for every anchor u and every sample v (Eq. 5-6 of L2-normalised vectors).

    The same numbers as `volume` with the default ε, but factorised per sample: see the module docstring. Differentiable
    once in `anchors` and `others`; gradients are finite for equal, collinear and zero vectors. An absent vector is
    dropped from its sample's set: its Gram row is that of the identity, which is the set without it, exactly.

    Args:
        anchors: any floating type; half precision is computed in float32. The device must know float64.
        others: the m = k - 1 non-anchor vectors of each sample.
        present: False where a sample lacks a vector (its values are never read); None = all present.

    Returns:
        Volumes in (0, 1]; float64 if an input is float64, else float32.

    Raises:
        PluginError: the shapes or types do not fit together.
        DataError: a sample has no vector at all, so its column is undefined.
    """
    _check_shapes(anchors, others, present)
    if present is None:
        empty = len(others) if others.shape[1] == 0 else 0
    else:
        empty = len(others) - int(present.any(dim=1).sum())
        present = present.to(others.device, non_blocking=True)
        others = torch.where(present.unsqueeze(-1), others, 0)
    if empty:
        given = f"{empty} of {len(others)} samples have none"
        raise DataError(f"a Gram volume needs a vector beside the anchor, {given}; leave those samples out")
    return _apply(_PairwiseVolume, anchors, others, present)


def contrastive_loss(
    anchors: Float[Tensor, "b d"],
    others: Float[Tensor, "b m d"],
    temperature: float,
    present: Bool[Tensor, "b m"] | None = None,
) -> ContrastiveTerms:
    """Return ½ (A2O + O2A) of Eq. 11 over a batch of distinct samples, with the mean volumes behind it.

    A2O (printed as Eq. 7, anchor fixed) and O2A (Eq. 8, non-anchor set fixed) are the cross-entropies over the rows and
    the columns of -V_uv / τ with the diagonal as targets. Departures from the print: the sign is negated (as printed,
    minimising would push matched pairs apart), the anchor of Eq. 7 is the sample's own (as printed no pair is ever
    contrasted), and τ is added (τ = 1 is the paper). Negatives are the batch, the positive included (U = b).

    Samples without any present vector are skipped, their anchors too. With fewer than two samples left there is
    nothing to contrast: loss and both means are 0 (leave such a batch out of an average), and the loss can still be
    backpropagated (gradient 0).

    Args:
        anchors: row v belongs to sample v.
        others: the m = k - 1 non-anchor vectors of each sample.
        temperature: τ > 0.
        present: as in `pairwise_volume`.

    Raises:
        UsageError: the temperature is not positive.
        PluginError: the shapes or types do not fit together.
    """
    if not temperature > 0:
        raise UsageError(f"the contrastive temperature must be positive, got {temperature}; the paper's value is 1.0")
    _check_shapes(anchors, others, present)
    if len(anchors) != len(others):
        raise PluginError(f"each sample needs its own anchor, got {len(anchors)} anchors for {len(others)} samples")
    if present is not None:
        anchors, others, present = _usable(anchors, others, present)
    if len(anchors) < 2 or others.shape[1] == 0:
        nothing = (anchors[:0].sum() + others[:0].sum()).to(_working_dtype(anchors, others))  # 0, yet part of the graph
        return ContrastiveTerms(nothing, nothing.detach(), nothing.detach())
    volumes = pairwise_volume(anchors, others, present)
    return ContrastiveTerms(_apply(_MatchingLoss, volumes, temperature), *_mean_volumes(volumes.detach()))


def _usable(anchors: Tensor, others: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Leave out the samples without any present vector; a mask on the CPU costs no waiting for a GPU."""
    present = present.cpu()
    if bool(present.all()):
        return anchors, others, None
    rows = present.any(dim=1).nonzero().squeeze(1)
    there = rows.to(anchors.device, non_blocking=True)
    return anchors[there], others[there], present[rows]


class _PairwiseVolume(torch.autograd.Function):
    """(U, d), (B, m, d), (B, m) bool or None -> (U, B); forward and backward as derived in the module docstring."""

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, others: Tensor, present: Tensor | None) -> Tensor:
        """Return the volumes; keep what the backward formulas name."""
        dtype = _working_dtype(anchors, others)
        wide_rows, row_factors = _unit_rows(anchors, EPSILON)
        set_rows, set_factors = _unit_rows(others, EPSILON)
        factor, basis = _factorise(set_rows, present)
        own = factor.diagonal(dim1=-2, dim2=-1).prod(dim=-1).to(dtype)  # W
        rows = wide_rows.to(dtype)
        bases = rows.new_empty(others.shape[1], *others.shape[::2]).copy_(basis.transpose(0, 1))
        lengths = (row_factors > 0).to(dtype)  # squared, of the smoothed anchor; the floor is enough for a zero one
        products, distances = _distances(rows, bases, lengths)
        per_sample = wide_rows, row_factors, set_rows, set_factors, factor, basis
        ctx.save_for_backward(*per_sample, own, rows, bases, products, distances)
        ctx.dtypes = anchors.dtype, others.dtype
        return distances * own

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients of anchors and others."""
        wide_rows, row_factors, set_rows, set_factors, factor, basis, own, *kept = ctx.saved_tensors
        grad_anchors = grad_others = None
        for_rows, sums, sigma = _contract(grad, own, tuple(kept))
        if ctx.needs_input_grad[0]:
            grad_anchors = _unit_rows_backward(for_rows, wide_rows, row_factors).to(ctx.dtypes[0])
        if ctx.needs_input_grad[1]:
            sums = sums.transpose(0, 1).double()  # T (B, m, d)
            mixing = torch.bmm(sums, basis.mT)
            mixing.diagonal(dim1=-2, dim2=-1).add_(sigma.unsqueeze(-1))  # σ I + T Qᵀ
            inner = torch.baddbmm(sums, mixing, basis, beta=-1)
            for_sets = torch.linalg.solve_triangular(factor.mT, inner, upper=True)
            grad_others = _unit_rows_backward(for_sets, set_rows, set_factors).to(ctx.dtypes[1])
        return grad_anchors, grad_others, None


class _MatchingLoss(torch.autograd.Function):
    """(b, b) volumes, τ -> ½ (cross-entropy over rows + over columns) of -V / τ with diagonal targets.

    Written out so that one (b, b) tensor, the gradient, lives until the backward pass:
    ∂loss/∂V = -(softmax over rows + softmax over columns - 2 I) / (2 b τ).
    """

    @staticmethod
    def forward(ctx: Any, volumes: Tensor, temperature: float) -> Tensor:
        """Return the loss."""
        logits = volumes * (-1 / temperature)
        by_row = logits.log_softmax(dim=1)
        by_column = logits.log_softmax(dim=0)
        loss = (by_row.trace() + by_column.trace()) * (-0.5 / len(volumes))
        if ctx.needs_input_grad[0]:
            gradient = by_row.exp_().add_(by_column.exp_())
            gradient.diagonal().sub_(2)
            ctx.save_for_backward(gradient.mul_(-0.5 / (len(volumes) * temperature)))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the volumes."""
        return ctx.saved_tensors[0] * grad, None


def _apply(function: type[torch.autograd.Function], *inputs: Any) -> Tensor:
    result: Tensor = function.apply(*inputs)  # type: ignore[no-untyped-call]  # torch leaves `apply` untyped
    return result


def _working_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def _check_shapes(anchors: Tensor, others: Tensor, present: Tensor | None) -> None:
    if anchors.dim() != 2 or others.dim() != 3 or anchors.shape[1] != others.shape[2]:
        given = f"{tuple(anchors.shape)} and {tuple(others.shape)}"
        raise PluginError(f"Gram volumes need anchors (U, d) and others (B, k - 1, d), got {given}; stack them so")
    if present is not None and (present.shape != others.shape[:2] or present.dtype != torch.bool):
        given = f"{tuple(present.shape)} {present.dtype}"
        raise PluginError(
            f"'present' must be bool of shape {tuple(others.shape[:2])}, got {given}; one flag per vector"
        )


def _mean_volumes(volumes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of the diagonal and of the rest of (b, b) volumes, b >= 2."""
    b = len(volumes)
    matched = volumes.trace()
    return matched / b, (volumes.sum() - matched) / (b * (b - 1))


def _unit_rows(vectors: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return (..., n, d) vectors brought to length sqrt(1 - ε) in float64, and the factors used (..., n, 1).

    Both are 0 for a zero vector. "Zero" depends on the type: the factor multiplies a gradient of that type.
    """
    wide = vectors.double()
    norms = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    shortest = max(SMALLEST_NORM, torch.finfo(vectors.dtype).tiny)
    factors = (norms > shortest) * ((1 - eps) ** 0.5 / norms.clamp_min(shortest))
    return wide * factors, factors


def _unit_rows_backward(grad: Tensor, rows: Tensor, factors: Tensor) -> Tensor:
    """Return the gradient of the raw vectors: the part of `grad` across the rows, times the factors."""
    wide = grad.double()
    along = (wide * rows).sum(dim=-1, keepdim=True)
    return torch.addcmul(wide, along, rows, value=-1 / (1 - EPSILON)).mul_(factors)


def _factorise(rows: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return L (B, m, m) and Q (B, m, d) of each sample's O (B, m, d), float64; absent vectors are zero rows."""
    gram = torch.bmm(rows, rows.mT)
    gram.diagonal(dim1=-2, dim2=-1).add_(EPSILON if present is None else torch.where(present, EPSILON, 1.0))
    factor = torch.linalg.cholesky_ex(gram)[0]  # positive definite by ε; `_ex` lets NaN pass through as NaN
    return factor, torch.linalg.solve_triangular(factor, rows, upper=False)


def _distances(rows: Tensor, bases: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return p (U, m B), grouped by vector, and D (U, B) of anchors (U, d), Q (m, B, d) and squared lengths (U, 1).

    Products with `out=` and in place (here and in `_contract`) keep their type inside torch.autocast.
    """
    m, n_sets, _ = bases.shape
    columns = bases.flatten(0, 1).T  # (d, m B)
    products = rows.new_empty(len(rows), m * n_sets)
    distances = rows.new_empty(len(rows), n_sets)
    for start in range(0, len(rows), ANCHOR_BLOCK):
        block = slice(start, start + ANCHOR_BLOCK)
        torch.mm(rows[block], columns, out=products[block])
        squares = distances[block].copy_(lengths[block])
        for product in products[block].view(-1, m, n_sets).unbind(dim=1):
            squares.addcmul_(product, product, value=-1)
        squares.clamp_min_(EPSILON).sqrt_()  # exact arithmetic never falls below ε
    return products, distances


def _contract(grad: Tensor, own: Tensor, kept: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Return -Σ_v H Qᵀ p (U, d), T (m, B, d) and σ (B,) from G (U, B), W (B,) and what `_distances` saw and made."""
    rows, bases, products, distances = kept
    m, n_sets, _ = bases.shape
    columns = bases.flatten(0, 1)  # (m B, d)
    for_rows, for_columns, sigma = torch.zeros_like(rows), torch.zeros_like(columns), torch.zeros_like(own)
    for start in range(0, len(rows), ANCHOR_BLOCK):
        block = slice(start, start + ANCHOR_BLOCK)
        weights = grad[block] * own
        sigma += (weights * distances[block]).sum(dim=0)
        weights.div_(distances[block])  # H
        weighted = (products[block].view(-1, m, n_sets) * weights.unsqueeze(1)).flatten(1)
        for_rows[block].addmm_(weighted, columns, alpha=-1)
        for_columns.addmm_(weighted.T, rows[block])
    return for_rows, for_columns.view_as(bases), sigma
