"""ML-ECS without modality-aware aggregation: every device has the same weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from mlecs_bench.api import AlgorithmInfo, Message, hookimpl
from mlecs_plugins.ml_ecs.ablations import PRINTED, about
from mlecs_plugins.ml_ecs.algorithm import MlEcs
from mlecs_plugins.ml_ecs.card import card_without


class NoMma(MlEcs):
    """w_j = 1 / N in Eq. 13, also for a device without modalities."""

    def weights(self, uploads: Mapping[str, Message]) -> dict[str, float]:
        """Return equal weights."""
        return dict.fromkeys(uploads, 1.0)


@hookimpl
def mlecs_algorithm() -> AlgorithmInfo:
    """Return the card of the ablation."""
    info = dataclasses.replace(
        card_without("mma"),
        title="ML-ECS without MMA",
        summary="ML-ECS with the plain mean of the devices' LoRA instead of modality-aware aggregation",
        paper=PRINTED,
        build=NoMma,
    )
    return about(
        info,
        reproduced=("All devices' uploads are averaged uniformly (the paper's 'w/o MAA').",),
        readings=("|M_j| is still sent, and not used.",),
    )
