"""The proximal term: what pulls a device's tensors towards a reference, over all of them or the middle layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from mlecs_bench.errors import PluginError


def proximal_term(
    parameters: Mapping[str, Tensor], reference: Mapping[str, Tensor], strength: float
) -> Float[Tensor, ""]:
    """Return (strength / 2) Σ ||w - w_ref||²_F over `parameters`; its gradient is strength (w - w_ref).

    This is the term of FedProx (Li et al. 2020, Eq. 2), with `strength` its μ. `reference` maps at least the names of
    `parameters` to tensors of the same shape and is held constant. Without parameters the term is 0. Raises
    PluginError for a tensor that the reference lacks or has in another shape.
    """
    squares = []
    for name, tensor in parameters.items():
        fixed = reference.get(name)
        if fixed is None or fixed.shape != tensor.shape:  # a shape that broadcasts would pass without a word
            found = "nothing" if fixed is None else f"shape {tuple(fixed.shape)}"
            raise PluginError(
                f"the proximal term's reference has {found} for '{name}' of shape {tuple(tensor.shape)}; "
                "take the reference from the same part of the same model"
            )
        squares.append((tensor - fixed.detach()).square().sum())
    return strength / 2 * torch.stack(squares).sum() if squares else torch.zeros(())


def layer_of(name: str) -> int | None:
    """Return the layer of a tensor by its name: the first dotted part that is a number, None without one.

    For example 3 for "transformer.h.3.attn.c_attn.lora_A".
    """
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)


def layer_count(names: Iterable[str]) -> int:
    """Return L, one more than the highest layer among tensor names, or 0 when none has a layer."""
    return 1 + max((layer for name in names if (layer := layer_of(name)) is not None), default=-1)


def middle_layers(names: Iterable[str], margin: int) -> range:
    """Return the layers {l: s ≤ l ≤ L - 1 - s} of the network that has these tensor names; s is `margin`.

    With s ≥ L / 2 there are none. Raises ValueError for a negative margin.
    """
    if margin < 0:
        raise ValueError(f"the margin of layers left out at either end must be at least 0, got {margin}")
    return range(margin, layer_count(names) - margin)
