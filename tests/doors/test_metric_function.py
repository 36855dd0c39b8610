"""A metric from one decorated function."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mlecs_bench.api import MetricInfo, MetricRequest, metric
from mlecs_bench.doors.scoring import Metric
from mlecs_bench.errors import DataError, PluginError, UsageError


@metric("overlap", per="sample")
def overlap(prediction: str, reference: str) -> float:
    """Return the share of the target's words
    that an answer holds.

    More words say nothing.
    """
    words = reference.split()
    return sum(word in prediction.split() for word in words) / len(words)


@metric("length", per="corpus", range=(0, float("inf")), higher_is_better=False, identity="letters 2", title="Letters")
def length(predictions, references):
    return np.float32(sum(map(len, predictions)) / len(references))


@metric("share", per="corpus", labels=True)
def share(predictions, references, labels):
    return sum(p in labels for p in predictions) / len(references)


def scored(info: MetricInfo, predictions, references, labels=()) -> Metric:
    return info.make(MetricRequest(labels, None)).score(predictions, references)


def test_the_card_and_the_identity_are_made_of_the_function():
    assert isinstance(overlap, MetricInfo)
    assert (overlap.title, overlap.summary) == ("Overlap", "the share of the target's words that an answer holds")
    assert (overlap.per, overlap.range, overlap.higher_is_better, overlap.labels) == ("sample", (0, 1), True, False)
    made = overlap.make(MetricRequest((), None))
    assert (made.name, made.identity) == ("overlap", f"overlap: {overlap.summary}")
    assert (length.title, length.make(MetricRequest((), None)).identity) == ("Letters", "letters 2")


def test_it_is_still_the_function():
    assert overlap("a b", "a c") == 1 / 2
    assert share(["a", "x"], ["a", "a"], labels=("a",)) == 1 / 2


def test_scores_by_hand():
    assert scored(overlap, ["a b", "x"], ["a c", "x"]) == Metric(0.75, 2)
    assert scored(length, ["abc", "a"], ["x", "y"]) == Metric(2.0, 2, higher_is_better=False)
    assert scored(share, ["a", "x"], ["a", "a"], labels=("a",)) == Metric(0.5, 2)


def test_what_cannot_be_scored_is_refused_in_one_line():
    for info, error, says in (
        (overlap, DataError, "overlap got no samples"),
        (share, UsageError, "share needs labels and the dataset has none"),
    ):
        with pytest.raises(error, match=says):
            scored(info, [], [])
    for value in (1.5, -0.1, float("nan"), None, "1", True):
        broken = metric("broken", per="sample")(lambda p, r, value=value: value)
        says = f"metric 'broken' gave {value!r}; its values are numbers from 0 to 1"
        with pytest.raises(PluginError, match=re.escape(says)):
            scored(broken, ["a"], ["a"])
