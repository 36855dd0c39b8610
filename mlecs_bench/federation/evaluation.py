"""Scores of one party at one moment: greedy answers to its test samples, compared with their targets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.hookspecs import MetricRequest
from mlecs_bench.doors.scoring import Metric, Scorer, each_of
from mlecs_bench.metrics.scorers import make_scorers

if TYPE_CHECKING:
    from pathlib import Path

    from mlecs_bench.data.samples import PartyData, Samples
    from mlecs_bench.doors.hookspecs import DatasetInfo
    from mlecs_bench.doors.registry import Registry
    from mlecs_bench.models.unified import UnifiedModel
    from mlecs_bench.plan.plan import Plan


EXACT_MATCH = "exact_match"
"""The score of a single sample that any dataset has: 1 where the answer is the target, else 0."""
Answers = Mapping[str, Any]
"""The answers of a party as JSON values, in the order of its test samples.

`texts` are the answers, `scores` has for every score that single samples have a list with None where there is none.
"""


class Evaluator:
    """Scores any model on any party's test data, always in the same way."""

    def __init__(
        self,
        info: DatasetInfo,
        samples: Samples,
        scorers: Sequence[Scorer],
        batch_size: int,
        limits: Mapping[str, int | None] = MappingProxyType({}),
    ) -> None:
        """Score with `scorers`, generating `batch_size` answers at a time; `limits`: samples that a scorer sees."""
        self._info = info
        self._limits = limits
        self._samples = samples
        self._scorers = scorers
        self._batch_size = batch_size
        self._columns = {name: samples.column(name) for name in info.diagnostic_columns if name in samples.column_names}

    def score(self, model: UnifiedModel, test: PartyData, prompt: str) -> dict[str, Metric]:
        """Return every score of `model` on `test`."""
        return self._scores(test, self.predict(model, test, prompt))

    def judge(self, model: UnifiedModel, test: PartyData, prompt: str) -> tuple[dict[str, Metric], Answers]:
        """Return every score of `model` on `test`, and the answers behind them with the scores of single samples."""
        predictions = self.predict(model, test, prompt)
        scores = self._scores(test, predictions)
        return scores, {"texts": predictions, "scores": self.single_scores(predictions, test.targets(test.rows))}

    def _scores(self, test: PartyData, predictions: Sequence[str]) -> dict[str, Metric]:
        return self.compare(predictions, test.targets(test.rows)) | dict(self._diagnose(test, predictions))

    def compare(self, predictions: Sequence[str], targets: Sequence[str]) -> dict[str, Metric]:
        """Return every scorer's score of `predictions` against as many `targets`; a limited one sees an even spread."""
        scores = {}
        for scorer in self._scorers:
            chosen = spread(len(targets), self._limits.get(scorer.name))
            scores[scorer.name] = scorer.score([predictions[i] for i in chosen], [targets[i] for i in chosen])
        return scores

    def single_scores(self, predictions: Sequence[str], targets: Sequence[str]) -> dict[str, list[float | None]]:
        """Return the scores of single samples, of the scorers that have some, and whether answer and target agree."""
        found: dict[str, list[float | None]] = {}
        for scorer in self._scorers:
            each = each_of(scorer)
            if each is None:
                continue
            chosen = spread(len(targets), self._limits.get(scorer.name))
            values: list[float | None] = [None] * len(targets)
            for i, value in zip(
                chosen, each([predictions[i] for i in chosen], [targets[i] for i in chosen]), strict=True
            ):
                values[i] = float(value) if math.isfinite(value) else None
            found[scorer.name] = values
        pairs = zip(predictions, targets, strict=True)
        return found | {EXACT_MATCH: [float(_plain(answer) == _plain(target)) for answer, target in pairs]}

    @property
    def settings(self) -> dict[str, Any]:
        """Everything beside the texts that decides what `compare` returns, as JSON values."""
        names = [scorer.name for scorer in self._scorers]
        return {
            "scorers": {scorer.name: scorer.identity for scorer in self._scorers},
            "limits": {name: self._limits.get(name) for name in names},
            "labels": list(self._samples.manifest.labels),
        }

    def predict(self, model: UnifiedModel, test: PartyData, prompt: str) -> list[str]:
        """Return the model's answers to all samples of `test`."""
        answers: list[str] = []
        for start in range(0, len(test), self._batch_size):
            batch = test.batch(test.rows[start : start + self._batch_size])
            answers += model.generate(batch, prompt, test.manifest.max_new_tokens)
        return answers

    def _diagnose(self, test: PartyData, predictions: Sequence[str]) -> Mapping[str, Metric]:
        if self._info.diagnose is None or not self._columns:
            return {}
        rows: dict[str, Sequence[Any]] = {
            name: [values[int(r)] for r in test.rows] for name, values in self._columns.items()
        }
        return self._info.diagnose(rows, predictions)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def spread(n: int, limit: int | None) -> list[int]:
    """Return `limit` of the positions 0..n-1, spread evenly; all of them when there are no more, or no limit."""
    if limit is None or limit >= n:
        return list(range(n))
    return [i * n // limit for i in range(limit)]


def scorers_of(plan: Plan, labels: Sequence[str], registry: Registry, cache_dir: Path) -> list[Scorer]:
    """Return the scorers of a plan's metrics that are installed; `labels` are the classes of its data."""
    request = MetricRequest(tuple(labels), cache_dir, plan.profile.bertscore, plan.torch_device)
    return make_scorers(plan.metrics, request, registry)


def evaluator_of(plan: Plan, samples: Samples, registry: Registry, cache_dir: Path) -> Evaluator:
    """Return what scores every party of a cell."""
    scorers = scorers_of(plan, samples.manifest.labels, registry, cache_dir)
    limits = {"bertscore": plan.profile.bertscore_samples}
    info = registry.dataset(plan.dataset.name).info
    return Evaluator(info, samples, scorers, plan.profile.generation_batch, limits)
