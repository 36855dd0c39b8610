"""Scores: each is a value with its sample count and direction."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One score: its value (a fraction unless its name says otherwise), the samples behind it, its direction."""

    value: float
    n: int
    higher_is_better: bool = True
