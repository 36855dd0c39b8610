"""Pretrains the encoders on disjoint pools.

Those of clips learn without any label: two recordings of one clip shall be more alike than recordings of two clips.
What slots are, and which modality shows which, they are never told. Those of postures learn through linear probes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlecs_bench.api import Modality, rng, torch_stream
from mlecs_bench.doors.registry import Registry
from mlecs_bench.models.encoders import build_encoder, encoders_of
from mlecs_plugins.datasets.ur_fall import card
from mlecs_plugins.datasets.ur_fall.synthetic import synthetic_pool
from mlecs_plugins.datasets.vast.synthetic import MODALITIES as VAST_MODALITIES
from mlecs_plugins.datasets.vast.synthetic import draw_inputs, pool
from mlecs_plugins.datasets.vast.words import SHOWN_BY, SLOTS

Array = np.ndarray[Any, Any]
DIM = 64
TEMPERATURE = 0.1
HEAD_WIDTH = 64
VAST_SAMPLES, UR_FALL_SEQUENCES = 6000, 40


@dataclass(frozen=True)
class Effort:
    """Optimiser steps, samples of a step, and the peak learning rate of AdamW."""

    steps: int
    batch: int
    rate: float


POSTURES = Effort(steps=400, batch=32, rate=1e-3)
CLIPS = Effort(steps=1200, batch=128, rate=2e-3)
PROBED_LATER = Effort(steps=600, batch=128, rate=2e-3)


@dataclass(frozen=True)
class Task:
    """Raw values (n, *shape) of a modality and, per question, the right class (n,) of so many.

    `again`: other recordings of the same samples, if the encoder is to learn from them; otherwise it learns the
    answers themselves.
    """

    dataset: str
    modality: Modality
    values: Array
    answers: Mapping[str, Array]
    classes: Mapping[str, int]
    again: Array | None = None

    @property
    def n_train(self) -> int:
        """How many samples are learnt from; the others measure the probes."""
        return len(self.values) * 9 // 10


def vast_tasks(seed: int) -> list[Task]:
    """Return the tasks of the clips' encoders; the answers, for the card alone, are the slots that a modality shows."""
    clips = pool(seed, VAST_SAMPLES)
    again = draw_inputs(clips.slots, seed, "pool again")
    return [
        Task(
            "vast",
            m,
            clips.inputs[m.name],
            {slot: clips.slots[slot] for slot in SHOWN_BY[m.name]},
            {slot: len(SLOTS[slot]) for slot in SHOWN_BY[m.name]},
            again[m.name],
        )
        for m in VAST_MODALITIES
    ]


def ur_fall_tasks(seed: int) -> list[Task]:
    """Return the tasks of the posture encoders: each predicts the label from its modality alone."""
    arrays, labels = synthetic_pool(seed, UR_FALL_SEQUENCES)
    modalities = (card.ACCE, card.DEPTH_FEATURES, card.RGB)
    classes = {"posture": len(card.CODES)}
    return [Task("ur-fall", m, arrays[m.name], {"posture": labels}, classes) for m in modalities]


def pretrain_encoder(task: Task, seed: int) -> tuple[nn.Module, dict[str, float]]:
    """Return the encoder trained on nine tenths of `task`, and per question the probe's accuracy on the last tenth."""
    info = encoders_of([task.modality], Registry.installed())[task.modality.encoding]
    with torch_stream(seed, "mini", "encoder", task.dataset, task.modality.name):
        encoder = build_encoder(task.modality, DIM, info)
        probes = nn.ModuleDict({name: nn.Linear(DIM, size) for name, size in task.classes.items()})
        head = nn.Sequential(nn.GELU(), nn.Linear(DIM, HEAD_WIDTH))
    if task.again is None:
        _train([encoder, probes], POSTURES, task, seed, _answering(encoder, probes, task))
    else:
        _train([encoder, head], CLIPS, task, seed, _telling_apart(encoder, head, task))
        encoder.requires_grad_(False)
        _train([probes], PROBED_LATER, task, seed, _answering(encoder, probes, task))
    scores = _accuracies(encoder, probes, task)
    _standardise(encoder, task.values[: task.n_train])
    return encoder, scores


def _train(modules: list[nn.Module], effort: Effort, task: Task, seed: int, loss_of: Callable[[Array], Tensor]) -> None:
    """Minimise the loss of rows over the modules' parameters; the rate falls to 0 along a cosine."""
    generator = rng(seed, "mini", "encoder batches", task.dataset, task.modality.name)
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=effort.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, effort.steps)
    for _ in range(effort.steps):
        loss = loss_of(generator.integers(0, task.n_train, size=effort.batch))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        schedule.step()


def _answering(encoder: nn.Module, probes: nn.ModuleDict, task: Task) -> Callable[[Array], Tensor]:
    """Return the loss of the probes' answers."""

    def loss(rows: Array) -> Tensor:
        features = encoder(torch.from_numpy(task.values[rows]))
        losses = [
            nn.functional.cross_entropy(probes[q](features), torch.from_numpy(task.answers[q][rows])) for q in probes
        ]
        return sum(losses, torch.zeros(()))

    return loss


def _telling_apart(encoder: nn.Module, head: nn.Module, task: Task) -> Callable[[Array], Tensor]:
    """Return the contrast of two recordings of the same samples (InfoNCE in both directions)."""
    first, second = task.values, task.again
    assert second is not None  # whoever asks for the contrast has checked

    def loss(rows: Array) -> Tensor:
        rows = np.unique(rows)  # a sample is no negative of itself
        sides = (head(encoder(torch.from_numpy(values[rows]))) for values in (first, second))
        a, b = (nn.functional.normalize(side, dim=1) for side in sides)
        likeness, own = a @ b.T / TEMPERATURE, torch.arange(len(rows))
        return (nn.functional.cross_entropy(likeness, own) + nn.functional.cross_entropy(likeness.T, own)) / 2

    return loss


@torch.no_grad()
def _standardise(encoder: nn.Module, values: Array) -> None:
    """Shift and scale the last layer such that the outputs have mean 0 and together variance 1.

    All modalities then reach the connector at the same size, and one learning rate fits all of them.
    """
    body: Any = encoder.get_submodule("body")
    last = body[-1]
    features = encoder(torch.from_numpy(values))
    mean = features.mean(dim=0)
    size = (features - mean).square().mean().sqrt()
    last.weight.div_(size)
    last.bias.sub_(mean).div_(size)


@torch.no_grad()
def _accuracies(encoder: nn.Module, probes: nn.ModuleDict, task: Task) -> dict[str, float]:
    """Return per question the share of right answers on the samples that were not learnt from."""
    features = encoder(torch.from_numpy(task.values[task.n_train :]))
    found = {q: probe(features).argmax(dim=1).numpy() for q, probe in probes.items()}
    return {q: float((found[q] == task.answers[q][task.n_train :]).mean()) for q in found}


def named_tensors(task: Task, encoder: nn.Module) -> dict[str, Tensor]:
    """Return the encoder's weights as <dataset>/<modality>/<param>."""
    prefix = f"{task.dataset}/{task.modality.name}/"
    return {prefix + name: tensor.detach().contiguous() for name, tensor in encoder.state_dict().items()}
