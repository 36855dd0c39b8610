"""Rouge-LSum of texts that are cut into sentences first: what Rouge-LSum means for summaries of several sentences."""

from __future__ import annotations

from collections.abc import Sequence

from mlecs_bench.doors.hookspecs import MetricInfo, MetricRequest, hookimpl
from mlecs_bench.doors.scoring import FunctionScorer, Metric, check_pairs
from mlecs_bench.metrics.rouge import implementation, rouge_lsum, rouge_lsum_each
from mlecs_bench.metrics.sentences import RULES, sentences

NAME = "rouge_lsum_sentences"


def rouge_lsum_sentences(predictions: Sequence[str], references: Sequence[str]) -> Metric:
    """Return `rouge_lsum` of texts with a sentence a line, for which the library takes a line.

    Texts of one sentence score as they do without the cut. Raises DataError without samples.
    """
    check_pairs(predictions, references, NAME)
    return rouge_lsum(*([_lines(text) for text in texts] for texts in (predictions, references)))


def _each(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    return rouge_lsum_each(*([_lines(text) for text in texts] for texts in (predictions, references)))


def _lines(text: str) -> str:
    return "\n".join(sentences(text))


def _make(_request: MetricRequest) -> FunctionScorer:
    return FunctionScorer(NAME, f"{implementation()}, {RULES}", rouge_lsum_sentences, _each)


@hookimpl
def mlecs_metric() -> MetricInfo:
    """Return the metric."""
    return MetricInfo(
        title="Rouge-LSum F1, sentence by sentence",
        summary="Rouge-LSum of texts cut into sentences at their punctuation; of one sentence it is rouge_lsum",
        make=_make,
        real_texts=True,
    )
