"""Cross-modal contrastive learning on devices (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mlecs_bench.api import Device, Objective, Representation, Stage, Terms, contrastive_loss
from mlecs_plugins.ml_ecs.anchors import anchors_for
from mlecs_plugins.ml_ecs.options import ContrastOptions, Trained, parts_of


def stack_hidden(
    representation: Representation, modalities: tuple[str, ...]
) -> tuple[Float[Tensor, "b m d_h"], Bool[Tensor, "b m"]]:
    """Return h of m `modalities` side by side, and their presence, which stays on the CPU."""
    hidden = torch.stack([representation.hidden[m] for m in modalities], dim=1)
    present = torch.stack([representation.present[m] for m in modalities], dim=1)
    return hidden, present


def public_stage(device: Device, t: int, trains: Sequence[Trained]) -> Stage:
    """Return the round's stage on the public data, over the parts named in `trains`."""
    return Stage("ccl", "public", t, device.training.budget.public, [(device.model, parts_of(trains))])


def objective(device: Device, t: int, options: ContrastOptions) -> Objective:
    """Return L^ccl(D'_j) = L_lb(D'_j) + ½ (L^A2O + L^O2A) (Eq. 11), which takes the round's public steps.

    The anchors s' are constants. A device without modalities has nothing to align and minimises L_lb alone; where they
    come and go, those of this round are aligned.
    """
    model, data = device.model, device.public

    def terms(rows: Int64[np.ndarray, " b"]) -> Terms:
        batch = data.batch(rows)
        representation = model.represent(batch)
        soft = model.soft_prompt(representation, len(batch))
        supervised = model.supervise(soft, device.prompt, data.targets(rows)).loss
        if not device.modalities:
            return Terms({"supervised": supervised})
        hidden, present = stack_hidden(representation, device.modalities)
        contrast, matched, mismatched = contrastive_loss(
            anchors_for(device, rows), hidden, options.temperature, present
        )
        volumes = {"volume_matched": matched, "volume_mismatched": mismatched}
        return Terms({"supervised": supervised, "contrast": contrast}, watched=volumes)

    return Objective(data, public_stage(device, t, options.ccl_trains), terms)
