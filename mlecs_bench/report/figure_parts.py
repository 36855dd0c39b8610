"""What figures are drawn from: plain numbers, their intervals and labels, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval, which is None where there is one seed.

    Raises ValueError for a number that is not finite, half an interval, or ends in the wrong order.
    """

    mean: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.mean, self.low, self.high) if value is not None]
        if not all(map(math.isfinite, given)):
            raise ValueError(f"a figure shows finite numbers, got {self}")
        if (self.low is None) != (self.high is None) or given[1:] != sorted(given[1:]):
            raise ValueError(f"an interval has a low and a high end in this order, got {self}")

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the interval, or None."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class ShareBar:
    """What a label sends per device and round, as a fraction (>= 0) of the device model's parameters."""

    label: str
    share: float

    def __post_init__(self) -> None:
        _refuse_negative(self.share, self)


@dataclass(frozen=True)
class Point:
    """A score against the parameters (>= 0) sent per device and round."""

    label: str
    sent: float
    score: Estimate

    def __post_init__(self) -> None:
        _refuse_negative(self.sent, self)


@dataclass(frozen=True)
class PointPanel:
    """Points of one data set; `metric` names their scores."""

    title: str
    metric: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Bar:
    """A score or a difference of scores."""

    label: str
    height: Estimate


@dataclass(frozen=True)
class BarPanel:
    """Bars from zero; `zero_line` marks zero where bars are differences of either sign."""

    title: str
    metric: str
    bars: Sequence[Bar]
    zero_line: bool = False


@dataclass(frozen=True)
class Curve:
    """The scores of a label after each of `rounds`."""

    label: str
    rounds: Sequence[int]
    scores: Sequence[Estimate]

    def __post_init__(self) -> None:
        if len(self.rounds) != len(self.scores) or not self.rounds:
            raise ValueError(
                f"curve '{self.label}' needs one score per round, got {len(self.rounds)} rounds and "
                f"{len(self.scores)} scores"
            )


@dataclass(frozen=True)
class CurvePanel:
    """Curves of one data set; `metric` names their scores."""

    title: str
    metric: str
    curves: Sequence[Curve]


@dataclass(frozen=True)
class Spending:
    """The scores of a label at what it had spent so far (>= 0), which never falls."""

    label: str
    spent: Sequence[float]
    scores: Sequence[Estimate]

    def __post_init__(self) -> None:
        if len(self.spent) != len(self.scores) or not self.spent:
            raise ValueError(
                f"'{self.label}' needs one score for every amount, got {len(self.spent)} amounts and "
                f"{len(self.scores)} scores"
            )
        if not all(math.isfinite(amount) and amount >= 0 for amount in self.spent):
            raise ValueError(f"what is spent is a finite number of at least 0, got {list(self.spent)}")
        if list(self.spent) != sorted(self.spent):
            raise ValueError(f"what is spent so far never falls, got {list(self.spent)}")


@dataclass(frozen=True)
class SpendingPanel:
    """Scores of one data set against what was spent; `metric` names the scores, `what` the amounts."""

    title: str
    metric: str
    what: str
    lines: Sequence[Spending]


@dataclass(frozen=True)
class GainLine:
    """What a label gains at each value of a swept number; `scored` says when, "" where there is one point alone."""

    label: str
    values: Sequence[float]
    gains: Sequence[Estimate]
    scored: str = ""

    def __post_init__(self) -> None:
        if len(self.values) != len(self.gains) or not self.values:
            raise ValueError(
                f"'{self.label}' needs one gain for every value, got {len(self.values)} values and "
                f"{len(self.gains)} gains"
            )
        if not all(map(math.isfinite, self.values)):
            raise ValueError(f"what is swept are finite numbers, got {list(self.values)}")


@dataclass(frozen=True)
class GainPanel:
    """Gains of one data set against one swept number; `metric` names the gains, `what` the number.

    `base` is the value that the other panels share. `every`: the values are all there are, such as rounds, and not
    those that somebody chose.
    """

    title: str
    metric: str
    what: str
    lines: Sequence[GainLine]
    base: float | None = None
    every: bool = False


def _refuse_negative(value: float, owner: ShareBar | Point) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"what is sent is a finite number of at least 0, got {owner}")
