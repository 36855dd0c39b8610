"""A metric as one decorated function: everything else that a metric plugin needs is made of it."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from mlecs_bench.doors.hookspecs import MetricInfo, MetricRequest, ScoredPer
from mlecs_bench.doors.scoring import FunctionScorer, Metric, check_pairs
from mlecs_bench.errors import PluginError, UsageError, check_choice


@dataclass(frozen=True)
class FunctionMetric(MetricInfo):
    """A metric made of a function, which it can be called as. An entry point may name it directly."""

    function: Callable[..., float] = lambda *_: math.nan

    def __call__(self, *answers_and_targets: Any, **labels: Any) -> float:
        """Return what the function gives."""
        return self.function(*answers_and_targets, **labels)


def metric(  # noqa: PLR0913  # each says one thing of a metric
    name: str,
    *,
    per: ScoredPer,
    range: tuple[float, float] = (0.0, 1.0),
    higher_is_better: bool = True,
    labels: bool = False,
    title: str = "",
    identity: str = "",
    reading: str = "",
) -> Callable[[Callable[..., float]], FunctionMetric]:
    """Make a metric of the decorated function, under the `name` of its entry point.

    With `per` "sample" the function takes one answer and its target, and the score is the mean over samples; with
    "corpus" it takes all answers and all targets, lists of equal length with at least one sample. With `labels` it gets
    the dataset's classes as the keyword `labels` too, and the metric is refused for datasets without. It returns a
    number in `range`.

    The first paragraph of the docstring is the summary. `identity` names what can change a number, such as a library
    with its version; where it is "" the summary stands for it. Records hold it, and the distribution and a digest of
    the code behind it where the metric does not come with mlecs-bench.
    """

    check_choice(per, ScoredPer, f"per of metric '{name}'")

    def decorate(function: Callable[..., float]) -> FunctionMetric:
        summary = _summary(function)
        told = identity or f"{name}: {summary}"

        def make(request: MetricRequest) -> FunctionScorer:
            if labels and not request.labels:
                raise UsageError(f"{name} needs labels and the dataset has none; use a metric for texts")
            bound = functools.partial(function, labels=request.labels) if labels else function

            def each(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
                pairs = zip(predictions, references, strict=True)
                return [_in_range(bound(answer, target), range, name) for answer, target in pairs]

            def score(predictions: Sequence[str], references: Sequence[str]) -> Metric:
                check_pairs(predictions, references, name)
                if per == "corpus":
                    value = _in_range(bound(list(predictions), list(references)), range, name)
                else:
                    value = fmean(each(predictions, references))
                return Metric(value, len(references), higher_is_better)

            return FunctionScorer(name, told, score, each if per == "sample" else None)

        return FunctionMetric(
            title=title or name.replace("_", " ").replace("-", " ").capitalize(),
            summary=summary,
            make=make,
            higher_is_better=higher_is_better,
            per=per,
            range=range,
            labels=labels,
            reading=reading,
            function=function,
        )

    return decorate


def _summary(function: Callable[..., float]) -> str:
    """Return the first paragraph of a docstring as part of a sentence."""
    paragraph = " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split()).removesuffix(".")
    return paragraph.removeprefix("Return ") or getattr(function, "__name__", "a function")


def _in_range(value: Any, range_: tuple[float, float], name: str) -> float:
    """Return a value as a float; raises PluginError for none, or one outside the range that the metric states."""
    least, greatest = range_
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not least <= value <= greatest:
        raise PluginError(f"metric '{name}' gave {value!r}; its values are numbers from {least:g} to {greatest:g}")
    return float(value)
