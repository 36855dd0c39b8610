"""A stand-in for UR-FALL that needs no files: same shapes, same number of frames, about the same label runs.

Each sequence has a label curve (not lying, then perhaps a temporary pose, lying, and a temporary pose again). Every
modality shows one boundary of the three labels: rgb the upright silhouette (not lying against the rest), depth the
height above the floor (lying against the rest), acce the motion (temporary pose against the rest). In random episodes
of a sequence a modality shows another posture than the true one (bending, crouching, jolts), independently of the other
modalities, so no modality is enough and each corrects the others. No number here is a measurement of a person.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlecs_bench.api import DataError, rng
from mlecs_plugins.datasets.ur_fall import card

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

VERSION = 1
DATASET_SEED = 2014
"""Seed of the stand-in itself; a pool must use another one."""
N_SEQUENCES = 70
FALL_SHARE = 30 / 70
MEAN_FRAMES = {"fall": 2995 / 30, "adl": 8549 / 40}  # as in the real label files
LYING_SHARE_OF_ADL = 16 / 40  # people lie down on a bed or a sofa in 16 of the 40 real ADL sequences
IMAGE_SHARE = 255 / 7000  # grey levels per millimetre of the depth image

# What a modality shows of each label (not lying, temporary pose, lying): 0..1.
SHOWN = {"rgb": (0.0, 0.8, 1.0), "depth": (0.0, 0.25, 1.0), "acce": (0.12, 1.0, 0.0)}
EPISODES_PER_100_FRAMES = {"rgb": 0.8, "depth": 0.8, "acce": 0.9}
CUE_NOISE = {"rgb": 0.12, "depth": 0.14, "acce": 0.15}
# How the 8 standardised features move from a standing (+1) to a lying person (-1): roughly the real contrast.
DEPTH_LOADING = np.array([0.8, 0.2, -0.1, -0.6, 0.9, 0.9, 0.8, -0.7], dtype=np.float32)


@dataclass(frozen=True)
class Sequence:
    """One generated sequence: labels (T,) as indices 0..2 and, per modality, (T, *shape)."""

    name: str
    stratum: str
    labels: Array
    arrays: dict[str, Array]


def parameters() -> dict[str, Any]:
    """Return everything that decides the stand-in, for its digest."""
    return {
        "version": VERSION,
        "seed": DATASET_SEED,
        "sequences": N_SEQUENCES,
        "shown": SHOWN,
        "episodes": EPISODES_PER_100_FRAMES,
        "noise": CUE_NOISE,
        "loading": DEPTH_LOADING.tolist(),
    }


def make_sequences(seed: int, n_sequences: int = N_SEQUENCES, depth: str = "features") -> list[Sequence]:
    """Return `n_sequences` sequences, falls first; `depth` is "features" or "image".

    A sequence depends on the seed and its own name only, but for its length: the lengths of a kind of sequence add up
    to the real mean times their number.
    """
    n_falls = round(n_sequences * FALL_SHARE)
    counts = {"fall": n_falls, "adl": n_sequences - n_falls}
    sequences = []
    for stratum, count in counts.items():
        for index, length in enumerate(_lengths(seed, stratum, count), start=1):
            name = f"{stratum}-{index:02d}"
            labels = _label_curve(rng(seed, card.NAME, name, "labels"), stratum, _lies(index, stratum), length)
            arrays = _render(seed, name, labels, depth)
            sequences.append(Sequence(name, stratum, labels, arrays))
    return sequences


def synthetic_pool(seed: int, n_sequences: int) -> tuple[dict[str, Array], Array]:
    """Return samples from the same generator that share nothing with the stand-in, to pre-train encoders on.

    Returns modality arrays (n, *shape) in the dataset's dtypes (depth as features) and labels (n,) as indices 0..2;
    raises DataError for the stand-in's own seed.
    """
    if seed == DATASET_SEED:
        raise DataError(f"seed {seed} makes the ur-fall stand-in itself; take another seed for a pool")
    return stack(make_sequences(seed, n_sequences))


def stack(sequences: list[Sequence]) -> tuple[dict[str, Array], Array]:
    """Join the frames of `sequences` in order: arrays by modality, labels (n,)."""
    arrays = {m: np.concatenate([s.arrays[m] for s in sequences]) for m in sequences[0].arrays}
    return arrays, np.concatenate([s.labels for s in sequences])


def _lengths(seed: int, stratum: str, count: int) -> list[int]:
    """Return `count` random lengths whose sum is the rounded real mean times `count`."""
    weights = rng(seed, card.NAME, stratum, "lengths").uniform(0.6, 1.4, count)
    if stratum == "adl":
        weights *= [1.25 if _lies(i + 1, stratum) else 0.83 for i in range(count)]
    ends = np.rint(np.cumsum(weights) / weights.sum() * round(MEAN_FRAMES[stratum] * count)).astype(int)
    return [int(n) for n in np.diff(ends, prepend=0)]


def _lies(index: int, stratum: str) -> bool:
    """Does the person lie down in this sequence? Always in a fall, else in a fixed share of the sequences."""
    return stratum == "fall" or int(index * LYING_SHARE_OF_ADL) > int((index - 1) * LYING_SHARE_OF_ADL)


def _label_curve(random: np.random.Generator, stratum: str, lies: bool, length: int) -> Array:
    """Return label indices (length,): one run, or not lying, temporary pose, lying (and temporary pose again)."""
    labels = np.zeros(length, dtype=np.int64)
    if not lies:
        return labels
    pose = min(30, length // 2) if stratum == "fall" else int(random.integers(22, 62))
    rise = int(random.integers(8, 40)) if stratum == "adl" and random.random() < 5 / 16 else 0
    rest = max(length - pose - rise, 2)
    stand = max(1, round(rest * (random.uniform(0.36, 0.79) if stratum == "fall" else random.uniform(0.48, 0.72))))
    labels[stand : stand + pose] = 1
    labels[stand + pose : length - rise] = 2
    labels[length - rise :] = 1
    return labels


def _render(seed: int, name: str, labels: Array, depth: str) -> dict[str, Array]:
    """Return what every modality sees of the label curve."""
    cues = {m: _cue(rng(seed, card.NAME, name, m, "cue"), labels, m) for m in SHOWN}
    streams = {m: rng(seed, card.NAME, name, m, "values") for m in SHOWN}
    draw_depth = _depth_images if depth == "image" else _depth_features
    return {
        "acce": _accelerations(streams["acce"], cues["acce"]),
        "depth": draw_depth(streams["depth"], cues["depth"]),
        "rgb": _pictures(streams["rgb"], cues["rgb"]),
    }


def _cue(random: np.random.Generator, labels: Array, modality: str) -> Array:
    """Return the posture as a modality shows it (T,): the label's level, misled in episodes, smoothed, noisy."""
    shown = labels.copy()
    for _ in range(random.poisson(EPISODES_PER_100_FRAMES[modality] * len(labels) / 100)):
        start = int(random.integers(len(labels)))
        end = start + int(random.integers(6, 36))
        shown[start:end] = (labels[start:end] + random.integers(1, 3)) % 3
    levels = np.array(SHOWN[modality])[shown]
    width = 5
    smooth = np.convolve(np.pad(levels, width // 2, mode="edge"), np.ones(width) / width, mode="valid")
    return smooth + CUE_NOISE[modality] * _wander(random, len(labels), memory=0.8)


def _wander(random: np.random.Generator, length: int, memory: float) -> Array:
    """Return an autoregressive curve (length,) of unit variance: x_t = memory * x_{t-1} + noise."""
    shocks = random.standard_normal(length) * np.sqrt(1 - memory**2)
    values = np.empty(length)
    last = random.standard_normal()
    for t, shock in enumerate(shocks):
        last = memory * last + shock
        values[t] = last
    return values


def _accelerations(random: np.random.Generator, cue: Array) -> Array:
    """Return windows (T, 15, 3) in g: gravity in the sequence's own direction, plus motion as strong as the cue."""
    padded = np.pad(cue, card.MARGIN, mode="edge")
    gravity = np.array([0.0, 1.0, 0.0]) + 0.35 * random.standard_normal(3)
    gravity /= np.linalg.norm(gravity)
    strength = 0.05 + 0.30 * np.clip(padded, 0, None)[:, None]
    motion = np.stack([_wander(random, len(padded), memory=0.4) for _ in range(3)], axis=1)
    curve = (gravity + strength * motion).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(curve, card.WINDOW, axis=0)  # (T, 3, 15)
    return np.ascontiguousarray(windows.swapaxes(1, 2))


def _depth_features(random: np.random.Generator, cue: Array) -> Array:
    """Return the 8 features (T, 8): loadings times height, an offset of the sequence and noise of the frame."""
    offset = 0.35 * random.standard_normal(8)
    noise = 0.55 * random.standard_normal((len(cue), 8))
    height = (1 - 2 * cue)[:, None] * DEPTH_LOADING
    return (1.2 * height + offset + noise).astype(np.float32)


def _body(random: np.random.Generator, cue: Array) -> Array:
    """Return how much of each pixel (T, 24, 32) is covered by a person: tall at cue 0, flat at cue 1."""
    level = np.clip(cue, -0.2, 1.2)[:, None, None]
    half_height = 8.0 - 5.0 * level
    half_width = 2.5 + 5.0 * level
    centre = 16 + 2.5 * random.standard_normal() + 1.5 * _wander(random, len(cue), memory=0.95)[:, None, None]
    floor = 21 + 0.7 * random.standard_normal()
    rows = np.arange(card.IMAGE_HEIGHT)[:, None] + 0.5
    columns = np.arange(card.IMAGE_WIDTH) + 0.5
    distance = np.hypot((rows - floor + half_height) / half_height, (columns - centre) / half_width)
    body: Array = np.clip((1.15 - distance) / 0.3, 0, 1)
    return body


def _pictures(random: np.random.Generator, cue: Array) -> Array:
    """Return video frames (T, 24, 32, 3) uint8: a clothed person in a room with its own light, and pixel noise."""
    body = _body(random, cue)[..., None]
    room = _room(random)
    clothes = room.mean(axis=(0, 1)) - random.uniform(60, 85, 3)
    noise = 8 * random.standard_normal((len(cue), *room.shape), dtype=np.float32)
    picture: Array = np.clip((1 - body) * room + body * clothes + noise, 0, 255).astype(np.uint8)
    return picture


def _room(random: np.random.Generator) -> Array:
    """Return an empty room (24, 32, 3): wall, floor and two pieces of furniture."""
    wall = random.uniform(110, 150) + 8 * random.standard_normal(3)
    room = np.broadcast_to(wall, (card.IMAGE_HEIGHT, card.IMAGE_WIDTH, 3)).copy()
    room[18:] -= random.uniform(10, 25)
    for _ in range(2):
        top, left = int(random.integers(6, 18)), int(random.integers(0, 26))
        room[top : top + 7, left : left + 6] += 10 * random.standard_normal(3)
    return room


def _depth_images(random: np.random.Generator, cue: Array) -> Array:
    """Return depth images (T, 24, 32, 1) uint8 of a person 3 m away, 1.5 m before the wall."""
    body = _body(random, cue)
    near = random.uniform(2500, 3500)
    millimetres = near + (1 - body) * random.uniform(1000, 2000) + 120 * random.standard_normal(body.shape)
    image: Array = np.clip(millimetres * IMAGE_SHARE, 0, 255).astype(np.uint8)[..., None]
    return image
