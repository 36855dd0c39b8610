"""ML-ECS without SE-CCL: the server's LLM and SLM do not learn from each other."""

from __future__ import annotations

import dataclasses

from mlecs_bench.api import AlgorithmInfo, Server, Stage, hookimpl, server_parts, supervised_loss, train_stage
from mlecs_plugins.ml_ecs.ablations import PRINTED, about, completed
from mlecs_plugins.ml_ecs.algorithm import MlEcs
from mlecs_plugins.ml_ecs.card import card_without
from mlecs_plugins.ml_ecs.options import TuningOptions


class NoSeCcl(MlEcs):
    """φ^slm goes back to the devices as MMA has left it; the server's steps minimise L_lb(D') of the LLM alone."""

    def __init__(self, options: TuningOptions) -> None:
        super().__init__(completed(options))

    def transfer(self, server: Server, t: int) -> None:
        """Train the server's model on its own."""
        trained = server_parts(server.training, self.options.server_trains_encoders)
        stage = Stage("server", "server", t, server.training.budget.server, [(server.model, trained)])
        train_stage(server, server.train, stage, supervised_loss(server.model, server.train, server.prompt))


@hookimpl
def mlecs_algorithm() -> AlgorithmInfo:
    """Return the card of the ablation."""
    info = dataclasses.replace(
        card_without("se-ccl", "transfer"),
        title="ML-ECS without SE-CCL",
        summary="ML-ECS without contrast and knowledge transfer at the server, whose LLM is trained by L_lb alone",
        paper=PRINTED,
        build=NoSeCcl,
        options=TuningOptions,
    )
    return about(
        info,
        reproduced=("The SE-CCL process is removed (the paper's 'w/o SE-CCL').",),
        readings=(
            "The paper scores the server in this ablation, so some training must remain: L_lb on the public data.",
            "The server still sends its fused representations, and devices align to them.",
        ),
    )
