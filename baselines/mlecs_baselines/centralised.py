"""Centralised: every model is trained where all data are, which no federation allows; the bound from above."""

from __future__ import annotations

from collections.abc import Mapping

from mlecs_bench.api import (
    ALL_PARTS,
    AlgorithmInfo,
    Control,
    Device,
    Message,
    Needs,
    NoOptions,
    Server,
    Stage,
    hookimpl,
    supervised_loss,
    train_server,
    train_stage,
)


class Centralised:
    """Every party's own model takes its steps on the training data of all parties; messages are empty."""

    def __init__(self, options: NoOptions) -> None:
        self.options = options

    def broadcast(self, server: Server, t: int) -> Mapping[str, Message]:
        """Send nothing."""
        return {}

    def receive(self, device: Device, message: Message, t: int) -> None:
        """Take nothing."""

    def local_update(self, device: Device, t: int) -> Message:
        """Minimise L_lb over {E, proj, fus, spg, φ} on the pool; send nothing."""
        stage = Stage("pooled", "pooled", t, device.training.budget.pooled, [(device.model, ALL_PARTS)])
        train_stage(device, device.pool, stage, supervised_loss(device.model, device.pool, device.prompt))
        return Message()

    def aggregate(self, server: Server, uploads: Mapping[str, Message], t: int) -> None:
        """Minimise L_lb over the server's model on the pool."""
        train_server(server, server.pool, t)


BOUND = Control(
    role="ceiling",
    label="centralised",
    says="the same steps on the data of all parties, which no federation allows: how much there is to gain at all",
)


@hookimpl
def mlecs_algorithm() -> AlgorithmInfo:
    """Return the card of Centralised."""
    return AlgorithmInfo(
        title="Centralised",
        summary="every model is trained on the private and public data of all: the bound from above, not a federation",
        paper="none: a control row of ours",
        build=Centralised,
        server_score=True,
        needs=lambda _: Needs(private_stages=0, pool=True, copes=("absence", "drift")),
        control=lambda _: BOUND,
        reproduced=("Nothing: the paper has no such row.",),
        readings=(
            "A control row: the models, initial weights and steps of Standalone with public data, and everybody's "
            "data; what it has more is how much there is to gain by working together.",
            "A device's model sees a sample of another device through the modalities that both devices hold; a sample "
            "of which it sees nothing is left out. Public samples are seen as always.",
            "Where modalities come and go, the pool of a round has what both devices hold in that round.",
            "Under either budget a device's model takes the 2q steps a round that an algorithm with a private and a "
            "public stage takes; the server's takes q.",
        ),
        deviations=("Raw data would have to move, which is not counted.",),
    )
