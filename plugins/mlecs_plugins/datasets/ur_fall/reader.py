"""The real UR-FALL: joins labels, accelerometer and pictures of every sequence by frame number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mlecs_bench.api import DataError
from mlecs_plugins.datasets.ur_fall import card
from mlecs_plugins.datasets.ur_fall.accelerometer import frame_times, windows
from mlecs_plugins.datasets.ur_fall.build import SequenceBlock
from mlecs_plugins.datasets.ur_fall.files import FileIndex, ImageSource, Panel, SequenceFiles, locate
from mlecs_plugins.datasets.ur_fall.frames import FULL_SCALE_MM
from mlecs_plugins.datasets.ur_fall.pictures import Pictures, SmallPictures
from mlecs_plugins.datasets.ur_fall.problems import FileError, FileProblems
from mlecs_plugins.datasets.ur_fall.tables import Labels, Recording, read_label_tables, read_recording, read_sync

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[Any]
    Part = tuple[Array, Array]  # one modality of a sequence: values (T, *shape), presence (T,)

READER_VERSION = 1
"""Part of the cache key: raise it when the same files would give other samples."""


@dataclass
class Repairs:
    """What the reader had to assume or leave out; it becomes the notes of the manifest."""

    assumed_rate: list[str] = field(default_factory=list)
    no_acce: dict[str, int] = field(default_factory=dict)
    unordered: list[str] = field(default_factory=list)
    wrong_totals: list[str] = field(default_factory=list)
    no_depth: int = 0


@dataclass(frozen=True)
class SequencePlan:
    """The labelled frames of a sequence and the files that the rest of its samples comes from."""

    labels: Labels
    files: SequenceFiles


def make_plans(
    index: FileIndex, options: card.UrFallOptions, problems: FileProblems
) -> tuple[list[SequencePlan], list[Path]]:
    """Return what to read, and all files of it; notes what is missing. Raises DataError when there is no label file."""
    tables = _find_tables(index, problems)
    plans = []
    for labels in read_label_tables(tables, problems):
        plans.append(SequencePlan(labels, locate(index, labels.sequence, options.depth == "image", problems)))
    if not problems.lines:
        _check_labelled(index, {plan.labels.sequence for plan in plans}, problems)
    return plans, [path for path, _ in tables] + [path for plan in plans for path in plan.files.paths]


def _check_labelled(index: FileIndex, labelled: set[str], problems: FileProblems) -> None:
    """Note sequences that have files but no labels: a label file that was cut short still reads well."""
    bare = [sequence for sequence in index.sequences() if sequence not in labelled]
    for stratum, word in card.STRATA.items():
        names = [name for name in bare if name.startswith(f"{stratum}-")]
        if names:
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            problems.add(
                f"urfall-cam0-{word}.csv", f"has no row of {len(names)} sequences that have files here ({shown})"
            )


def _find_tables(index: FileIndex, problems: FileProblems) -> list[tuple[Path, str]]:
    """Return the label files as (path, stratum)."""
    tables: list[tuple[Path, str]] = []
    missing = []
    for stratum, word in card.STRATA.items():
        name = f"urfall-cam0-{word}.csv"
        found = index.find(name, problems)
        if found is not None:
            tables.append((found, stratum))
        elif not index.has(name):
            missing.append(name)
    if len(missing) == len(card.STRATA) and not problems.lines:
        raise DataError(_nothing_found(index.data_dir))
    for name in missing:
        problems.add_missing(name, "the labels of all its sequences")
    return tables


def _nothing_found(data_dir: Path) -> str:
    return (
        f"ur-fall: {data_dir} has none of the label files urfall-cam0-falls.csv and urfall-cam0-adls.csv; it must hold "
        "them and, for each sequence SEQ, SEQ-acc.csv, SEQ-cam0.mp4 or SEQ-cam0-rgb.zip, and if there is one "
        f"SEQ-data.csv, in any subfolders; download them from {card.PAGE} (UR Fall Detection, University of Rzeszow)"
    )


def read_plans(
    plans: list[SequencePlan],
    options: card.UrFallOptions,
    problems: FileProblems,
    progress: Callable[[int, int, str], None],
    pictures: Pictures | None = None,
) -> tuple[list[SequenceBlock], Repairs]:
    """Read the samples of all plans, noting problems; a sequence with a problem is left out.

    `pictures` says what becomes of pictures; left out, they are small.
    """
    repairs = Repairs()
    blocks = []
    for done, plan in enumerate(plans, start=1):
        one = _read_sequence(plan, options, problems, repairs, pictures or SmallPictures())
        if one is not None:
            blocks.append(one)
        progress(done, len(plans), "reading sequences")
    return blocks, repairs


def _read_sequence(
    plan: SequencePlan, options: card.UrFallOptions, problems: FileProblems, repairs: Repairs, pictures: Pictures
) -> SequenceBlock | None:
    files = plan.files
    acce = None if files.acc is None else _read_acce(plan.labels, files.acc, files.sync, problems, repairs)
    rgb = None if files.rgb is None else _read_pictures(plan.labels, files.rgb, "rgb", problems, pictures)
    depth = _read_depth(plan, options, problems, pictures)
    if acce is None or rgb is None or depth is None:
        return None
    repairs.no_depth += int((~depth[1]).sum())
    parts = {"acce": acce, "depth": depth, "rgb": rgb}
    values, present = ({m: part[k] for m, part in parts.items()} for k in (0, 1))
    return SequenceBlock(
        plan.labels.sequence, plan.labels.stratum, plan.labels.frames, plan.labels.labels, values, present
    )


def _lacking(labels: Labels, found: Array) -> str:
    lost = labels.frames[~found]
    return f"lacks {len(lost)} of the frames that {labels.table} labels, the first of them frame {lost[0]}"


def _read_depth(
    plan: SequencePlan, options: card.UrFallOptions, problems: FileProblems, pictures: Pictures
) -> Part | None:
    if options.depth == "features":
        return plan.labels.features, np.ones(len(plan.labels.frames), dtype=bool)
    if plan.files.depth is not None:
        return _read_pictures(plan.labels, plan.files.depth, "d", problems, pictures)
    return pictures.blank(len(plan.labels.frames), "d")


def _read_pictures(
    labels: Labels, source: ImageSource, panel: Panel, problems: FileProblems, pictures: Pictures
) -> Part | None:
    """Return what the pictures of a sequence become (T, *shape) and their presence (T,); None after a problem."""
    with problems.about(source.path):
        values, present = pictures.read(source, labels.frames.tolist(), panel, FULL_SCALE_MM[labels.stratum])
        if panel == "rgb" and not present.all():
            raise FileError(_lacking(labels, present))
        return values, present
    return None


def _read_acce(labels: Labels, acc: Path, sync: Path | None, problems: FileProblems, repairs: Repairs) -> Part | None:
    """Return the accelerometer windows (T, 15, 3) of a sequence and their presence (T,); None after a problem."""
    recording: Recording | None = None
    times: Array | None = None
    with problems.about(acc):
        recording = read_recording(acc)
    with problems.about(sync or acc):
        times = frame_times(labels.frames, None if sync is None else read_sync(sync))
    if recording is None or times is None:
        return None
    values, present = windows(recording, times)
    if sync is None:
        repairs.assumed_rate.append(labels.sequence)
    _note_repairs(labels.sequence, recording, present, repairs)
    return values, present


def _note_repairs(name: str, recording: Recording, present: Array, repairs: Repairs) -> None:
    if not present.all():
        repairs.no_acce[name] = int((~present).sum())
    if recording.unordered:
        repairs.unordered.append(name)
    if recording.wrong_totals:
        repairs.wrong_totals.append(name)
