"""Correct metrics, encoders and profiles, and for each check one that breaks it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from mlecs_bench.api import (
    EncoderInfo,
    FunctionScorer,
    LearningRates,
    Metric,
    MetricInfo,
    MetricRequest,
    Profile,
    TowerInfo,
)
from mlecs_bench.api import check_pairs as checked_pairs
from mlecs_bench.testing import toy

COUNTER = itertools.count(1)
Score = Callable[[Sequence[str], Sequence[str]], Metric]


# Metrics


def exact(predictions: Sequence[str], references: Sequence[str]) -> Metric:
    checked_pairs(predictions, references, "exact")
    return Metric(sum(p == r for p, r in zip(predictions, references, strict=True)) / len(references), len(references))


def metric(score: Score = exact, identity: str = "exact 1", name: str = "exact", **card: Any) -> MetricInfo:
    return MetricInfo(**{
        "title": "Exact", "summary": "the share of right answers",
        "make": lambda request: FunctionScorer(name, identity, score), **card,
    })  # fmt: skip  # a card


METRIC = metric()


def valued(value: Callable[..., float], n: Callable[[int], int] = lambda n: n, **more: Any) -> Score:
    def score(predictions, references):
        checked_pairs(predictions, references, "exact")
        return Metric(value(predictions, references), n(len(references)), **more)

    return score


def with_path(request: MetricRequest) -> FunctionScorer:
    return FunctionScorer("exact", f"exact model={request.cache_dir}/model", exact)


def ordered(predictions, references):
    return 0.5 + exact(predictions, references).value / 2 if predictions[0] == references[0] else 0.0


def squared(predictions, references):
    return exact(predictions, references).value ** 2


def ascii_alone(predictions, references):
    """Count equal letters a-z and nothing else."""
    pairs = zip(predictions, references, strict=True)
    return sum(p == r and any(c.isascii() and c.isalpha() for c in r) for p, r in pairs) / len(references)


def moved(predictions, references):
    torch.rand(1)
    return exact(predictions, references).value


BROKEN_METRICS = [
    ("card", metric(title=""), "the card needs its 'title'"),
    ("card", metric(higher_is_better=None), "higher_is_better is True or False"),
    ("named", metric(name="other"), "makes one called 'other'"),
    ("named", metric(make=lambda request: None), "make(request) gave None"),
    ("identity", metric(identity="two\nlines"), "an identity names everything"),
    ("identity", metric(make=with_path), "leave out paths"),
    ("identity", metric(identity="exact model=/opt/model"), "leave out paths"),
    ("values", metric(valued(lambda p, r: 1.0 if any(p) else float("nan"))), "a score is a finite number"),
    ("values", metric(valued(lambda p, r: 1.0, n=lambda n: 1)), "n is the number of samples, but it is 1 of 6"),
    ("values", metric(lambda p, r: 0.5), "it gave float"),
    ("card", metric(range=(1, 0)), "it is 1 to 0"),
    ("in-range", metric(range=(0, 0.9)), "perfect answers score 1"),
    ("per-sample", metric(valued(squared), per="sample"), "all together score 0.25"),
    ("other-scripts", metric(valued(ascii_alone)), "in Cyrillic they score 0, and wrong ones 0"),
    ("direction", metric(valued(lambda p, r: 1.0, higher_is_better=False)), "agree on the direction"),
    ("perfect-answers", metric(valued(lambda p, r: float(len("".join(p))))), "perfect answers are the best"),
    ("perfect-answers", metric(valued(lambda p, r: 1.0)), "perfect answers are the best"),
    ("perfect-answers", metric(higher_is_better=False), "perfect answers are the best"),
    ("order-of-samples", metric(valued(ordered)), "the order of the samples does not matter"),
    ("deterministic", metric(valued(lambda p, r: float(next(COUNTER)))), "keep nothing between calls"),
    ("deterministic", metric(valued(moved)), "it moved torch's global random stream"),
    ("refusals", metric(lambda p, r: Metric(1.0, 1)), "no samples are refused in one line, but they were scored"),
    ("refusals", metric(lambda p, r: Metric(1 / len(r), 1)), "ZeroDivisionError was raised"),
]


# Encoders


class Mlp(nn.Module):
    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(size, 6), nn.GELU(), nn.Linear(6, dim))

    def forward(self, values):
        return self.body(values)


class Unused(Mlp):
    def __init__(self, size, dim):
        super().__init__(size, dim)
        self.spare = nn.Linear(2, 2)


class Half(Mlp):
    def forward(self, values):
        return super().forward(values).half()


class Unsaved(Mlp):
    def __init__(self, size, dim):
        super().__init__(size, dim)
        self.scale = torch.rand(1)

    def forward(self, values):
        return super().forward(values) * self.scale


class Counting(Mlp):
    def __init__(self, size, dim):
        super().__init__(size, dim)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, values):
        self.seen += len(values)
        return super().forward(values)


class Centred(Mlp):
    def forward(self, values):
        return super().forward(values - values.mean(dim=0))


def frozen(size: int, dim: int) -> nn.Module:
    return Mlp(size, dim).requires_grad_(False)


def scaled(size: int, dim: int) -> nn.Module:
    """Draw a factor from Python's global stream."""
    import random

    encoder = Mlp(size, dim)
    with torch.no_grad():
        encoder.body[1].weight.mul_(1 + random.random())  # noqa: S311  # it must not
    return encoder


def constant(size: int, dim: int) -> nn.Module:
    encoder = Mlp(size, dim)
    for parameter in encoder.parameters():
        nn.init.constant_(parameter, 0.1)
    return encoder


def grown(size: int, dim: int) -> nn.Module:
    """Be larger where weights have values."""
    return Mlp(size, dim) if torch.empty(0).is_meta else nn.Sequential(Mlp(size, dim), nn.Linear(dim, dim))


def encoder(made: Callable[[int, int], nn.Module] = Mlp, **card: Any) -> EncoderInfo:
    def build(modality, dim):
        return made(torch.Size(modality.shape).numel(), dim)

    return EncoderInfo(**{"title": "MLP", "summary": "one hidden layer", "axes": 2, "build": build, **card})


class Pooled(nn.Module):
    """A tower's network: the mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, pictures):
        return pictures.mean((2, 3)) * self.gain


class Among(Pooled):
    def forward(self, pictures):
        return super().forward(pictures) - super().forward(pictures).mean(0)


class Unpooled(Pooled):
    def forward(self, pictures):
        return pictures * self.gain[:, None, None]


def tower(build: Callable[[], nn.Module] = Pooled, **said: Any) -> EncoderInfo:
    return encoder(tower=TowerInfo(**{"build": build, "size": 8, "mean": (0.5,) * 3, "std": (0.5,) * 3, **said}))


ENCODER = encoder()
WITH_TOWER = tower()
BROKEN_ENCODERS = [
    ("card", encoder(summary=""), "the card needs its 'summary'"),
    ("card", encoder(axes=0), "axes is a whole number"),
    ("shape", encoder(lambda size, dim: Mlp(size, 8)), "features are float32 (5, 24)"),
    ("shape", encoder(Half), "of torch.float16"),
    ("gradients", encoder(Unused), "'spare.weight' has none"),
    ("float32-weights", encoder(frozen), "or frozen"),
    ("float32-weights", encoder(lambda size, dim: nn.Flatten()), "it has none"),
    ("drawn-from-the-stream", encoder(scaled), "two encoders from one stream differ"),
    ("drawn-from-the-stream", encoder(constant), "another stream gives the same weights"),
    ("no-running-statistics", encoder(Counting), "'seen' changed without a step"),
    ("samples-apart", encoder(Centred), "samples of a batch do not see each other"),
    ("saved-and-loaded", encoder(Unsaved), "features differ after load_state_dict"),
    ("outlined", encoder(grown), "an outline has the shapes of the encoder"),
    ("frozen-tower", tower(Unpooled), "became (2, 3, 8, 8)"),
    ("frozen-tower", tower(Among), "pictures of a batch do not see each other"),
    ("frozen-tower", tower(key=lambda name: 3), "'gain' gave something else"),
]


# Profiles


def profile(**changes: Any) -> Profile:
    return dataclasses.replace(toy.profile(), **changes)


BROKEN_PROFILES = [
    ("card", {"name": "other"}, "is a profile called 'other'"),
    ("card", {"summary": ""}, "the card needs its 'summary'"),
    ("numbers", {"steps": 0}, "'steps' is a whole number above 0"),
    ("numbers", {"batch_size": 2.0}, "'batch_size' is an integer"),
    ("numbers", {"learning_rates": LearningRates(1e-3, float("nan"), 1e-3)}, "'learning_rates.connector'"),
    ("numbers", {"connector_dropout": 1.0}, "'connector_dropout' is from 0 to below 1"),
    ("numbers", {"torch_device": "gpu"}, "'torch_device' is cpu, cuda or cuda:N"),
    ("sources", {"sources": {}}, "'slm' has none"),
    ("sources", {"sources": {**toy.profile().sources, "rank": "ours"}}, "'rank' is none"),
    ("models", {"slm": "/nowhere/slm"}, "has no config.json"),
    ("models", {"llm": "two words"}, "'llm' is a model"),
    ("to-json", {"bertscore": ("a", "b")}, "a profile survives JSON"),
    ("plans", {"clip_norm": float("inf")}, "not JSON compliant"),
]
