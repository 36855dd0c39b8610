"""ML-ECS without contrastive learning on devices: nothing aligns their representations with the server's."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from mlecs_bench.api import (
    AlgorithmInfo,
    Device,
    Message,
    Server,
    hookimpl,
    minimise,
    option,
    supervised_loss,
    train_stage,
)
from mlecs_plugins.ml_ecs import ccl, se_ccl
from mlecs_plugins.ml_ecs.ablations import OURS, about
from mlecs_plugins.ml_ecs.algorithm import MlEcs
from mlecs_plugins.ml_ecs.card import card_without
from mlecs_plugins.ml_ecs.options import MlEcsOptions


@dataclass(frozen=True)
class NoCclOptions(MlEcsOptions):
    """Options of ML-ECS without CCL."""

    scope: Literal["devices", "both"] = option(
        "devices", help="where the contrast is dropped: both leaves it out of SE-CCL too", source="ours"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scope == "both" and self.temperature != MlEcsOptions.temperature:
            raise ValueError(
                f"option 'temperature' has no effect with scope=both, got {self.temperature}; leave it out"
            )


class NoCcl(MlEcs):
    """Devices keep their steps on the public data and minimise L_lb(D'_j) in them; no anchors are sent."""

    def __init__(self, options: NoCclOptions) -> None:
        super().__init__(options)
        self.scope = options.scope

    def anchors(self, server: Server, t: int) -> Message:
        """Return nothing: no device would use it."""
        return Message()

    def align(self, device: Device, t: int) -> None:
        """Train what CCL trains, without the contrast."""
        loss = supervised_loss(device.model, device.public, device.prompt)
        train_stage(device, device.public, ccl.public_stage(device, t, self.options.ccl_trains), loss)

    def transfer(self, server: Server, t: int) -> None:
        """SE-CCL, with the server's contrast unless that is dropped too."""
        minimise(server, se_ccl.objective(server, t, self.options, contrasts=self.scope == "devices"))


@hookimpl
def mlecs_algorithm() -> AlgorithmInfo:
    """Return the card of the ablation."""
    info = dataclasses.replace(
        card_without("ccl"),
        title="ML-ECS without CCL",
        summary="ML-ECS whose devices train on the public data without the contrast to the server's anchors",
        build=NoCcl,
        options=NoCclOptions,
    )
    return about(
        info,
        readings=(
            OURS,
            "Devices take the same steps on the same public batches over the same parts (-o ccl_trains), for L_lb "
            "alone; nothing but LoRA travels down.",
            "The server keeps the contrast of SE-CCL: -o scope=both drops it too.",
        ),
    )
