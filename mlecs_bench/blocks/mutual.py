"""Knowledge transfer between two unified models that read the same answers, and its options."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Float, Int64
from torch import Tensor

from mlecs_bench.blocks.alignment import PairIndex, Unmatched, agreement, answer_pairs, vocabulary_map
from mlecs_bench.blocks.transfer import Pool, Reduction, pair_divergences, transfer_loss
from mlecs_bench.doors.options import option
from mlecs_bench.errors import check_choice

if TYPE_CHECKING:
    from mlecs_bench.models.unified import Supervised, UnifiedModel

AGREEMENT_FOR_TOPK = 0.95
"""Least share of ids with the same string in both vocabularies for pooling token by token."""


PoolChoice = Literal["auto", "topk", "sorted", "avg", "none"]
"""A `Pool`, or auto: topk where the two vocabularies nearly agree, else sorted."""


@dataclass(frozen=True)
class TransferOptions:
    """Options of the transfer between two language models; options of an algorithm that uses it inherit them.

    Raises ValueError for a value that is none.
    """

    kt_weight: float = option(1.0, help="λ of the knowledge-transfer losses", source="paper Eq. 15-16 (weight 1)")
    kt_reduction: Reduction = option(
        "mean",
        help="mean: over all aligned positions of a batch, as L_lb is over tokens; sum: over the positions of a "
        "sample, then the mean over samples",
        source="paper Eq. 15-16 (both terms weigh 1 per token); FedMKT too averages over tokens",
    )
    kt_pool: PoolChoice = option(
        "auto",
        help="how output logits are pooled before the divergence; auto: topk where 95 % of the two vocabularies "
        "agree, else sorted, which needs no map between them",
        source="ours; FedMKT pools the top K",
    )
    kt_bins: int = option(128, help="K, the number of pooled bins", source="FedMKT")
    kt_vocabulary: Unmatched = option(
        "edit-distance",
        help="what becomes of teacher tokens that the student's tokenizer lacks: the nearest token, or the rest bin",
        source="ours; FedMKT uses the minimum edit distance",
    )

    def __post_init__(self) -> None:
        check_choice(self.kt_reduction, Reduction, "option 'kt_reduction'")
        check_choice(self.kt_pool, PoolChoice, "option 'kt_pool'")
        check_choice(self.kt_vocabulary, Unmatched, "option 'kt_vocabulary'")
        if not 0 <= self.kt_weight < math.inf:
            raise ValueError(f"option 'kt_weight' must be at least 0 and finite, got {self.kt_weight}")
        if self.kt_bins < 1:
            raise ValueError(f"option 'kt_bins' must be at least 1, got {self.kt_bins}")


def transfer_between(
    teacher: tuple[UnifiedModel, Supervised],
    student: tuple[UnifiedModel, Supervised],
    options: TransferOptions,
) -> Float[Tensor, ""]:
    """Return KT(teacher → student) (paper Eq. 14) of one batch, without λ; the teacher gets no gradient.

    Each side is a model with its forward pass over the same answers. Positions are paired where both models have read
    the same text.
    """
    ours, theirs = teacher[0].backbone, student[0].backbone
    texts = teacher[1].answers.texts
    pairs = PairIndex.of([pairs_between(ours.tokenizer, theirs.tokenizer, text) for text in texts])
    table = map_between(ours.tokenizer, theirs.tokenizer, ours.vocab_size, theirs.vocab_size, options.kt_vocabulary)
    pool = pool_between(ours.tokenizer, theirs.tokenizer) if options.kt_pool == "auto" else options.kt_pool
    divergences = pair_divergences(
        teacher[1].logits, student[1].logits, pairs, pool=pool, k=options.kt_bins, vocabulary_map=table
    )
    return transfer_loss(divergences, len(pairs), options.kt_reduction)


@lru_cache(maxsize=1 << 16)
def pairs_between(one: Any, other: Any, text: str) -> list[tuple[int, int]]:
    """Return the aligned positions of one answer in two tokenizers, computed once per process."""
    return answer_pairs(one, other, text)


@lru_cache(maxsize=8)
def pool_between(one: Any, other: Any) -> Pool:
    """Return the pool for two tokenizers: topk compares token by token, which needs (nearly) one vocabulary.

    Where words are split differently, a map of tokens moves the teacher's mass to tokens that do not continue the
    text in the student's own segmentation.
    """
    return "topk" if agreement(one, other) >= AGREEMENT_FOR_TOPK else "sorted"


@lru_cache(maxsize=8)
def map_between(
    teacher: Any, student: Any, teacher_size: int, student_size: int, unmatched: Unmatched
) -> Int64[Tensor, " V_t"]:
    """Return the vocabulary map of a pair of tokenizers, computed once; a key that held the models would keep them."""
    return vocabulary_map(teacher, student, teacher_size=teacher_size, student_size=student_size, unmatched=unmatched)
