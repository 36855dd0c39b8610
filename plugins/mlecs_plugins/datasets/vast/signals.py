"""What a synthetic clip looks and sounds like: frames, spectrogram and subtitle words drawn from its slot values.

All functions work on whole columns: slot name → value indices (n,). In every clip a modality leaves out some of the
slots that it could show, each modality others: what one does not show another may. The noise levels are set such that
small encoders read most slots well and none perfectly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .words import FILLER_IDS, SHOWN_BY, SLOTS, SUBTITLE_IDS

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Slots = Mapping[str, Array]

N_FRAMES, SIZE, CHANNELS = 4, 16, 3
N_BANDS, N_TICKS = 24, 24
N_WORDS = 24

HIDDEN = {"vision": 0.3, "audio": 0.2}
"""How often a clip's pictures, or its sound, do not show a slot; subtitles leave slots out by having few words."""
PIXEL_NOISE = 24
TEXTURE_SWING = 26
COLOURS = ((200, 40, 40), (50, 80, 210), (40, 170, 60), (220, 200, 50), (235, 235, 235), (25, 25, 25), (150, 150, 150))
"""Colour → RGB; the last one is that of a colour that is not shown, and so it is with the tables below."""
SHAPES = (
    (".####.", "######", "######", "######", "######", ".####."),
    ("##..##", "##..##", "######", "######", ".####.", "..##.."),
    ("......", ".####.", "######", "######", "#.##.#", "......"),
    ("..#...", "..##..", "..###.", "######", ".####.", "......"),
    ("......", "##..##", ".####.", "..##..", "..##..", "......"),
    ("..##..", "..##..", ".####.", "..##..", "..##..", ".#..#."),
    ("..##..", "..##..", "..##..", ".####.", ".####.", "######"),
    ("....##", "...###", "#####.", "#####.", "#...#.", "#...#."),
    ("######", "######", "######", "######", "######", "######"),
)
_BOX = len(SHAPES[0])
MOTIONS = (
    ((0, 0), (0, 2), (0, 4), (0, 6)),
    ((3, 0), (0, 0), (3, 0), (0, 0)),
    ((0, 0), (0, 0), (0, 0), (0, 0)),
    ((6, 0), (4, 0), (2, 0), (0, 0)),
    ((0, 0), (2, 0), (4, 0), (6, 0)),
    ((0, 0), (0, 2), (0, 0), (0, 2)),
    ((0, 0), (3, 3), (6, 0), (0, 6)),
)
"""Action → (down, right) offset of the shape in each frame."""

TINTS = ((16, 0, -16), (-16, 0, 16), (18, -12, -12), (-12, 18, -12), (-14, -14, -14), (14, 14, 14), (0, 0, 0))
"""Tone → what it adds to the background's RGB."""

SOUND_NOISE = 1.0
LEVEL = 1.4
STEP_BANDS = (2, 6, 10, 14, 18, 22)
"""Action → the band in which steps are heard."""
WORD_SHARES = {"topic": 0.16, "tone": 0.13, "voice": 0.11, "object": 0.12, "place": 0.12, "sound": 0.12}
"""How likely a subtitle word hints at each slot; the rest is filler."""
WORD_CONFUSION = 0.08
"""The share of hints that point to a random value instead of the clip's."""


def _shown(slots: Slots, modality: str, generator: np.random.Generator) -> dict[str, Array]:
    """Return the slots that `modality` shows; a value that it does not show is one past the last."""
    import numpy as np

    names = SHOWN_BY[modality]
    hidden = generator.random((len(names), len(slots["object"]))) < HIDDEN[modality]
    return {name: np.where(h, len(SLOTS[name]), slots[name]) for name, h in zip(names, hidden, strict=True)}


def draw_vision(slots: Slots, generator: np.random.Generator) -> Array:
    """Return frames (n, 4, 16, 16, 3) uint8.

    A coloured shape (object, colour) moves (action) over a texture (place) in a light (tone).
    """
    import numpy as np

    n = len(slots["object"])
    slots = _shown(slots, "vision", generator)
    noise = generator.integers(-PIXEL_NOISE, PIXEL_NOISE + 1, size=(n, N_FRAMES, SIZE, SIZE, CHANNELS), dtype=np.int8)
    canvas = noise.astype(np.int16) + _texture(slots["place"], generator)[:, None, :, :, None]
    canvas += np.array(TINTS, dtype=np.int16)[slots["tone"]][:, None, None, None, :]
    masks = np.array([[[c == "#" for c in row] for row in shape] for shape in SHAPES])[slots["object"]]
    tint = np.array(COLOURS, dtype=np.int16)[slots["colour"]] - np.int16(110)
    offsets = np.array(MOTIONS)[slots["action"]]
    room = SIZE - _BOX - offsets.max(axis=1)
    corner = (generator.random((n, 2)) * (room + 1)).astype(np.int64)
    clip, row, col = np.nonzero(masks)
    for t in range(N_FRAMES):
        y = corner[clip, 0] + offsets[clip, t, 0] + row
        x = corner[clip, 1] + offsets[clip, t, 1] + col
        canvas[clip, t, y, x] = noise[clip, t, y, x] + tint[clip]
    frames: Array = np.clip(canvas + np.int16(110), 0, 255).astype(np.uint8)
    return frames


def _texture(place: Array, generator: np.random.Generator) -> Array:
    """Return waves (n, 16, 16) int16 whose direction (4) and length (2) tell the place; their phase is random.

    A place that is not shown has none.
    """
    import numpy as np

    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    angle = np.float32(np.pi / 4) * (place % 4).astype(np.float32)[:, None, None]
    pace = np.where(place < 4, 0.7, 1.5).astype(np.float32)[:, None, None]
    phase = generator.random((len(place), 1, 1), dtype=np.float32) * np.float32(2 * np.pi)
    wave = np.sin(pace * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    wave *= (place < len(SLOTS["place"]))[:, None, None]
    texture: Array = np.rint(TEXTURE_SWING * wave).astype(np.int16)
    return texture


def draw_audio(slots: Slots, generator: np.random.Generator) -> Array:
    """Return spectrograms (n, 24, 24) float32: a hum (place), events (sound), overtones (voice), steps (action)."""
    import numpy as np

    n = len(slots["sound"])
    slots = _shown(slots, "audio", generator)
    band = np.arange(N_BANDS, dtype=np.float32)
    # What is not shown lies outside the bands, at a distance at which nothing is left of it.
    centres = np.append(np.linspace(1, N_BANDS - 2, 8, dtype=np.float32), np.float32(-100))[slots["place"]]
    hum = np.exp(-0.5 * ((band - centres[:, None]) / 1.2) ** 2)
    shift = generator.integers(0, N_TICKS, size=n)
    event = np.array([_event(v) for v in range(len(SLOTS["sound"]) + 1)], dtype=np.float32)
    ticks = (np.arange(N_TICKS) + shift[:, None]) % N_TICKS
    events = event[slots["sound"][:, None, None], np.arange(N_BANDS)[None, :, None], ticks[:, None, :]]
    voiced = np.array([[b % spacing == 1 for b in range(N_BANDS)] for spacing in (3, 4, 5, 7)] + [[False] * N_BANDS])
    overtones = voiced[slots["voice"]].astype(np.float32)
    speaking = np.repeat(generator.random((n, N_TICKS // 4)) < 0.6, 4, axis=1).astype(np.float32)
    noise = generator.standard_normal((n, N_BANDS, N_TICKS), dtype=np.float32) * np.float32(SOUND_NOISE)
    level = np.float32(LEVEL)
    spectrogram: Array = noise + level * hum[:, :, None] + 2 * level * events
    spectrogram += level * overtones[:, :, None] * speaking[:, None, :]
    spectrogram += 2 * level * _steps(slots["action"], generator)
    return spectrogram


def _steps(action: Array, generator: np.random.Generator) -> Array:
    """Return steps (n, 24, 24) float32, one in four ticks, in the band of the action; they begin anywhere."""
    import numpy as np

    bands = np.append(STEP_BANDS, -1)[action]
    heard = np.arange(N_BANDS)[None, :] == bands[:, None]
    first = generator.integers(0, 4, size=len(action))
    ticks = np.arange(N_TICKS)[None, :] % 4 == first[:, None]
    steps: Array = (heard[:, :, None] & ticks[:, None, :]).astype(np.float32)
    return steps


def _event(value: int) -> Array:
    """Return the pattern (24, 24) of one sound: glides, bursts and pulses of different pace, or nothing."""
    import numpy as np

    band, tick = np.mgrid[0:N_BANDS, 0:N_TICKS]
    patterns = (
        (band - tick) % 12 == 0,
        (band + tick) % 12 == 0,
        (tick % 4 == 0) & (band > 12),
        (tick < 8) & (band < 5),
        (tick % 12 < 2) & (band % 4 < 2),
        (tick % 2 == 0) & (band < 8),
        (tick % 12 < 6) & (band > 18),
        (tick % 6 < 2) & (band > 6) & (band < 14),
        np.zeros_like(band),
    )
    pattern: Array = patterns[value].astype(np.float32)
    return pattern


def draw_subtitle(slots: Slots, generator: np.random.Generator) -> Array:
    """Return word ids (n, 24) int64, 0 = padding: 12 to 24 words, some of which hint at slots."""
    import numpy as np

    n = len(slots["topic"])
    words = np.array(FILLER_IDS)[generator.integers(0, len(FILLER_IDS), size=(n, N_WORDS))]
    kind, lower = generator.random((n, N_WORDS)), 0.0
    for name, share in WORD_SHARES.items():
        table = np.array(SUBTITLE_IDS[name])
        value = np.broadcast_to(slots[name][:, None], (n, N_WORDS))
        astray = generator.random((n, N_WORDS)) < WORD_CONFUSION
        value = np.where(astray, generator.integers(0, len(table), size=(n, N_WORDS)), value)
        hints = table[value, generator.integers(0, table.shape[1], size=(n, N_WORDS))]
        words = np.where((kind >= lower) & (kind < lower + share), hints, words)
        lower += share
    length = generator.integers(N_WORDS // 2, N_WORDS + 1, size=n)
    ids: Array = np.where(np.arange(N_WORDS)[None, :] < length[:, None], words, 0).astype(np.int64)
    return ids
