"""What is going to be read: the view, the clips that are used and their media files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlecs_bench.api import DataError
from mlecs_plugins.datasets.problems import Problems
from mlecs_plugins.datasets.user_archives import Progress, untold
from mlecs_plugins.datasets.vast.card import VastOptions, View
from mlecs_plugins.datasets.vast.clips import Clip, Subset, read_clips
from mlecs_plugins.datasets.vast.folder import Folder


@dataclass(frozen=True)
class Selection:
    """The clips that are used, sorted by name; `annotated` is how many the annotation file has.

    `without_media` clips are left out of the media view because they have no media file at all; `strangers` are media
    files that belong to no record.
    """

    folder: Folder
    annotations: Path
    view: View
    clips: tuple[Clip, ...]
    annotated: int
    without_media: int
    strangers: tuple[Path, ...] = ()

    def media(self, clip: Clip) -> list[Path]:
        """Return the files that are read of a clip."""
        return self.folder.media(clip.id) if self.view == "media" else []

    @property
    def files(self) -> list[Path]:
        """All media files that are read."""
        return [path for clip in self.clips for path in self.media(clip)]


def make_plan(
    data_dir: Path, options: VastOptions, problems: Problems, cache: Path | None = None, progress: Progress = untold
) -> Selection:
    """Read the annotations and choose view and clips; notes broken records and archives.

    Compressed tars are unpacked into `cache`.
    Raises DataError when there is no folder, no annotation file, or no media for the media view.
    """
    folder = Folder(data_dir, cache, progress)
    for line in folder.damaged:
        problems.add(line)
    annotations = folder.annotations(options.annotations)
    everything, with_media = (Subset(options.limit, options.subset_seed) for _ in range(2))
    claimed: set[Path] = set()
    for clip in read_clips(annotations, problems):
        everything.offer(clip)
        if media := folder.media(clip.id):
            claimed.update(media)
            with_media.offer(clip)
    view = options.view if options.view != "auto" else "media" if with_media.offered else "captions"
    strangers = tuple(folder.unclaimed(claimed))
    if options.view == "auto" and strangers and everything.offered and not with_media.offered:
        raise DataError(
            f"vast: none of the {len(strangers)} media files in {data_dir}, such as {folder.name_of(strangers[0])}, is "
            f"called like a clip of {annotations.name}; rename them, or take --data-option view=captions"
        )
    if view == "media" and everything.offered and not with_media.offered:
        raise DataError(
            f"vast: view=media, but {data_dir} has no media file of any of the {everything.offered} clips in "
            f"{annotations.name} (CLIP.mp4, CLIP.mp3); add them or use view=captions"
        )
    chosen = with_media if view == "media" else everything
    left_out = everything.offered - chosen.offered
    return Selection(folder, annotations, view, tuple(chosen.clips()), everything.offered, left_out, strangers)
