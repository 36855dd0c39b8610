"""BERTScore as the harness asks for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean

from mlecs_bench.doors.hookspecs import MetricInfo, MetricRequest, hookimpl
from mlecs_bench.doors.scoring import FunctionScorer, Metric, check_pairs
from mlecs_bench.metrics.bertscore.score import check_bertscore, open_bertscore
from mlecs_bench.metrics.bertscore.source import PACKAGED
from mlecs_bench.metrics.words import unseen

NAME = "bertscore"
ROUNDING = 1e-5
"""How far above 1 single precision may put the score of equal texts."""


def _make(request: MetricRequest) -> FunctionScorer | None:
    bertscore = open_bertscore(request.cache_dir, request.model, request.torch_device, request.telling.progress)
    if bertscore is None:
        return None

    @lru_cache(maxsize=1)  # the scores of single samples are asked for right after that of all
    def f1(predictions: tuple[str, ...], references: tuple[str, ...]) -> list[float]:
        return list(bertscore.f1(predictions, references))

    def score(predictions: Sequence[str], references: Sequence[str]) -> Metric:
        check_pairs(predictions, references, NAME)
        values = each(predictions, references)
        # Texts of ASCII words are in every vocabulary; asking costs a tokenisation.
        hidden = 0 if request.writing.ascii_words else unseen(references, bertscore.sees)
        return Metric(fmean(values), len(values), unseen=hidden)

    def each(predictions: Sequence[str], references: Sequence[str]) -> Sequence[float]:
        return f1(tuple(predictions), tuple(references))

    return FunctionScorer(NAME, bertscore.identity + _foreign(request), score, each)


def _foreign(request: MetricRequest) -> str:
    """Return what an identity says where texts are not English: what the score's zero and its model are made for."""
    if request.writing.english:
        return ""
    encoder = " and the encoder" if request.model in (None, PACKAGED) else ""
    return f", targets in {request.writing.text}: the baseline{encoder} of English"


def _check(request: MetricRequest) -> None:
    check_bertscore(request.cache_dir, request.model, request.telling)


@hookimpl
def mlecs_metric() -> MetricInfo:
    """Return the metric."""
    return MetricInfo(
        title="BERTScore F1",
        summary="similarity of contextual embeddings, rescaled so that unrelated sentences score 0; bert-score",
        make=_make,
        check=_check,
        per="sample",
        # Rescaled: 1 for equal texts, 0 for unrelated ones, a little below for worse than that.
        range=(-math.inf, 1.0 + ROUNDING),
    )
