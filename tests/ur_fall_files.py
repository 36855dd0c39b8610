"""Small folders laid out like UR-FALL, for the tests of its reader."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mlecs_bench.data.samples import DataRequest, Samples
from mlecs_bench.doors.options import build_options
from mlecs_bench.errors import DataError
from mlecs_plugins.datasets.ur_fall import card, prepare

FRAME_MS = 1000 / 30
FEATURES = (2.0, 2.0, 0.5, 150.0, 0.9, 1500.0, 800.0, 0.2)
HEADER = "Sequence Name,Frame #,Label,HWRatio,MMRatio,BoundingBoxO,MaxStdXZ,HHMaxRatio,Actual Height,Distance,P40"
LABELS = {
    "fall-01": {1: -1, 2: -1, 3: 0, 4: 0, 5: 1, 6: 1},
    "adl-07": {4: -1, 5: -1, 7: 0, 9: 1},  # starts late and skips frames
}
N_FRAMES = 10


def shade(frame: int) -> int:
    return 20 * frame


def write_video(path: Path, draw, width: int = 320, n_frames: int = N_FRAMES, options=None) -> None:
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, 240, "yuv420p", 4_000_000
        for frame in range(1, n_frames + 1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(draw(frame), format="rgb24")))
        container.mux(stream.encode())


def plain(frame: int) -> np.ndarray:
    return np.full((240, 320, 3), shade(frame), dtype=np.uint8)


def side_by_side(frame: int) -> np.ndarray:
    depth = np.full((240, 320, 3), 255 - shade(frame), dtype=np.uint8)
    return np.concatenate([depth, plain(frame)], axis=1)


def label_lines(strata: str) -> list[str]:
    return [
        ",".join([sequence, str(frame), str(label), *map(str, FEATURES)])
        for sequence, rows in LABELS.items()
        for frame, label in rows.items()
        if sequence.startswith(strata)
    ]


def acc_rows(until_ms: float = 400.0) -> list[tuple[float, ...]]:
    """A recording whose x axis is the time in seconds, so that interpolated values are known."""
    return [(t, math.sqrt((t / 1000) ** 2 + 1.04), t / 1000, -1.0, 0.2) for t in np.arange(-300.0, until_ms + 1, 20.0)]


def write_rows(path: Path, rows) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def write_zip(path: Path, images: dict[int, np.ndarray]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for frame, values in images.items():
            archive.writestr(f"{path.stem}/{path.stem}-{frame:03d}.png", png(values))


def make_folder(folder: Path) -> Path:
    """Write a small complete data set, in sub-folders."""
    for name in ("acc", "video"):
        (folder / name).mkdir(parents=True)
    for stratum, word in card.STRATA.items():
        (folder / f"urfall-cam0-{word}.csv").write_text("\n".join(label_lines(stratum)) + "\n")
    for sequence in LABELS:
        write_rows(folder / "acc" / f"{sequence}-acc.csv", acc_rows())
        write_video(folder / "video" / f"{sequence}-cam0.mp4", plain)
    return folder


def open_samples(folder: Path | None, cache: Path, **options: str) -> Samples:
    request = DataRequest(folder, cache, build_options(card.UrFallOptions, options, "ur-fall"))
    return Samples.open(prepare(request))


def problems_of(folder: Path, cache: Path, **options: str) -> list[str]:
    with pytest.raises(DataError) as caught:
        open_samples(folder, cache, **options)
    return str(caught.value).splitlines()


def rows_of(samples: Samples, sequence: str) -> list[int]:
    return [row for row, group in enumerate(samples.column("group")) if group == sequence]
