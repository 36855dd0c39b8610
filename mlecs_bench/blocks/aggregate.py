"""Averages of named tensors over devices."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def weighted_mean(
    states: Mapping[str, Mapping[str, torch.Tensor]], weights: Mapping[str, float]
) -> dict[str, torch.Tensor]:
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
