"""Averages of named tensors over devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch

State = Mapping[str, torch.Tensor]


def weighted_mean(states: Mapping[str, State], weights: Mapping[str, float]) -> dict[str, torch.Tensor]:
    """Return, tensor by tensor, Σ_j w_j θ_j / Σ_j w_j over the devices j that hold θ.

    `states` maps a device's id to its tensors, `weights` to its non-negative weight. Devices are added in the order
    of their ids and in float64, so the result does not depend on the order they came in. A tensor held by nobody with
    a positive weight is left out. Raises ValueError for a negative or infinite weight.
    """
    if any(not 0 <= weights[j] < float("inf") for j in states):
        raise ValueError(f"weights must be finite and at least 0, got {dict(weights)}")
    mean = {}
    for name in sorted({name for state in states.values() for name in state}):
        holders = [j for j in sorted(states) if name in states[j] and weights[j] > 0]
        if not holders:
            continue
        total = sum(weights[j] for j in holders)
        first = states[holders[0]][name]
        sum_ = torch.zeros_like(first, dtype=torch.float64)
        for j in holders:
            sum_ += states[j][name].to(torch.float64) * (weights[j] / total)
        mean[name] = sum_.to(first.dtype)
    return mean


def rank_weighted_mean(
    states: Mapping[str, State], weights: Mapping[str, float], previous: State | None = None
) -> dict[str, torch.Tensor]:
    """Return the mean of LoRA adapters of different ranks, each rank index over the devices whose rank reaches it.

    With S_ρ = {j: r_j >= ρ} and p_j ∝ w_j, row ρ of A is Σ_{S_ρ} p_j A_j[ρ, :] / Σ_{S_ρ} p_j, and column ρ of B
    likewise (FediLoRA, arXiv 2509.06984). The tensors end in lora_A (r, in) or lora_B (out, r); the name decides, so
    a module whose widths equal a rank is averaged right. The result has the largest rank. What no device of positive
    weight holds, a tensor or its last indices, is taken from `previous` (the last global adapter, on the same torch
    device), or left out without one. Order and weights are as in `weighted_mean`; equal ranks give its bits.
    """
    adapters = [*states.values(), previous or {}]
    cuts = sorted({0, *(tensor.shape[rank_axis(name)] for lora in adapters for name, tensor in lora.items())})
    bands = weighted_mean({j: _bands(lora, cuts) for j, lora in states.items()}, weights)
    bands = _bands(previous or {}, cuts) | bands
    parts: dict[str, list[torch.Tensor]] = {}
    for key in sorted(bands):
        parts.setdefault(key.rpartition("|")[0], []).append(bands[key])
    return {name: torch.cat(ordered, dim=rank_axis(name)) for name, ordered in parts.items()}


def truncated(lora: State, rank: int) -> dict[str, torch.Tensor]:
    """Return copies of an adapter's first `rank` rows of A and columns of B; raises ValueError if it has fewer."""
    short = {}
    for name, tensor in lora.items():
        axis = rank_axis(name)
        if not 1 <= rank <= tensor.shape[axis]:
            raise ValueError(f"'{name}' has rank {tensor.shape[axis]} and cannot be cut to {rank}")
        short[name] = tensor.detach().narrow(axis, 0, rank).clone(memory_format=torch.contiguous_format)
    return short


def rank_axis(name: str) -> int:
    """Return the axis of a LoRA tensor that its rank is the length of: 0 of lora_A, 1 of lora_B.

    Raises ValueError for the name of any other tensor.
    """
    axis = {"lora_A": 0, "lora_B": 1}.get(name.rsplit(".", 1)[-1])
    if axis is None:
        raise ValueError(f"'{name}' is no tensor of a LoRA adapter; its name must end in lora_A or lora_B")
    return axis


def _bands(lora: State, cuts: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the parts of an adapter between two neighbouring ranks of `cuts`, each named by tensor and first index."""
    return {
        f"{name}|{start:09d}": tensor.detach().narrow(rank_axis(name), start, end - start)
        for name, tensor in lora.items()
        for start, end in pairwise(cuts)
        if end <= tensor.shape[rank_axis(name)]
    }
