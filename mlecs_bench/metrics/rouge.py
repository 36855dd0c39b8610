"""Rouge-LSum (Lin, 2004) of the library rouge-score."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean
from typing import Any

from mlecs_bench.doors.hookspecs import MetricInfo, MetricRequest, hookimpl
from mlecs_bench.doors.scoring import FunctionScorer, Metric, check_pairs

NAME = "rouge_lsum"


def rouge_lsum(predictions: Sequence[str], references: Sequence[str]) -> Metric:
    """Return the mean Rouge-LSum F1 of `rouge-score`, with stemming (it moves the score by up to 0.014).

    The library takes a line as a sentence and matches every reference sentence with the union of the prediction's.
    Texts are passed as they are: a summary without line breaks is one sentence, for which Rouge-LSum is Rouge-L.
    An empty prediction scores 0. Raises DataError without samples.
    """
    check_pairs(predictions, references, NAME)
    values = rouge_lsum_each(predictions, references)
    return Metric(fmean(values), len(values))


def rouge_lsum_each(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return the Rouge-LSum F1 of every pair."""
    return [_f1(reference, prediction) for prediction, reference in zip(predictions, references, strict=True)]


@lru_cache(maxsize=1 << 12)
def _f1(reference: str, prediction: str) -> float:
    """Return the F1 of one pair; texts of one sentence are scored once for both metrics of this library."""
    return float(_rouge_scorer().score(reference, prediction)["rougeLsum"].fmeasure)


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeLsum"], tokenizer=_StemmingTokenizer())


class _StemmingTokenizer:
    """rouge-score's own tokenizer with its own stemmer, which takes most of the time: a word is stemmed once."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self._stemmer = PorterStemmer()
        self.stem = lru_cache(maxsize=1 << 16)(self._stemmer.stem)

    def tokenize(self, text: str) -> list[str]:
        """Return the stemmed tokens of `text`, as `RougeScorer(use_stemmer=True)` makes them."""
        from rouge_score.tokenize import tokenize

        tokens: list[str] = tokenize(text, self)
        return tokens


def implementation() -> str:
    """Return the library with its version and how it is called."""
    return f"rouge-score=={importlib.metadata.version('rouge-score')} rougeLsum F1 stemmer"


def _make(_request: MetricRequest) -> FunctionScorer:
    return FunctionScorer(NAME, implementation(), rouge_lsum, rouge_lsum_each)


@hookimpl
def mlecs_metric() -> MetricInfo:
    """Return the metric."""
    return MetricInfo(
        title="Rouge-LSum F1",
        summary="longest common subsequences of stemmed words, line by line; rouge-score",
        make=_make,
    )
