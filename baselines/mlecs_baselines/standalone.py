"""Standalone: every party trains its own model on its own data; nothing is sent (paper, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlecs_bench.api import (
    ALL_PARTS,
    AlgorithmInfo,
    Control,
    Device,
    Message,
    Needs,
    Server,
    Stage,
    hookimpl,
    option,
    supervised_loss,
    train_on_private,
    train_server,
    train_stage,
)


@dataclass(frozen=True)
class StandaloneOptions:
    """Options of Standalone."""

    use_public: bool = option(
        False,
        help="devices also train on their view of the public data, before the private data",
        source="ours; the paper's devices use their own data only",
    )


class Standalone:
    """Devices take the round's private steps, the server its steps on the public data; messages are empty."""

    def __init__(self, options: StandaloneOptions) -> None:
        self.options = options

    def broadcast(self, server: Server, t: int) -> Mapping[str, Message]:
        """Send nothing."""
        return {}

    def receive(self, device: Device, message: Message, t: int) -> None:
        """Take nothing."""

    def local_update(self, device: Device, t: int) -> Message:
        """Minimise L_lb(D_j) over {E, proj, fus, spg, φ}; send nothing."""
        model, budget = device.model, device.training.budget
        if self.options.use_public:
            stage = Stage("public", "public", t, budget.public, [(model, ALL_PARTS)])
            train_stage(device, device.public, stage, supervised_loss(model, device.public, device.prompt))
        train_on_private(device, t)
        return Message()

    def aggregate(self, server: Server, uploads: Mapping[str, Message], t: int) -> None:
        """Minimise L_lb(D') over the server's model."""
        train_server(server, server.train, t)


WITH_PUBLIC = Control(
    role="floor",
    label="standalone with public data",
    says="the data and the steps of an algorithm with a public stage, and nothing sent: what collaboration has to beat",
)


@hookimpl
def mlecs_algorithm() -> AlgorithmInfo:
    """Return the card of Standalone."""
    return AlgorithmInfo(
        title="Standalone",
        summary="every device and the server train alone on their own data",
        paper="arXiv 2602.14107, section 4.1 (Baselines)",
        build=Standalone,
        options=StandaloneOptions,
        exchanges=(),
        server_score=True,
        needs=lambda options: Needs(public_stage=options.use_public, copes=("absence", "drift")),
        control=lambda options: WITH_PUBLIC if options.use_public else None,
        reproduced=("Devices train on their private data alone, and nothing is sent in either direction.",),
        readings=(
            "The server trains its own model on the public data, since the paper scores it.",
            "Devices do not see the public data, those of ML-ECS do. -o use_public=true adds a public stage and makes "
            "it the control 'standalone with public data' of every study, which collaboration has to beat.",
        ),
    )
