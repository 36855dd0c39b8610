"""Scores of parties, each taken once while nothing that decides them has changed.

After the last round devices are scored, and again after the broadcast that follows. Where that broadcast changed
nothing in a device, its second score is the first. Whether it did is seen on what answers are computed from, bit by
bit, and on nothing that the algorithm says of itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from mlecs_bench.errors import PluginError
from mlecs_bench.federation.turns import Scores

if TYPE_CHECKING:
    from torch import Tensor

    from mlecs_bench.data.samples import PartyData
    from mlecs_bench.doors.scoring import Metric
    from mlecs_bench.federation.evaluation import Answers
    from mlecs_bench.federation.party import Party
    from mlecs_bench.models.unified import UnifiedModel


class Scoring(Protocol):
    """What gives a model its scores on a party's test data; `evaluation.Evaluator` does."""

    def score(self, model: UnifiedModel, test: PartyData, prompt: str) -> Mapping[str, Metric]:
        """Return every score of `model` on `test`."""
        ...


@runtime_checkable
class Answering(Scoring, Protocol):
    """What can also give the answers behind the scores."""

    def judge(self, model: UnifiedModel, test: PartyData, prompt: str) -> tuple[Mapping[str, Metric], Answers]:
        """Return every score of `model` on `test`, and its answers."""
        ...


class LastScores:
    """Scores parties with an evaluator and remembers the last scores of each, and of what they were."""

    def __init__(self, evaluator: Scoring) -> None:
        self._evaluator = evaluator
        self._last: dict[str, _Last] = {}

    def of(self, party: Party, *, answers: bool = False) -> tuple[Scores, Answers | None]:
        """Return the scores of a party's model, and its answers if they are asked for.

        They are the last ones where they would be the same.
        """
        if party.model.backbone.torch_device.type == "meta":  # an outline has no values that could tell
            return scored(self._evaluator, party, answers=answers)
        digest = answers_digest(party)
        known = self._last.get(party.id)
        if known is not None and known.digest == digest and (known.asked or not answers):
            return known.scores, known.answers if answers else None
        scores, given = scored(self._evaluator, party, answers=answers)
        self._last[party.id] = _Last(digest, answers, scores, given)
        return scores, given

    def without_each(self, party: Party) -> dict[str, Scores]:
        """Return the scores of a party's model without each of the modalities that the party holds, by these."""
        return scores_without_each(self._evaluator, party)


def scores_without_each(evaluator: Scoring, party: Party) -> dict[str, Scores]:
    """Return the scores of a party's model without each of the modalities that the party holds, by these.

    In place of the modality stands for every test sample what the model has learnt to put where one is missing.
    """
    found = {}
    for modality in party.test.modalities:
        with party.test.sight.without(modality):
            found[modality] = scored(evaluator, party)[0]
    return found


@dataclass(frozen=True)
class _Last:
    """The last scores of a party, what they were of, and its answers where they were `asked` for."""

    digest: str
    asked: bool
    scores: Scores
    answers: Answers | None


def answers_digest(party: Party) -> str:
    """Return a sha256 over all that a party's answers to its test samples are computed from.

    That is every tensor of its model beside the frozen backbone, buffers included, its prompt and its test samples.
    """
    model = party.model
    tensors: dict[str, Tensor] = dict(model.state())
    for name, module in (("encoders", model.encoders), ("connector", model.connector)):
        tensors |= {f"{name}.{key}": buffer for key, buffer in module.named_buffers()}
    digest = hashlib.sha256(repr((party.prompt, party.test.modalities, [int(row) for row in party.test.rows])).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    """Return a tensor's bits; torch's equality takes -0 for 0, and NaN for nothing."""
    import torch

    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy())


def scored(evaluator: Scoring, party: Party, *, answers: bool = False) -> tuple[Scores, Answers | None]:
    """Return the scores of a party's model as a record holds them, and its answers if they are asked for."""
    given: Answers | None = None
    found: Mapping[str, Metric]
    if answers and isinstance(evaluator, Answering):
        found, given = evaluator.judge(party.model, party.test, party.prompt)
    else:
        found = evaluator.score(party.model, party.test, party.prompt)
    return score_values(found, party.id), given


def score_values(found: Mapping[str, Metric], party: str) -> dict[str, dict[str, Any]]:
    """Return scores of a party as a record holds them; raises PluginError for one that is not finite."""
    for name, metric in found.items():
        if not math.isfinite(metric.value):
            raise PluginError(f"{name} of {party} is {metric.value}; a score is a finite number, or left out")
    return {name: metric.to_json() for name, metric in found.items()}
