"""The user's folder: its annotation file, and which media files belong to a clip."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path

from mlecs_bench.api import DataError
from mlecs_plugins.datasets.archives import is_archive, is_folder, is_packed_tar, without_suffix
from mlecs_plugins.datasets.problems import one_line
from mlecs_plugins.datasets.user_archives import Progress, archives_among, untold
from mlecs_plugins.datasets.user_files import PICTURE_SUFFIXES, is_picture, suffix_of, visible_files
from mlecs_plugins.datasets.vast.card import PAGE

ANNOTATION_SUFFIXES = (".json", ".jsonl", ".ndjson")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv")
SOUND_SUFFIXES = (".mp3", ".m4a", ".aac", ".wav", ".flac", ".ogg", ".oga", ".opus", ".wma", ".aif", ".aiff")
MEDIA_SUFFIXES = VIDEO_SUFFIXES + SOUND_SUFFIXES + PICTURE_SUFFIXES
SHOWN_NAMES = 5


class Folder:
    """The files in a user's folder and in its archives; raises DataError when there is no such folder.

    Tars that are compressed are unpacked into `unpacked`; without it they are left out, or with `lists_packed` listed,
    which takes as long. `damaged` names archives that are not whole, `refused` members that are not read, `copies`
    members that lie beside their archive, too.
    """

    def __init__(
        self, data_dir: Path, unpacked: Path | None = None, progress: Progress = untold, *, lists_packed: bool = False
    ) -> None:
        if not data_dir.is_dir():
            what = "is not a folder" if data_dir.exists() else "does not exist"
            raise DataError(
                f"vast: {data_dir} {what}; give the folder with the annotation file, or run without --data-dir for "
                "the synthetic stand-in"
            )
        self.data_dir = data_dir
        self.damaged: list[str] = []
        self.refused: list[str] = []
        self.copies: list[str] = []
        self._annotations: list[Path] = []
        self._packed_annotations: list[Path] = []
        self._media: dict[str, list[Path]] = {}
        self._frames: dict[str, list[Path]] = {}
        self._named: set[tuple[Path, str]] = set()
        self._originals: dict[Path, Path] = {}
        found = visible_files(data_dir)
        loose = [path for path in found if _may_be_read(path) and path.is_file()]  # no link to nowhere and no pipe
        self._add(loose, self._annotations)
        known = {key for path in loose for key in self._keys(path)}
        if unpacked is None and not lists_packed:
            found = [path for path in found if not is_packed_tar(path)]
        for archive in archives_among(found, unpacked, progress):
            self._originals[archive.tar] = archive.path
            name = self.name_of(archive.path)
            self.damaged += [f"{name}: {archive.damage}"] if archive.damage else []
            self.refused += [f"{name}/{member}" for member in archive.refused]
            members = [path for path in archive.members if _may_be_read(path)]
            copied = {path for path in members if not known.isdisjoint(self._keys(path))}
            self.copies += [self.name_of(path) for path in members if path in copied]
            self._add([path for path in members if path not in copied], self._packed_annotations)

    def _add(self, paths: Sequence[Path], annotations: list[Path]) -> None:
        """Sort files by what they are."""
        annotations += [path for path in paths if suffix_of(path) in ANNOTATION_SUFFIXES]
        for path in paths:
            if path.suffix.lower() not in MEDIA_SUFFIXES:
                continue
            self._named.add((path.parent, path.stem))
            self._media.setdefault(_composed(path.stem), []).append(path)
            if is_picture(path) and path.parent != self.data_dir:
                folders = self._frames.setdefault(_composed(self.own_name(path.parent)), [])
                folders += [path.parent] if path.parent not in folders else []

    def own_name(self, path: Path) -> str:
        """Return the name of a file or folder; that of an archive, which is a folder, is without its suffix."""
        original = self._originals.get(path, path)
        return without_suffix(original.name) if path in self._originals else original.name

    def _keys(self, path: Path) -> list[tuple[str, str]]:
        """Return what a file and its copy in an archive have in common: of pictures the folder, too."""
        if not is_picture(path):
            return [("", path.name)]
        at_root = path.parent == self.data_dir or is_archive(path.parent)
        return [(self.own_name(path.parent), path.name), *([("", path.name)] if at_root else [])]

    def annotations(self, wanted: str | None) -> Path:
        """Return the annotation file: the one called `wanted`, or the only one. Raises DataError otherwise."""
        loose, packed = self._annotations, self._packed_annotations
        if wanted is None:
            named = loose or packed
            if len(named) > 1:  # a JSON file beside a media file of its name is about that file alone
                named = [path for path in named if (path.parent, path.stem) not in self._named] or named
        else:
            named = [path for path in [*loose, *packed] if wanted in (path.name, self.name_of(path))]
        if len(named) == 1:
            return named[0]
        if not self.has_annotations:
            if self.damaged:
                raise DataError(f"vast: {self.damaged[0]}")
            raise DataError(
                f"vast: {self.data_dir} holds no annotation file (*.json or *.jsonl); it must hold one, and if you "
                f"have them CLIP.mp4 and CLIP.mp3 of each clip, in any subfolders; see {PAGE}"
            )
        names = self._listed([self.name_of(path) for path in named or [*loose, *packed]])
        what = f"no annotation file '{wanted}'" if not named else f"{len(named)} annotation files"
        raise DataError(f"vast: {self.data_dir} holds {what}; choose with --data-option annotations=NAME from {names}")

    @property
    def has_annotations(self) -> bool:
        """Is there at least one annotation file?"""
        return bool(self._annotations or self._packed_annotations)

    def name_of(self, path: Path) -> str:
        """Return a file's path below the folder."""
        tar = next((parent for parent in path.parents if parent in self._originals), None)
        if tar is not None:
            path = self._originals[tar] / path.relative_to(tar)
        return path.relative_to(self.data_dir).as_posix()

    def media(self, clip_id: str) -> list[Path]:
        """Return the media of a clip, sorted: files called like it, and folders of its frames, which are called so.

        A name may be the clip's id, with or without the folders and the suffix that the id itself has.
        """
        for name in names_of(clip_id):
            frames = self._frames.get(name, [])
            files = [path for path in self._media.get(name, []) if not (frames and is_picture(path))]
            if frames or files:
                return sorted(files) + frames
        return []

    def unclaimed(self, claimed: Collection[Path]) -> list[Path]:
        """Return the media files that are neither among `claimed` nor in one of its folders, sorted."""
        everything = (path for paths in self._media.values() for path in paths)
        return sorted(path for path in everything if path not in claimed and path.parent not in claimed)

    @staticmethod
    def _listed(names: Sequence[str]) -> str:
        more = ", ..." if len(names) > SHOWN_NAMES else ""
        return one_line(", ".join(names[:SHOWN_NAMES]) + more)


def _may_be_read(path: Path) -> bool:
    return suffix_of(path) in ANNOTATION_SUFFIXES or path.suffix.lower() in MEDIA_SUFFIXES


def names_of(clip_id: str) -> list[str]:
    """Return the stems that media of a clip may have: the id, and what is left of it without folders and suffix."""
    name = _composed(clip_id)
    last = name.replace("\\", "/").rpartition("/")[2]
    shorter = [stem for one in (name, last) if (stem := _without_suffix(one))]
    return list(dict.fromkeys([name, last, *shorter]))


def _without_suffix(name: str) -> str:
    suffix = Path(name).suffix
    return name[: -len(suffix)] if suffix.lower() in MEDIA_SUFFIXES else name


def _composed(name: str) -> str:
    """Return a name as Linux and Windows store it; macOS takes letters and accents apart."""
    return unicodedata.normalize("NFC", name)


def video_first(paths: Sequence[Path]) -> list[Path]:
    """Return the files of a clip in the order in which pictures are looked for: names of videos first."""
    return sorted(paths, key=lambda path: _rank(path, VIDEO_SUFFIXES, PICTURE_SUFFIXES, SOUND_SUFFIXES))


def sound_first(paths: Sequence[Path]) -> list[Path]:
    """Return the files of a clip in the order in which sound is looked for: names of sound files first."""
    return sorted(paths, key=lambda path: _rank(path, SOUND_SUFFIXES, VIDEO_SUFFIXES, PICTURE_SUFFIXES))


def _rank(path: Path, *order: Sequence[str]) -> int:
    """Return which of the groups of suffixes a path belongs to; a folder of frames is a picture."""
    suffix = PICTURE_SUFFIXES[0] if is_folder(path) else path.suffix.lower()
    return next(number for number, suffixes in enumerate(order) if suffix in suffixes)


def missing_files(data_dir: Path) -> list[str]:
    """Return one line for what is not in a folder, or not clear; a folder with an annotation file lacks nothing."""
    try:
        folder = Folder(data_dir)
        if not folder.has_annotations:
            folder = Folder(data_dir, lists_packed=True)
        if not folder.has_annotations:
            folder.annotations(None)
    except DataError as error:
        return [str(error)]
    return folder.damaged
