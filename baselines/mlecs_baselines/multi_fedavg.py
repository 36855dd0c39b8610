"""Multi-FedAvg: FedAvg over every part that devices share, modality by modality (paper, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from mlecs_bench.api import (
    AlgorithmInfo,
    Device,
    Exchange,
    Message,
    Needs,
    Server,
    held_tensors,
    hookimpl,
    option,
    train_on_private,
    weighted_mean,
    with_kind,
)

Part = Literal["encoder", "projector", "lora", "soft_prompt", "fusion"]


@dataclass(frozen=True)
class MultiFedAvgOptions:
    """Options of Multi-FedAvg."""

    exchange: tuple[Part, ...] = option(
        ("encoder", "projector", "lora", "soft_prompt"),
        help="the parts that travel and are averaged; 'fusion' only among devices with equal modalities",
        source="ours; the paper names the encoders only",
    )

    def __post_init__(self) -> None:
        if not self.exchange or len(set(self.exchange)) != len(self.exchange):
            raise ValueError(
                f"option 'exchange' must name each part at most once and at least one, got {self.exchange}"
            )


class MultiFedAvg:
    """Each round devices start from the averages, train on private data and send their parts and n_j.

    θ ← Σ n_j θ_j / Σ n_j over the devices that hold θ. Round 1 sends nothing down: every party starts from the same
    weights. The fusion layer's width depends on M_j, so it stays local unless asked for. Where modalities come and go,
    a device sends and gets what belongs to those of the round, and its fusion layer has the width of all of its rounds.
    """

    def __init__(self, options: MultiFedAvgOptions) -> None:
        self.options = options

    def broadcast(self, server: Server, t: int) -> Mapping[str, Message]:
        """Send every device the averages of the parts it has."""
        if t == 1:
            return {}
        return {id_: Message(self._global_parts(server, id_)) for id_ in server.devices}

    def _global_parts(self, server: Server, id_: str) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        for part in self.options.exchange:
            if part == "fusion":
                tensors |= fusion_memory(server, server.built_for[id_])
                continue
            tensors |= with_kind(part, held_tensors(server.slm, part, server.devices[id_]))
        return tensors

    def receive(self, device: Device, message: Message, t: int) -> None:
        """Overwrite the local parts."""
        for part in self.options.exchange:
            tensors = message.of_kind(part)
            if part == "fusion":
                tensors = {k.split("/", 1)[1]: v for k, v in tensors.items()}
            if tensors:
                device.model.load_part(part, tensors)

    def local_update(self, device: Device, t: int) -> Message:
        """Train all parts on the private data; send the exchanged ones and n_j."""
        train_on_private(device, t)
        tensors: dict[str, torch.Tensor] = {}
        for part in self.options.exchange:
            own = held_tensors(device.model, part, device.modalities)
            if part == "fusion":
                own = {f"{'+'.join(device.built_for)}/{k}": v for k, v in own.items()}
            tensors |= with_kind(part, own)
        return Message(tensors, {"num_samples": len(device.train)})

    def aggregate(self, server: Server, uploads: Mapping[str, Message], t: int) -> None:
        """Average every tensor over its holders; one that nobody holds keeps its value."""
        weights = {id_: float(message.scalars["num_samples"]) for id_, message in uploads.items()}
        for part in self.options.exchange:
            mean = weighted_mean({id_: message.of_kind(part) for id_, message in uploads.items()}, weights)
            if part == "fusion":
                server.memory |= with_kind("fusion", mean)
            elif mean:
                server.slm.load_part(part, mean)


def fusion_memory(server: Server, built_for: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the averaged fusion layer of the devices whose models are for these modalities, with kind and group."""
    prefix = f"fusion/{'+'.join(built_for)}/"
    return {k: v for k, v in server.memory.items() if k.startswith(prefix)}


@hookimpl
def mlecs_algorithm() -> AlgorithmInfo:
    """Return the card of Multi-FedAvg."""
    return AlgorithmInfo(
        title="Multi-FedAvg",
        summary="FedAvg of encoders, projectors, soft-prompt generator and LoRA, each over the devices that hold it",
        paper="arXiv 2602.14107, section 4.1 (Baselines); McMahan et al. 2017",
        build=MultiFedAvg,
        options=MultiFedAvgOptions,
        exchanges=(
            Exchange("encoder", "both", "E_j[m], m in M_j", "sum of |E[m]|"),
            Exchange("projector", "both", "proj_j[m] and missing-modality embedding", "(d_z + 2) d_h per modality"),
            Exchange("soft_prompt", "both", "soft-prompt generator", "(d_s + 1) P H"),
            Exchange("lora", "both", "LoRA of the SLM", "r * sum(in + out)"),
            Exchange("scalar", "up", "n_j", "1"),
        ),
        server_score=False,
        # Fusion layers are averaged only among devices of equal modalities, where their widths agree anyway.
        needs=lambda options: Needs(
            same=tuple(part for part in options.exchange if part != "fusion"), copes=("absence", "drift")
        ),
        reproduced=(
            "FedAvg modality by modality: an encoder is averaged over the devices that hold its modality, with "
            "weights n_j.",
            "Devices train everything on their private data; the server has no model of its own to score.",
        ),
        readings=(
            "The paper says that encoders travel and leaves LoRA and connector open; -o exchange=encoder is its text.",
            "The fusion layer stays local by default: its input width is |M_j| d_h. With -o exchange=...,fusion it is "
            "averaged among devices that hold the same modalities.",
            "Where modalities come and go, an encoder is averaged over those that hold its modality in the round, and "
            "a device that gets it back starts from that average. Fusion layers are then averaged among devices that "
            "hold the same modalities over all rounds, whatever they hold in this one.",
            "A device without modalities sends LoRA and soft-prompt generator with its full weight n_j.",
            "Round 1 sends nothing down, as all parties start from the same weights.",
        ),
    )
