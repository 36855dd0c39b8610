"""The inputs of all clips as embeddings of frozen towers, in batches, kept one by one so that nothing is done twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlecs_bench.api import Modality
from mlecs_plugins.datasets.store import Store
from mlecs_plugins.datasets.towers.checkpoints import Checkpoint, checkpoint_of, untold
from mlecs_plugins.datasets.towers.embedding import StoredTower, identity_of
from mlecs_plugins.datasets.towers.options import TowerOptions
from mlecs_plugins.datasets.vast.card import N_TOWER_FRAMES, VastOptions, View, tower_modalities
from mlecs_plugins.datasets.vast.folder import sound_first, video_first
from mlecs_plugins.datasets.vast.inputs import Inputs, Progress
from mlecs_plugins.datasets.vast.media import MediaError, read_picture, read_waveform, sample_frames
from mlecs_plugins.datasets.vast.plan import Selection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


@dataclass(frozen=True)
class Towers:
    """The towers of a request: by modality the checkpoint that encodes it in the view."""

    checkpoints: Mapping[str, Checkpoint]
    options: VastOptions

    @classmethod
    def of(cls, options: VastOptions, view: str, progress: Progress = untold) -> Towers | None:
        """Return the towers that the options name for a view, or None when features are raw.

        `progress` is told of what is fetched from a hub.
        """
        if options.features != "towers":
            return None
        text = checkpoint_of("text", options.text_tower, "text_tower", progress=progress)
        by_modality = {"audio": text, "subtitle": text, "vision": text}
        if view == "media":
            by_modality["audio"] = checkpoint_of("audio", options.audio_tower, "audio_tower", progress=progress)
            by_modality["vision"] = checkpoint_of(
                "vision", options.vision_tower, "vision_tower", options.vision_adapter, progress
            )
        return cls(by_modality, options)

    @property
    def names(self) -> list[str]:
        """The names of the towers, each once, pictures first."""
        return list(dict.fromkeys(self.checkpoints[m].name for m in ("vision", "audio", "subtitle")))

    @property
    def digests(self) -> dict[str, str]:
        """What decides the embeddings of every modality."""
        return {name: identity_of(checkpoint) for name, checkpoint in self.checkpoints.items()}

    def shapes(self, view: View, inputs: Inputs) -> tuple[Modality, Modality, Modality]:
        """Return the modalities of embedded inputs, whose widths are their towers'."""
        widths = {name: int(values.shape[-1]) for name, values in inputs.values.items()}
        return tower_modalities(view, widths, self.names)


class Embedder:
    """Embeds one modality of all clips: pictures as a series (frames, d), a picture, sound or text as a vector (d,).

    `frames` is how many pictures are seen of a file; one is the picture of a file of one.
    """

    def __init__(self, checkpoint: Checkpoint, options: TowerOptions, store: Store, frames: int = 0) -> None:
        self._kind, self._frames = checkpoint.kind, frames
        self._stored = StoredTower(checkpoint, options, store, f"-{frames}" if frames else "")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a clip's embedding."""
        width = self._stored.tower.width
        return (self._frames, width) if self._is_series else (width,)

    @property
    def _is_series(self) -> bool:
        return self._frames > 1

    def known(self, digest: str) -> Array | None:
        """Return what is stored for a file or a text."""
        values = self._stored.known(digest)
        return values if values is None or self._is_series else values[0]

    def embed(self, pending: Mapping[str, Any]) -> dict[str, Array]:
        """Embed things by the digest of what they are made from, and store each result."""
        groups = {digest: thing if self._is_series else [thing] for digest, thing in pending.items()}
        found = self._stored.embed_groups(groups)
        return found if self._is_series else {digest: values[0] for digest, values in found.items()}

    def read(self, path: Path) -> Any:
        """Return the pictures, the picture or the sound of a media file, or None where it has none."""
        if self._kind == "vision":
            return sample_frames(path, self._frames) if self._is_series else read_picture(path)
        return read_waveform(path, self._stored.tower.rate)  # type: ignore[attr-defined]  # towers of sound have one


def embed_inputs(
    plan: Selection, towers: Towers, digests: Mapping[Path, str], store: Store, progress: Progress
) -> Inputs:
    """Return the embeddings of all clips of a plan; what a clip lacks is missing, as with raw inputs."""
    values, present = {}, {}
    damaged: dict[Path, str] = {}
    n, batch = len(plan.clips), towers.options.tower_batch
    for name, checkpoint in towers.checkpoints.items():
        embedder = Embedder(checkpoint, towers.options, store, N_TOWER_FRAMES if checkpoint.kind == "vision" else 0)
        wanted = _media(plan, name, embedder, digests, damaged) if _is_media(plan, name) else _texts(plan, name)
        found: dict[int, Array] = {}
        for done, (rows, embedded) in enumerate(batched(wanted, embedder, batch), start=1):
            found |= dict(zip(rows, embedded, strict=True))
            progress(min(done * batch, n), n, f"embedding {name} with {checkpoint.name}")
        progress(n, n, f"embedding {name} with {checkpoint.name}")
        present[name] = np.array([row in found for row in range(n)])
        absent = np.zeros(next(iter(found.values())).shape if found else embedder.shape, dtype=np.float32)
        values[name] = np.stack([found.get(row, absent) for row in range(n)])
    return Inputs(values, present, damaged)


def _is_media(plan: Selection, name: str) -> bool:
    return plan.view == "media" and name != "subtitle"


Wanted = tuple[int, str, Any]
"""A clip's row, the digest of what is embedded, and the thing itself: None where its embedding is stored."""


def _texts(plan: Selection, name: str) -> Iterator[Wanted]:
    """Yield the texts of a modality; a text without a word is missing."""
    for row, clip in enumerate(plan.clips):
        text = " ".join(clip.texts[name].split())
        if text:
            yield row, hashlib.sha256(text.encode()).hexdigest(), text


def _media(
    plan: Selection, name: str, embedder: Embedder, digests: Mapping[Path, str], damaged: dict[Path, str]
) -> Iterator[Wanted]:
    """Yield pictures or sound of every clip, from the first of its files that has any; notes damaged files."""
    order = video_first if name == "vision" else sound_first
    for row, clip in enumerate(plan.clips):
        for path in order(plan.media(clip)):
            if embedder.known(digests[path]) is not None:
                yield row, digests[path], None
                break
            try:
                thing = embedder.read(path)
            except MediaError as error:
                damaged.setdefault(path, str(error))
                continue
            if thing is not None:
                yield row, digests[path], thing
                break


def batched(wanted: Iterator[Wanted], embedder: Embedder, size: int) -> Iterator[tuple[list[int], list[Array]]]:
    """Yield rows and their embeddings, `size` clips at a time; equal things of a batch are embedded once."""
    batch: list[Wanted] = []
    for item in wanted:
        batch.append(item)
        if len(batch) == size:
            yield _embedded(batch, embedder)
            batch = []
    if batch:
        yield _embedded(batch, embedder)


def _embedded(batch: Sequence[Wanted], embedder: Embedder) -> tuple[list[int], list[Array]]:
    found: dict[str, Array] = {}
    pending: dict[str, Any] = {}
    for _, digest, thing in batch:
        stored = embedder.known(digest)
        if stored is not None:
            found[digest] = stored
        else:
            pending[digest] = thing
    if pending:
        found |= embedder.embed(pending)
    return [row for row, _, _ in batch], [found[digest] for _, digest, _ in batch]
