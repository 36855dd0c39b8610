"""What a loaded model of a family that nobody has tried is looked at for, on a few random inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from mlecs_bench.seeds import torch_generator

Logits = Callable[[Tensor], Tensor]
"""Inputs (b, S, H) → logits of all positions (b, S, V)."""
TOKENS = 6
"""Length of the random inputs, and of answers to them."""
NEAR = 0.01
"""Largest difference, relative to the largest value, of what is the same up to rounding."""
NEAR_IN_FEW_BITS = 0.2
"""The same in a quantised model: with 8 bits, what is kept exact of a position depends on the rest of its batch."""


def trial_inputs(width: int, device: torch.device) -> Float32[Tensor, "2 s {width}"]:
    """Return random inputs of two rows: one batch can hide what the other would show."""
    return torch.randn(2, TOKENS, width, generator=torch_generator(0, "trial")).to(device)


def computes(logits: Logits, embeds: Float[Tensor, "b s H"]) -> bool:
    """Say whether logits and their gradient can be computed and are finite: few bits fit not every family."""
    leaf = embeds.clone().requires_grad_()
    try:
        values = logits(leaf)
        (gradient,) = torch.autograd.grad(values.square().mean(), leaf)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return False
    return bool(torch.isfinite(values).all() and torch.isfinite(gradient).all())


@torch.no_grad()
def is_causal(logits: Logits, embeds: Float[Tensor, "b s H"], near: float = NEAR) -> bool:
    """Say whether what is predicted at a position stays the same when what follows it changes."""
    changed = torch.cat([embeds[:, :-1], -embeds[:, -1:]], dim=1)
    return _near(logits(embeds)[:, :-1], logits(changed)[:, :-1], near)


@torch.no_grad()
def decoded_as_read(
    logits: Logits,
    embed: Callable[[Tensor], Tensor],
    embeds: Float[Tensor, "b s H"],
    decoded: tuple[Int64[Tensor, "b n"], Float[Tensor, "b n V"]],
    near: float = NEAR,
) -> bool:
    """Say whether logits that were decoded with a cache, with their ids, are those of one pass over the same tokens."""
    ids, stepwise = decoded
    whole = logits(torch.cat([embeds, embed(ids[:, :-1]).to(embeds.dtype)], dim=1))
    return _near(whole[:, -ids.shape[1] :], stepwise, near)


def _near(one: Tensor, other: Tensor, near: float) -> bool:
    return bool((one - other).abs().max() <= near * one.abs().max())
