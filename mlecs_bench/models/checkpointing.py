"""Gradient checkpointing that depends on no family: layers are recomputed in evaluation mode, as they were computed.

transformers recomputes a layer only while the layer's own `training` is true, and some families (OPT) drop activations
out in such a layer. Here every layer's call is wrapped, and its mode stays what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mlecs_bench.errors import UsageError

NEAR = 0.02
"""Largest relative difference of a gradient where kernels need not be exact: on a GPU, in 16 bits."""


@dataclass
class Recomputation:
    """Whether layers recompute in the next backward pass: a switch that a model's layers share."""

    on: bool = False


def layers_of(model: Any) -> list[nn.Module]:
    """Return the layers of a causal language model in order: the first list of modules in its decoder."""
    lists = (module for module in model.get_decoder().modules() if isinstance(module, nn.ModuleList))
    return list(next(lists))


def recompute_layers(model: Any) -> Recomputation:
    """Let every layer of `model` drop its activations and compute them again, while the returned switch is on."""
    switch = Recomputation()
    for layer in layers_of(model):
        layer.forward = partial(_recomputed, layer.forward, switch)
    return switch


def _recomputed(forward: Any, switch: Recomputation, *args: Any, **kwargs: Any) -> Any:
    if not (switch.on and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    from torch.utils.checkpoint import checkpoint

    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def check_recomputation(source: str, switch: Recomputation, compute: Any, embeds: Tensor, *, exact: bool) -> None:
    """Raise UsageError unless `compute(embeds)` has the same values and gradients with recomputation and without.

    `exact` asks for equality bit for bit, as on a CPU.
    """
    found = []
    for on in (False, True):
        switch.on = on
        leaf = embeds.clone().requires_grad_()
        values = compute(leaf)
        (gradient,) = torch.autograd.grad(values.float().square().mean(), leaf)
        found.append((values.detach(), gradient))
    switch.on = False
    for plain, recomputed in zip(*found, strict=True):
        near = NEAR * float(plain.abs().max())
        if not (torch.equal(plain, recomputed) if exact else float((plain - recomputed).abs().max()) <= near):
            raise UsageError(
                f"gradient checkpointing would change what '{source}' computes; leave --gradient-checkpointing out"
            )
