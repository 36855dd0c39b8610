"""What is fixed about datasets that a manifest describes: options, kinds of columns. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from mlecs_bench.api import option
from mlecs_plugins.datasets.towers.options import TowerOptions

NAME = "jsonl"
MANIFEST = "dataset.yaml"

Kind = Literal["text", "image", "audio", "video", "array"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What a column of a modality holds: a text, numbers, or the name of a file of pictures, sound or both."""


@dataclass(frozen=True)
class JsonlOptions(TowerOptions):
    """Options of datasets from a table and a manifest."""

    SILENT_DEFAULTS: ClassVar[tuple[str, ...]] = (
        *("features", "vision_tower", "vision_adapter"),
        *("audio_tower", "text_tower"),
    )
    manifest: str = option(MANIFEST, help="the manifest's name in the data folder", source="ours")
    target_words: int | None = option(
        None, help="targets are cut after this many words, for short models; none: never", source="ours"
    )
    audio_tower: str = option(
        "laion/clap-htsat-unfused",
        help="encoder of sound: CLAP or Whisper, a folder or a hub id",
        source="ours",
        path=True,
    )
    text_tower: str = option(
        "sentence-transformers/all-MiniLM-L6-v2",
        help="encoder of texts: any text encoder, a folder or a hub id",
        source="ours",
        path=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_words is not None and self.target_words < 1:
            raise ValueError(f"target_words must be at least 1 or none, got {self.target_words}")
