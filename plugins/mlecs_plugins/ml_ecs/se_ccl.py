"""SLM-enhanced cross-modal contrastive learning at the server (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from mlecs_bench.api import (
    PairIndex,
    Pool,
    Representation,
    Server,
    Stage,
    Supervised,
    Unmatched,
    agreement,
    answer_pairs,
    answer_text,
    contrastive_loss,
    rng,
    server_parts,
    train_stage,
    transfer_loss,
    vocabulary_map,
)
from mlecs_plugins.ml_ecs.ccl import stack_hidden
from mlecs_plugins.ml_ecs.options import MlEcsOptions

AGREEMENT_FOR_TOPK = 0.95
"""Least share of ids with the same string in both vocabularies for pooling token by token."""
SLM_TRAINED = ("prompt", "lora")
"""φ^slm and the SLM's own soft-prompt generator; its input s is the server's and detached."""


def transfer(server: Server, t: int, options: MlEcsOptions) -> None:
    """Minimise L_llm (Eq. 15) and L_slm (Eq. 16) on D' from the same forward pass for the round's server steps.

    L_llm = L_lb + ½ (A2O + O2A) + λ KT(slm → llm) trains φ^s, connector and encoders of the server's model;
    L_slm = L_lb + λ KT(llm → slm) trains φ^slm and the SLM's soft-prompt generator. The two sets of parameters are
    disjoint and teachers are detached, so one backward pass of the sum gives both gradients.
    """
    steps = server.training.budget.server
    anchors = iter(draw_anchors(server, t, steps))
    slm, data = server.twin, server.train

    def loss(rows: np.ndarray[Any, Any]) -> torch.Tensor:
        batch = data.batch(rows)
        targets = data.targets(rows)
        seen = server.model.represent(batch)
        llm_side = server.model.supervise(server.model.soft_prompt(seen, len(batch)), server.prompt, targets)
        slm_soft = slm.connector.soft_prompt(fused_of(seen).detach())
        slm_side = slm.supervise(slm_soft, server.prompt, targets)
        total = llm_side.loss + slm_side.loss + contrast(seen, server.model.modalities, next(anchors), options)
        if options.kt_weight:
            total = total + options.kt_weight * mutual_transfer(server, slm_side, llm_side, targets, options)
        return total

    trained = server_parts(server.training, options.server_trains_encoders)
    stage = Stage("se-ccl", "server", t, steps, [(server.model, trained), (slm, SLM_TRAINED)])
    train_stage(server, data, stage, loss)


def draw_anchors(server: Server, t: int, steps: int) -> list[str]:
    """Return the anchor modality of every batch, drawn uniformly from M."""
    modalities = server.model.modalities
    return [modalities[int(i)] for i in rng(server.seed, "anchor", t).integers(len(modalities), size=steps)]


def fused_of(representation: Representation) -> torch.Tensor:
    """Return s of the omni-modal server, which always has modalities to fuse."""
    if representation.fused is None:
        raise ValueError("the server's model has no modality; a dataset needs at least one")
    return representation.fused


def contrast(seen: Representation, modalities: tuple[str, ...], anchor: str, options: MlEcsOptions) -> torch.Tensor:
    """Return ½ (A2O + O2A) with h(anchor) as anchors, with gradient, and the other modalities as the set (Eq. 11).

    Samples that lack the anchor modality take no part.
    """
    others = tuple(m for m in modalities if m != anchor)
    if not others:
        return seen.hidden[anchor].sum() * 0.0
    have = seen.present[anchor].to(seen.hidden[anchor].device)
    hidden, present = stack_hidden(seen, others)
    loss, _, _ = contrastive_loss(seen.hidden[anchor][have], hidden[have], options.temperature, present[have])
    return loss


def mutual_transfer(
    server: Server, slm: Supervised, llm: Supervised, targets: Sequence[str], options: MlEcsOptions
) -> torch.Tensor:
    """Return KT(slm → llm) + KT(llm → slm) (Eq. 14) over positions where both models have read the same text."""
    small, large = server.twin.backbone, server.model.backbone
    pairs = PairIndex.of([pairs_between(small.tokenizer, large.tokenizer, answer_text(t)) for t in targets])
    to_llm = map_between(small.tokenizer, large.tokenizer, small.vocab_size, large.vocab_size, options.kt_vocabulary)
    to_slm = map_between(large.tokenizer, small.tokenizer, large.vocab_size, small.vocab_size, options.kt_vocabulary)
    pool = pool_between(small.tokenizer, large.tokenizer) if options.kt_pool == "auto" else options.kt_pool
    k = options.kt_bins
    into_llm = transfer_loss(slm.logits, llm.logits, pairs, pool=pool, k=k, vocabulary_map=to_llm)
    into_slm = transfer_loss(llm.logits, slm.logits, pairs.swapped(), pool=pool, k=k, vocabulary_map=to_slm)
    return into_llm + into_slm


@lru_cache(maxsize=1 << 16)
def pairs_between(slm: Any, llm: Any, text: str) -> list[tuple[int, int]]:
    """Return the aligned positions of one answer, computed once per process."""
    return answer_pairs(slm, llm, text)


@lru_cache(maxsize=4)
def pool_between(slm: Any, llm: Any) -> Pool:
    """Return the pool for two tokenizers: topk compares token by token, which needs (nearly) one vocabulary.

    Where words are split differently, a map of tokens moves the teacher's mass to tokens that do not continue the
    text in the student's own segmentation, and the student unlearns to write.
    """
    return "topk" if agreement(slm, llm) >= AGREEMENT_FOR_TOPK else "sorted"


@lru_cache(maxsize=4)
def map_between(teacher: Any, student: Any, teacher_size: int, student_size: int, unmatched: Unmatched) -> torch.Tensor:
    """Return the vocabulary map of a pair of tokenizers, computed once; a key that held the models would keep them."""
    return vocabulary_map(teacher, student, teacher_size=teacher_size, student_size=student_size, unmatched=unmatched)
