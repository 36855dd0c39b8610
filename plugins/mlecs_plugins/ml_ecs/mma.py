"""Modality-aware model aggregation (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mlecs_bench.api import Message, weighted_mean


def modality_weights(uploads: Mapping[str, Message]) -> dict[str, float]:
    """Return |M_j| of every device; divided by their sum they are w_j of Eq. 13."""
    return {id_: float(message.scalars["num_modalities"]) for id_, message in uploads.items()}


def merge(uploads: Mapping[str, Message], weights: Mapping[str, float]) -> dict[str, torch.Tensor]:
    """Return Σ w_j φ_j, tensor by tensor; empty when every weight is 0 (then the old φ stays)."""
    return weighted_mean({id_: message.of_kind("lora") for id_, message in uploads.items()}, weights)
