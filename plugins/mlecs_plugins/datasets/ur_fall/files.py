"""Finding the files of UR-FALL in a folder, whatever its layout."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlecs_bench.api import DataError
from mlecs_plugins.datasets.ur_fall import card
from mlecs_plugins.datasets.ur_fall.problems import FileProblems
from mlecs_plugins.datasets.user_archives import Progress, opened_archive, untold
from mlecs_plugins.datasets.user_files import sha256_of, visible_files

Panel = Literal["rgb", "d"]
ACC_NAME = re.compile(r"(?P<sequence>(fall|adl)-[0-9]{1,9})-acc\.csv")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
IMAGE_NAME = re.compile(r"(?P<source>(fall|adl)-[0-9]{1,9}-cam0-(rgb|d))-(?P<frame>[0-9]{1,9})\.png", re.IGNORECASE)


@dataclass(frozen=True)
class ImageSource:
    """Where the pictures of a sequence are: a zip of PNG, PNG files or members of a tar by frame number, or a video."""

    kind: Literal["zip", "images", "video"]
    path: Path
    images: tuple[tuple[int, Path], ...] = ()

    @property
    def paths(self) -> list[Path]:
        """All files of the source."""
        return [path for _, path in self.images] or [self.path]


@dataclass(frozen=True)
class SequenceFiles:
    """The files of one sequence. It can do without `sync` and `depth`; without the others it has no samples."""

    acc: Path | None
    sync: Path | None
    rgb: ImageSource | None
    depth: ImageSource | None

    @property
    def paths(self) -> list[Path]:
        """All files that are read."""
        tables = [path for path in (self.acc, self.sync) if path is not None]
        return tables + [path for source in (self.rgb, self.depth) if source is not None for path in source.paths]


class FileIndex:
    """All files below a folder by name; raises DataError when the folder does not exist.

    Compressed tars are unpacked into `cache`; without it they are only listed.
    """

    def __init__(self, data_dir: Path, cache: Path | None = None, progress: Progress = untold) -> None:
        if not data_dir.is_dir():
            what = "is not a folder" if data_dir.exists() else "does not exist"
            raise DataError(f"ur-fall: {data_dir} {what}; give the folder that holds the files of {card.PAGE}")
        self.data_dir = data_dir
        self._cache, self._progress = cache, progress
        self._by_name: dict[str, list[Path]] = {}
        self._images: dict[str, dict[int, Path]] = {}
        for path in visible_files(data_dir):
            self._by_name.setdefault(path.name.lower(), []).append(path)
        self._index_images()

    def find(self, name: str, problems: FileProblems) -> Path | None:
        """Return the file called `name`; notes a problem when there are several that differ."""
        found = self._by_name.get(name.lower(), [])
        if len(found) > 1 and len({sha256_of(path) for path in found}) > 1:
            places = ", ".join(path.relative_to(self.data_dir).as_posix() for path in found)
            problems.add(name, f"is there {len(found)} times with different content ({places}); keep one")
        return found[0] if found else None

    def has(self, name: str) -> bool:
        """Is there at least one file called `name`?"""
        return name.lower() in self._by_name

    def sequences(self) -> list[str]:
        """Return the sequences that have an accelerometer file here, sorted."""
        return sorted(m["sequence"] for m in map(ACC_NAME.fullmatch, self._by_name) if m)

    def images(self, sequence: str, panel: Panel) -> tuple[tuple[int, Path], ...]:
        """Return the loose PNG files of a sequence as (frame, path) in order."""
        return tuple(sorted(self._images.get(f"{sequence}-cam0-{panel}", {}).items()))

    def tar_images(self, sequence: str, panel: Panel, problems: FileProblems) -> ImageSource | None:
        """Return the PNG files in the tar of a sequence, if there is one; notes what is wrong with it."""
        source = f"{sequence}-cam0-{panel}"
        found = [path for suffix in TAR_SUFFIXES if (path := self.find(f"{source}{suffix}", problems))]
        if not found:
            return None
        archive = opened_archive(found[0], self._cache, self._progress)
        name = archive.path.relative_to(self.data_dir).as_posix()
        for wrong in (archive.damage, *(f"has a member that is not read: {member}" for member in archive.refused)):
            if wrong:
                problems.add(name, wrong)
        if archive.damage:
            return None
        images: dict[int, Path] = {}
        for member in archive.members:
            match = IMAGE_NAME.fullmatch(member.name)
            if match and match["source"].lower() == source:
                if int(match["frame"]) in images:
                    problems.add(name, f"holds frame {int(match['frame'])} twice ({member.name})")
                images.setdefault(int(match["frame"]), member)
        return ImageSource("images", archive.path, tuple(sorted(images.items())))

    def _index_images(self) -> None:
        for name, paths in self._by_name.items():
            match = IMAGE_NAME.fullmatch(name)
            if match:
                frames = self._images.setdefault(match["source"], {})
                frames[int(match["frame"])] = paths[0]


def locate(index: FileIndex, sequence: str, with_depth: bool, problems: FileProblems) -> SequenceFiles:
    """Return the files of `sequence`, and note which of them are missing."""
    acc_name, video_name, archive_name = f"{sequence}-acc.csv", f"{sequence}-cam0.mp4", f"{sequence}-cam0-rgb.zip"
    tar_names = [f"{sequence}-cam0-rgb{suffix}" for suffix in TAR_SUFFIXES]
    acc = index.find(acc_name, problems)
    video = index.find(video_name, problems)
    rgb = _image_source(index, sequence, "rgb", video, problems)
    if not index.has(acc_name):
        problems.add_missing(acc_name, "the accelerometer of the sequence")
    if rgb is None and not any(map(index.has, (video_name, archive_name, *tar_names))):
        problems.add_missing(f"{video_name} or {archive_name}", "the video of the sequence")
    depth = _image_source(index, sequence, "d", video, problems) if with_depth else None
    return SequenceFiles(acc, index.find(f"{sequence}-data.csv", problems), rgb, depth)


def _image_source(
    index: FileIndex, sequence: str, panel: Panel, video: Path | None, problems: FileProblems
) -> ImageSource | None:
    """Return the best source: PNG without losses before video; a few loose rgb pictures do not replace a video."""
    archive = index.find(f"{sequence}-cam0-{panel}.zip", problems)
    if archive is not None:
        return ImageSource("zip", archive)
    if tar := index.tar_images(sequence, panel, problems):
        return tar
    images = index.images(sequence, panel)
    if video is not None and (panel == "rgb" or not images):
        return ImageSource("video", video)
    return ImageSource("images", images[0][1].parent, images) if images else None
