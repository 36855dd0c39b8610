"""Standardising a modality: mean and scale of every dimension, from the samples that one is allowed to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

LEAST_SHARE = 0.1
"""No dimension is divided by less than this share of the root mean square of all deviations.

What hardly moved in the samples looked at may move in others, and would drown the rest.
"""


@dataclass(frozen=True)
class Scaling:
    """What is taken from every dimension (C,) and what it is then divided by (C,), float32."""

    mean: Array
    scale: Array

    @classmethod
    def of(cls, values: Array) -> Scaling:
        """Return the scaling of values (n, ..., C) by their own mean and standard deviation.

        Without a sample, or where nothing varies, the scale is 1.
        """
        flat = values.reshape(-1, values.shape[-1])
        if not len(flat):
            return cls(np.zeros(flat.shape[1], dtype=np.float32), np.ones(flat.shape[1], dtype=np.float32))
        mean = flat.mean(axis=0, dtype=np.float64)
        deviation = flat.std(axis=0, dtype=np.float64)
        least = LEAST_SHARE * float(np.sqrt((deviation**2).mean()))
        scale = np.maximum(deviation, least) if least else np.ones_like(deviation)
        return cls(mean.astype(np.float32), scale.astype(np.float32))

    def apply(self, values: Array) -> Array:
        """Return values (n, ..., C) standardised, float32."""
        standardised: Array = (values - self.mean) / self.scale
        return standardised
