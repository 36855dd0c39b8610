"""Scores: each is a value with its sample count and direction, and names the implementation it came from."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from mlecs_bench.errors import DataError, UsageError, did_you_mean
from mlecs_bench.metrics.bertscore import BertScore, open_bertscore

METRICS = ("rouge_lsum", "bertscore", "f1_macro", "f1_weighted")


@dataclass(frozen=True)
class Metric:
    """One score: its value (a fraction unless its name says otherwise), the samples behind it, its direction."""

    value: float
    n: int
    higher_is_better: bool = True


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


def rouge_lsum(predictions: Sequence[str], references: Sequence[str]) -> Metric:
    """Return the mean Rouge-LSum F1 of `rouge-score`, with stemming (it moves the score by up to 0.014).

    The library takes a line as a sentence and matches every reference sentence with the union of the prediction's.
    Texts are passed as they are: a summary without line breaks is one sentence, for which Rouge-LSum is Rouge-L.
    An empty prediction scores 0. Raises DataError without samples.
    """
    check_pairs(predictions, references, "rouge_lsum")
    scorer = _rouge_scorer()
    values = [scorer.score(r, p)["rougeLsum"].fmeasure for p, r in zip(predictions, references, strict=True)]
    return Metric(fmean(values), len(values))


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


def label_of(prediction: str, labels: Sequence[str]) -> str | None:
    """Return the label that `prediction` spells, apart from case and outer spaces, or None."""
    text = prediction.strip().casefold()
    return next((label for label in labels if label.casefold() == text), None)


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


def check_pairs(predictions: Sequence[str], references: Sequence[str], name: str) -> None:
    """Raise DataError unless there are samples, with one prediction each."""
    if len(predictions) != len(references):
        raise DataError(f"{name} got {len(predictions)} predictions for {len(references)} references; give one each")
    if not references:
        raise DataError(f"{name} got no samples; the test part is empty, use more data or fewer devices")


@dataclass(frozen=True)
class FunctionScorer:
    """A scorer made of a function."""

    name: str
    identity: str
    function: Callable[[Sequence[str], Sequence[str]], Metric]

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> Metric:
        """Return the score of `predictions` against `references`."""
        return self.function(predictions, references)


def make_scorers(
    names: Sequence[str],
    labels: Sequence[str],
    cache_dir: Path,
    bertscore: str | None = None,
    device: str = "cpu",
) -> list[Scorer]:
    """Return the scorers called `names`, in that order, without those whose optional package is not installed.

    `labels` are the classes for F1. `bertscore` names the model of BERTScore: None or "packaged", "none" for no
    BERTScore, a folder or a hub id; it runs on `device`. No model is loaded yet. Raises UsageError for an unknown
    name, for F1 without labels, or for a model of BERTScore that cannot be used.
    """
    opened = open_bertscore(cache_dir, bertscore, device) if "bertscore" in names else None
    made = (_make_scorer(name, tuple(labels), opened) for name in names)
    return [scorer for scorer in made if scorer is not None]


def _make_scorer(name: str, labels: tuple[str, ...], bertscore: BertScore | None) -> Scorer | None:
    if name == "rouge_lsum":
        version = importlib.metadata.version("rouge-score")
        return FunctionScorer(name, f"rouge-score=={version} rougeLsum F1 stemmer", rouge_lsum)
    if name == "bertscore":
        return None if bertscore is None else _bertscore_scorer(bertscore)
    if name in ("f1_macro", "f1_weighted"):
        return _f1_scorer(name, labels)
    raise UsageError(f"no metric '{name}'. {did_you_mean(name, METRICS)}")


def _bertscore_scorer(bertscore: BertScore) -> Scorer:
    def score(predictions: Sequence[str], references: Sequence[str]) -> Metric:
        check_pairs(predictions, references, "bertscore")
        values = bertscore.f1(predictions, references)
        return Metric(fmean(values), len(values))

    return FunctionScorer("bertscore", bertscore.identity, score)


def _f1_scorer(name: str, labels: tuple[str, ...]) -> Scorer:
    if not labels:
        raise UsageError(f"{name} needs labels and the dataset has none; use rouge_lsum or bertscore")
    function = f1_macro if name == "f1_macro" else f1_weighted

    def score(predictions: Sequence[str], references: Sequence[str]) -> Metric:
        return function(predictions, references, labels)

    return FunctionScorer(name, f"{name} of {len(labels)} labels, other answers are misses", score)
