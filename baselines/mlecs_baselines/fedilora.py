"""FediLoRA: LoRA adapters of different ranks, averaged rank by rank and edited layer by layer (arXiv 2509.06984)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mlecs_bench.api import (
    AlgorithmInfo,
    Device,
    Exchange,
    Message,
    Needs,
    Server,
    hookimpl,
    option,
    rank_weighted_mean,
    train_on_private,
    truncated,
    with_kind,
)

GLOBAL = "global/"
"""Names the tensors of the global adapter that a device keeps during a round."""


@dataclass(frozen=True)
class FediLoraOptions:
    """Options of FediLoRA."""

    ranks: tuple[int, ...] = option(
        (24,),
        help="LoRA rank of every device, repeated in turn; alpha / rank is the same for all",
        source="paper 2602.14107, section 4.3",
    )
    edit: bool = option(True, help="edit the least similar lora_A before the upload", source="FediLoRA")
    edit_threshold: float = option(
        0.95, help="a tensor is edited if its cosine similarity to the global one is below", source="FediLoRA's code"
    )
    edit_mode: Literal["mix", "replace", "half"] = option(
        "mix",
        help="what the edited tensor becomes: mix s A + (1 - s) A_global, replace A_global, half the mean of both",
        source="FediLoRA's code has all three",
    )

    def __post_init__(self) -> None:
        if not self.ranks or min(self.ranks) < 1:
            raise ValueError(f"option 'ranks' must name at least one rank of 1 or more, got {self.ranks}")
        if not -1 <= self.edit_threshold <= 1:
            raise ValueError(f"option 'edit_threshold' must be between -1 and 1, got {self.edit_threshold}")


class FediLora:
    """Each round devices start from the global adapter cut to their rank, train on private data and send it back.

    From round 2 on, a device mixes the one lora_A that has moved farthest from the global adapter with it before it
    sends its own. Round 1 sends nothing down: the adapters of all ranks start as cuts of one. Encoders and connector
    never travel.
    """

    def __init__(self, options: FediLoraOptions) -> None:
        self.options = options

    def broadcast(self, server: Server, t: int) -> Mapping[str, Message]:
        """Send every device the first r_j rows of A and columns of B."""
        if t == 1:
            return {}
        lora = server.slm.part("lora")
        return {id_: Message(with_kind("lora", truncated(lora, server.ranks[id_]))) for id_ in server.devices}

    def receive(self, device: Device, message: Message, t: int) -> None:
        """Overwrite φ_j; keep what the round's editing compares with."""
        lora = message.of_kind("lora")
        if not lora:
            return
        device.model.load_part("lora", lora)
        if self.options.edit and t <= device.training.rounds:
            device.memory |= {GLOBAL + name: tensor.clone() for name, tensor in lora.items() if name.endswith("lora_A")}

    def local_update(self, device: Device, t: int) -> Message:
        """Train all parts on the private data, edit one tensor; send φ_j and n_j."""
        train_on_private(device, t)
        kept = {k.removeprefix(GLOBAL): device.memory.pop(k) for k in list(device.memory) if k.startswith(GLOBAL)}
        if kept and device.training.budget.private:  # without a step the adapter is still what was received
            self.edit(device, kept)
        return Message(with_kind("lora", device.model.part("lora")), {"num_samples": len(device.train)})

    def edit(self, device: Device, received: Mapping[str, Tensor]) -> None:
        """Pull the lora_A that is least similar to its tensor in `received` towards it, if it is below the threshold.

        Logs `edit_similarity`, the least cosine; `edits`, 1 where that tensor was edited, else 0; and `edit_strength`,
        the global tensor's share in what it became, 0 without an edit.
        """
        own = device.model.part("lora")
        similarity = {name: cosine(own[name], received[name]) for name in sorted(received)}
        least = min(similarity, key=lambda name: similarity[name])
        edits = similarity[least] < self.options.edit_threshold
        share = self._share(similarity[least]) if edits else 1.0
        if edits:
            device.model.load_part("lora", {**own, least: edited(own[least], received[least], share)})
        device.logs |= {"edit_similarity": similarity[least], "edits": float(edits), "edit_strength": 1.0 - share}

    def _share(self, similarity: float) -> float:
        """Return the share that the local tensor keeps."""
        # Below 0 the published rule would extrapolate: two opposite tensors would give three times the global one.
        return {"mix": min(max(similarity, 0.0), 1.0), "replace": 0.0, "half": 0.5}[self.options.edit_mode]

    def aggregate(self, server: Server, uploads: Mapping[str, Message], t: int) -> None:
        """Average every rank index over the devices that reach it, weighted by samples."""
        weights = {id_: float(message.scalars["num_samples"]) for id_, message in uploads.items()}
        states = {id_: message.of_kind("lora") for id_, message in uploads.items()}
        where = next((tensor.device for state in states.values() for tensor in state.values()), torch.device("cpu"))
        previous = {name: tensor.detach().to(where) for name, tensor in server.slm.part("lora").items()}
        server.slm.load_part("lora", rank_weighted_mean(states, weights, previous))


def cosine(one: Float[Tensor, "*shape"], other: Float[Tensor, "*shape"]) -> float:
    """Return the cosine similarity of two tensors of one shape, flattened; 0 where one of them is zero."""
    first, second = (tensor.detach().to("cpu", torch.float64).flatten() for tensor in (one, other))
    return float(torch.nn.functional.cosine_similarity(first, second, dim=0))


def edited(local: Float[Tensor, "*shape"], received: Float[Tensor, "*shape"], share: float) -> Float[Tensor, "*shape"]:
    """Return share · local + (1 - share) · received; exactly one of them where the share is 0 or 1."""
    start, end = (tensor.detach().to("cpu", torch.float64) for tensor in (received, local))
    return torch.lerp(start, end, share).to(local.dtype)


@hookimpl
def mlecs_algorithm() -> AlgorithmInfo:
    """Return the card of FediLoRA."""
    return AlgorithmInfo(
        title="FediLoRA",
        summary="LoRA adapters of a rank per device, averaged rank index by rank index over the devices that reach "
        "it, with the least similar layer of every device mixed with the global adapter",
        paper="arXiv 2509.06984",
        build=FediLora,
        options=FediLoraOptions,
        exchanges=(
            Exchange("lora", "both", "LoRA of the SLM: first r_j ranks down, φ_j up", "r_j * sum(in + out)"),
            Exchange("scalar", "up", "n_j", "1"),
        ),
        server_score=False,
        needs=lambda options: Needs(same=("lora",), any_rank=True, ranks=options.ranks, copes=("absence", "drift")),
        reproduced=(
            "Dimension-wise reweighted aggregation: each rank index is averaged over the devices whose rank reaches "
            "it, with weights n_j renormalised among them, so that small ranks do not dilute the upper indices.",
            "A device gets the first r_j rows of A and columns of B of the global adapter.",
            "Layer-wise editing: from round 2 on, the one lora_A least similar (cosine) to the global tensor the "
            "device got, if that similarity s is below 0.95 (the code's number), becomes s A + (1 - s) A_global before "
            "the upload; lora_B is never edited.",
        ),
        readings=(
            "Every device has rank 24 unless told otherwise, as in the ML-ECS paper's comparison; with equal ranks "
            "the aggregation is FedAvg of A and B. -o ranks=8,16,24 gives the devices different ranks in turn.",
            "Encoders and connector are trained and stay on the devices: the paper exchanges adapters only.",
            "Where modalities come and go, adapters are averaged as always, whatever the devices hold in the round.",
            "Rank indices that no device of positive weight reaches keep their last values.",
            "Scores after local training are those of the edited adapter, since it is what the device keeps and sends.",
            "Whether a device edited in a round (edits) and by how much (edit_strength, 1 - s) stands in every record "
            "and in reports.",
        ),
        deviations=(
            "The published code drops the columns of B above the smallest rank for every device after the first, by "
            "a slip in an index; that defect is not reproduced, and the order of devices does not matter.",
            "A and B are told apart by name; the code compares a width with the rank, which fails where they agree.",
            "The local share s is kept within [0, 1]: for s below 0 the published rule extrapolates beyond the global "
            "tensor, up to three times of it.",
            "Alpha / r is equal on all devices, so that a truncated adapter means the same update; the published code "
            "has alpha 32 at every rank on the clients and 2 R on the server.",
            "All adapters start as cuts of one; in the code every client draws its own A.",
            "LoRA targets, learning rates, batches and rounds are the profile's, and all devices take part in every "
            "round; the paper has 4 of 10 clients per round and ranks from 4 to 32.",
            "Devices lack whole modalities here; the paper drops one of two at random, sample by sample.",
        ),
    )
