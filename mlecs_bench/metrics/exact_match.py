"""Exact match: the share of answers that are their target, letter by letter."""

from __future__ import annotations

import unicodedata

from mlecs_bench.doors.metric_function import metric


@metric("exact_match", per="sample", identity="exact match, case counts, outer space and Unicode form (NFC) do not")
def exact_match(prediction: str, reference: str) -> float:
    """Return 1 for an answer that is its target but for outer space and Unicode form (case counts), else 0."""
    answer, target = (unicodedata.normalize("NFC", text.strip()) for text in (prediction, reference))
    return float(answer == target)
