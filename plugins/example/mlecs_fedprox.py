"""The algorithm `fedprox`.

It starts as FedProx over LoRA: adapters are averaged, and each is held near the average while it trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlecs_bench.api import (
    ALL_PARTS,
    AlgorithmInfo,
    Device,
    Exchange,
    Message,
    Needs,
    Server,
    Stage,
    hookimpl,
    option,
    proximal_term,
    supervised_loss,
    train_stage,
    weighted_mean,
    with_kind,
)


@dataclass(frozen=True)
class Options:
    """What `-o name=value` sets; the algorithm object holds nothing else."""

    mu: float = option(
        0.01, help="strength of the proximal term mu/2 ||phi - phi_global||^2", source="ours; 0 gives FedAvg"
    )

    def __post_init__(self) -> None:
        if self.mu < 0:
            raise ValueError(f"option 'mu' must be at least 0, got {self.mu}")


class FedProx:
    """Each round: average adapter down, local training held near it, adapters and sample counts up."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def broadcast(self, server: Server, t: int) -> Mapping[str, Message]:
        """Cloud: send the average adapter to every device; in round 1 all parties start equal, so send nothing."""
        if t == 1:
            return {}
        average = Message(with_kind("lora", server.slm.part("lora")))
        return {id_: average for id_ in server.devices}

    def receive(self, device: Device, message: Message, t: int) -> None:
        """Device: start the round from the average adapter."""
        if lora := message.of_kind("lora"):
            device.model.load_part("lora", lora)

    def local_update(self, device: Device, t: int) -> Message:
        """Device: minimise L_lb(D_j) + mu/2 ||phi - phi_global||^2; send the adapter phi and n_j."""
        phi = device.model.part("lora")
        phi_global = {name: tensor.detach().clone() for name, tensor in phi.items()}
        supervised = supervised_loss(device.model, device.train, device.prompt)
        mu, steps = self.options.mu, device.training.budget.private
        stage = Stage("private", "private", t, steps, [(device.model, ALL_PARTS)])
        train_stage(device, device.train, stage, lambda rows: supervised(rows) + proximal_term(phi, phi_global, mu))
        return Message(with_kind("lora", phi), {"n_j": len(device.train)})

    def aggregate(self, server: Server, uploads: Mapping[str, Message], t: int) -> None:
        """Cloud: phi_global = sum of n_j phi_j / sum of n_j."""
        weights = {id_: float(message.scalars["n_j"]) for id_, message in uploads.items()}
        loras = {id_: message.of_kind("lora") for id_, message in uploads.items()}
        server.slm.load_part("lora", weighted_mean(loras, weights))


@hookimpl
def mlecs_algorithm() -> AlgorithmInfo:
    """Return the card that `mlecs-bench show fedprox` prints."""
    return AlgorithmInfo(
        title="Fedprox",
        summary="FedProx over LoRA: the adapters are averaged, and each is held near the average while it trains",
        paper="Li et al. 2020, arXiv 1812.06127",
        build=FedProx,
        options=Options,
        needs=lambda _: Needs(same=("lora",), copes=("absence", "drift")),
        exchanges=(
            Exchange("lora", "both", "LoRA of the SLM", "r * sum(in + out)"),
            Exchange("scalar", "up", "n_j", "1"),
        ),
        reproduced=("The local objective: the supervised loss plus the proximal term around what was broadcast.",),
        readings=(
            "The mean is over the devices that take part in a round, weighted by n_j; the paper draws them with that "
            "probability and takes the plain mean.",
        ),
        deviations=("Only the adapters are shared and held near the average: encoders and connectors stay local.",),
    )
