"""From the names of metrics to their scorers: every metric enters by its entry point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mlecs_bench.doors.hookspecs import MetricInfo, MetricRequest
from mlecs_bench.doors.registry import Loaded, Registry
from mlecs_bench.doors.scoring import Each, Metric, Scorer, each_of
from mlecs_bench.errors import MlecsError, PluginError

GivenT = TypeVar("GivenT")


def make_scorers(names: Sequence[str], request: MetricRequest, registry: Registry) -> list[Scorer]:
    """Return the scorers called `names`, in that order, without those whose optional package is not installed.

    No model is loaded yet. Raises UsageError for an unknown name, or for a metric that cannot be used for `request`
    (F1 without labels, a model of BERTScore that is not there); PluginError for a metric that is broken.
    """
    made = (_scorer(registry.metric(name), request) for name in names)
    return [scorer for scorer in made if scorer is not None]


def check_metrics(names: Sequence[str], request: MetricRequest, registry: Registry) -> None:
    """Raise UsageError, before anything is prepared, when a metric does not exist or its model cannot be used.

    `request` may lack what only the prepared data tells, which are the labels. PluginError as in `make_scorers`.
    """
    for name in names:
        metric = registry.metric(name)
        if metric.info.check is not None:
            _called(metric, metric.info.check, request)


@dataclass(frozen=True)
class _ForeignScorer:
    """A scorer of another distribution: what it calls its implementation, and where its code is from."""

    scorer: Scorer
    origin: str

    @property
    def name(self) -> str:
        """The metric's name in records."""
        return self.scorer.name

    @property
    def identity(self) -> str:
        """The scorer's own identity, with its distribution and a digest of its code."""
        return f"{self.scorer.identity} ({self.origin})"

    @property
    def each(self) -> Each | None:
        """What gives the scores of single samples, None where the scorer has none."""
        return each_of(self.scorer)

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> Metric:
        """Return the score of `predictions` against `references`."""
        return self.scorer.score(predictions, references)


def _scorer(metric: Loaded[MetricInfo], request: MetricRequest) -> Scorer | None:
    scorer = _called(metric, metric.info.make, request)
    if scorer is None:
        return None
    if scorer.name != metric.name:
        raise PluginError(
            f"metric '{metric.name}' of distribution '{metric.distribution}' makes a scorer called '{scorer.name}'; "
            "give it the name of the entry point"
        )
    return _ForeignScorer(scorer, metric.origin) if metric.origin else scorer


def _called(metric: Loaded[MetricInfo], function: Callable[[MetricRequest], GivenT], request: MetricRequest) -> GivenT:
    """Return what a function of a metric gives; raises PluginError for what it may not raise."""
    try:
        return function(request)
    except MlecsError:
        raise
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        raise PluginError(
            f"metric '{metric.name}' of distribution '{metric.distribution}' {metric.version} failed: {cause}"
        ) from error
