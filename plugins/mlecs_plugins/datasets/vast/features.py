"""Small inputs from decoded media: thumbnails of pictures and a log-mel spectrogram of sound. NumPy only."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mlecs_plugins.datasets.vast.card import N_BANDS, N_TICKS, SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

RATE = 16_000
WINDOW, HOP, N_FFT = 400, 160, 512  # 25 ms every 10 ms, the usual frames of speech
LOWEST_POWER = 1e-10
LEAST_SD = 0.1
"""Standard deviation in log10 units (1 dB) below which a spectrogram counts as flat and is not blown up."""


def thumbnail(picture: Array) -> Array:
    """Return a picture (H, W, 3) uint8 as area averages (16, 16, 3) uint8; the whole picture, whatever its shape."""
    return reduced(picture, SIZE)


def reduced(picture: Array, size: int) -> Array:
    """Return a picture (H, W, 3) uint8 as area averages (size, size, 3) uint8; a smaller one is blown up."""
    height, width = picture.shape[:2]
    rows, columns = area_weights(height, size), area_weights(width, size)
    halved = np.tensordot(rows, picture.astype(np.float64), axes=(1, 0))  # (size, W, 3)
    means = np.tensordot(columns, halved, axes=(1, 1)).transpose(1, 0, 2)
    return np.rint(means).astype(np.uint8)


@cache
def area_weights(n_in: int, n_out: int) -> Array:
    """Return the share (n_out, n_in) that each of n_in cells has in each of n_out equal stretches of them."""
    edges = np.arange(n_out + 1) * (n_in / n_out)
    cells = np.arange(n_in)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    weights: Array = np.clip(overlap, 0, None) * (n_out / n_in)
    return weights


def log_mel(waveform: Array) -> Array:
    """Return the spectrogram (24, 24) float32 of sound (T,) at 16 kHz: mel bands by equal stretches of time.

    A cell is log10 of the band's mean power; the cells of a clip are then shifted and scaled to mean 0 and sd 1, so
    loudness is lost. Silence gives zeros.
    """
    sound = np.pad(waveform.astype(np.float64), (0, max(0, WINDOW - len(waveform))))
    windows = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP]
    ticks = []
    for tick in range(N_TICKS):
        start = tick * len(windows) // N_TICKS
        stop = max(start + 1, (tick + 1) * len(windows) // N_TICKS)
        ticks.append(mel_filters() @ _mean_power(windows[start:stop]))
    levels = np.log10(np.maximum(np.stack(ticks, axis=1), LOWEST_POWER))
    deviations = levels - levels.mean()
    scaled: Array = (deviations / max(float(levels.std()), LEAST_SD)).astype(np.float32)
    return scaled


def _mean_power(windows: Array) -> Array:
    """Return the mean power (257,) over windows (n, 400), each weighted by a periodic Hann window."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power: Array = (np.abs(np.fft.rfft(windows * hann, N_FFT)) ** 2).mean(axis=0)
    return power


@cache
def mel_filters() -> Array:
    """Return the triangular filters (24, 257), even on the mel scale 2595 log10(1 + f / 700) from 0 to 8 kHz."""
    highest = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, highest, N_BANDS + 2) / 2595) - 1)
    bins = np.arange(N_FFT // 2 + 1) * (RATE / N_FFT)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    filters: Array = np.clip(np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)), 0, None)
    return filters
