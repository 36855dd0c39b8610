"""What trivial references copy: the subtitle of a clip, or all of its texts, as columns of the prepared table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlecs_plugins.datasets.vast.words import SUBTITLE_WORDS

if TYPE_CHECKING:
    import numpy as np

    from mlecs_plugins.datasets.vast.clips import Clip

SUBTITLE, ALL = "subtitle_text", "all_text"
REFERENCES: Mapping[str, str] = {"copy-subtitle": SUBTITLE, "copy-all": ALL}
"""Reference → the column that it answers with."""
CAPTIONS = ("vision", "audio")


def texts_of(clips: Sequence[Clip]) -> dict[str, list[str]]:
    """Return the columns for real clips: the subtitles, and the joined captions and subtitle if any clip has a caption.

    The captions of pictures come first, then those of sound, then the subtitle; what a clip lacks is left out.
    """
    columns = {SUBTITLE: [clip.texts["subtitle"] for clip in clips]}
    if any(clip.texts[modality] for clip in clips for modality in CAPTIONS):
        columns[ALL] = [" ".join(filter(None, (clip.texts[m] for m in (*CAPTIONS, "subtitle")))) for clip in clips]
    return columns


def subtitles_of(ids: np.ndarray[Any, Any]) -> list[str]:
    """Return the words of synthetic subtitles, whose ids are (n, words) with 0 for padding."""
    return [" ".join(SUBTITLE_WORDS[i] for i in row if i) for row in ids.tolist()]
