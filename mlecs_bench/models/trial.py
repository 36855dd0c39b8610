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


def trial_inputs(width: int, device: torch.device) -> Float32[Tensor, "2 s {width}"]:
    """Return random inputs of two rows: one batch can hide what the other would show."""
    return torch.randn(2, TOKENS, width, generator=torch_generator(0, "trial")).to(device)


@torch.no_grad()
def is_causal(logits: Logits, embeds: Float[Tensor, "b s H"]) -> bool:
    """Say whether what is predicted at a position stays the same when what follows it changes."""
    changed = torch.cat([embeds[:, :-1], -embeds[:, -1:]], dim=1)
    return _near(logits(embeds)[:, :-1], logits(changed)[:, :-1])


@torch.no_grad()
def decoded_as_read(
    logits: Logits,
    embed: Callable[[Tensor], Tensor],
    embeds: Float[Tensor, "b s H"],
    decoded: tuple[Int64[Tensor, "b n"], Float[Tensor, "b n V"]],
) -> bool:
    """Say whether logits that were decoded with a cache, with their ids, are those of one pass over the same tokens."""
    ids, stepwise = decoded
    whole = logits(torch.cat([embeds, embed(ids[:, :-1]).to(embeds.dtype)], dim=1))
    return _near(whole[:, -ids.shape[1] :], stepwise)


def _near(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= NEAR * one.abs().max())
