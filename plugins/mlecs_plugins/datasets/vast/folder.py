"""The user's folder: its annotation file, and which media files belong to a clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlecs_bench.api import DataError
from mlecs_plugins.datasets.user_files import visible_files
from mlecs_plugins.datasets.vast.card import PAGE

ANNOTATION_SUFFIXES = (".json", ".jsonl")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")
SOUND_SUFFIXES = (".mp3", ".m4a", ".aac", ".wav", ".flac", ".ogg", ".opus")
SHOWN_NAMES = 5


class Folder:
    """The files in a user's folder; raises DataError when there is no such folder."""

    def __init__(self, data_dir: Path) -> None:
        if not data_dir.is_dir():
            what = "is not a folder" if data_dir.exists() else "does not exist"
            raise DataError(
                f"vast: {data_dir} {what}; give the folder with the annotation file, or run without --data-dir for "
                "the synthetic stand-in"
            )
        self.data_dir = data_dir
        self._annotations: list[Path] = []
        self._media: dict[str, list[Path]] = {}
        for path in visible_files(data_dir):
            suffix = path.suffix.lower()
            if suffix not in ANNOTATION_SUFFIXES + VIDEO_SUFFIXES + SOUND_SUFFIXES or not path.is_file():
                continue  # no link to nowhere and no pipe
            if suffix in ANNOTATION_SUFFIXES:
                self._annotations.append(path)
            else:
                self._media.setdefault(path.stem, []).append(path)

    def annotations(self, wanted: str | None) -> Path:
        """Return the annotation file: the one called `wanted`, or the only one. Raises DataError otherwise."""
        named = [path for path in self._annotations if wanted in (None, path.name, self.name_of(path))]
        if len(named) == 1:
            return named[0]
        if not self._annotations:
            raise DataError(
                f"vast: {self.data_dir} holds no annotation file (*.json or *.jsonl); it must hold one, and if you "
                f"have them CLIP.mp4 and CLIP.mp3 of each clip, in any subfolders; see {PAGE}"
            )
        names = self._listed([self.name_of(path) for path in named or self._annotations])
        what = f"no annotation file '{wanted}'" if not named else f"{len(named)} annotation files"
        raise DataError(f"vast: {self.data_dir} holds {what}; choose with --data-option annotations=NAME from {names}")

    @property
    def has_annotations(self) -> bool:
        """Is there at least one annotation file?"""
        return bool(self._annotations)

    def name_of(self, path: Path) -> str:
        """Return a file's path below the folder."""
        return path.relative_to(self.data_dir).as_posix()

    def media(self, clip_id: str) -> list[Path]:
        """Return the media files of a clip, sorted."""
        return self._media.get(clip_id, [])

    @staticmethod
    def _listed(names: Sequence[str]) -> str:
        more = ", ..." if len(names) > SHOWN_NAMES else ""
        return ", ".join(names[:SHOWN_NAMES]) + more


def video_first(paths: Sequence[Path]) -> list[Path]:
    """Return the files of a clip in the order in which pictures are looked for: names of videos first."""
    return sorted(paths, key=lambda path: path.suffix.lower() in SOUND_SUFFIXES)


def sound_first(paths: Sequence[Path]) -> list[Path]:
    """Return the files of a clip in the order in which sound is looked for: names of sound files first."""
    return sorted(paths, key=lambda path: path.suffix.lower() in VIDEO_SUFFIXES)


def missing_files(data_dir: Path) -> list[str]:
    """Return one line for what is not in a folder, or not clear; a folder with an annotation file lacks nothing."""
    try:
        folder = Folder(data_dir)
        if not folder.has_annotations:
            folder.annotations(None)
    except DataError as error:
        return [str(error)]
    return []
