"""A profile: which backbones, sizes and training settings a run uses."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlecs_bench.errors import check_choice

Dtype = Literal["float32", "bfloat16"]
"""The numbers of frozen weights and of what language models compute; all that is trained is float32."""
BaseBits = Literal[4, 8]
"""Bits of a frozen weight that is quantised."""


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (paper Eq. 1-2). `targets` None: {c_attn, c_proj} or the same projections elsewhere."""

    rank: int = 8  # paper, section 4.3
    alpha: float = 16  # authors' script
    dropout: float = 0.05  # authors' script
    targets: tuple[str, ...] | None = None

    def at_rank(self, rank: int) -> LoraSettings:
        """Return the settings at another rank; alpha / r stays, so that an update weighs the same at every rank."""
        return dataclasses.replace(self, rank=rank, alpha=self.alpha * rank / self.rank)


@dataclass(frozen=True)
class LearningRates:
    """AdamW learning rates of the three kinds of trained parts."""

    encoder: float
    connector: float
    lora: float


@dataclass(frozen=True)
class Profile:
    """Backbones, widths and training settings.

    `slm` and `llm` are folders (or hub ids) of causal language models. `rounds` is T, `steps` is q (optimiser steps of
    one stage), `soft_tokens` is P, widths are d_z, d_h and d_s of the unified model. `dtype` is that of the frozen
    weights and of the computations in the language models; all that is trained is float32. `base_bits`: the frozen
    weights are quantised to so many bits; None leaves them. `gradient_checkpointing` recomputes activations in the
    backward pass, for the same gradients in less memory. `words` is a file with
    all words that tiny models know, one a line; None for models of any text. `bertscore` is a model as
    `--bertscore-model` names it. Raises ValueError for an unknown dtype or number of bits.
    """

    name: str
    summary: str
    slm: str
    llm: str
    encoders: Path | None
    soft_tokens: int
    encoder_width: int
    hidden_width: int
    fused_width: int
    learning_rates: LearningRates
    rounds: int
    steps: int
    batch_size: int
    tiny: bool
    private_limit: int | None = None
    """Training samples of a device; None: all that the partition gives it."""
    public_limit: int | None = None
    """Public training samples; None: all that the partition gives."""
    test_limit: int | None = None
    """Test samples of a party; None: all. Answers take most of a large model's time."""
    lora: LoraSettings = LoraSettings()
    connector_dropout: float = 0.1  # authors' script
    clip_norm: float = 1.0  # authors' script
    weight_decay: float = 0.0  # authors' script
    server_trains_encoders: bool = True
    torch_device: str = "cpu"
    dtype: Dtype = "float32"
    base_bits: BaseBits | None = None
    gradient_checkpointing: bool = False
    generation_batch: int = 128
    bertscore: str = "packaged"
    bertscore_samples: int | None = None
    """Test samples of a party that BERTScore sees, spread evenly; None for all. It costs 30 ms a pair on one core."""

    words: Path | None = None

    def __post_init__(self) -> None:
        check_choice(self.dtype, Dtype, f"the dtype of profile '{self.name}'")
        if self.base_bits is not None:
            check_choice(self.base_bits, BaseBits, f"base_bits of profile '{self.name}'")


def file_digest(path: Path | None) -> str | None:
    """Return the sha256 of a file, or None for no file."""
    if path is None or not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()
