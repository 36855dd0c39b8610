"""Adaptive multimodal tuning on devices (paper, section 3.2)."""

from __future__ import annotations

from mlecs_bench.api import Device, Objective, Stage, Terms, supervised_loss
from mlecs_plugins.ml_ecs.options import TuningOptions, parts_of


def objective(device: Device, t: int, options: TuningOptions) -> Objective:
    """Return L^amt(D_j) = L_lb(D_j) (Eq. 12), which takes the round's private steps over the parts in `amt_trains`."""
    supervised = supervised_loss(device.model, device.train, device.prompt)
    stage = Stage("amt", "private", t, device.training.budget.private, [(device.model, parts_of(options.amt_trains))])
    return Objective(device.train, stage, lambda rows: Terms({"supervised": supervised(rows)}))
