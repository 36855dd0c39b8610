"""SLM-enhanced cross-modal contrastive learning at the server (paper, section 3.4)."""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from mlecs_bench.api import (
    Objective,
    Representation,
    Server,
    Stage,
    Supervised,
    Terms,
    contrastive_loss,
    rng,
    server_parts,
    transfer_between,
)
from mlecs_plugins.ml_ecs.ccl import stack_hidden
from mlecs_plugins.ml_ecs.options import MlEcsOptions

SLM_TRAINED = ("soft_prompt", "lora")
"""φ^slm and the SLM's own soft-prompt generator; its input s is the server's and detached."""


def objective(server: Server, t: int, options: MlEcsOptions, *, contrasts: bool = True) -> Objective:
    """Return L_llm (Eq. 15) + L_slm (Eq. 16) on D' from one forward pass, which take the round's server steps.

    L_llm = L_lb + ½ (A2O + O2A) + λ KT(slm → llm) trains φ^s, connector and encoders of the server's model;
    L_slm = L_lb + λ KT(llm → slm) trains φ^slm and the SLM's soft-prompt generator. The two sets of parameters are
    disjoint and teachers are detached, so one backward pass of the sum gives both gradients. Its terms: `llm` and `slm`
    (L_lb), `contrast` (left out unless `contrasts`), `into_llm` and `into_slm` (λ KT, left out where λ is 0).
    """
    steps = server.training.budget.server
    anchors = itertools.cycle(draw_anchors(server, t, steps))

    def terms(rows: Int64[np.ndarray, " b"]) -> Terms:
        seen, llm_side, slm_side = both_sides(server, rows)
        found = {"llm": llm_side.loss, "slm": slm_side.loss}
        if contrasts:
            found["contrast"] = contrast(seen, server.model.modalities, next(anchors), options)
        if options.kt_weight:
            small, large = (server.slm, slm_side), (server.model, llm_side)
            found["into_llm"] = options.kt_weight * transfer_between(small, large, options)
            found["into_slm"] = options.kt_weight * transfer_between(large, small, options)
        return Terms(found)

    trained = server_parts(server.training, options.server_trains_encoders)
    stage = Stage("se-ccl", "server", t, steps, [(server.model, trained), (server.slm, SLM_TRAINED)])
    return Objective(server.train, stage, terms)


def both_sides(server: Server, rows: Int64[np.ndarray, " b"]) -> tuple[Representation, Supervised, Supervised]:
    """Return what the server's model sees in public samples, and the forward passes of LLM and SLM over it."""
    batch, targets = server.train.batch(rows), server.train.targets(rows)
    seen = server.model.represent(batch)
    llm_side = server.model.supervise(server.model.soft_prompt(seen, len(batch)), server.prompt, targets)
    slm_soft = server.slm.connector.soft_prompt(fused_of(seen).detach())
    return seen, llm_side, server.slm.supervise(slm_soft, server.prompt, targets)


def draw_anchors(server: Server, t: int, steps: int) -> list[str]:
    """Return the anchor modality of every batch, drawn uniformly from M."""
    modalities = server.model.modalities
    return [modalities[int(i)] for i in rng(server.seed, "anchor", t).integers(len(modalities), size=steps)]


def fused_of(representation: Representation) -> Float[Tensor, "b d_s"]:
    """Return s of the omni-modal server, which always has modalities to fuse."""
    if representation.fused is None:
        raise ValueError("the server's model has no modality; a dataset needs at least one")
    return representation.fused


def contrast(
    seen: Representation, modalities: tuple[str, ...], anchor: str, options: MlEcsOptions
) -> Float[Tensor, ""]:
    """Return ½ (A2O + O2A) with h(anchor) as anchors, with gradient, and the other modalities as the set (Eq. 11).

    Samples that lack the anchor modality take no part.
    """
    others = tuple(m for m in modalities if m != anchor)
    if not others:
        return seen.hidden[anchor].sum() * 0.0
    hidden, present = stack_hidden(seen, others)
    have = seen.present[anchor].nonzero().squeeze(1)
    rows = have.to(hidden.device)
    loss, _, _ = contrastive_loss(seen.hidden[anchor][rows], hidden[rows], options.temperature, present[have])
    return loss
