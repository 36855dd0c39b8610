"""Windows of accelerometer samples around video frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlecs_plugins.datasets.ur_fall import card
from mlecs_plugins.datasets.ur_fall.problems import FileError
from mlecs_plugins.datasets.ur_fall.tables import Recording

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FRAME_MS = 1000 / card.FRAME_RATE


def frame_times(frames: Array, sync: dict[int, float] | None) -> Array:
    """Return the time (T,) of frames in ms after the start: from the synchronisation, else at 30 frames per second.

    Raises FileError when the synchronisation lacks one of the frames.
    """
    if sync is None:
        return (frames - 1) * FRAME_MS
    missing = [int(k) for k in frames if int(k) not in sync]
    if missing:
        raise FileError(f"has no time for {len(missing)} labelled frames, the first of them frame {missing[0]}")
    return np.array([sync[int(k)] for k in frames])


def windows(recording: Recording, times: Array) -> tuple[Array, Array]:
    """Return the acceleration around each time: windows (T, 15, 3) float32 in g, and presence (T,) bool.

    A window has one row per video frame from 7 before to 7 after, interpolated linearly in time; where it reaches over
    an end of the recording that end is held. A frame outside the recording has no window: zeros, not present.
    """
    grid = times[:, None] + np.arange(-card.MARGIN, card.MARGIN + 1) * FRAME_MS  # (T, 15)
    values = np.stack([np.interp(grid, recording.time, axis) for axis in recording.axes.T], axis=-1)
    present = (times >= recording.time[0]) & (times <= recording.time[-1])
    values[~present] = 0
    return values.astype(np.float32), present
