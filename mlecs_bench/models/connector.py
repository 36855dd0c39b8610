"""C: modality projectors, fusion layer and soft-prompt generator (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mlecs_bench.models.placement import moved


@dataclass(frozen=True)
class ConnectorSizes:
    """Widths: encoder output d_z, hidden d_h, fused d_s, P soft tokens of the backbone's width H; dropout rate."""

    encoder: int
    hidden: int
    fused: int
    soft_tokens: int
    backbone: int
    dropout: float


class Connector(nn.Module):
    """Maps the encoders' z(m) to h(m) (Eq. 4), fuses them to s (Eq. 9) and makes the soft prompt of s (Eq. 10).

    With no modality there is nothing to fuse: the soft prompt is one trainable constant. A sample that lacks a held
    modality gets a trainable embedding (initially zero) in its place. `stream(part)` is the random stream, as a
    context manager, from which each part's initial weights are drawn.
    """

    def __init__(
        self, modalities: Sequence[str], sizes: ConnectorSizes, stream: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.sizes = sizes
        projectors = {}
        for m in self.modalities:
            with stream(f"projector/{m}"):
                projectors[m] = nn.Linear(sizes.encoder, sizes.hidden)
        self.projector = nn.ModuleDict(projectors)
        self.missing = nn.ParameterDict({m: nn.Parameter(torch.zeros(sizes.hidden)) for m in self.modalities})
        width = sizes.soft_tokens * sizes.backbone
        if self.modalities:
            with stream("fusion/" + "+".join(self.modalities)):
                inputs = len(self.modalities) * sizes.hidden
                self.fusion = nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, sizes.fused))
        else:
            self.constant = nn.Parameter(torch.zeros(sizes.soft_tokens, sizes.backbone))
        with stream("prompt"):
            self.prompt = nn.Sequential(nn.GELU(), nn.Dropout(sizes.dropout), nn.Linear(sizes.fused, width))

    def project(
        self, z: Mapping[str, Float[Tensor, "b d_z"]], present: Mapping[str, Bool[Tensor, " b"]]
    ) -> dict[str, Float[Tensor, "b {self.sizes.hidden}"]]:
        """Return h(m) = f_p(z(m)) (Eq. 4), by modality; absent samples get the missing embedding.

        So do all samples where z(m) is left out.
        """
        hidden = {}
        for m in self.modalities:
            if m not in z:
                hidden[m] = self.missing[m].expand(len(present[m]), -1)
                continue
            h = self.projector[m](z[m])
            if not bool(present[m].all()):
                h = torch.where(moved(present[m], h.device)[:, None], h, self.missing[m])
            hidden[m] = h
        return hidden

    def fuse(self, hidden: Mapping[str, Float[Tensor, "b d_h"]]) -> Float[Tensor, "b {self.sizes.fused}"]:
        """Return s = f_u({h(m)}) (Eq. 9); modalities are concatenated in their fixed order."""
        fused: Tensor = self.fusion(torch.cat([hidden[m] for m in self.modalities], dim=-1))
        return fused

    def soft_prompt(self, s: Float[Tensor, "b d_s"]) -> Float[Tensor, "b {self.sizes.soft_tokens} H"]:
        """Return f_spg(s) (Eq. 10): P soft tokens of the backbone's width H."""
        prompt: Tensor = self.prompt(s)
        return prompt.view(len(s), self.sizes.soft_tokens, self.sizes.backbone)

    def constant_prompt(self, b: int) -> Float[Tensor, "{b} P H"]:
        """Return the soft prompt of a device without modalities."""
        return self.constant.expand(b, -1, -1)
