"""Profiles: which backbones, sizes and training settings a run uses; every number with its source."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlecs_bench.errors import DataError, UsageError

DIGESTED_FILES = ("config.json", "tokenizer.json", "*.safetensors", "*.bin")
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
    one stage), `soft_tokens` is P, widths are d_z, d_h and d_s of the unified model.
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
    dtype: Literal["float32", "bfloat16"] = "float32"
    generation_batch: int = 128
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

PROFILES: dict[str, Profile] = {MINI.name: MINI}


def checkpoint_digest(source: str) -> str:
    """Return the sha256 over the files of a checkpoint folder; a hub id is returned as it is.

    Raises DataError when the folder holds no weights.
    """
    if not is_folder(source):
        return source
    folder = Path(source).expanduser()
    files = sorted({path for pattern in DIGESTED_FILES for path in folder.glob(pattern)})
    if not any(path.suffix in {".safetensors", ".bin"} for path in files):
        raise DataError(f"{source} holds no weights (*.safetensors); save the model there first")
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def is_folder(source: str) -> bool:
    """Say whether `source` is a folder, else a hub id; raises UsageError for a path that leads nowhere."""
    folder = Path(source).expanduser()
    if not folder.is_dir() and (folder.is_absolute() or source.startswith(".") or source.count("/") > 1):
        raise UsageError(f"{source} is no folder; give one saved by transformers' save_pretrained")
    return folder.is_dir()


def file_digest(path: Path | None) -> str | None:
    """Return the sha256 of a file, or None for no file."""
    if path is None or not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()
