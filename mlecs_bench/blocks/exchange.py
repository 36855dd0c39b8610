"""Which tensors of a model's parts parties can exchange."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlecs_bench.doors.hookspecs import PER_MODALITY

if TYPE_CHECKING:
    import torch

    from mlecs_bench.models.unified import UnifiedModel


def held_tensors(model: UnifiedModel, part: str, modalities: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the tensors of one part of `model` that a device holding `modalities` shares with other parties.

    Tensors of other modalities are left out, and so is the constant soft prompt, which only a device without any
    modality has. Names are as in `UnifiedModel.part`.
    """
    return {
        name: tensor
        for name, tensor in model.part(part).items()
        if name != "constant" and (part not in PER_MODALITY or name.split("/", 1)[0] in modalities)
    }
