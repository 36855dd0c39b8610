"""Accuracy: the share of answers that name the right class."""

from __future__ import annotations

from collections.abc import Sequence

from mlecs_bench.doors.metric_function import metric
from mlecs_bench.metrics.labels import MATCHING, label_of


@metric("accuracy", per="corpus", labels=True, identity=f"accuracy, other answers are misses, {MATCHING}")
def accuracy(predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> float:
    """Return the share of answers that spell the label of their target."""
    pairs = zip(predictions, references, strict=True)
    return sum(label_of(answer, labels) == label_of(target, labels) for answer, target in pairs) / len(references)
