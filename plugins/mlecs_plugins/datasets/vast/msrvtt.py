"""MSR-VTT's own annotation file: one JSON object with a list of videos and a list of sentences about them.

Source: Xu et al., "MSR-VTT: A Large Video Description Dataset for Bridging Video and Language", CVPR 2016.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlecs_plugins.datasets.json_values import JsonValueError, json_value
from mlecs_plugins.datasets.user_files import open_text
from mlecs_plugins.datasets.vast.records import RecordsError

_BEGINNING = re.compile(r'\s*\{\s*"(info|videos|sentences)"\s*:\s*[\[{]')
_HEAD = 4096


def is_captioned_videos(path: Path) -> bool:
    """Does a file begin as MSR-VTT's own? No record of a clip has a list or an object under these keys."""
    try:
        with open_text(path) as file:
            return _BEGINNING.match(file.read(_HEAD)) is not None
    except (OSError, EOFError, zlib.error, UnicodeError):
        return False  # whoever reads the file says what is wrong with it


def captioned_videos(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a record for each video, with its sentences as captions in the order of the file.

    The file is read as a whole: it has 10,000 videos and 200,000 sentences. Raises RecordsError.
    """
    try:
        with open_text(path) as file:
            values = json_value(file.read())
    except JsonValueError as error:
        raise RecordsError(str(error)) from error
    except UnicodeError as error:
        raise RecordsError("is not UTF-8 text") from error
    except (OSError, EOFError, zlib.error) as error:
        raise RecordsError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    videos, sentences = (_objects(values, key) for key in ("videos", "sentences"))
    captions: dict[str, list[Any]] = {str(video.get("video_id")): [] for video in videos}
    for number, sentence in enumerate(sentences, start=1):
        about = str(sentence.get("video_id"))
        if about not in captions:
            raise RecordsError(f"sentence {number} is about '{about}', which is none of its videos")
        captions[about].append(sentence.get("caption"))
    for video in videos:
        yield {"clip_id": video.get("video_id"), "caption": captions[str(video.get("video_id"))]}


def _objects(values: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = values.get(key)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise RecordsError(f"has no list of objects under '{key}', as MSR-VTT's own file has")
    return found
