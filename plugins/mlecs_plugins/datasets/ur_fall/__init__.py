"""UR-FALL: which posture a person has in a video frame, from accelerometer, depth map and video.

With a data folder it reads the UR Fall Detection data set; without one it generates a stand-in of the same shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlecs_bench.api import DataRequest, DatasetInfo, Metric, Prepared, Verification, hookimpl, recall_by_label
from mlecs_plugins.datasets.ur_fall import card


def prepare(request: DataRequest) -> Prepared:
    """Return the prepared dataset of `request` (NumPy and Arrow are imported here, not by `mlecs-bench list`)."""
    from mlecs_plugins.datasets.ur_fall.preparation import prepare as prepare_samples

    return prepare_samples(request)


def check(data_dir: Path) -> list[str]:
    """Return what is missing from `data_dir`, without reading the recordings."""
    from mlecs_plugins.datasets.ur_fall.preparation import missing_files

    return missing_files(data_dir)


def verify(request: DataRequest) -> Verification:
    """Return what the user's files hold, lack and where they are damaged."""
    from mlecs_plugins.datasets.ur_fall.verification import verify as verify_files

    return verify_files(request)


def diagnose(columns: Mapping[str, Sequence[Any]], predictions: Sequence[str]) -> dict[str, Metric]:
    """Return the recall of every posture."""
    return recall_by_label(columns["target"], predictions)


@hookimpl
def mlecs_dataset() -> DatasetInfo:
    """Return the card of the dataset."""
    return DatasetInfo(
        title="UR Fall Detection",
        summary="11,544 video frames of 30 falls and 40 daily activities: not lying, temporary pose or lying",
        task="classification",
        modalities=tuple(m.name for m in card.modalities(card.UrFallOptions())),
        prepare=prepare,
        check=check,
        verify=verify,
        metrics=("f1_macro", "f1_weighted"),
        options=card.UrFallOptions,
        splits=("frame", "sequence"),
        diagnostic_columns=("target",),
        diagnose=diagnose,
        where_to_get=(
            f"{card.PAGE} (University of Rzeszow, {card.LICENCE}): both urfall-cam0 label files and, for each "
            "sequence, its accelerometer file, its video or the archive of its rgb frames, and, if you have it, its "
            "synchronisation file"
        ),
        notes=(
            "Targets are the label words 'not lying', 'temporary pose' and 'lying on the ground'; labels=digits asks "
            "for 0, 1 and 2 instead.",
            "Frames of one sequence are near-duplicates: scores of the frame split are higher than those of held-out "
            "sequences (--split sequence).",
            "Without a SEQ-data.csv the frames of a sequence are timed at 30 per second; frames beyond the end of the "
            "accelerometer recording have no acce. The manifest counts both.",
            "A tar of pictures (SEQ-cam0-rgb.tar, .tar.gz, .tgz) is read as loose pictures are.",
            "features=towers puts a frozen encoder of your own in front of the frames, and of the depth images with "
            "depth=image, which it is shown in grey; embeddings are standardised by the public training samples.",
            "Without a data folder the samples are generated: they test the harness and say nothing about people.",
        ),
    )
