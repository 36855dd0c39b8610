"""M = {E, C, B}: encoders, connector and a language-model backbone with one LoRA adapter, as one trainable model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mlecs_bench.data.samples import Batch
from mlecs_bench.doors.hookspecs import PER_MODALITY, Part
from mlecs_bench.errors import DataError, UsageError
from mlecs_bench.models.backbone import AnyBackbone, load_adapter
from mlecs_bench.models.connector import Connector
from mlecs_bench.models.placement import moved
from mlecs_bench.models.sources import source_name
from mlecs_bench.models.texts import Answers, Texts

PARTS: tuple[Part, ...] = get_args(Part)
"""The trainable parts. "projector" includes the missing-modality embeddings; "soft_prompt" is the generator."""
MISSING = "missing"
"""What the projectors' part calls the vector that stands in for a modality that is not there."""
DOMAIN = "domain"
"""The part of a model's second adapter, which acts together with "lora"; only proxies have one."""


@dataclass(frozen=True)
class Representation:
    """What the connector makes of a batch: h(m) and presence per modality, and s.

    `fused` is None for a model without modalities.
    """

    hidden: dict[str, Float[Tensor, "b d_h"]]
    present: dict[str, Bool[Tensor, " b"]]
    fused: Float[Tensor, "b d_s"] | None

    def detached(self) -> Representation:
        """Return the same values without their gradient."""
        hidden = {m: h.detach() for m, h in self.hidden.items()}
        return Representation(hidden, self.present, None if self.fused is None else self.fused.detach())


@dataclass(frozen=True)
class Supervised:
    """One supervised forward pass: L_lb, the answers' logits and the answers behind them."""

    loss: Float[Tensor, ""]
    logits: Float[Tensor, "b a V"]
    answers: Answers


class UnifiedModel:
    """The unified model of one party. The frozen backbone is shared with others; all else is the party's own.

    `adapters` maps the parts that are adapters ("lora", perhaps "domain") to their names in the backbone.
    """

    def __init__(
        self,
        adapters: Mapping[str, str],
        backbone: AnyBackbone,
        texts: Texts,
        encoders: nn.ModuleDict,
        connector: Connector,
    ) -> None:
        self.name = adapters["lora"]
        self.adapters = dict(adapters)
        self.parts: tuple[str, ...] = (*PARTS, *(part for part in adapters if part not in PARTS))
        self.backbone = backbone
        self.texts = texts
        self.encoders = encoders.to(backbone.torch_device)
        self.connector = connector.to(backbone.torch_device)
        self.modalities = connector.modalities
        self._held = self.modalities

    def hold(self, modalities: Sequence[str]) -> None:
        """Say which of its modalities the party holds now; encoders and projectors of the others rest until they are.

        What stands in for a modality that is not there is trained with the projectors all the same.
        """
        self._held = tuple(modalities)

    def encode(self, batch: Batch) -> dict[str, Float[Tensor, "b d_z"]]:
        """Return z(m) of every held modality; what is stored for an absent sample is never read."""
        device = self.backbone.torch_device
        z = {}
        for m in self.modalities:
            if m not in batch.inputs:  # nothing to encode: the party does not hold it in this round
                continue
            x, present = batch.inputs[m], batch.present[m]
            if not bool(present.all()):  # a NaN would pass through the mask behind the projector as NaN * 0 gradients
                x = torch.where(present.view(-1, *[1] * (x.dim() - 1)), x, torch.zeros((), dtype=x.dtype))
            z[m] = self.encoders[m](moved(x, device))
        return z

    def represent(self, batch: Batch) -> Representation:
        """Return h(m) and s of a batch (Eq. 4, 9)."""
        hidden = self.connector.project(self.encode(batch), batch.present)
        fused = self.connector.fuse(hidden) if self.modalities else None
        return Representation(hidden, batch.present, fused)

    def soft_prompt(self, representation: Representation, b: int) -> Float[Tensor, "{b} P H"]:
        """Return the P soft tokens of a representation (Eq. 10)."""
        if representation.fused is None:
            return self.connector.constant_prompt(b)
        return self.connector.soft_prompt(representation.fused)

    def supervise(self, soft: Float[Tensor, "b P H"], prompt: str, targets: Sequence[str]) -> Supervised:
        """Return L_lb of `targets` after [opening ; soft tokens ; prompt] (Eq. 10).

        That is the mean cross-entropy over answer tokens. Row k of the logits predicts answer token k; the last row of
        a sample predicts its end-of-sequence token.
        """
        answers = self.texts.answers(targets)
        length = answers.ids.shape[1]
        ids = torch.cat([self._prompt_ids(prompt, len(targets)), answers.ids[:, :-1]], dim=1)
        logits = self.backbone.logits(self._embeds(soft, ids), keep=length)
        # Padding stands behind every answer, so no real position attends to it; it only has to be left out here.
        predicted = logits.flatten(0, 1).index_select(0, answers.positions)
        loss = nn.functional.cross_entropy(predicted, answers.ids.flatten().index_select(0, answers.positions))
        return Supervised(loss, logits, answers)

    def _embeds(self, soft: Float[Tensor, "b P H"], ids: Int64[Tensor, "b s"]) -> Float[Tensor, "b S H"]:
        """Return the inputs [opening ; soft tokens ; ids] of the backbone."""
        parts = [soft, self.backbone.embed(ids)]
        if len(self.texts.opening):
            parts.insert(0, self.backbone.embed(self.texts.opening).expand(len(soft), -1, -1))
        return torch.cat(parts, dim=1)

    def _prompt_ids(self, prompt: str, b: int) -> Int64[Tensor, "{b} p"]:
        return self.texts.prompt(prompt).expand(b, -1)

    def loss(self, batch: Batch, prompt: str, targets: Sequence[str]) -> Float[Tensor, ""]:
        """Return L_lb of a batch (Eq. 12)."""
        return self.supervise(self.soft_prompt(self.represent(batch), len(batch)), prompt, targets).loss

    @torch.no_grad()
    def generate(self, batch: Batch, prompt: str, max_new_tokens: int) -> list[str]:
        """Return the model's greedy answers to a batch."""
        self.switch(training=False)
        soft = self.soft_prompt(self.represent(batch), len(batch))
        ids = self._prompt_ids(prompt, len(batch))
        return self.backbone.generate(self._embeds(soft, ids), max_new_tokens)

    @torch.no_grad()
    def rank(self, batch: Batch, prompt: str, answers: Sequence[str]) -> list[str]:
        """Return for each sample of a batch that of the `answers` which the model most likely gives.

        Of equally likely ones the first.
        """
        best = self.log_likelihoods(batch, prompt, answers).argmax(dim=1)
        return [answers[i] for i in best.tolist()]

    @torch.no_grad()
    def log_likelihoods(self, batch: Batch, prompt: str, answers: Sequence[str]) -> Float[Tensor, "b k"]:
        """Return log p(answer | sample) of each of k `answers`: the sum over its tokens, the end-of-sequence included.

        So the answers exclude each other, and these are the probabilities of writing exactly this; nothing is divided
        by lengths.
        """
        self.switch(training=False)
        soft = self.soft_prompt(self.represent(batch), len(batch))
        embeds = self._embeds(soft, self._prompt_ids(prompt, len(batch)))
        told = self.texts.answers(answers)
        logits = self.backbone.continued(embeds, told.ids)
        ids = told.ids.expand(len(batch), -1, -1).unsqueeze(3)
        chosen = logits.gather(3, ids).squeeze(3) - logits.logsumexp(dim=3)
        return chosen.masked_fill(~told.mask, 0.0).sum(dim=2)

    def switch(self, training: bool) -> None:
        """Make this model's adapter the active one and set dropout on (training) or off."""
        self.encoders.train(training)
        self.connector.train(training)
        self.backbone.activate(tuple(self.adapters.values()), training)

    def check_part(self, name: str) -> None:
        """Raise ValueError with the known ones for a part that the model does not have."""
        if name not in self.parts:
            raise ValueError(f"{self.name} has no part '{name}'; its parts are {', '.join(self.parts)}")

    def part(self, name: str) -> dict[str, nn.Parameter]:
        """Return the tensors of one part by name, for example "encoder" → {"rgb/0.weight": …}.

        Raises ValueError for an unknown part.
        """
        self.check_part(name)
        if name in self.adapters:
            return self.backbone.adapter(self.adapters[name])
        if name == "encoder":
            return {_slash(key): p for key, p in self.encoders.named_parameters()}
        if name == "projector":
            connector = self.connector
            own = {_slash(key): p for key, p in connector.projector.named_parameters()}
            return own | {f"{m}/{MISSING}": p for m, p in connector.missing.items()}
        if name == "fusion":
            return dict(self.connector.fusion.named_parameters()) if self.modalities else {}
        constant = {} if self.modalities else {"constant": self.connector.constant}
        return dict(self.connector.prompt.named_parameters()) | constant

    def parameters(self, parts: Iterable[str]) -> list[nn.Parameter]:
        """Return the parameters of some parts that are trained, in a fixed order; those of resting modalities rest."""
        return [p for part in parts for name, p in sorted(self.part(part).items()) if not self._rests(part, name)]

    def _rests(self, part: str, name: str) -> bool:
        modality, _, tensor = name.partition("/")
        return part in PER_MODALITY and modality not in self._held and tensor != MISSING

    @contextmanager
    def only_trainable(self, parts: Sequence[str]) -> Iterator[None]:
        """Within the block gradients flow into `parts` alone, so nothing is computed for what is frozen."""
        self.switch(training=True)
        chosen = {id(p) for p in self.parameters(parts)}
        everything = [p for part in self.parts for p in self.part(part).values()]
        for p in everything:
            p.requires_grad_(id(p) in chosen)
        try:
            yield
        finally:
            for p in everything:
                p.requires_grad_(False)
                p.grad = None

    def load_part(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite some tensors of a part (all of them for an adapter); raises DataError for what does not fit."""
        if name in self.adapters:
            load_adapter(self.backbone, self.adapters[name], tensors)
            return
        own = self.part(name)
        with torch.no_grad():
            for key, tensor in tensors.items():
                if key not in own or own[key].shape != tensor.shape:
                    raise DataError(f"{self.name} has no '{name}/{key}' of shape {tuple(tensor.shape)}")
                own[key].copy_(tensor)

    def state(self) -> dict[str, Tensor]:
        """Return copies of all trainable tensors, named ``part/name``."""
        return {
            f"{part}/{key}": tensor.detach().to("cpu", copy=True)
            for part in self.parts
            for key, tensor in sorted(self.part(part).items())
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Read what `state` returned; raises DataError for a state of another model."""
        for part in self.parts:
            prefix = f"{part}/"
            tensors = {key[len(prefix) :]: t for key, t in state.items() if key.startswith(prefix)}
            lacking = self.part(part).keys() - tensors.keys()
            if lacking:
                raise DataError(f"the state for {self.name} lacks '{prefix}{min(lacking)}'; it is of another model")
            self.load_part(part, tensors)


def check_length(backbone: AnyBackbone, texts: Texts, longest: tuple[str, int], soft_tokens: int) -> None:
    """Raise UsageError unless all inputs, with the `longest` (prompt, answer tokens), fit a backbone's positions."""
    prompt, answer = longest
    opening = len(texts.opening)
    needed = opening + soft_tokens + len(texts.prompt(prompt)) + answer
    if backbone.max_positions is not None and needed > backbone.max_positions:
        raise UsageError(
            f"'{source_name(backbone.source)}' has {backbone.max_positions} positions but {needed} are needed "
            f"({'BOS, ' if opening else ''}{soft_tokens} soft tokens, prompt, {answer} answer tokens); choose a longer "
            "model, or cut the targets where the dataset can: --data-option target_words=N"
        )


def _slash(key: str) -> str:
    """Turn a parameter's "rgb.0.weight" into "rgb/0.weight": the modality becomes a level of the name."""
    return key.replace(".", "/", 1)


def state_bytes(state: Mapping[str, Any]) -> int:
    """Return the size of a state in bytes."""
    return sum(t.numel() * t.element_size() for t in state.values())
