"""Knowledge transfer between two language models: the divergence of pooled predictions (paper Eq. 14).

The paper speaks of pooled output logits and leaves the pooling open. Pooling here is over the vocabulary; it keeps
the divergence finite for sparse predictions, which is the purpose the paper gives for it.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from mlecs_bench.blocks.alignment import PairIndex
from mlecs_bench.errors import UsageError, check_choice

Pool = Literal["topk", "sorted", "avg", "none"]
"""How two distributions over vocabularies are pooled before they are compared; `pair_divergences` compares them.

topk: the k most probable tokens of the teacher, one bin each, and a bin for the rest; sorted: the k largest
probabilities of either, and the rest, whichever tokens they are of; avg: logits averaged over k stretches of the
vocabulary; none: whole distributions over one vocabulary.
"""
Reduction = Literal["mean", "sum"]
"""What a batch makes of the divergences of its positions: their mean, or the mean over samples of their sum."""

REST_FLOOR = 1e-8
"""Least probability of the "rest" bin: it bounds what one bin can add to a divergence at 18.4 nats."""


class PoolError(UsageError, ValueError):
    """The pool asked for cannot compare these two models."""


def transfer_loss(divergences: Float[Tensor, " n"], samples: int, reduction: Reduction = "mean") -> Float[Tensor, ""]:
    """Return the knowledge-transfer loss (paper Eq. 14) of a batch of `samples` from the divergence of each pair.

    mean: over all pairs of the batch. Eq. 15-16 sum L_lb and the transfer alike over samples and positions, so both
      weigh 1 per token; L_lb is a mean over tokens, and so is this. A batch without a pair gives 0.
    sum: over the positions of a sample, as Eq. 14 is printed, then the mean over samples: it grows with the length of
      the answers, and does not depend on how much public data there is.

    Raises ValueError for any other.
    """
    check_choice(reduction, Reduction, "reduction")
    return divergences.sum() / (max(1, len(divergences)) if reduction == "mean" else samples)


def pair_divergences(
    teacher_logits: Float[Tensor, "b S_u V_t"],
    student_logits: Float[Tensor, "b S_v V_s"],
    pairs: PairIndex,
    *,
    pool: Pool,
    k: int,
    vocabulary_map: Int[Tensor, " V_t"] | None,
) -> Float[Tensor, " n"]:
    """Return the divergence in nats of each of the n aligned pairs of a batch: one KLD of paper Eq. 14.

    The student learns, the teacher does not. Both logits hold the rows that `pairs` counts: row 0 follows the prompt.
    The teacher is the u side of `pairs`; take `pairs.swapped()` for the other direction. The paper's S = min(S1, S2)
    rows are here the aligned ones, which for one tokenizer is the same.

    Raises ValueError for an unknown pool, and when the logits and the pairs are of different batches, PoolError as
    `pooled_kl`.
    """
    check_choice(pool, Pool, "pool")
    sides = (("teacher", teacher_logits, pairs.rows[0]), ("student", student_logits, pairs.rows[1]))
    for side, logits, rows in sides:
        if logits.dim() != 3 or logits.shape[0] != len(pairs) or logits.shape[1] < rows:
            wanted = f"({len(pairs)}, at least {rows}, vocabulary)"
            raise ValueError(f"{side} logits must be {wanted} for these pairs, got {tuple(logits.shape)}")
    pairs = pairs.to("cpu")  # where finding what is masked makes nobody wait
    sample, column = pairs.mask.nonzero(as_tuple=True)
    found = (sample, pairs.u[sample, column], pairs.v[sample, column])
    sample, u, v = (index.to(student_logits.device, non_blocking=True) for index in found)
    teacher_rows = teacher_logits[sample, u]  # (n, V_t), n pairs in the whole batch
    student_rows = student_logits[sample, v]  # (n, V_s)
    return pooled_kl(teacher_rows, student_rows, pool, k, vocabulary_map)


def pooled_kl(
    teacher_logits: Float[Tensor, "n V_t"],
    student_logits: Float[Tensor, "n V_s"],
    pool: Pool,
    k: int,
    vocabulary_map: Int[Tensor, " V_t"] | None,
) -> Float[Tensor, " n"]:
    """Return KL(pool(teacher) || pool(student)) of every row in nats: one summand of paper Eq. 14.

    The teacher's logits are a constant, the student's get gradients; both are computed in float32 at
    least. Teacher first, as Eq. 15 and 16 name the arguments. The pools:

    topk: the k most probable teacher tokens that the student has, each a bin, and "rest" for everything else. Ids
      are matched through `vocabulary_map`, student's id or -1; None means equal ids. Teacher ids of one
      student id are one token: their probabilities add up.
    sorted: both distributions sorted in descending order, the first k and "rest": needs no common vocabulary.
    avg: adaptive average pooling of the logits over the vocabulary to k bins, then softmax.
    none: the whole distributions; raises PoolError unless both vocabularies are the same.

    "rest" = log(1 - sum of the k bins) with floor 1e-8, computed as the sum of the other tokens, which is the same
    number without the cancellation. Values are >= 0 up to rounding and 0 only if the pooled distributions are equal.
    """
    check_choice(pool, Pool, "pool")
    if k < 1:
        raise ValueError(f"the number of bins k must be at least 1, got {k}")
    dtype = torch.promote_types(torch.promote_types(teacher_logits.dtype, student_logits.dtype), torch.float32)
    teacher, student = teacher_logits.detach().to(dtype), student_logits.to(dtype)
    if pool == "topk":
        return _kl(*_top_bins(teacher.log_softmax(-1), student.log_softmax(-1), k, vocabulary_map))
    if pool == "sorted":
        k = min(k, teacher.shape[-1], student.shape[-1])
        return _kl(_sorted_bins(teacher.log_softmax(-1), k), _sorted_bins(student.log_softmax(-1), k))
    if pool == "avg":
        teacher, student = (functional.adaptive_avg_pool1d(logits, k) for logits in (teacher, student))
    else:
        _check_same_vocabulary(teacher.shape[-1], student.shape[-1], vocabulary_map)
    return _kl(teacher.log_softmax(-1), student.log_softmax(-1))


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Return sum p (log p - log q) over the last axis; a bin with p = 0 adds nothing, also where log p is -inf."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0).sum(-1)


def _top_bins(
    teacher: torch.Tensor, student: torch.Tensor, k: int, vocabulary_map: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probabilities of the teacher's top k common tokens and of the rest, each (n, k + 1)."""
    common, shared_ids = _on_shared_tokens(teacher, student.shape[-1], vocabulary_map)  # (n, m [+ 1]), (m,)
    if not len(shared_ids):
        raise PoolError("pool 'topk' needs tokens that both models have, the vocabulary map holds none; use sorted")
    top = common[:, : len(shared_ids)].topk(min(k, len(shared_ids)), dim=-1).indices
    return _with_rest(common, top), _with_rest(student, shared_ids[top])


def _on_shared_tokens(
    log_p: torch.Tensor, student_size: int, vocabulary_map: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the teacher's log-probabilities of the m tokens the student has, and the student's ids of these (m,).

    If the teacher has other tokens, one more column holds their probability together, so that nothing is lost.
    """
    size = log_p.shape[-1]
    if vocabulary_map is None:
        m = min(size, student_size)
        ids = torch.arange(m, device=log_p.device)
        if m == size:
            return log_p, ids
        return torch.cat([log_p[:, :m], log_p[:, m:].logsumexp(-1, keepdim=True)], dim=-1), ids
    table = vocabulary_map.cpu()  # counting its ids on a GPU would wait for it
    if len(table) != size:
        raise ValueError(f"the vocabulary map must have the teacher's {size} ids, got {len(table)}")
    ids, column = torch.unique(table, return_inverse=True)
    mass = log_p.new_zeros(len(log_p), len(ids)).index_add_(-1, column.to(log_p.device, non_blocking=True), log_p.exp())
    unmapped = int((ids < 0).sum())  # 1 if -1 occurs; `unique` sorts, so it is the first column
    return mass.roll(-unmapped, dims=-1).log(), ids[unmapped:].to(log_p.device, non_blocking=True)


def _sorted_bins(log_p: torch.Tensor, k: int) -> torch.Tensor:
    """Return the k largest log-probabilities in descending order and that of the rest, (n, k + 1)."""
    return _with_rest(log_p, log_p.topk(k, dim=-1).indices)


def _with_rest(log_p: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities in `columns` (n, k) and of everything else together, (n, k + 1)."""
    nothing = torch.finfo(log_p.dtype).min  # finite, so that the gradient cannot become NaN when no other token is left
    rest = log_p.scatter(-1, columns, nothing).logsumexp(-1, keepdim=True).clamp(min=math.log(REST_FLOOR))
    return torch.cat([log_p.gather(-1, columns), rest], dim=-1)


def _check_same_vocabulary(teacher_size: int, student_size: int, vocabulary_map: torch.Tensor | None) -> None:
    if teacher_size != student_size:
        sizes = f"{teacher_size} and {student_size} ids"
        raise PoolError(f"pool 'none' needs two models of one vocabulary, got {sizes}; use topk or sorted")
    if vocabulary_map is not None:
        table = vocabulary_map.cpu()
        moved = int(((table >= 0) & (table != torch.arange(len(table)))).sum())
        if moved:
            raise PoolError(
                f"pool 'none' needs two models of one vocabulary, but {moved} ids differ; use topk or sorted"
            )
