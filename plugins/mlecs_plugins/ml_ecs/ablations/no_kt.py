"""ML-ECS without knowledge transfer: λ = 0 in Eq. 15 and 16."""

from __future__ import annotations

import dataclasses

from mlecs_bench.api import AlgorithmInfo, hookimpl
from mlecs_plugins.ml_ecs.ablations import OURS, about, completed
from mlecs_plugins.ml_ecs.algorithm import MlEcs
from mlecs_plugins.ml_ecs.card import card_without
from mlecs_plugins.ml_ecs.options import TuningOptions


class NoKt(MlEcs):
    """SE-CCL trains the LLM by L_lb and the contrast, the SLM by L_lb."""

    def __init__(self, options: TuningOptions) -> None:
        super().__init__(completed(options, kt_weight=0.0))


@hookimpl
def mlecs_algorithm() -> AlgorithmInfo:
    """Return the card of the ablation."""
    info = dataclasses.replace(
        card_without("transfer"),
        title="ML-ECS without knowledge transfer",
        summary="ML-ECS whose server trains LLM and SLM side by side, the LLM with its contrast, without transfer",
        build=NoKt,
        options=TuningOptions,
    )
    return about(
        info,
        readings=(OURS, "The SLM is still trained on the public data, as in ML-ECS with -o kt_weight=0."),
    )
