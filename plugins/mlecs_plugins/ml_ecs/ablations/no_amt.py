"""ML-ECS without adaptive multimodal tuning: devices never train on their private data."""

from __future__ import annotations

import dataclasses

from mlecs_bench.api import AlgorithmInfo, Device, Needs, hookimpl
from mlecs_plugins.ml_ecs.ablations import OURS, about, completed
from mlecs_plugins.ml_ecs.algorithm import MlEcs
from mlecs_plugins.ml_ecs.card import card_without
from mlecs_plugins.ml_ecs.options import ServerOptions


class NoAmt(MlEcs):
    """The LoRA that CCL leaves is what a device sends and is scored with."""

    def __init__(self, options: ServerOptions) -> None:
        super().__init__(completed(options))

    def tune(self, device: Device, t: int) -> None:
        """Leave the private data untouched."""


@hookimpl
def mlecs_algorithm() -> AlgorithmInfo:
    """Return the card of the ablation."""
    info = dataclasses.replace(
        card_without("amt"),
        title="ML-ECS without AMT",
        summary="ML-ECS whose devices upload what contrastive alignment on the public data has left",
        build=NoAmt,
        options=ServerOptions,
        needs=lambda _: Needs(
            private_stages=0, public_stage=True, same=("lora",), one_width=True, copes=("absence", "drift")
        ),
    )
    return about(
        info,
        readings=(
            OURS,
            "Devices take half the steps of ML-ECS, since nothing replaces those on the private data.",
            "The devices' encoders are never trained, since they rest in CCL unless -o ccl_trains names them.",
        ),
    )
