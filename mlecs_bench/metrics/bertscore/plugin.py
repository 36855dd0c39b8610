"""BERTScore as the harness asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean

from mlecs_bench.doors.hookspecs import MetricInfo, MetricRequest, hookimpl
from mlecs_bench.doors.scoring import FunctionScorer, Metric, check_pairs
from mlecs_bench.metrics.bertscore.score import check_bertscore, open_bertscore

NAME = "bertscore"


def _make(request: MetricRequest) -> FunctionScorer | None:
    bertscore = open_bertscore(request.cache_dir, request.model, request.torch_device)
    if bertscore is None:
        return None

    @lru_cache(maxsize=1)  # the scores of single samples are asked for right after that of all
    def f1(predictions: tuple[str, ...], references: tuple[str, ...]) -> list[float]:
        return list(bertscore.f1(predictions, references))

    def score(predictions: Sequence[str], references: Sequence[str]) -> Metric:
        check_pairs(predictions, references, NAME)
        values = each(predictions, references)
        return Metric(fmean(values), len(values))

    def each(predictions: Sequence[str], references: Sequence[str]) -> Sequence[float]:
        return f1(tuple(predictions), tuple(references))

    return FunctionScorer(NAME, bertscore.identity, score, each)


def _check(request: MetricRequest) -> None:
    check_bertscore(request.model)


@hookimpl
def mlecs_metric() -> MetricInfo:
    """Return the metric."""
    return MetricInfo(
        title="BERTScore F1",
        summary="similarity of contextual embeddings, rescaled so that unrelated sentences score 0; bert-score",
        make=_make,
        check=_check,
    )
