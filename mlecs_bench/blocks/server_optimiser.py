"""Server steps that treat what the devices changed as a gradient (Reddi et al. 2021, Algorithm 2).

FedAvg is `weighted_mean` of `aggregate`; these are the adaptive ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from mlecs_bench.errors import PluginError, check_choice

ServerRule = Literal["fedadagrad", "fedadam", "fedyogi"]
"""Which adaptive step a server takes.

It divides by the root of a sum of squares (fedadagrad), of a running mean of them (fedadam), or of one that moves by
the sign of the difference (fedyogi).
"""
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class ServerOptimiser:
    """Which rule, and its η (`rate`), τ (`tau`), β1 and β2. FedAdagrad has no momentum, so it uses neither β.

    Raises ValueError for an unknown rule, and unless η and τ are positive and the betas within [0, 1).
    """

    rule: ServerRule
    rate: float = 1e-3
    tau: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.99

    def __post_init__(self) -> None:
        check_choice(self.rule, ServerRule, "the server's rule")
        for name in ("rate", "tau"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"the server's {name} must be above 0 and finite, got {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"the server's {name} must be at least 0 and below 1, got {getattr(self, name)}")


def adaptive_step(
    optimiser: ServerOptimiser, current: Tensors, received: Mapping[str, Tensors], state: Tensors
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the new value of every tensor that some device sent, and the state for the next step.

    w ← w + η m / (√v + τ) element by element, with Δ the unweighted mean of w_j - w over the devices j that hold w
    and m, v moved by Δ. `current` holds w by name, `received` maps a device's id to its w_j. `state` is what the last
    step returned, {} before the first: "m/name" and "v/name" in float64, from m = 0 and v = τ². A tensor that no
    device holds keeps its value and its state. Devices are added in the order of their ids and in float64. Raises
    PluginError for a tensor that `current` lacks.
    """
    new, state = {}, dict(state)
    for name in sorted({name for tensors in received.values() for name in tensors}):
        if name not in current:
            raise PluginError(f"the server has no tensor '{name}' to step from; send only what both sides hold")
        w = _wide(current[name])
        sent = [_wide(received[j][name]) for j in sorted(received) if name in received[j]]
        delta = torch.stack([w_j - w for w_j in sent]).mean(dim=0)
        m, v = _moments(optimiser, delta, state.get(f"m/{name}"), state.get(f"v/{name}"))
        if optimiser.rule != "fedadagrad":
            state[f"m/{name}"] = m
        state[f"v/{name}"] = v
        new[name] = (w + optimiser.rate * m / (v.sqrt() + optimiser.tau)).to(current[name].dtype)
    return new, state


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", torch.float64)


def _moments(
    optimiser: ServerOptimiser, delta: torch.Tensor, m: torch.Tensor | None, v: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return m and v after one step by Δ; None stands for their first values."""
    m = torch.zeros_like(delta) if m is None else m
    v = torch.full_like(delta, optimiser.tau**2) if v is None else v
    square = delta.square()
    if optimiser.rule == "fedadagrad":
        return delta, v + square
    m = optimiser.beta1 * m + (1 - optimiser.beta1) * delta
    if optimiser.rule == "fedyogi":
        return m, v - (1 - optimiser.beta2) * square * torch.sign(v - square)
    return m, optimiser.beta2 * v + (1 - optimiser.beta2) * square
