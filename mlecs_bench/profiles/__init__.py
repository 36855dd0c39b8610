"""Profiles: which backbones, sizes and training settings a run uses; every number with its source."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlecs_bench.spec import Dtype

BaseBits = Literal[4, 8]
MINI_FOLDER = Path(__file__).parent / "mini"


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (paper Eq. 1-2). `targets` None: {c_attn, c_proj} or the same projections elsewhere."""

    rank: int = 8  # paper, section 4.3
    alpha: float = 16  # authors' script
    dropout: float = 0.05  # authors' script
    targets: tuple[str, ...] | None = None


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
    backward pass, for the same gradients in less memory. `bertscore` is a model as `--bertscore-model` names it.
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
    lora: LoraSettings = LoraSettings()
    connector_dropout: float = 0.1  # authors' script
    clip_norm: float = 1.0  # authors' script
    weight_decay: float = 0.0  # authors' script
    server_trains_encoders: bool = True
    device: str = "cpu"
    dtype: Dtype = "float32"
    base_bits: BaseBits | None = None
    gradient_checkpointing: bool = False
    generation_batch: int = 128
    bertscore: str = "packaged"
    bertscore_samples: int | None = None
    """Test samples of a party that BERTScore sees, spread evenly; None: all. It costs 30 ms a pair on one core."""


MINI = Profile(
    name="mini",
    summary="embedded: GPT-2 type SLM (d96, 2 layers), GPT-J type LLM (d128, 4 layers), tiny pretrained encoders",
    slm=str(MINI_FOLDER / "slm"),
    llm=str(MINI_FOLDER / "llm"),
    encoders=MINI_FOLDER / "encoders.safetensors",
    soft_tokens=8,
    encoder_width=64,
    hidden_width=64,
    fused_width=64,
    learning_rates=LearningRates(encoder=1e-4, connector=2e-3, lora=2e-3),  # chosen with Standalone alone
    rounds=5,  # time budget of the profile: five seeds in four minutes on two cores
    steps=20,
    batch_size=8,
    tiny=True,
    bertscore_samples=64,  # time budget of the profile
)

AUTHORS_RATE = 2e-4  # authors' script: one rate for all parts
PAPER = Profile(
    name="paper",
    summary="the paper's: MiniLLM-gpt2-760M (gpt2-large) on devices, GPT-J-6B at the server, bfloat16, one 80 GB GPU",
    slm="MiniLLM/MiniLLM-gpt2-760M",  # paper, section 4.1, which prints 720M; the published model is 760M
    llm="EleutherAI/gpt-j-6b",  # paper, section 4.1
    encoders=None,
    soft_tokens=16,  # authors' script
    encoder_width=64,  # authors' script
    hidden_width=256,  # d_h = d_s: a volume needs vectors of one width
    fused_width=256,  # authors' script
    learning_rates=LearningRates(encoder=AUTHORS_RATE, connector=AUTHORS_RATE, lora=AUTHORS_RATE),
    rounds=5,  # authors' script
    steps=10,  # authors' script
    batch_size=4,  # authors' script
    tiny=False,
    device="cuda",
    dtype="bfloat16",  # the authors' script has float16, whose range needs a loss scale
    generation_batch=32,
    bertscore="roberta-large",  # the literature's
)

SMALL = dataclasses.replace(
    PAPER,
    name="small",
    summary="distilgpt2 on devices, gpt2-medium at the server, bfloat16, one consumer GPU; else as the paper's",
    slm="distilbert/distilgpt2",
    llm="openai-community/gpt2-medium",
)

PROFILES: dict[str, Profile] = {profile.name: profile for profile in (MINI, SMALL, PAPER)}


def file_digest(path: Path | None) -> str | None:
    """Return the sha256 of a file, or None for no file."""
    if path is None or not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()
