"""F1 of answers that spell labels: the mean over labels, and the mean over samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from mlecs_bench.doors.hookspecs import MetricInfo, MetricRequest, hookimpl
from mlecs_bench.doors.scoring import FunctionScorer, Metric, check_pairs
from mlecs_bench.errors import DataError, UsageError
from mlecs_bench.metrics.labels import MATCHING, label_of


def f1_macro(predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> Metric:
    """Return the mean over all `labels` of the F1 of each, absent labels counting 0.

    A prediction that is no label is a miss of its true class and no false alarm of another. Raises DataError without
    samples or when a reference is no label.
    """
    scores, _ = _f1_by_label(predictions, references, labels)
    return Metric(fmean(scores), len(references))


def f1_weighted(predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> Metric:
    """Return the mean over samples of the F1 of their true label; otherwise as `f1_macro`."""
    scores, support = _f1_by_label(predictions, references, labels)
    return Metric(fmean(scores, support), len(references))


def _f1_by_label(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]
) -> tuple[list[float], list[int]]:
    """Return F1 = 2 TP / (2 TP + FP + FN) and the number of references, for each label."""
    check_pairs(predictions, references, "f1")
    truth = [label_of(r, labels) for r in references]
    if None in truth:
        stranger = references[truth.index(None)]
        raise DataError(f"f1: the reference '{stranger}' is none of the labels {', '.join(labels)}; prepare again")
    guesses = [label_of(p, labels) for p in predictions]
    hits = [guess for guess, true in zip(guesses, truth, strict=True) if guess == true]
    support = [truth.count(label) for label in labels]
    # 2 TP + FP + FN is the number of predictions of the label plus the number of its references.
    sizes = [guesses.count(label) + n for label, n in zip(labels, support, strict=True)]
    return [2 * hits.count(label) / size if size else 0.0 for label, size in zip(labels, sizes, strict=True)], support


@dataclass(frozen=True)
class F1Plugin:
    """One way to average the F1 of labels, as an entry point names it."""

    name: str
    title: str
    summary: str
    function: Callable[[Sequence[str], Sequence[str], Sequence[str]], Metric]

    @hookimpl
    def mlecs_metric(self) -> MetricInfo:
        """Return the metric."""
        return MetricInfo(self.title, self.summary, self._make, range=(0.0, 1.0), labels=True)

    def _make(self, request: MetricRequest) -> FunctionScorer:
        """Return the scorer for the labels of a dataset; raises UsageError where it has none."""
        labels = request.labels
        if not labels:
            raise UsageError(f"{self.name} needs labels and the dataset has none; use rouge_lsum or bertscore")

        def score(predictions: Sequence[str], references: Sequence[str]) -> Metric:
            return self.function(predictions, references, labels)

        # Of ASCII labels no answer is read otherwise than it was before Unicode forms counted.
        spelt = "" if all(map(str.isascii, labels)) else f", {MATCHING}"
        told = f"{self.name} of {len(labels)} labels, other answers are misses{spelt}"
        return FunctionScorer(self.name, told, score)


MACRO = F1Plugin("f1_macro", "Macro F1", "the mean over all labels of the F1 of each", f1_macro)
WEIGHTED = F1Plugin("f1_weighted", "Weighted F1", "the mean over samples of the F1 of their true label", f1_weighted)
