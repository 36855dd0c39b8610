"""Texts, pictures, sound and videos of a user's table as embeddings of frozen towers; arrays stay what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.api import Modality, UsageError
from mlecs_plugins.datasets.jsonl.card import NAME, JsonlOptions, Kind
from mlecs_plugins.datasets.jsonl.layout import Layout, Source
from mlecs_plugins.datasets.jsonl.samples import Sample
from mlecs_plugins.datasets.store import Store
from mlecs_plugins.datasets.towers.checkpoints import Checkpoint, checkpoint_of, untold
from mlecs_plugins.datasets.towers.embedding import identity_of
from mlecs_plugins.datasets.vast.card import N_TOWER_FRAMES
from mlecs_plugins.datasets.vast.embedding import Embedder, Wanted, batched
from mlecs_plugins.datasets.vast.inputs import Progress
from mlecs_plugins.datasets.vast.media import MediaError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FRAMES: Mapping[Kind, int] = {"image": 1, "video": N_TOWER_FRAMES}
"""Pictures that a tower sees of a cell."""


@dataclass(frozen=True)
class Towers:
    """The towers of a request, by the kind of the columns that they encode."""

    checkpoints: Mapping[Kind, Checkpoint]
    options: JsonlOptions

    @classmethod
    def of(cls, options: JsonlOptions, layout: Layout, progress: Progress = untold) -> Towers | None:
        """Return the towers that the options name for a manifest's modalities, or None when features are raw.

        `progress` is told of what is fetched from a hub. Raises UsageError where there is nothing to encode.
        """
        if options.features != "towers":
            return None
        pictures = checkpoint_of("vision", options.vision_tower, "vision_tower", options.vision_adapter, progress)
        every: dict[Kind, Checkpoint] = {
            "text": checkpoint_of("text", options.text_tower, "text_tower", progress=progress),
            "image": pictures,
            "audio": checkpoint_of("audio", options.audio_tower, "audio_tower", progress=progress),
            "video": pictures,
        }
        used = [source.kind for source in layout.modalities if source.kind in every]
        if not used:
            raise UsageError(f"features=towers: no modality of {NAME} is a text, image, audio or video; leave it out")
        return cls({kind: every[kind] for kind in used}, options)

    @property
    def names(self) -> list[str]:
        """The names of the towers, each once."""
        return list(dict.fromkeys(self.checkpoints[kind].name for kind in sorted(self.checkpoints)))

    @property
    def digests(self) -> dict[str, str]:
        """What decides the embeddings of every kind."""
        return {kind: identity_of(checkpoint) for kind, checkpoint in self.checkpoints.items()}


class EmbeddedColumns:
    """Embeds whole modalities, each sample's once; `digests` has the sha256 of every file."""

    def __init__(self, towers: Towers, digests: Mapping[Path, str], store: Store) -> None:
        self._towers = towers
        self._digests = digests
        self._store = store

    def encodes(self, source: Source) -> bool:
        """Is a modality what a tower encodes?"""
        return source.kind in self._towers.checkpoints

    def modality(self, source: Source, shape: tuple[int, ...]) -> Modality:
        """Return a modality of embeddings of this shape."""
        meaning = f"{source.kind} in {source.columns[0]}; embedding by {self._towers.checkpoints[source.kind].name}"
        return Modality(
            source.name, shape, "float32", "series" if len(shape) > 1 else "vector", meaning, standardise=True
        )

    def embed(
        self, source: Source, samples: Sequence[Sample], damaged: dict[Path, str], tell: Progress
    ) -> tuple[list[Array | None], tuple[int, ...]]:
        """Return the embedding of every sample, None where it lacks the modality, and their shape.

        Files that cannot be decoded are added to `damaged`, with the reason.
        """
        checkpoint, options = self._towers.checkpoints[source.kind], self._towers.options
        embedder = Embedder(checkpoint, options, self._store, FRAMES.get(source.kind, 0))
        found: list[Array | None] = [None] * len(samples)
        wanted = self._wanted(source, samples, embedder, damaged)
        for rows, values in batched(wanted, embedder, options.tower_batch):
            for row, value in zip(rows, values, strict=True):
                found[row] = value
            tell(rows[-1] + 1, len(samples), f"embedding {source.name} with {checkpoint.name}")
        shape = next((value.shape for value in found if value is not None), None)
        return found, embedder.shape if shape is None else shape

    def _wanted(
        self, source: Source, samples: Sequence[Sample], embedder: Embedder, damaged: dict[Path, str]
    ) -> Iterator[Wanted]:
        for row, sample in enumerate(samples):
            held = sample.held.get(source.name)
            if held is None:
                continue
            if not isinstance(held, Path):
                if text := " ".join(held.split()):
                    yield row, hashlib.sha256(text.encode()).hexdigest(), text
            elif embedder.known(self._digests[held]) is not None:
                yield row, self._digests[held], None
            else:
                try:
                    thing = embedder.read(held)
                    if thing is None:
                        raise MediaError(f"has no {'sound' if source.kind == 'audio' else 'pictures'}")
                except MediaError as error:
                    damaged[held] = str(error)
                else:
                    yield row, self._digests[held], thing
