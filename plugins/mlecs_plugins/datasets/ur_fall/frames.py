"""Pictures of UR-FALL from zip archives of PNG, PNG files or videos: 24 x 32 for small encoders, whole for towers.

A small picture is made by exact area averages, so the size must be a multiple of 24 x 32. Readers raise FileError.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlecs_plugins.datasets.archives import ArchiveError, read_bytes
from mlecs_plugins.datasets.ur_fall import card
from mlecs_plugins.datasets.ur_fall.files import IMAGE_NAME, ImageSource, Panel
from mlecs_plugins.datasets.ur_fall.problems import FileError
from mlecs_plugins.datasets.wholeness import PICTURE_ERRORS, damage_of_png

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

DEPTH_CODES = 65535
FULL_SCALE_MM = {"fall": 6000.0, "adl": 7000.0}
"""Millimetres of the largest depth code, by stratum: mm = C * P / 65535 (the data set's page)."""
ONLY_FILES = {"protocol_whitelist": "file"}
"""A playlist in a video's clothes must not reach the network."""
LARGEST_PICTURE = 2**26
"""Bytes of the largest picture that is unpacked: those of the data set have half a million."""
SHOWN_MM = 7000.0
"""Millimetres that the largest grey level of the depth modality stands for."""


@dataclass(frozen=True)
class Look:
    """What becomes of a picture: of rgb (H, W, 3) uint8, and of depth.

    `depth(levels, mm, gaps)` takes levels (H, W) of `mm` millimetres each; with `gaps` level 0 is no measurement.
    """

    rgb: Callable[[Array], Array]
    depth: Callable[[Array, float, bool], Array]


def pictures_of(
    source: ImageSource, frames: Sequence[int], panel: Panel, full_scale: float, look: Look
) -> Iterator[tuple[int, Array]]:
    """Yield (frame, picture) for those of `frames` that the source has, in its order.

    `full_scale` is the depth in mm of the largest code; rgb does not use it.
    """
    wanted = set(frames)
    if source.kind == "video":
        yield from _from_video(source, wanted, panel, full_scale, look)
        return
    for frame, name, data in _zip_images(source, wanted) if source.kind == "zip" else _loose_images(source, wanted):
        image = _decode(data, name, panel)
        yield frame, look.rgb(image) if panel == "rgb" else look.depth(image, full_scale / DEPTH_CODES, True)


def _zip_images(source: ImageSource, wanted: set[int]) -> Iterator[tuple[int, str, bytes]]:
    """Yield (frame, name, content) of the wanted PNG in a zip archive."""
    stem = source.path.stem.lower()
    try:
        with zipfile.ZipFile(source.path) as archive:
            seen: dict[int, str] = {}
            for member in sorted(archive.infolist(), key=lambda member: member.filename):
                name = member.filename
                match = IMAGE_NAME.fullmatch(name.replace("\\", "/").rpartition("/")[2])
                if match and match["source"].lower() == stem and (frame := int(match["frame"])) in wanted:
                    if frame in seen:
                        raise FileError(f"holds frame {frame} twice ({seen[frame]}, {name})")
                    if member.file_size > LARGEST_PICTURE:
                        raise FileError(f"has {name} of {member.file_size:,} bytes, which is no picture of this data")
                    seen[frame] = name
                    yield frame, name, archive.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise FileError(f"is not a whole zip archive ({_short(error)})") from error


def _loose_images(source: ImageSource, wanted: set[int]) -> Iterator[tuple[int, str, bytes]]:
    for frame, path in source.images:
        if frame in wanted:
            try:
                content = read_bytes(path)
            except ArchiveError as error:
                raise FileError(f"{path.name} {error}") from error
            if len(content) > LARGEST_PICTURE:
                raise FileError(f"has {path.name} of {len(content):,} bytes, which is no picture of this data")
            yield frame, path.name, content


def _decode(data: bytes, name: str, panel: Panel) -> Array:
    """Return a PNG as an array: rgb (H, W, 3) uint8 or depth (H, W) of 16-bit codes."""
    from PIL import Image

    if damage := damage_of_png(data):
        raise FileError(f"{name} is not a whole PNG ({damage})")
    try:
        with Image.open(io.BytesIO(data)) as image:
            if panel == "rgb":
                return np.asarray(image.convert("RGB"))
            if not image.mode.startswith("I"):
                raise FileError(f"{name} is not a 16-bit depth image (its mode is {image.mode})")
            return np.asarray(image).astype(np.int64)
    except PICTURE_ERRORS as error:
        raise FileError(f"{name} is not a whole PNG ({_short(error)})") from error


def _from_video(
    source: ImageSource, wanted: set[int], panel: Panel, full_scale: float, look: Look
) -> Iterator[tuple[int, Array]]:
    """Decode a video up to the last wanted frame: plain rgb, or depth on the left and rgb on the right.

    Depth in a video has 8 bits, 255 for `full_scale`, and black pixels count as 0 mm: compression blurs which they are.
    """
    for number, picture in _video_frames(source, max(wanted)):
        height, width = picture.shape[:2]
        side_by_side = 3 * width == 8 * height
        if not side_by_side and 3 * width != 4 * height:
            raise FileError(f"is {width}x{height}, which is neither 4:3 nor two pictures of 4:3 side by side")
        if panel == "d" and not side_by_side:
            return
        if number in wanted and panel == "rgb":
            yield number, look.rgb(picture[:, width // 2 :] if side_by_side else picture)
        elif number in wanted:
            grey = picture[:, : width // 2].mean(axis=2)
            yield number, look.depth(grey, full_scale / 255, False)


def _video_frames(source: ImageSource, last: int) -> Iterator[tuple[int, Array]]:
    """Yield (number from 1 on, (H, W, 3) uint8) of the frames of a video up to number `last`."""
    import av

    number = 0
    try:
        with av.open(str(source.path), options=ONLY_FILES) as container:
            if not container.streams.video:
                raise FileError("has no video in it")
            for packet in container.demux(container.streams.video[0]):
                for frame in packet.decode():
                    number += 1
                    if packet.is_corrupt or frame.is_corrupt:
                        raise FileError(f"is damaged at frame {number}")
                    yield number, frame.to_ndarray(format="rgb24")
                    if number == last:
                        return
    except av.FFmpegError as error:
        after = f" after frame {number}" if number else ""
        raise FileError(f"cannot be decoded{after} ({error.strerror or type(error).__name__})") from error


def _reduce_rgb(picture: Array) -> Array:
    """Return area averages (24, 32, 3) uint8, rounded, of a picture (H, W, 3)."""
    return np.rint(_averages(picture, "picture")).astype(np.uint8)


def _reduce_depth(levels: Array, millimetres: float, gaps: bool) -> Array:
    """Return a depth image (24, 32, 1) from levels (H, W) of `millimetres` each.

    A cell is the average of its measured pixels, and 0 when it has none.
    """
    if not gaps:
        return _grey_levels(_averages(levels, "depth half"), millimetres)[..., None]
    share = _averages((levels > 0).astype(np.float64), "depth image")
    measured = np.divide(_averages(levels, "depth image"), share, out=np.zeros_like(share), where=share > 0)
    return _grey_levels(measured, millimetres)[..., None]


def _whole_depth(levels: Array, millimetres: float, _gaps: bool) -> Array:
    """Return a depth image as a grey picture (H, W, 3); what was not measured is black."""
    return np.repeat(_grey_levels(levels, millimetres)[..., None], 3, axis=2)


def _grey_levels(values: Array, millimetres: float) -> Array:
    """Return the levels of values as uint8: 0..7000 mm as 0..255."""
    levels = np.clip(values * millimetres * (255 / SHOWN_MM), 0, 255)
    return np.rint(levels).astype(np.uint8)


def _averages(picture: Array, what: str) -> Array:
    """Return the mean of each cell of a 24 x 32 grid over a picture (H, W[, C])."""
    height, width = picture.shape[:2]
    if height % card.IMAGE_HEIGHT or width % card.IMAGE_WIDTH:
        raise FileError(f"has a {what} of {width}x{height}, which is no multiple of 32x24")
    rows, columns = height // card.IMAGE_HEIGHT, width // card.IMAGE_WIDTH
    total = np.uint32 if picture.dtype == np.uint8 else picture.dtype
    sums = np.add.reduceat(picture, np.arange(0, height, rows), axis=0, dtype=total)
    means: Array = np.add.reduceat(sums, np.arange(0, width, columns), axis=1) / (rows * columns)
    return means


def _short(error: BaseException) -> str:
    """Return the first line of an error's text, without objects' addresses."""
    return re.sub(r"<.*>", "the data", str(error).splitlines()[0] if str(error) else type(error).__name__)


SMALL = Look(_reduce_rgb, _reduce_depth)
"""Area averages: rgb (24, 32, 3) and depth (24, 32, 1), uint8."""
WHOLE = Look(np.ascontiguousarray, _whole_depth)
"""Whole pictures (H, W, 3) uint8; depth in grey."""
