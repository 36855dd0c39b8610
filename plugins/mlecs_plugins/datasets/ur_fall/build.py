"""From blocks of samples to the prepared Arrow table and its manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlecs_bench.api import Manifest, Modality, Prepared, features_of, save_prepared
from mlecs_plugins.datasets.ur_fall import card

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray

    Array = NDArray[Any]


@dataclass(frozen=True)
class SequenceBlock:
    """The samples of one sequence: frame numbers (T,), label indices (T,), and per modality its values and presence.

    `values` are (T, *shape) in the modality's dtype, `present` (T,) bool.
    """

    sequence: str
    stratum: str
    frames: Array
    labels: Array
    values: dict[str, Array]
    present: dict[str, Array]


@dataclass(frozen=True)
class Origin:
    """What the samples come from, as the manifest tells it."""

    view: str
    synthetic: bool
    digest: str
    licence: str
    notes: tuple[str, ...]


def save_blocks(
    blocks: Sequence[SequenceBlock],
    options: card.UrFallOptions,
    origin: Origin,
    folder: Path,
    tower: str | None = None,
) -> Prepared:
    """Write the prepared dataset to `folder`; `tower` is the name of what pictures were embedded with."""
    width = int(blocks[0].values["rgb"].shape[-1])
    modalities = card.modalities(options, None if tower is None else (tower, width))
    table = build_table(blocks, options, modalities)
    manifest = Manifest(
        name=card.NAME,
        version="1",
        view=origin.view,
        synthetic=origin.synthetic,
        task="classification",
        modalities=modalities,
        prompt=card.PROMPT,
        labels=card.label_texts(options),
        max_new_tokens=card.MAX_NEW_TOKENS,
        n_samples=len(table),
        digest=origin.digest,
        licence=origin.licence,
        notes=origin.notes,
    )
    return save_prepared(table, manifest, folder)


def view_of(options: card.UrFallOptions, tower: str | None = None) -> str:
    """Return what real samples show, as the manifest tells it; `tower` is the name of that of pictures."""
    through = f", through {tower}" if tower else ""
    return f"rgb, depth {'images' if options.depth == 'image' else 'features'}, accelerometer{through}"


def sample_id(block: SequenceBlock, frame: int) -> str:
    """Return the id of a sample: its sequence and frame, as in "fall-01/0007"."""
    return f"{block.sequence}/{frame:04d}"


def build_table(
    blocks: Sequence[SequenceBlock], options: card.UrFallOptions, modalities: Sequence[Modality]
) -> datasets.Dataset:
    """Return the Arrow table of all blocks."""
    import datasets
    import pyarrow as pa

    texts = card.label_texts(options)
    columns: dict[str, Any] = {
        "id": [sample_id(b, frame) for b in blocks for frame in b.frames.tolist()],
        "target": [texts[label] for b in blocks for label in b.labels.tolist()],
        "group": [b.sequence for b in blocks for _ in b.frames],
        "stratum": [b.stratum for b in blocks for _ in b.frames],
    }
    for m in modalities:
        columns[m.name] = _flat_lists([b.values[m.name] for b in blocks], m)
        columns[f"has_{m.name}"] = np.concatenate([b.present[m.name] for b in blocks])
    features = features_of(modalities)
    return datasets.Dataset(pa.table(columns, schema=features.arrow_schema))


def _flat_lists(arrays: Sequence[Array], modality: Modality) -> Any:
    """Return an Arrow array with one list of fixed length per sample, without a Python object per value."""
    import pyarrow as pa

    flat = np.concatenate([a.reshape(-1) for a in arrays]).astype(modality.dtype, copy=False)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), int(np.prod(modality.shape)))
