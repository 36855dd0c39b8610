"""What a sequence's pictures become: small pictures for encoders that are trained, or embeddings of a frozen tower."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mlecs_plugins.datasets.towers.embedding import StoredTower
from mlecs_plugins.datasets.ur_fall import card
from mlecs_plugins.datasets.ur_fall.files import ImageSource, Panel
from mlecs_plugins.datasets.ur_fall.frames import SMALL, WHOLE, pictures_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Part = tuple[Array, Array]  # one modality of a sequence: values (T, *shape), presence (T,)


class Pictures(Protocol):
    """Reads the pictures of a sequence."""

    def read(self, source: ImageSource, frames: Sequence[int], panel: Panel, full_scale: float) -> Part:
        """Return what the pictures of `frames` become, (T, *shape), and which are there; raises FileError.

        `full_scale` is the depth in mm of the largest code; rgb does not use it.
        """
        ...

    def blank(self, n: int, panel: Panel) -> Part:
        """Return the values of n pictures that are not there."""
        ...


class SmallPictures:
    """Area averages: rgb (24, 32, 3) or depth (24, 32, 1), uint8."""

    def read(self, source: ImageSource, frames: Sequence[int], panel: Panel, full_scale: float) -> Part:
        """Return the small pictures of `frames`, and which are there."""
        values, present = self.blank(len(frames), panel)
        rows = {frame: row for row, frame in enumerate(frames)}
        for frame, picture in pictures_of(source, frames, panel, full_scale, SMALL):
            values[rows[frame]], present[rows[frame]] = picture, True
        return values, present

    def blank(self, n: int, panel: Panel) -> Part:
        """Return black pictures."""
        shape = (n, card.IMAGE_HEIGHT, card.IMAGE_WIDTH, 3 if panel == "rgb" else 1)
        return np.zeros(shape, dtype=np.uint8), np.zeros(n, dtype=bool)


class EmbeddedPictures:
    """Embeddings (d,) of whole pictures by a tower, kept by sequence; depth is shown to it in grey.

    `digests` has the sha256 of every file. What is kept of a sequence has a row of NaN for every picture that is not
    there.
    """

    def __init__(self, tower: StoredTower, digests: Mapping[Path, str]) -> None:
        self._tower = tower
        self._digests = digests

    def read(self, source: ImageSource, frames: Sequence[int], panel: Panel, full_scale: float) -> Part:
        """Return the embeddings of `frames`, and which are there."""
        digest = self._digest(source, frames, panel, full_scale)
        values = self._tower.known(digest)
        if values is None:
            values = self._embedded(source, frames, panel, full_scale)
            self._tower.keep(digest, values)
        present: Array = ~np.isnan(values[:, 0])
        return np.where(present[:, None], values, np.float32(0)), present

    def blank(self, n: int, panel: Panel) -> Part:
        """Return zeros."""
        return np.zeros((n, self._tower.tower.width), dtype=np.float32), np.zeros(n, dtype=bool)

    def _embedded(self, source: ImageSource, frames: Sequence[int], panel: Panel, full_scale: float) -> Array:
        values = np.full((len(frames), self._tower.tower.width), np.nan, dtype=np.float32)
        rows = {frame: row for row, frame in enumerate(frames)}
        for batch in _batches(pictures_of(source, frames, panel, full_scale, WHOLE), self._tower.batch):
            embeddings = self._tower.embed([picture for _, picture in batch])
            values[[rows[frame] for frame, _ in batch]] = embeddings
        return values

    def _digest(self, source: ImageSource, frames: Sequence[int], panel: Panel, full_scale: float) -> str:
        files = [(path.name, self._digests[path]) for path in source.paths]
        made_from = [files, list(frames), panel, full_scale if panel == "d" else None]
        return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


def _batches(pictures: Iterator[tuple[int, Array]], size: int) -> Iterator[list[tuple[int, Array]]]:
    """Yield up to `size` pictures at a time: a sequence of whole pictures need not fit into memory."""
    while batch := list(islice(pictures, size)):
        yield batch
