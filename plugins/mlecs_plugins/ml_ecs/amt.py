"""Adaptive multimodal tuning on devices (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

from mlecs_bench.api import Device, Stage, supervised_loss, train_stage

CONNECTOR = ("projector", "fusion", "soft_prompt")


def tune(device: Device, t: int, trains: Sequence[str]) -> None:
    """Minimise L^amt(D_j) = L_lb(D_j) (Eq. 12) for the round's private steps over the parts named in `trains`."""
    parts = [part for name in trains for part in (CONNECTOR if name == "connector" else (name,))]
    stage = Stage("amt", "private", t, device.training.budget.private, [(device.model, parts)])
    train_stage(device, device.train, stage, supervised_loss(device.model, device.train, device.prompt))
