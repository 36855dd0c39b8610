"""Prepares UR-FALL once: the user's files or the stand-in become one Arrow table in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlecs_bench.api import DataError, DataRequest, Prepared, UsageError, open_prepared
from mlecs_plugins.datasets.store import Store
from mlecs_plugins.datasets.towers.checkpoints import Checkpoint, Progress, checkpoint_of
from mlecs_plugins.datasets.towers.embedding import StoredTower, identity_of
from mlecs_plugins.datasets.ur_fall import card, synthetic
from mlecs_plugins.datasets.ur_fall.build import Origin, SequenceBlock, save_blocks, view_of
from mlecs_plugins.datasets.ur_fall.files import FileIndex
from mlecs_plugins.datasets.ur_fall.pictures import EmbeddedPictures
from mlecs_plugins.datasets.ur_fall.problems import FileProblems
from mlecs_plugins.datasets.ur_fall.reader import READER_VERSION, Repairs, make_plans, read_plans
from mlecs_plugins.datasets.user_files import Digests


def prepare(request: DataRequest) -> Prepared:
    """Return the prepared dataset of `request`, from the cache where it is there.

    Raises DataError that names every missing, damaged or inconsistent file, one line each.
    """
    options = card.UrFallOptions() if request.options is None else request.options
    if request.data_dir is None:
        return _prepare_synthetic(request, options)
    return _prepare_real(request, options, Path(request.data_dir))


def missing_files(data_dir: Path) -> list[str]:
    """Return one line for each file that is not in `data_dir` or not consistent with the others, without decoding."""
    problems = FileProblems(data_dir)
    try:
        make_plans(FileIndex(data_dir), card.UrFallOptions(), problems)
    except DataError as error:
        return [str(error)]
    return problems.lines


def _prepare_synthetic(request: DataRequest, options: card.UrFallOptions) -> Prepared:
    if options.features == "towers":
        raise UsageError(
            "features=towers embeds your own pictures, not the stand-in's; give --data-dir, or leave it out"
        )
    digest = _digest_of({**synthetic.parameters(), "labels": options.labels, "depth": options.depth})
    folder = _cache(request) / digest[:32]
    ready = open_prepared(folder)
    if ready is not None:
        return ready
    sequences = synthetic.make_sequences(synthetic.DATASET_SEED, depth=options.depth)
    request.progress(len(sequences), len(sequences), "generating sequences")
    note = "generated: lengths, label runs and class shares are about the real ones, everything else is invented"
    origin = Origin("synthetic", True, digest, card.SYNTHETIC_LICENCE, (note,))
    return save_blocks([_block(s) for s in sequences], options, origin, folder)


def _block(sequence: synthetic.Sequence) -> SequenceBlock:
    frames = np.arange(1, len(sequence.labels) + 1)
    present = {m: np.ones(len(frames), dtype=bool) for m in sequence.arrays}
    return SequenceBlock(sequence.name, sequence.stratum, frames, sequence.labels, sequence.arrays, present)


def _prepare_real(request: DataRequest, options: card.UrFallOptions, data_dir: Path) -> Prepared:
    problems = FileProblems(data_dir)
    plans, used = make_plans(indexed(request, data_dir), options, problems)
    checkpoint = tower_of(options, request.progress)
    digest, pictures = "", None
    if not problems.lines:
        digests = file_digests(request, used)
        digest = digest_of(digests, options, checkpoint)
        ready = open_prepared(_cache(request) / digest[:32])
        if ready is not None:
            return ready
        pictures = _embedded_pictures(request, options, checkpoint, digests)
    blocks, repairs = read_plans(plans, options, problems, request.progress, pictures)
    problems.raise_if_any()
    if not any(block.present["depth"].any() for block in blocks):
        raise DataError(no_depth(data_dir))
    name = None if checkpoint is None else checkpoint.name
    origin = Origin(view_of(options, name), False, digest, card.LICENCE, notes_of(repairs, len(blocks)))
    return save_blocks(blocks, options, origin, _cache(request) / digest[:32], name)


def indexed(request: DataRequest, data_dir: Path) -> FileIndex:
    """Return the files of a folder; raises DataError where one of them, or the cache, cannot be used."""
    try:
        return FileIndex(data_dir, _cache(request), request.progress)
    except OSError as error:
        raise DataError(f"ur-fall: {error.filename} cannot be read ({error.strerror}); mend or remove it") from error


def tower_of(options: card.UrFallOptions, progress: Progress) -> Checkpoint | None:
    """Return the tower in front of pictures, or None when features are raw."""
    if options.features == "raw":
        return None
    return checkpoint_of("vision", options.vision_tower, "vision_tower", options.vision_adapter, progress)


def _embedded_pictures(
    request: DataRequest, options: card.UrFallOptions, checkpoint: Checkpoint | None, digests: Mapping[Path, str]
) -> EmbeddedPictures | None:
    if checkpoint is None:
        return None
    store = Store(_cache(request) / f"embedded-{READER_VERSION}")
    return EmbeddedPictures(StoredTower(checkpoint, options, store), digests)


def file_digests(request: DataRequest, used: Sequence[Path]) -> dict[Path, str]:
    """Return the sha256 of every file that is read."""
    return Digests(_cache(request) / "file-digests.json").of(used, request.progress)


def digest_of(digests: Mapping[Path, str], options: card.UrFallOptions, checkpoint: Checkpoint | None) -> str:
    """Return the sha256 of the reader's version, the options, the tower and the name and content of every file."""
    made_from: dict[str, Any] = {
        "reader": READER_VERSION,
        "labels": options.labels,
        "depth": options.depth,
        "files": sorted((path.name, digest) for path, digest in digests.items()),
    }
    if checkpoint is not None:
        made_from["tower"] = identity_of(checkpoint)
    return _digest_of(made_from)


def _cache(request: DataRequest) -> Path:
    return Path(request.cache_dir) / card.NAME


def _digest_of(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def no_depth(data_dir: Path) -> str:
    """Return what is wrong with a folder that depth=image finds no image in."""
    return (
        f"ur-fall: depth=image, but no labelled frame has a depth image in {data_dir} (looked for SEQ-cam0-d.zip, "
        "SEQ-cam0-d-NNN.png and side-by-side SEQ-cam0.mp4 of 640x240); "
        f"get them from {card.PAGE} or use depth=features"
    )


def notes_of(repairs: Repairs, n_sequences: int) -> tuple[str, ...]:
    """Return one sentence for each kind of thing the reader had to assume, repair or leave out."""
    notes = []
    if repairs.assumed_rate:
        count = len(repairs.assumed_rate)
        notes.append(
            f"{count} of {n_sequences} sequences have no SEQ-data.csv: their frames were timed at 30 per second"
        )
    if repairs.no_acce:
        where = ", ".join(f"{name} {count}" for name, count in repairs.no_acce.items())
        count = sum(repairs.no_acce.values())
        notes.append(f"{count} frames lie outside their accelerometer recording and have no acce ({where})")
    if repairs.unordered:
        notes.append(f"accelerometer time stamps were not in order and were sorted: {', '.join(repairs.unordered)}")
    if repairs.wrong_totals:
        names = ", ".join(repairs.wrong_totals)
        notes.append(f"SV_total disagrees with the axes in single rows, and the axes were used: {names}")
    if repairs.no_depth:
        notes.append(f"{repairs.no_depth} frames have no depth image")
    return tuple(notes)
