"""The inputs of all clips as embeddings of frozen towers, in batches, kept one by one so that nothing is done twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlecs_plugins.datasets.towers.checkpoints import TowerCheckpoint
from mlecs_plugins.datasets.vast.card import N_TOWER_FRAMES, VastOptions, tower_modalities
from mlecs_plugins.datasets.vast.folder import sound_first, video_first
from mlecs_plugins.datasets.vast.inputs import Inputs, Progress
from mlecs_plugins.datasets.vast.media import MediaError, read_waveform, sample_frames
from mlecs_plugins.datasets.vast.plan import Selection
from mlecs_plugins.datasets.vast.store import Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlecs_plugins.datasets.towers.encoders import Tower

    Array = NDArray[Any]

EMBEDDING_VERSION = 1
"""Part of every stored name: raise it when the same tower would give other embeddings."""


@dataclass(frozen=True)
class Towers:
    """The towers of a request: by modality the checkpoint that encodes it in the view."""

    checkpoints: Mapping[str, TowerCheckpoint]
    device: str
    batch: int

    @classmethod
    def of(cls, options: VastOptions, view: str) -> Towers | None:
        """Return the towers that the options name for a view, or None when features are raw."""
        if options.features != "towers":
            return None
        text = TowerCheckpoint("text", options.text_tower, "text_tower")
        by_modality = {"audio": text, "subtitle": text, "vision": text}
        if view == "media":
            by_modality["audio"] = TowerCheckpoint("audio", options.audio_tower, "audio_tower")
            by_modality["vision"] = TowerCheckpoint("vision", options.vision_tower, "vision_tower")
        return cls(by_modality, options.tower_device, options.tower_batch)

    @property
    def widths(self) -> dict[str, int]:
        """The width of every modality's embedding."""
        return {name: checkpoint.width for name, checkpoint in self.checkpoints.items()}

    @property
    def names(self) -> list[str]:
        """The names of the towers, each once, pictures first."""
        return list(dict.fromkeys(self.checkpoints[m].name for m in ("vision", "audio", "subtitle")))

    @property
    def digests(self) -> dict[str, str]:
        """What decides the embeddings of every modality."""
        return {name: f"{EMBEDDING_VERSION}-{checkpoint.digest}" for name, checkpoint in self.checkpoints.items()}


class Embedder:
    """Embeds one modality of all clips of a plan; the tower is loaded when the first item is not in the store."""

    def __init__(self, checkpoint: TowerCheckpoint, towers: Towers, store: Store) -> None:
        self._checkpoint = checkpoint
        self._towers = towers
        self._store = store
        self._tower: Tower | None = None
        frames = f"-{N_TOWER_FRAMES}" if checkpoint.kind == "vision" else ""
        self.what = f"{checkpoint.kind}{EMBEDDING_VERSION}{frames}-{checkpoint.digest[:32]}"

    @property
    def tower(self) -> Tower:
        """The tower, loaded."""
        if self._tower is None:
            from mlecs_plugins.datasets.towers.encoders import open_tower

            self._tower = open_tower(self._checkpoint, self._towers.device)
        return self._tower

    def known(self, digest: str) -> Array | None:
        """Return what is stored for a file or a text."""
        return self._store.load(digest, self.what)

    def embed(self, pending: Mapping[str, Any]) -> dict[str, Array]:
        """Embed things by the digest of what they are made from, and store each result."""
        groups = [_parts(thing, self._checkpoint.kind) for thing in pending.values()]
        flat = [part for group in groups for part in group]
        size = self._towers.batch
        chunks = [self.tower.embed(flat[i : i + size]) for i in range(0, len(flat), size)]
        rows = iter(np.concatenate(chunks))
        found = {}
        for digest, group in zip(pending, groups, strict=True):
            values = np.stack([next(rows) for _ in group])
            found[digest] = values if self._checkpoint.kind == "vision" else values[0]
            self._store.save(digest, self.what, found[digest])
        return found

    def read(self, path: Path) -> Any:
        """Return the pictures or the sound of a media file, or None where it has none."""
        if self._checkpoint.kind == "vision":
            return sample_frames(path, N_TOWER_FRAMES)
        return read_waveform(path, self.tower.rate)  # type: ignore[attr-defined]  # every tower of sound has a rate


def _parts(thing: Any, kind: str) -> Sequence[Any]:
    return thing if kind == "vision" else [thing]


def embed_inputs(
    plan: Selection, towers: Towers, digests: Mapping[Path, str], store: Store, progress: Progress
) -> Inputs:
    """Return the embeddings of all clips of a plan; what a clip lacks is missing, as with raw inputs."""
    n = len(plan.clips)
    shapes = {m.name: m for m in tower_modalities(plan.view, towers.widths, towers.names)}
    values = {name: np.zeros((n, *m.shape), dtype=np.float32) for name, m in shapes.items()}
    present = {name: np.zeros(n, dtype=bool) for name in shapes}
    damaged: dict[Path, str] = {}
    for name in shapes:
        embedder = Embedder(towers.checkpoints[name], towers, store)
        wanted = _media(plan, name, embedder, digests, damaged) if _is_media(plan, name) else _texts(plan, name)
        for done, (rows, found) in enumerate(_batched(wanted, embedder, towers.batch), start=1):
            for row, value in zip(rows, found, strict=True):
                values[name][row], present[name][row] = value, True
            progress(min(done * towers.batch, n), n, f"embedding {name} with {towers.checkpoints[name].name}")
        progress(n, n, f"embedding {name} with {towers.checkpoints[name].name}")
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


def _batched(wanted: Iterator[Wanted], embedder: Embedder, size: int) -> Iterator[tuple[list[int], list[Array]]]:
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
