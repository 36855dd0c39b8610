"""Reads all files of a user's UR-FALL and says what they hold, lack and where they are damaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlecs_bench.api import DataRequest, Verification
from mlecs_plugins.datasets.ur_fall import card
from mlecs_plugins.datasets.ur_fall.build import SequenceBlock, sample_id, view_of
from mlecs_plugins.datasets.ur_fall.preparation import digest_of, file_digests, indexed, no_depth, notes_of, tower_of
from mlecs_plugins.datasets.ur_fall.problems import FileProblems
from mlecs_plugins.datasets.ur_fall.reader import make_plans, read_plans


def verify(request: DataRequest) -> Verification:
    """Return what the files in `request.data_dir` are good for; a sequence with a problem counts as no sample.

    Raises DataError when there is no such folder, or no label file in it.
    """
    options = card.UrFallOptions() if request.options is None else request.options
    data_dir = Path(request.data_dir or "")
    problems = FileProblems(data_dir)
    plans, used = make_plans(indexed(request, data_dir), options, problems)
    tower = tower_of(options, request.progress)
    digest = None if problems.lines else digest_of(file_digests(request, used), options, tower)
    blocks, repairs = read_plans(plans, options, problems, request.progress)
    lines = list(problems.lines)
    if not lines and not any(block.present["depth"].any() for block in blocks):
        lines.append(no_depth(data_dir))
    return Verification(
        view=view_of(options, None if tower is None else tower.name),
        n_samples=sum(len(block.frames) for block in blocks),
        digest=None if lines else digest,
        missing={m.name: _without(m.name, blocks) for m in card.modalities(options)},
        problems=lines,
        notes=notes_of(repairs, len(blocks)),
    )


def _without(modality: str, blocks: Sequence[SequenceBlock]) -> list[str]:
    """Return the ids of the samples that lack a modality."""
    return [
        sample_id(block, int(frame))
        for block in blocks
        for frame, present in zip(block.frames, block.present[modality], strict=True)
        if not present
    ]
