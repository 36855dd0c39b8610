"""A profile: which backbones, sizes and training settings a run uses, and where each number comes from."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mlecs_bench.errors import check_choice

Dtype = Literal["float32", "bfloat16", "float16"]
"""The numbers of frozen weights and of what language models compute; all that is trained is float32."""
BaseBits = Literal[4, 8]
"""Bits of a frozen weight that is quantised."""
TORCH_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class Range:
    """Which values of its type a setting may have, in words and as a test."""

    says: str
    holds: Callable[[Any], bool]


MOST_COUNT = 2**31 - 1
"""The largest count that torch takes."""
MOST_SIZE = 2**16
"""The largest width, rank or number of tokens of a model: above those of any that there is."""
LARGEST = 3.4e38
"""Models are trained in float32, which knows no larger number."""

WHOLE = Range("a whole number above 0, at most 2147483647", lambda value: 0 < value <= MOST_COUNT)
SIZE = Range("a whole number above 0, at most 65536", lambda value: 0 < value <= MOST_SIZE)
RATE = Range("a finite number above 0, at most 3.4e38", lambda value: 0 < value <= LARGEST)
SHARE = Range("from 0 to below 1", lambda value: 0 <= value < 1)
NOT_NEGATIVE = Range("a finite number of at least 0, at most 3.4e38", lambda value: 0 <= value <= LARGEST)
DEVICE = Range("cpu, cuda or cuda:N", lambda value: TORCH_DEVICE.fullmatch(value) is not None)
NAMED = Range("a folder or a name", bool)


def setting(
    default: Any = dataclasses.MISSING,
    *,
    source: str = "",
    range_: Range | None = None,
    changes_numbers: bool = True,
    can_be_set: bool = True,
) -> Any:
    """Declare one field of a profile.

    `source` says where the default comes from (a section of a paper, the authors' script, what was measured, ours); a
    profile with another value names its own under `Profile.sources`. `range_` holds for values other than None.
    `changes_numbers`: no result depends on the field where it is false. `can_be_set`: `--set` takes it.
    """
    marks = {"source": source, "range": range_, "changes_numbers": changes_numbers, "can_be_set": can_be_set}
    return field(default=default, metadata=marks)


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (paper Eq. 1-2).

    `targets` are ends of modules' names, or "all-linear"; None: {c_attn, c_proj} or the same projections elsewhere, by
    the table in models/projections.py.
    """

    rank: int = setting(8, source="paper, section 4.3", range_=SIZE)
    alpha: float = setting(16, source="authors' script", range_=RATE)
    dropout: float = setting(0.05, source="authors' script", range_=SHARE)
    targets: tuple[str, ...] | None = setting(None, source="authors' script: c_attn and c_proj of GPT-2")

    def at_rank(self, rank: int) -> LoraSettings:
        """Return the settings at another rank; alpha / r stays, so that an update weighs the same at every rank."""
        return dataclasses.replace(self, rank=rank, alpha=self.alpha * rank / self.rank)


@dataclass(frozen=True)
class LearningRates:
    """AdamW learning rates of the three kinds of trained parts."""

    encoder: float = setting(range_=RATE)
    connector: float = setting(range_=RATE)
    lora: float = setting(range_=RATE)


@dataclass(frozen=True)
class Profile:
    """Backbones, widths and training settings.

    `slm` and `llm` are folders (or hub ids) of causal language models. `rounds` is T, `steps` is q (optimiser steps of
    one stage), `soft_tokens` is P, widths are d_z, d_h and d_s of the unified model. `local_epochs`: a stage takes so
    many passes over the party's own samples, and not `steps`. `dtype` is that of the frozen weights and of the
    computations in the language models; all that is trained is float32. `base_bits`: the frozen weights are quantised
    to so many bits; None leaves them. `gradient_checkpointing` recomputes activations in the backward pass, for the
    same gradients in less memory. `words` is a file with all words that tiny models know,
    one a line; None for models of any text. `bertscore` is a model as `--bertscore-model` names it. Raises ValueError
    for an unknown dtype or number of bits.

    `sources` says by dotted name (`lora.rank`, or `lora` for all of it) where a number comes from that is not the
    field's default.
    """

    name: str = setting(can_be_set=False)
    summary: str = setting(can_be_set=False)
    slm: str = setting(range_=NAMED)
    llm: str = setting(range_=NAMED)
    encoders: Path | None = setting()  # noqa: RUF009  # a field
    soft_tokens: int = setting(range_=SIZE)
    encoder_width: int = setting(range_=SIZE)
    hidden_width: int = setting(range_=SIZE)
    fused_width: int = setting(range_=SIZE)
    learning_rates: LearningRates = setting()  # noqa: RUF009  # a field
    rounds: int = setting(range_=WHOLE)
    steps: int = setting(range_=WHOLE)
    batch_size: int = setting(range_=WHOLE)
    tiny: bool = setting(source="a mark: tables warn of numbers of tiny models", can_be_set=False)
    private_limit: int | None = setting(None, source="ours: all of them", range_=WHOLE)
    """Training samples of a device; None: all that the partition gives it."""
    public_limit: int | None = setting(None, source="ours: all of them", range_=WHOLE)
    """Public training samples; None: all that the partition gives."""
    test_limit: int | None = setting(None, source="ours: all of them", range_=WHOLE)
    """Test samples of a party; None: all. Answers take most of a large model's time."""
    lora: LoraSettings = LoraSettings()
    connector_dropout: float = setting(0.1, source="authors' script", range_=SHARE)
    clip_norm: float = setting(1.0, source="authors' script", range_=RATE)
    weight_decay: float = setting(0.0, source="authors' script", range_=NOT_NEGATIVE)
    server_trains_encoders: bool = setting(True, source="ours: the paper does not say")
    torch_device: str = setting("cpu", source="ours: every machine has one", range_=DEVICE)
    dtype: Dtype = setting("float32", source="ours: every device computes it")  # noqa: RUF009  # a field
    base_bits: BaseBits | None = setting(None, source="ours: nothing is quantised")  # noqa: RUF009  # a field
    gradient_checkpointing: bool = setting(False, source="ours: changes no number", changes_numbers=False)
    generation_batch: int = setting(128, source="ours: changes no number", range_=WHOLE, changes_numbers=False)
    bertscore: str = setting("packaged", source="ours: needs no download", range_=NAMED)
    bertscore_samples: int | None = setting(None, source="ours: all of them", range_=WHOLE)
    """Test samples of a party that BERTScore sees, spread evenly; None for all. It costs 30 ms a pair on one core."""
    local_epochs: int | None = setting(None, source="ours: steps are counted", range_=WHOLE)
    words: Path | None = field(default=None, metadata={"can_be_set": False})
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, metadata={"can_be_set": False})

    def __post_init__(self) -> None:
        check_choice(self.dtype, Dtype, f"the dtype of profile '{self.name}'")
        if self.base_bits is not None:
            check_choice(self.base_bits, BaseBits, f"base_bits of profile '{self.name}'")


def file_digest(path: Path | None) -> str | None:
    """Return the sha256 of a file, or None for no file."""
    if path is None or not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()
