"""Scores of one party at one moment: answers to its test samples, compared with their targets.

Answers are what the model writes, greedily; where a plan asks for it, they are also the labels that it finds most
likely, whose scores have names of their own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.events import SILENT, Telling
from mlecs_bench.doors.hookspecs import MetricRequest
from mlecs_bench.doors.scoring import Each, Metric, Scorer, each_of, ranked_name
from mlecs_bench.metrics.exact_match import exact_match
from mlecs_bench.metrics.scorers import make_scorers

if TYPE_CHECKING:
    from pathlib import Path

    from mlecs_bench.data.samples import PartyData, Samples
    from mlecs_bench.doors.hookspecs import DatasetInfo
    from mlecs_bench.doors.registry import Registry
    from mlecs_bench.models.unified import UnifiedModel
    from mlecs_bench.plan.plan import Plan

RANKING = "of the most likely label: greatest sum of the log-probabilities of its tokens and the end"
"""How labels are ranked, as the identity of a score says it."""


BEST_OF_SEVERAL = "of the best of a sample's references"
"""What the identity of a score says where samples have several texts that are right."""
References = Sequence[Sequence[str]]
"""All texts that are right for every sample, at least one each."""
EXACT_MATCH = "exact_match"
"""The score of a single sample that any dataset has: 1 where the answer is the target, else 0, as that metric."""
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
        *,
        ranks: bool = False,
    ) -> None:
        """Score with `scorers`, generating `batch_size` answers at a time; `limits`: samples that a scorer sees.

        `ranks`: score the most likely labels, too.
        """
        self._ranks = ranks
        self._info = info
        self._limits = limits
        self._samples = samples
        self._scorers = scorers
        self._batch_size = batch_size
        self._columns = {name: samples.column(name) for name in info.diagnostic_columns if name in samples.column_names}

    def score(self, model: UnifiedModel, test: PartyData, prompt: str) -> dict[str, Metric]:
        """Return every score of `model` on `test`."""
        return self._all_scores(test, *self._answers(model, test, prompt))

    def judge(self, model: UnifiedModel, test: PartyData, prompt: str) -> tuple[dict[str, Metric], Answers]:
        """Return every score of `model` on `test`, and what it writes with the scores of single samples."""
        written, ranked = self._answers(model, test, prompt)
        targets, references = test.targets(test.rows), test.references(test.rows)
        single = self.single_scores(written, targets, references)
        if ranked is not None:
            as_ranked = self.single_scores(ranked, targets, references)
            single |= {ranked_name(name): values for name, values in as_ranked.items()}
        return self._all_scores(test, written, ranked), {"texts": written, "scores": single}

    def _answers(self, model: UnifiedModel, test: PartyData, prompt: str) -> tuple[list[str], list[str] | None]:
        """Return what the model writes, and the labels that it finds most likely where they are scored, too."""
        return self.predict(model, test, prompt), self.rank(model, test, prompt) if self._ranks else None

    def _all_scores(self, test: PartyData, written: Sequence[str], ranked: Sequence[str] | None) -> dict[str, Metric]:
        return self._scores(test, written) | (_as_ranked(self._scores(test, ranked)) if ranked is not None else {})

    def _scores(self, test: PartyData, answers: Sequence[str]) -> dict[str, Metric]:
        scores = self.compare(answers, test.targets(test.rows), test.references(test.rows))
        return scores | dict(self._diagnose(test, answers))

    def score_texts(
        self, answers: Sequence[str], targets: Sequence[str], references: References | None = None
    ) -> dict[str, Metric]:
        """Return every score of answers that no model gave, which are the same however an answer is taken."""
        scores = self.compare(answers, targets, references)
        return scores | (_as_ranked(scores) if self._ranks else {})

    def compare(
        self, predictions: Sequence[str], targets: Sequence[str], references: References | None = None
    ) -> dict[str, Metric]:
        """Return every scorer's score of `predictions` against as many `targets`; a limited one sees an even spread.

        Where there are `references`, scorers of single samples take the one that suits a prediction best.
        """
        scores = {}
        for scorer in self._scorers:
            chosen = spread(len(targets), self._limits.get(scorer.name))
            answers = [predictions[i] for i in chosen]
            found = scorer.score(answers, [targets[i] for i in chosen])
            each = each_of(scorer)
            if references is not None and each is not None:
                several = [references[i] for i in chosen]
                best = best_of_each(each, answers, several, higher_is_better=found.higher_is_better)
                found = dataclasses.replace(found, value=fmean(best))
            scores[scorer.name] = found
        return scores

    def single_scores(
        self, predictions: Sequence[str], targets: Sequence[str], references: References | None = None
    ) -> dict[str, list[float | None]]:
        """Return the scores of single samples, of the scorers that have some, and whether answer and target agree.

        Where there are `references`, it is the one that suits a prediction best.
        """
        right = [(target,) for target in targets] if references is None else references
        found: dict[str, list[float | None]] = {}
        for scorer in self._scorers:
            each = each_of(scorer)
            if each is None:
                continue
            chosen = spread(len(targets), self._limits.get(scorer.name))
            values: list[float | None] = [None] * len(targets)
            higher = references is None or scorer.score(predictions[:1], targets[:1]).higher_is_better
            answers = [predictions[i] for i in chosen]
            best = best_of_each(each, answers, [right[i] for i in chosen], higher_is_better=higher)
            for i, value in zip(chosen, best, strict=True):
                values[i] = float(value) if math.isfinite(value) else None
            found[scorer.name] = values
        pairs = zip(predictions, right, strict=True)
        return found | {EXACT_MATCH: [max(exact_match(answer, text) for text in texts) for answer, texts in pairs]}

    @property
    def settings(self) -> dict[str, Any]:
        """Everything beside the texts that decides what `compare` returns, as JSON values."""
        names = [scorer.name for scorer in self._scorers]
        several = {"references": BEST_OF_SEVERAL} if self._samples.references is not None else {}
        return (
            ({"ranks": True} if self._ranks else {})
            | several
            | {
                "scorers": {scorer.name: scorer.identity for scorer in self._scorers},
                "limits": {name: self._limits.get(name) for name in names},
                "labels": list(self._samples.manifest.labels),
            }
        )

    def predict(self, model: UnifiedModel, test: PartyData, prompt: str) -> list[str]:
        """Return the model's answers to all samples of `test`."""
        answers: list[str] = []
        for start in range(0, len(test), self._batch_size):
            batch = test.batch(test.rows[start : start + self._batch_size])
            answers += model.generate(batch, prompt, test.manifest.max_new_tokens)
        return answers

    def rank(self, model: UnifiedModel, test: PartyData, prompt: str) -> list[str]:
        """Return for every sample of `test` the label that the model finds most likely."""
        labels = self._samples.manifest.labels
        size = max(1, self._batch_size // len(labels))  # as many sequences at a time as are generated
        answers: list[str] = []
        for start in range(0, len(test), size):
            answers += model.rank(test.batch(test.rows[start : start + size]), prompt, labels)
        return answers

    def _diagnose(self, test: PartyData, predictions: Sequence[str]) -> Mapping[str, Metric]:
        if self._info.diagnose is None or not self._columns:
            return {}
        rows: dict[str, Sequence[Any]] = {
            name: [values[int(r)] for r in test.rows] for name, values in self._columns.items()
        }
        return self._info.diagnose(rows, predictions)


def best_of_each(
    each: Each, predictions: Sequence[str], references: References, *, higher_is_better: bool
) -> list[float]:
    """Return for every prediction its best score against any of its references, of which it has at least one."""
    answers = [answer for answer, texts in zip(predictions, references, strict=True) for _ in texts]
    scores = iter(each(answers, [text for texts in references for text in texts]))
    best = max if higher_is_better else min
    return [best([next(scores) for _ in texts]) for texts in references]


def spread(n: int, limit: int | None) -> list[int]:
    """Return `limit` of the positions 0..n-1, spread evenly; all of them when there are no more, or no limit."""
    if limit is None or limit >= n:
        return list(range(n))
    return [i * n // limit for i in range(limit)]


def _as_ranked(scores: Mapping[str, Metric]) -> dict[str, Metric]:
    return {ranked_name(name): score for name, score in scores.items()}


def scorers_of(
    plan: Plan, samples: Samples, registry: Registry, cache_dir: Path, told: Telling = SILENT
) -> list[Scorer]:
    """Return the scorers of a plan's metrics that are installed, for its data."""
    labels = tuple(samples.manifest.labels)
    request = MetricRequest(labels, cache_dir, plan.profile.bertscore, plan.torch_device, samples.writing, told)
    return make_scorers(plan.metrics, request, registry)


def scorer_identities(plan: Plan, scorers: Sequence[Scorer], *, several: bool = False) -> dict[str, str]:
    """Return the identity of every score that a cell of a plan gets, by its name.

    `several`: the samples have references beside their targets.
    """
    best = {scorer.name: f", {BEST_OF_SEVERAL}" if several and each_of(scorer) else "" for scorer in scorers}
    generated = {scorer.name: scorer.identity + best[scorer.name] for scorer in scorers}
    ranked = {ranked_name(name): f"{told}, {RANKING}" for name, told in generated.items()}
    return generated | (ranked if plan.ranks else {})


def evaluator_of(
    plan: Plan, samples: Samples, registry: Registry, cache_dir: Path, told: Telling = SILENT
) -> Evaluator:
    """Return what scores every party of a cell; `told` hears of scorers that take long."""
    scorers = scorers_of(plan, samples, registry, cache_dir, told)
    limits = {"bertscore": plan.profile.bertscore_samples}
    info = registry.dataset(plan.dataset.name).info
    return Evaluator(info, samples, scorers, plan.profile.generation_batch, limits, ranks=plan.ranks)
