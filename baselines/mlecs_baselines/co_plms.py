"""Co-PLMs: large and small models learn from each other through a small proxy model that every party has.

Only the abstract of the source could be read (arXiv 2511.11678), so this is a reading of it: see the card below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from mlecs_bench.api import (
    ALL_PARTS,
    AlgorithmInfo,
    Device,
    Exchange,
    Message,
    Needs,
    Objective,
    PartyData,
    Server,
    Stage,
    Supervised,
    Terms,
    TransferOptions,
    UnifiedModel,
    held_tensors,
    hookimpl,
    minimise,
    option,
    server_parts,
    transfer_between,
    weighted_mean,
    with_kind,
)

Forward = tuple[Supervised, Supervised]

SHARED = ("soft_prompt", "lora")
"""What mutual learning trains of the proxy: its adapter δ and its own soft-prompt generator."""
TUNED = ("soft_prompt", "domain")
"""What domain-specific tuning trains of the proxy: the adapter ψ that never leaves the device, and the generator."""
WITHOUT_ENCODERS = tuple(part for part in ALL_PARTS if part != "encoder")


@dataclass(frozen=True)
class CoPlmsOptions(TransferOptions):
    """Options of Co-PLMs."""

    saml_data: Literal["private", "public"] = option(
        "private",
        help="data of mutual learning on devices; private: a second private stage; public: a public stage",
        source="ours",
    )
    saml_steps: Literal["full", "half"] = option(
        "full",
        help="steps of the two private stages; full: each has those of a stage; half: they share those of one, so that "
        "Co-PLMs takes no more private steps under budget paper than algorithms with one stage",
        source="ours",
    )
    order: Literal["dst-then-saml", "saml-then-dst"] = option(
        "dst-then-saml", help="which of the two device stages comes first", source="ours; the order of their naming"
    )
    exchange_encoders: bool = option(
        True, help="encoders travel and are averaged, modality by modality", source="ML-ECS paper, section 4.3"
    )
    distill_steps: int = option(
        50, help="optimiser steps of the server in round 1 that distil the LLM into the proxy", source="ours"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distill_steps < 0:
            raise ValueError(f"option 'distill_steps' must be at least 0, got {self.distill_steps}")
        if self.saml_steps == "half" and self.saml_data == "public":
            raise ValueError("option 'saml_steps' has no effect with saml_data=public, got half; leave it out")

    @property
    def private_stages(self) -> int:
        """How many private stages a round has, by whose steps it is budgeted."""
        return 2 if self.saml_data == "private" and self.saml_steps == "full" else 1


class CoPlms:
    """Each round devices tune SLM and proxy on their domain (DST), then let the two learn from each other (SAML);
    proxies' adapters δ and encoders are averaged over samples; the server lets LLM and proxy learn from each other.
    """

    def __init__(self, options: CoPlmsOptions) -> None:
        self.options = options

    def broadcast(self, server: Server, t: int) -> Mapping[str, Message]:
        """Send δ and, once they have been trained, the encoders of the modalities that a device holds."""
        if t == 1:
            self.distil(server)
        shared = with_kind("proxy", server.proxy.part("lora"))
        return {
            id_: Message(shared | self._encoders(server.model, held, t > 1)) for id_, held in server.devices.items()
        }

    def receive(self, device: Device, message: Message, t: int) -> None:
        """Overwrite δ_j and encoders."""
        device.proxy.load_part("lora", message.of_kind("proxy"))
        device.model.load_part("encoder", message.of_kind("encoder"))

    def local_update(self, device: Device, t: int) -> Message:
        """DST and SAML; send δ_j, encoders and n_j."""
        stages = [self.tune, self.learn_mutually]
        for stage in stages if self.options.order == "dst-then-saml" else reversed(stages):
            stage(device, t)
        shared = with_kind("proxy", device.proxy.part("lora"))
        encoders = self._encoders(device.model, device.modalities, True)
        return Message(shared | encoders, {"num_samples": len(device.train)})

    def aggregate(self, server: Server, uploads: Mapping[str, Message], t: int) -> None:
        """Average δ_j and encoders, weighted by n_j, each over its holders; then SAML of LLM and proxy on D'."""
        weights = {id_: float(message.scalars["num_samples"]) for id_, message in uploads.items()}
        for kind, model, part in (("proxy", server.proxy, "lora"), ("encoder", server.model, "encoder")):
            mean = weighted_mean({id_: message.of_kind(kind) for id_, message in uploads.items()}, weights)
            if mean:
                model.load_part(part, mean)
        self.learn_at_server(server, t)

    def distil(self, server: Server) -> None:
        """Train the proxy on D' once, with the server's LLM as it is as teacher."""
        server.model.switch(training=False)
        minimise(server, self.distillation(server))

    def tune(self, device: Device, t: int) -> None:
        """DST."""
        minimise(device, self.tuning(device, t))

    def learn_mutually(self, device: Device, t: int) -> None:
        """SAML on a device."""
        minimise(device, self.mutual_learning(device, t))

    def learn_at_server(self, server: Server, t: int) -> None:
        """SAML at the server."""
        minimise(server, self.servers_objective(server, t))

    def distillation(self, server: Server) -> Objective:
        """Return L_lb + λ KT(llm → dpm) on D' over the proxy."""

        def terms(rows: Int64[np.ndarray, " b"]) -> Terms:
            llm, proxy = forward(server, server.train, rows)
            transferred = self.transfer((server.model, llm), (server.proxy, proxy), "into_proxy")
            return Terms({"proxy": proxy.loss, **transferred})

        stage = Stage("distil", "setup", 1, server.training.budget.setup, [(server.proxy, SHARED)])
        return Objective(server.train, stage, terms)

    def tuning(self, device: Device, t: int) -> Objective:
        """Return DST: L_lb(D_j) of the SLM over all its parts, and of the proxy over ψ_j while δ_j rests."""

        def terms(rows: Int64[np.ndarray, " b"]) -> Terms:
            own, proxy = forward(device, device.train, rows)
            return Terms({"own": own.loss, "proxy": proxy.loss})

        private = device.training.budget.private
        steps = private - private // 2 if self.options.saml_data == "private" else private
        stage = Stage("dst", "private", t, steps, [(device.model, ALL_PARTS), (device.proxy, TUNED)])
        return Objective(device.train, stage, terms)

    def mutual_learning(self, device: Device, t: int) -> Objective:
        """Return SAML: the mutual terms over connector and φ_j on one side, δ_j on the other."""
        budget = device.training.budget
        private = self.options.saml_data == "private"
        data, steps = (device.train, budget.private // 2) if private else (device.public, budget.public)
        trained = [(device.model, WITHOUT_ENCODERS), (device.proxy, SHARED)]
        stage = Stage("saml", self.options.saml_data, t, steps, trained)
        return self._mutual(device, data, stage)

    def servers_objective(self, server: Server, t: int) -> Objective:
        """Return SAML of LLM and proxy on D'."""
        trained = [(server.model, server_parts(server.training)), (server.proxy, SHARED)]
        stage = Stage("saml", "server", t, server.training.budget.server, trained)
        return self._mutual(server, server.train, stage)

    def _mutual(self, party: Device | Server, data: PartyData, stage: Stage) -> Objective:
        """Return L_own + L_dpm with L_own = L_lb + λ KT(dpm → own) and L_dpm = L_lb + λ KT(own → dpm).

        Teachers are detached and the trained parameters disjoint, so the sum's gradients are those of each loss.
        """

        def terms(rows: Int64[np.ndarray, " b"]) -> Terms:
            one, other = forward(party, data, rows)
            own, proxy = (party.model, one), (party.proxy, other)
            into_own, into_proxy = self.transfer(proxy, own, "into_own"), self.transfer(own, proxy, "into_proxy")
            return Terms({"own": one.loss, "proxy": other.loss, **into_own, **into_proxy})

        return Objective(data, stage, terms)

    def transfer(
        self, teacher: tuple[UnifiedModel, Supervised], student: tuple[UnifiedModel, Supervised], name: str
    ) -> dict[str, Float[Tensor, ""]]:
        """Return λ KT(teacher → student) as a term of that name, no term where λ is 0."""
        weight = self.options.kt_weight
        return {name: weight * transfer_between(teacher, student, self.options)} if weight else {}

    def _encoders(self, model: UnifiedModel, held: Sequence[str], wanted: bool) -> dict[str, Tensor]:
        if not (wanted and self.options.exchange_encoders):
            return {}
        return with_kind("encoder", held_tensors(model, "encoder", held))


def forward(party: Device | Server, data: PartyData, rows: Int64[np.ndarray, " b"]) -> Forward:
    """Return the supervised forward passes of a party's model and of its proxy, which reads the model's s as it is."""
    batch, targets = data.batch(rows), data.targets(rows)
    seen = party.model.represent(batch)
    own = party.model.supervise(party.model.soft_prompt(seen, len(batch)), party.prompt, targets)
    proxy_soft = party.proxy.soft_prompt(seen.detached(), len(batch))
    return own, party.proxy.supervise(proxy_soft, party.prompt, targets)


@hookimpl
def mlecs_algorithm() -> AlgorithmInfo:
    """Return the card of Co-PLMs."""
    return AlgorithmInfo(
        title="Co-PLMs (our reading)",
        summary="a small proxy model on every party lets SLMs of any architecture and the server's LLM learn from each "
        "other's predictions; its LoRA and the encoders travel",
        paper="arXiv 2511.11678, of which only the abstract could be read; arXiv 2602.14107, section 4.1 (Baselines)",
        build=CoPlms,
        options=CoPlmsOptions,
        exchanges=(
            Exchange("proxy", "both", "LoRA δ of the proxy model", "r * sum(in + out) of the proxy"),
            Exchange("encoder", "both", "E_j[m], m in M_j; not in the first broadcast", "sum of |E[m]|"),
            Exchange("scalar", "up", "n_j", "1"),
        ),
        server_score=True,
        needs=lambda options: Needs(
            private_stages=options.private_stages,
            public_stage=options.saml_data == "public",
            same=("encoder",) if options.exchange_encoders else (),
            proxy=True,
            setup_steps=options.distill_steps,
            copes=("absence", "drift"),
        ),
        reproduced=(
            "From its abstract: distilled proxy models (DPM) bridge the server's LLM and SLMs that may differ in "
            "architecture; structure-agnostic mutual learning (SAML) exchanges knowledge between them; what is "
            "particular to a device's domain is kept (DST).",
            "From the ML-ECS paper (sections 3.4 and 4.3): logits are pooled, LoRA and encoders travel, and the "
            "server's model is scored.",
        ),
        readings=(
            "Known are the abstract and what the ML-ECS paper says of it. Not known, and therefore ours: the losses, "
            "the order of the stages, the data of each, how the proxy is made, alignment, pooling and weights.",
            "The proxy is one frozen language model, the same everywhere (--proxy; by default the SLM's checkpoint), "
            "with two adapters: δ is averaged, ψ_j holds the domain and never leaves its device. It reads the fused "
            "representation of its party's model, without gradient, through a soft-prompt generator of its own.",
            "DST trains the whole SLM side and ψ_j with δ_j at rest; SAML trains connector, φ_j and δ_j.",
            "Distillation runs once, on the public data, with the untrained LLM as teacher beside the labels; its "
            "steps come on top of the server's budget and are counted as setup.",
            "Positions are paired where both tokenizers have read the same text; logits are pooled and divergences "
            "averaged over all aligned positions of a batch, as in ML-ECS (-o kt_reduction=sum: summed over the "
            "positions of a sample, then averaged over samples).",
            "DST and SAML are stages of q steps each, as the stages of every algorithm. On private data that makes 2 q "
            "private steps: under --budget paper twice those of algorithms with one private stage, under --budget "
            "equal the total that all have. -o saml_steps=half: under --budget paper the two share q private steps.",
            "The server adopts the averaged encoders as its own.",
            "Where modalities come and go, encoders of those that a device holds in the round travel and are averaged; "
            "the proxies' δ is averaged over all devices, whatever they hold.",
        ),
    )
