"""Small annotation files and media in the form of VAST, for the tests of its reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from mlecs_bench.data.samples import DataRequest, Samples
from mlecs_bench.doors.options import build_options
from mlecs_plugins.datasets.vast import card
from mlecs_plugins.datasets.vast.preparation import prepare, verify

RATE = 30
SOUND_RATE = 44_100


def record(clip_id: str = "abcdefghijk.1", **changes: Any) -> dict[str, Any]:
    """Return a record with VAST's seven keys."""
    made = {
        "clip_id": clip_id,
        "clip_span": ["00:00:01.000", "00:00:04.000"],
        "url": "https://example.org/watch",
        "vision_cap": ["a cat sleeps", "the cat is asleep"],
        "audio_cap": ["a cat purrs"],
        "subtitle": "she has slept all day",
        "vast_cap": "A cat purrs in its sleep.",
    }
    return {**made, **changes}


def write_records(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return path


def shade(frame: int) -> int:
    return 8 * frame


def plain(frame: int) -> np.ndarray:
    return np.full((48, 64, 3), shade(frame), dtype=np.uint8)


def noise(frame: int) -> np.ndarray:
    return np.random.default_rng(frame).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def tone(seconds: float, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * SOUND_RATE)) / SOUND_RATE)).astype(np.float32)


def write_media(
    path: Path,
    *,
    draw: Callable[[int], np.ndarray] | None = plain,
    sound: np.ndarray | None = None,
    n_frames: int = 30,
    form: str | None = None,
) -> Path:
    """Write a file with video (unless `draw` is None) and AAC sound (unless None); `form` overrides the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first = {"movflags": "+faststart"} if (form or path.suffix[1:]) == "mp4" else {}
    with av.open(str(path), "w", format=form, options=first) as container:
        video = container.add_stream("mpeg4", rate=RATE) if draw else None
        audio = container.add_stream("aac", rate=SOUND_RATE) if sound is not None else None
        if audio:
            audio.layout = "stereo"
        if video:
            video.width, video.height, video.pix_fmt, video.bit_rate = 64, 48, "yuv420p", 2_000_000
            for frame in range(n_frames):
                container.mux(video.encode(av.VideoFrame.from_ndarray(draw(frame), format="rgb24")))
            container.mux(video.encode())
        if audio:
            for frame in sound_frames(sound):
                container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


def sound_frames(sound: np.ndarray) -> list[av.AudioFrame]:
    """Return mono sound as stereo frames."""
    frames = []
    for start in range(0, len(sound), 1024):
        part = np.stack([sound[start : start + 1024]] * 2)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = SOUND_RATE, start
        frames.append(frame)
    return frames


def truncate(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def request(folder: Path | None, cache: Path, **options: Any) -> DataRequest:
    return DataRequest(folder, cache, build_options(card.VastOptions, options, "vast"))


def open_samples(folder: Path, cache: Path, **options: Any) -> Samples:
    return Samples.open(prepare(request(folder, cache, **options)))


def verified(folder: Path, cache: Path, **options: Any):
    return verify(request(folder, cache, **options))


GAPS = {
    "a.1": {},
    "b.1": {"audio_cap": []},
    "c.1": {"subtitle": ""},
    "d.1": {"vision_cap": None, "subtitle": " ... "},
    "e.1": {"vision_cap": None, "audio_cap": None, "subtitle": None},
}
WITHOUT = {"audio": {"b.1", "e.1"}, "subtitle": {"c.1", "d.1", "e.1"}, "vision": {"d.1", "e.1"}}


def gap_records() -> list[dict[str, Any]]:
    return [record(name, vast_cap=f"the target of {name}", **changes) for name, changes in GAPS.items()]


def make_clips(folder: Path) -> Path:
    """Write clips with both files, a video with sound, one without, an MP4 named .mp3, damaged files, and none."""
    names = ["both", "video", "mute", "sound", "cut", "mixed", "none"]
    write_records(folder / "notes.json", [record(name, subtitle="" if name == "mute" else "words") for name in names])
    media = folder / "media"
    write_media(media / "both.mp4", sound=tone(1.0, 300))
    write_media(media / "both.mp3", draw=None, sound=tone(1.0, 3000), form="mp4")
    write_media(media / "video.mp4", sound=tone(1.0, 1000))
    write_media(media / "mute.mp4")
    write_media(media / "sound.mp3", draw=None, sound=np.zeros(44_100, np.float32), form="mp4")
    truncate(write_media(media / "cut.mp4", sound=tone(1.0)), 0.5)
    truncate(write_media(media / "mixed.mp4"), 0.01)
    write_media(media / "mixed.mp3", draw=None, sound=tone(1.0, 500), form="mp4")
    return folder


def missing_of(samples: Samples) -> dict[str, set[str]]:
    return {m: {samples.ids[i] for i in np.flatnonzero(~has)} for m, has in samples.presence.items()}
