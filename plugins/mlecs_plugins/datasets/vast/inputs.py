"""The inputs of all clips: hashed words of the annotations, and pictures and sound of the media files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlecs_plugins.datasets.store import Store
from mlecs_plugins.datasets.vast.card import N_FRAMES, modalities
from mlecs_plugins.datasets.vast.features import RATE, log_mel, thumbnail
from mlecs_plugins.datasets.vast.folder import sound_first, video_first
from mlecs_plugins.datasets.vast.media import MediaError, read_waveform, sample_frames
from mlecs_plugins.datasets.vast.plan import Selection
from mlecs_plugins.datasets.vast.texts import text_ids

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Inputs:
    """Modality → values (n, *shape), 0 where absent, and presence (n,) bool; damaged media file → what is wrong."""

    values: dict[str, Array]
    present: dict[str, Array]
    damaged: dict[Path, str]


def thumbnails(path: Path) -> Array | None:
    """Return four frames (4, 16, 16, 3) uint8 of a media file, or None when it has no video."""
    frames = sample_frames(path, N_FRAMES)
    return None if frames is None else np.stack([thumbnail(frame) for frame in frames])


def spectrogram(path: Path) -> Array | None:
    """Return the log-mel spectrogram (24, 24) float32 of a media file, or None when it has no sound."""
    waveform = read_waveform(path, RATE)
    return None if waveform is None else log_mel(waveform)


class MediaReader:
    """Reads media files once each, and remembers which are damaged; arrays come from `store` where it has them."""

    def __init__(self, digests: Mapping[Path, str], store: Store | None) -> None:
        self._digests = digests
        self._store = store
        self.damaged: dict[Path, str] = {}

    def vision(self, paths: Sequence[Path]) -> Array | None:
        """Return the pictures of a clip from the first of its files that has any."""
        return self._first(video_first(paths), thumbnails)

    def audio(self, paths: Sequence[Path]) -> Array | None:
        """Return the sound of a clip from the first of its files that has any."""
        return self._first(sound_first(paths), spectrogram)

    def _first(self, paths: Sequence[Path], read: Callable[[Path], Array | None]) -> Array | None:
        for path in paths:
            try:
                values = self._stored(path, read)
            except MediaError as error:
                self.damaged.setdefault(path, str(error))
                continue
            if values is not None:
                return values
        return None

    def _stored(self, path: Path, read: Callable[[Path], Array | None]) -> Array | None:
        if self._store is None:
            return read(path)
        digest, what = self._digests[path], read.__name__
        values = self._store.load(digest, what)
        if values is None:
            values = read(path)
            if values is not None:
                self._store.save(digest, what, values)
        return values


def read_inputs(plan: Selection, reader: MediaReader, progress: Progress) -> Inputs:
    """Return the inputs of all clips of a plan."""
    n = len(plan.clips)
    shapes = {m.name: m for m in modalities(plan.view)}
    values = {m.name: np.zeros((n, *m.shape), dtype=m.dtype) for m in shapes.values()}
    present = {name: np.zeros(n, dtype=bool) for name in shapes}
    for row, clip in enumerate(plan.clips):
        found = {name: _ids(clip.texts[name], m.shape[0]) for name, m in shapes.items() if m.encoding == "tokens"}
        if plan.view == "media":
            found |= {"audio": reader.audio(plan.media(clip)), "vision": reader.vision(plan.media(clip))}
            progress(row + 1, n, "decoding clips")
        for name, value in found.items():
            if value is not None:
                values[name][row], present[name][row] = value, True
    return Inputs(values, present, reader.damaged)


def _ids(text: str, length: int) -> Array | None:
    """Return the word ids (length,) of a text, or None when it has no word."""
    ids = np.array(text_ids(text, length), dtype=np.int64)
    return ids if ids[0] else None
