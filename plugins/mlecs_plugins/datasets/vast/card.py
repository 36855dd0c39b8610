"""What is fixed about the real VAST: options, views, the shapes of their modalities. Imports nothing heavy.

Source of the data: Chen et al., "VAST: A Vision-Audio-Subtitle-Text Omni-Modality Foundation Model and Dataset",
NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mlecs_bench.api import Modality, option
from mlecs_plugins.datasets.towers.options import TowerOptions

NAME = "vast"
PAGE = "https://github.com/TXH-mercury/VAST"
LICENCE = "research use (annotations of VAST-27M); every clip belongs to its own uploader"
PROMPT = "Summarize the clip."
MAX_NEW_TOKENS = 64
"""Room for an answer: the summaries have 30 words on average."""

N_FRAMES, SIZE = 4, 16
N_TOWER_FRAMES = 8
"""Frames of a clip that a tower of pictures sees."""
N_BANDS, N_TICKS = 24, 24
SUBTITLE_WORDS = 64
CAPTION_WORDS = 96
"""Words that are read of a subtitle and of all captions of a clip together; VAST has about 30 and 60."""
VOCABULARY = 2048
"""Ids of hashed words are 1..2047; 0 is padding."""

View = Literal["media", "captions"]
VIEW_TEXTS: dict[View, str] = {
    "media": "media: frames, audio, subtitle",
    "captions": "captions: vision_cap, audio_cap, subtitle as text",
}


@dataclass(frozen=True)
class VastOptions(TowerOptions):
    """Options of the VAST dataset; they choose among the user's own clips and do not touch the stand-in."""

    view: Literal["auto", "media", "captions"] = option(
        "auto",
        help="frames and sound of the media files, or the captions as text; auto: media if any clip has a file",
        source="ours",
    )
    limit: int | None = option(9680, help="how many clips are used; none for all", source="paper, section 4.1")
    subset_seed: int = option(2602, help="which clips are used where there are more than the limit", source="ours")
    annotations: str | None = option(
        None, help="name of the annotation file in the data folder; none: the only one there is", source="ours"
    )
    target_words: int | None = option(
        None, help="targets are cut after this many words, for short models; none: never", source="ours"
    )
    audio_tower: str = option(
        "laion/clap-htsat-unfused",
        help="encoder of sound in the view media: CLAP or Whisper, a folder or a hub id",
        source="ours",
        path=True,
    )
    text_tower: str = option(
        "sentence-transformers/all-MiniLM-L6-v2",
        help="encoder of subtitles, and of all captions in the view captions: any text encoder, a folder or a hub id",
        source="ours",
        path=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("limit", self.limit), ("target_words", self.target_words)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 or none, got {value}")


def view_text(view: View, options: VastOptions, towers: Sequence[str] = ()) -> str:
    """Return what real samples show, as tables print it; `towers` are the names of the encoders behind it."""
    cut = f"; targets cut after {options.target_words} words" if options.target_words else ""
    return VIEW_TEXTS[view] + (f", through {', '.join(towers)}" if towers else "") + cut


def modalities(view: View) -> tuple[Modality, Modality, Modality]:
    """Return audio, subtitle and vision as a view has them."""
    subtitle = _hashed("subtitle", SUBTITLE_WORDS, "the words of the subtitle")
    if view == "captions":
        audio = _hashed("audio", CAPTION_WORDS, "captions: the words of audio_cap, not sound")
        return audio, subtitle, _hashed("vision", CAPTION_WORDS, "captions: the words of vision_cap, not pictures")
    sound = "mel bands by time: log power, mean 0 and sd 1 in a clip"
    return (
        Modality("audio", (N_BANDS, N_TICKS), "float32", "spectrogram", sound),
        subtitle,
        Modality("vision", (N_FRAMES, SIZE, SIZE, 3), "uint8", "frames", "RGB frames at even times, area averages"),
    )


def tower_modalities(
    view: View, widths: Mapping[str, int], towers: Sequence[str]
) -> tuple[Modality, Modality, Modality]:
    """Return audio, subtitle and vision as embeddings of the given widths; `towers` are the encoders' names."""
    through = f"embedding by one of {', '.join(towers)}"
    if view == "captions":
        audio, vision = "captions: audio_cap, not sound", "captions: vision_cap, not pictures"
        seen = Modality("vision", (widths["vision"],), "float32", "vector", f"{vision}; {through}", standardise=True)
    else:
        audio = "the sound"
        shape = (N_TOWER_FRAMES, widths["vision"])
        seen = Modality("vision", shape, "float32", "series", f"frames at even times; {through}", standardise=True)
    return (
        Modality("audio", (widths["audio"],), "float32", "vector", f"{audio}; {through}", standardise=True),
        Modality("subtitle", (widths["subtitle"],), "float32", "vector", f"the subtitle; {through}", standardise=True),
        seen,
    )


def _hashed(name: str, length: int, meaning: str) -> Modality:
    return Modality(name, (length,), "int64", "tokens", f"{meaning}, hashed; 0 = padding", VOCABULARY)
