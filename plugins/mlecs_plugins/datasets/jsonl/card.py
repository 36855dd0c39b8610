"""What is fixed about datasets that a manifest describes: options, kinds of columns. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from mlecs_bench.api import option

NAME = "jsonl"
MANIFEST = "dataset.yaml"

Kind = Literal["text", "image", "audio", "video", "array"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What a column of a modality holds: a text, numbers, or the name of a file of pictures, sound or both."""


@dataclass(frozen=True)
class JsonlOptions:
    """Options of datasets from a table and a manifest."""

    manifest: str = option(MANIFEST, help="the manifest's name in the data folder", source="ours")
    target_words: int | None = option(
        None, help="targets are cut after this many words, for short models; none: never", source="ours"
    )

    def __post_init__(self) -> None:
        if self.target_words is not None and self.target_words < 1:
            raise ValueError(f"target_words must be at least 1 or none, got {self.target_words}")
