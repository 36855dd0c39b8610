"""Cross-modal contrastive learning on devices (paper, section 3.1)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mlecs_bench.api import Device, Representation, Stage, contrastive_loss, train_stage
from mlecs_plugins.ml_ecs.anchors import anchors_for

TRAINED = ("projector", "fusion", "soft_prompt", "lora")
"""The encoders rest in this stage, as in the first stage of the authors' script; the paper does not say."""


def stack_hidden(
    representation: Representation, modalities: tuple[str, ...]
) -> tuple[Float[Tensor, "b m d_h"], Bool[Tensor, "b m"]]:
    """Return h of m `modalities` side by side, and their presence, which stays on the CPU."""
    hidden = torch.stack([representation.hidden[m] for m in modalities], dim=1)
    present = torch.stack([representation.present[m] for m in modalities], dim=1)
    return hidden, present


def public_stage(device: Device, t: int) -> Stage:
    """Return the round's stage on the public data."""
    return Stage("ccl", "public", t, device.training.budget.public, [(device.model, TRAINED)])


def align(device: Device, t: int, temperature: float) -> None:
    """Minimise L^ccl(D'_j) = L_lb(D'_j) + ½ (L^A2O + L^O2A) (Eq. 11) for the round's public steps.

    The anchors s' are constants. A device without modalities has nothing to align and minimises L_lb alone.
    """
    model, data = device.model, device.public
    volumes: list[Tensor] = []

    def loss(rows: Int64[np.ndarray, " b"]) -> Float[Tensor, ""]:
        batch = data.batch(rows)
        representation = model.represent(batch)
        soft = model.soft_prompt(representation, len(batch))
        total = model.supervise(soft, device.prompt, data.targets(rows)).loss
        if model.modalities:
            hidden, present = stack_hidden(representation, model.modalities)
            contrast, matched, mismatched = contrastive_loss(anchors_for(device, rows), hidden, temperature, present)
            volumes.append(torch.stack([matched.detach(), mismatched.detach()]))
            total = total + contrast
        return total

    train_stage(device, data, public_stage(device, t), loss)
    if volumes:
        matched, mismatched = torch.stack(volumes).mean(dim=0).tolist()
        device.logs |= {"volume_matched": matched, "volume_mismatched": mismatched}
