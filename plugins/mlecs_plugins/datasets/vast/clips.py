"""From records to clips: VAST's seven keys, and the fewer keys of VALOR and MSR-VTT files in the same form."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlecs_plugins.datasets.problems import Problems, shown
from mlecs_plugins.datasets.user_files import is_missing
from mlecs_plugins.datasets.vast.msrvtt import captioned_videos, is_captioned_videos
from mlecs_plugins.datasets.vast.records import RecordsError, read_records

ID_KEYS = ("clip_id", "video_id")
TARGET_KEYS = ("vast_cap", "caption", "desc")
"""The keys of a clip's name and of its summary, in the order in which they are looked for."""
TEXT_KEYS = {"audio": "audio_cap", "subtitle": "subtitle", "vision": "vision_cap"}
CLIP_OF_VIDEO = re.compile(r"(?P<video>.{11})(\.\d+|_\d+(\.\d+)?_\d+(\.\d+)?)")
"""A clip's name in VAST (video and number) and in VALOR (video, first and last second)."""


@dataclass(frozen=True)
class Clip:
    """One annotated clip: its name, its summary, and modality → text ("" where the record has none).

    `references` are all summaries that the record has, of which the first is the target.
    """

    id: str
    target: str
    texts: Mapping[str, str]
    references: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The video that the clip was cut from; its own name where that does not tell."""
        match = CLIP_OF_VIDEO.fullmatch(self.id)
        return match["video"] if match else self.id


class _RecordError(Exception):
    """What is wrong with one record."""


def read_clips(path: Path, problems: Problems) -> Iterator[Clip]:
    """Yield the clips of an annotation file, noting records that are none."""
    first_use: dict[str, int] = {}
    number = 0
    try:
        records = captioned_videos(path) if is_captioned_videos(path) else read_records(path)
        for number, record in enumerate(records, start=1):
            try:
                clip = clip_of(record)
                if clip.id in first_use:
                    raise _RecordError(f"has the clip_id '{clip.id}' of record {first_use[clip.id]}")
            except _RecordError as error:
                problems.add(f"{path.name}: record {number} {error}")
            else:
                first_use[clip.id] = number
                yield clip
    except RecordsError as error:
        problems.add(f"{path.name}: {error}")
        return
    if number == 0:
        problems.add(f"{path.name}: holds no record")


def clip_of(record: Any) -> Clip:
    """Return the clip of one record.

    The summary is `vast_cap`, else `caption`, else `desc`; of a list of summaries it is the first that is not empty.
    Lists of captions are joined. Keys that are absent, null or blank are texts that the clip lacks.
    """
    if not isinstance(record, dict):
        raise _RecordError(f"is no object with keys, but {shown(record)}")
    id_ = _id_of(record)
    where = f"(clip {id_})"
    summaries: list[str] = next((found for key in TARGET_KEYS if (found := _texts(record, key, where))), [])
    if not summaries:
        raise _RecordError(f"{where} has no target: one of {', '.join(TARGET_KEYS)} must hold a text")
    texts = {modality: " ".join(_texts(record, key, where)) for modality, key in TEXT_KEYS.items()}
    return Clip(id_, summaries[0], texts, tuple(dict.fromkeys(summaries)))


def _id_of(record: Mapping[str, Any]) -> str:
    given = next((record[key] for key in ID_KEYS if not is_missing(record.get(key))), None)
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    if not isinstance(given, str) or not _clean(given):
        raise _RecordError("has no clip_id")
    return _clean(given)


def _texts(record: Mapping[str, Any], key: str, where: str) -> list[str]:
    """Return the texts under a key that are not blank."""
    given = record.get(key)
    texts: list[Any] = [text for text in (given if isinstance(given, list) else [given]) if not is_missing(text)]
    if any(not isinstance(text, str) for text in texts):
        raise _RecordError(f"{where} has a {key} that is neither a text nor a list of texts: {shown(given)}")
    return [clean for text in texts if (clean := _clean(text))]


def _clean(text: str) -> str:
    """Return a text in one line; halves of surrogate pairs, which no file can hold, become "?"."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


class Subset:
    """The `limit` clips whose names come first in an order that a seed draws; None keeps all.

    The order depends on names and seed alone. So the order of the records does not matter, a larger limit keeps the
    clips of a smaller one, and no more than `limit` clips are in memory.
    """

    def __init__(self, limit: int | None, seed: int) -> None:
        self._limit = limit
        self._seed = seed
        self._heap: list[tuple[int, Clip]] = []
        self.offered = 0

    def offer(self, clip: Clip) -> None:
        """Consider one clip; no two may have the same name."""
        self.offered += 1
        entry = (-self._rank(clip.id), clip)
        if self._limit is None or len(self._heap) < self._limit:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def clips(self) -> list[Clip]:
        """Return the chosen clips, sorted by name."""
        return sorted((clip for _, clip in self._heap), key=lambda clip: clip.id)

    def _rank(self, id_: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{self._seed}/{id_}".encode()).digest(), "big")
