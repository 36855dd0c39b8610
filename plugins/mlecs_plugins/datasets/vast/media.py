"""Decodes media files into pictures and sound, through PyAV; what a file holds decides, not what it is called.

A function returns None where a file has no stream of the kind, and raises MediaError where the file is damaged.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import av
import numpy as np

from mlecs_plugins.datasets.archives import ArchiveError, archive_of, is_folder, open_bytes, paths_in, read_bytes
from mlecs_plugins.datasets.user_files import PICTURE_SUFFIXES, in_order, is_picture
from mlecs_plugins.datasets.wholeness import PICTURE_ERRORS, damage_of_png, damage_of_wave

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_ONLY_FILES = {"protocol_whitelist": "file"}  # a playlist in a media file's clothes must not reach the network
SHORTEST_SHARE, SLACK_SECONDS = 0.95, 0.1
"""A stream that ends before this share of the duration that its file declares, less the slack, is cut short."""

DECLARING = frozenset({"mp4", "flac"})
"""Formats in which a stream itself says how long it is; Matroska does so in its tags."""
CLOCK = re.compile(r"([0-9]{1,9}):([0-9]{2}):([0-9]{2}(?:\.[0-9]{1,9})?)")


class MediaError(Exception):
    """What is wrong with one media file; whoever knows its name adds it."""


def sample_frames(path: Path, n: int) -> list[Array] | None:
    """Return `n` frames (H, W, 3) uint8 RGB in the middle of n equal stretches of the video.

    The whole video is decoded, so that damage anywhere shows. A video of fewer than n frames repeats some. A picture
    is a video of one frame, and a folder of pictures is one of as many.
    """
    if _shows_pictures(path):
        files = pictures_in(path) if is_folder(path) else [path]
        return [read_picture(files[position]) for position in even_positions(len(files), n)]
    with _opened(path) as container:
        stream = _stream(container, "video")
        if stream is None:
            return None
        total = sum(1 for packet in _packets(container, stream) if packet.size and not packet.is_discard)
    wanted = even_positions(total, n)
    pictures, decoded = _pictures(path, wanted)
    if any(position not in pictures for position in wanted):  # not every packet has become a frame
        wanted = even_positions(decoded, n)
        pictures, _ = _pictures(path, wanted)
    if not pictures:
        raise MediaError("has no whole frame")
    return [pictures[position] for position in wanted]


def even_positions(total: int, n: int) -> list[int]:
    """Return the positions in the middle of n equal stretches of 0..total-1."""
    return [(2 * k + 1) * total // (2 * n) for k in range(n)]


def read_waveform(path: Path, rate: int) -> Array | None:
    """Return the sound (T,) float32 at `rate` samples per second, the mean of all channels."""
    if _shows_pictures(path):
        return None
    parts: list[Array] = []
    resampler, form = None, None
    with _opened(path) as container:
        stream = _stream(container, "audio")
        if stream is None:
            return None
        for frame in _frames(container, stream):
            if resampler is None or form != (frame.format.name, frame.layout.name, frame.sample_rate):
                # A stream may change its form on the way, which one resampler does not take.
                parts += _flushed(resampler)
                resampler = av.AudioResampler(format="flt", layout=frame.layout, rate=rate)
                form = (frame.format.name, frame.layout.name, frame.sample_rate)
            parts += _mixed(resampler.resample(frame))
        parts += _flushed(resampler)
    waveform = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
    if not len(waveform):
        raise MediaError("has no sound in its audio stream")
    if not np.isfinite(waveform).all():
        raise MediaError("decodes to sound that is not finite")
    return waveform


def _flushed(resampler: Any) -> list[Array]:
    """Return what a resampler still holds."""
    return [] if resampler is None else _mixed(resampler.resample(None))


def _mixed(frames: Sequence[Any]) -> list[Array]:
    """Return the mean over channels (n,) of packed frames.

    FFmpeg's own mix would be louder, and PyAV 18 crashes on the planes of 8 channels.
    """
    return [frame.to_ndarray().reshape(-1, frame.layout.nb_channels).mean(axis=1) for frame in frames]


def upright(frame: Any) -> Array:
    """Return a frame (H, W, 3) uint8 RGB as players show it: turned as the file's display matrix says."""
    turns = round(frame.rotation / 90)  # PyAV counts counterclockwise
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns % 4))


def _shows_pictures(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES or is_folder(path)


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures in a folder, in the order of the numbers in their names."""
    return in_order(path for path in paths_in(folder) if is_picture(path))


def read_picture(path: Path) -> Array:
    """Return an image file (H, W, 3) uint8 RGB, turned as its EXIF data say."""
    from PIL import Image, ImageOps

    try:
        content = read_bytes(path)
        if damage := damage_of_png(content):
            raise MediaError(f"is no whole picture ({damage})")
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except PICTURE_ERRORS as error:
        raise MediaError(f"is no whole picture ({str(error).partition(chr(10))[0][:80]})") from error
    except ArchiveError as error:
        raise MediaError(str(error)) from error


def _pictures(path: Path, positions: Sequence[int]) -> tuple[dict[int, Array], int]:
    """Decode a whole video; return the frames at `positions`, and how many frames there are."""
    wanted = set(positions)
    found: dict[int, Array] = {}
    count = 0
    with _opened(path) as container:
        for frame in _frames(container, _stream(container, "video")):
            if count in wanted:
                found[count] = upright(frame)
            count += 1
    return found, count


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with open_bytes(path) as file:
            if damage := damage_of_wave(file):
                raise MediaError(f"is cut short: {damage}")
            file.seek(0)
            source = file if archive_of(path) else str(path)
            with av.open(source, options=_ONLY_FILES, metadata_errors="replace") as container:
                yield container
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"cannot be read ({_reason(error)})") from error
    except ArchiveError as error:
        raise MediaError(str(error)) from error


def _stream(container: Any, kind: Literal["video", "audio"]) -> Any:
    """Return the first stream of a kind, or None; the cover picture of a sound file is no video."""
    from av.stream import Disposition

    for stream in container.streams:
        if stream.type == kind and not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the decoded frames of a stream; raises MediaError at the first that is damaged."""
    number = 0
    for packet in _packets(container, stream):
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            after = f" after frame {number}" if number else ""
            raise MediaError(f"cannot be decoded{after} ({_reason(error)})") from error
        for frame in frames:
            number += 1
            if frame.is_corrupt:
                raise MediaError(f"is damaged at frame {number}")
            yield frame


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of a stream; raises MediaError when they end before the file says they do."""
    end = 0.0
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise MediaError(f"is damaged or cut short after {end:.1f} seconds")
        if packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        yield packet
    declared = _declared_seconds(container, stream)
    if end < SHORTEST_SHARE * declared - SLACK_SECONDS:
        raise MediaError(f"is cut short: it ends after {end:.1f} of {declared:.1f} seconds")


def _declared_seconds(container: Any, stream: Any) -> float:
    """Return how long a stream says it is; 0 for formats in which that is only an estimate."""
    names = container.format.name.split(",")
    if "matroska" in names:
        told = CLOCK.fullmatch(str(stream.metadata.get("DURATION", "")))
        if told is not None:
            return 3600 * int(told[1]) + 60 * int(told[2]) + float(told[3])
        return float(container.duration or 0) / av.time_base if len(container.streams) == 1 else 0.0
    declares = not DECLARING.isdisjoint(names)
    return float(stream.duration * stream.time_base) if declares and stream.duration else 0.0


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or type(error).__name__)
