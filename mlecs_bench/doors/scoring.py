"""What a score is: a value with its sample count and direction, from a scorer that names its implementation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mlecs_bench.errors import DataError


@dataclass(frozen=True)
class Metric:
    """One score: its value (a fraction unless its name says otherwise), the samples behind it, its direction.

    `unseen`: in how many of the `n` targets the scorer finds nothing to compare although they are not empty.
    """

    value: float
    n: int
    higher_is_better: bool = True
    unseen: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the score as a record holds it; `unseen` is left out where it is 0."""
        values = {"value": float(self.value), "n": int(self.n), "higher_is_better": self.higher_is_better}
        return values | ({"unseen": int(self.unseen)} if self.unseen else {})


RANKED = "_rank"
"""What the name of a score has behind it where answers are the most likely label instead of what a model writes."""


def ranked_name(name: str) -> str:
    """Return what the score `name` is called where answers are ranked."""
    return name + RANKED


class Scorer(Protocol):
    """Compares predictions with references; `identity` names everything that can change its numbers."""

    @property
    def name(self) -> str:
        """The metric's name in records."""
        ...

    @property
    def identity(self) -> str:
        """The implementation, its version and its settings, without paths."""
        ...

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> Metric:
        """Return the score of `predictions` against `references` of the same length."""
        ...


Each = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""Gives one number for every pair of a prediction and a reference."""


@dataclass(frozen=True)
class FunctionScorer:
    """A scorer made of a function; `each` gives the score of every sample, where their mean is the score."""

    name: str
    identity: str
    function: Callable[[Sequence[str], Sequence[str]], Metric]
    each: Each | None = None

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> Metric:
        """Return the score of `predictions` against `references`."""
        return self.function(predictions, references)


def each_of(scorer: Scorer) -> Each | None:
    """Return what gives a scorer's scores of single samples, or None where it has none, as F1 over all samples."""
    each: Each | None = getattr(scorer, "each", None)
    return each


def check_pairs(predictions: Sequence[str], references: Sequence[str], name: str) -> None:
    """Raise DataError unless there are samples, with one prediction each."""
    if len(predictions) != len(references):
        raise DataError(f"{name} got {len(predictions)} predictions for {len(references)} references; give one each")
    if not references:
        raise DataError(f"{name} got no samples; the test part is empty, use more data or fewer devices")
