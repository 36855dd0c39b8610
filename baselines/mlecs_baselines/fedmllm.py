"""FedMLLM: FedAvg with one neutral prompt and a pull of the middle layers towards the global adapter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from mlecs_bench.api import (
    ALL_PARTS,
    AlgorithmInfo,
    Device,
    Exchange,
    Message,
    Needs,
    Objective,
    Part,
    Server,
    ServerOptimiser,
    Stage,
    Terms,
    UnifiedModel,
    adaptive_step,
    held_tensors,
    hookimpl,
    layer_count,
    layer_of,
    middle_layers,
    minimise,
    option,
    proximal_term,
    supervised_loss,
    weighted_mean,
    with_kind,
)

EXCHANGED: tuple[Part, ...] = ("lora", "soft_prompt", "projector")
"""What travels: the adapter and, as the paper's auxiliary parameters, what all devices' connectors have in common."""


@dataclass(frozen=True)
class FedMllmOptions:
    """Options of FedMLLM."""

    mu: float = option(
        0.01, help="μ of the pull towards the adapter received; 0 switches it off", source="authors' code (prox_mu)"
    )
    lambda_mode: Literal["missing_rate", "constant"] = option(
        "missing_rate",
        help="λ_j, the factor of μ: the share of modalities a device lacks, at least lambda_constant; or always that",
        source="ours; the authors' code has a constant, the paper's rule could not be retrieved",
    )
    lambda_constant: float = option(
        0.1, help="λ of a device with every modality, and of all in mode constant", source="authors' code (mu_w)"
    )
    layer_margin: int | None = option(
        None,
        help="s: layers s to L-1-s of the language model are pulled; none: a seventh of its L layers, rounded",
        source="authors' code: 4 of 28 layers",
    )
    server_opt: Literal["fedavg", "fedadagrad", "fedadam", "fedyogi"] = option(
        "fedavg", help="how the server merges the uploads", source="ours; the authors' code has fedadagrad"
    )
    server_lr: float = option(1e-3, help="η of the adaptive server steps", source="authors' code (fedopt_eta)")
    server_tau: float = option(1e-3, help="τ of the adaptive server steps", source="authors' code (fedopt_tau)")
    server_beta1: float = option(0.9, help="β1 of fedadam and fedyogi", source="authors' code (fedopt_beta1)")
    server_beta2: float = option(0.99, help="β2 of fedadam and fedyogi", source="authors' code (fedopt_beta2)")
    prompt_suffix: str = option(
        "Answer the same way for any kind of input.",
        help="the neutral sentence behind every prompt, in training and at test; empty for none",
        source="ours, in the sense of the paper's prompt strategy",
    )

    def __post_init__(self) -> None:
        for name in ("mu", "lambda_constant"):
            self._check(name, 0 <= getattr(self, name) < math.inf, "at least 0 and finite")
        for name in ("server_lr", "server_tau"):
            self._check(name, 0 < getattr(self, name) < math.inf, "above 0 and finite")
        for name in ("server_beta1", "server_beta2"):
            self._check(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        self._check("layer_margin", self.layer_margin is None or self.layer_margin >= 0, "at least 0, or none")

    def _check(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ValueError(f"option '{name}' must be {wanted}, got {getattr(self, name)}")


class FedMllm:
    """Devices minimise L_lb(D_j) + Σ_{l in R} (μ/2) λ_j ||w_l - w_l^global||²_F; the server averages.

    R are the middle layers of the adapter, w^global is the adapter as it came down in this round (in round 1 the
    initial one, which all parties share). Encoders and fusion layer stay on the devices.
    """

    def __init__(self, options: FedMllmOptions) -> None:
        self.options = options

    def broadcast(self, server: Server, t: int) -> Mapping[str, Message]:
        """Send every device the global tensors of what it has; nothing in round 1, where all start alike."""
        if t == 1:
            return {}
        return {id_: Message(exchanged(server.slm, held)) for id_, held in server.devices.items()}

    def receive(self, device: Device, message: Message, t: int) -> None:
        """Overwrite adapter, soft-prompt generator and projectors."""
        for part in EXCHANGED:
            tensors = message.of_kind(part)
            if tensors:
                device.model.load_part(part, tensors)

    def local_update(self, device: Device, t: int) -> Message:
        """Train all parts on the private data; send the exchanged ones and n_j.

        Logs "private/proximal_share" beside the terms: the mean pull, divided by the mean of the whole loss.
        """
        if minimise(device, self.objective(device, t)):
            whole = device.logs["private"]
            device.logs["private/proximal_share"] = device.logs["private/proximal"] / whole if whole else 0.0
        return Message(exchanged(device.model, device.modalities), {"num_samples": len(device.train)})

    def objective(self, device: Device, t: int) -> Objective:
        """Return L_lb(D_j) plus the pull towards the adapter as it is now, which is the one that came down."""
        supervised = supervised_loss(device.model, device.train, device.prompt)
        pulled, strength = self.pulled(device.model), self.strength(device)
        reference = {name: tensor.detach().clone() for name, tensor in pulled.items()}

        def terms(rows: Int64[np.ndarray, " b"]) -> Terms:
            return Terms({"supervised": supervised(rows), "proximal": proximal_term(pulled, reference, strength)})

        stage = Stage("private", "private", t, device.training.budget.private, [(device.model, ALL_PARTS)])
        return Objective(device.train, stage, terms)

    def pulled(self, model: UnifiedModel) -> dict[str, Tensor]:
        """Return the adapter's tensors of the middle layers R."""
        lora = model.part("lora")
        margin = self.options.layer_margin
        middle = middle_layers(lora, round(layer_count(lora) / 7) if margin is None else margin)
        return {name: tensor for name, tensor in lora.items() if layer_of(name) in middle}

    def strength(self, device: Device) -> float:
        """Return μ λ_j; in mode missing_rate λ_j is 1 - |M_j| / |M|, but at least the constant."""
        share = 0.0
        if self.options.lambda_mode == "missing_rate":
            share = 1 - len(device.modalities) / len(device.train.manifest.modality_names)
        return self.options.mu * max(self.options.lambda_constant, share)

    def aggregate(self, server: Server, uploads: Mapping[str, Message], t: int) -> None:
        """Merge every tensor over the devices that hold it; one that nobody holds keeps its value."""
        counts = {id_: float(message.scalars["num_samples"]) for id_, message in uploads.items()}
        for part in EXCHANGED:
            received = {id_: message.of_kind(part) for id_, message in uploads.items()}
            merged = self._merge(server, part, received, counts)
            if merged:
                server.slm.load_part(part, merged)

    def _merge(
        self,
        server: Server,
        part: str,
        received: Mapping[str, Mapping[str, Tensor]],
        counts: Mapping[str, float],
    ) -> dict[str, Tensor]:
        options = self.options
        if options.server_opt == "fedavg":
            return weighted_mean(received, counts)
        optimiser = ServerOptimiser(
            options.server_opt, options.server_lr, options.server_tau, options.server_beta1, options.server_beta2
        )
        trained = {id_: tensors for id_, tensors in received.items() if counts[id_] > 0}
        kind = f"fedopt/{part}"
        state = Message(server.memory).of_kind(kind)
        merged, state = adaptive_step(optimiser, server.slm.part(part), trained, state)
        server.memory |= with_kind(kind, state)
        return merged


def exchanged(model: UnifiedModel, modalities: Sequence[str]) -> dict[str, Tensor]:
    """Return what travels between the server and a device that holds `modalities`, named with its kind."""
    tensors: dict[str, Tensor] = {}
    for part in EXCHANGED:
        tensors |= with_kind(part, held_tensors(model, part, modalities))
    return tensors


@hookimpl
def mlecs_algorithm() -> AlgorithmInfo:
    """Return the card of FedMLLM."""
    return AlgorithmInfo(
        title="FedMLLM",
        summary="FedAvg of LoRA, soft-prompt generator and projectors, with a neutral prompt and a pull of the "
        "middle layers towards the global adapter",
        paper="arXiv 2411.14717",
        build=FedMllm,
        options=FedMllmOptions,
        exchanges=(
            Exchange("lora", "both", "LoRA of the SLM", "r * sum(in + out)"),
            Exchange("soft_prompt", "both", "soft-prompt generator", "(d_s + 1) P H"),
            Exchange("projector", "both", "proj_j[m], m in M_j, and missing-modality embedding", "(d_z + 2) d_h each"),
            Exchange("scalar", "up", "n_j", "1"),
        ),
        server_score=False,
        needs=lambda options: Needs(same=EXCHANGED, prompt_suffix=options.prompt_suffix, copes=("absence", "drift")),
        reproduced=(
            "One prompt for every combination of modalities, with a sentence that asks for the same way of answering "
            "whatever is given and names no modality; the same in training and at test.",
            "The pull (μ/2) λ ||w - w_global||² on every adapter tensor of the layers s to L-1-s, with the published "
            "code's μ = 0.01; w_global is the adapter that came down in the round.",
            "Adapter and auxiliary parameters travel both ways.",
        ),
        readings=(
            "How λ adapts to a device could not be retrieved; what the published code calls adaptive is λ = 0.1 for "
            "all (-o lambda_mode=constant). Here λ_j is the share of modalities that device j lacks, at least 0.1.",
            "Where modalities come and go, λ_j follows what device j holds in the round, and so do the projectors that "
            "travel.",
            "The code leaves 4 of 28 layers free at either end: here a seventh of the layers, rounded (none of 2). "
            "Its plain FedProx is -o lambda_mode=constant -o lambda_constant=1 -o layer_margin=0.",
            "The auxiliary parameters (there token embedding and resampler) are here the parts of the connector that "
            "devices have in common, soft-prompt generator and projectors; embeddings are frozen and stay.",
            "The sentence is our own wording; -o prompt_suffix=TEXT replaces it.",
            "The pull is on A and B of each adapter, not on their product, as in the code. How much of the loss it is "
            "stands in every record (private/proximal_share) and in reports.",
            "The adaptive server steps weigh devices equally, as in the code, and leave out a device without samples.",
        ),
        deviations=(
            "The server averages by sample counts; the code's default is FedAdagrad with rate 0.001, which hardly "
            "moves in a few rounds: -o server_opt=fedadagrad.",
            "The code's own FedAvg adds every tensor but the first to its old value; that defect is not reproduced.",
            "FedAdam and FedYogi are those of Reddi et al. 2021: their second moment takes the mean change itself, "
            "where the code squares the momentum and starts that at the full first change.",
            "LoRA alpha, dropout and targets, learning rates, batches and rounds are the harness's, all devices take "
            "part in every round and the language model is not quantised; the code has alpha 8, 2 of 10 devices per "
            "round, 50 rounds, a learning rate that falls over them and a 4-bit model.",
            "Encoders are trained and stay on the devices; the published script freezes the vision encoder.",
        ),
    )
