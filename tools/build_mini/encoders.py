"""Pretrains the encoders on disjoint pools, through linear probes that are thrown away."""

from __future__ import annotations

from collections.abc import Mapping
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
from mlecs_plugins.datasets.vast.synthetic import pool
from mlecs_plugins.datasets.vast.words import SHOWN_BY, SLOTS

Array = np.ndarray[Any, Any]
DIM = 64
BATCH = 32
RATE = 1e-3
VAST_SAMPLES, VAST_STEPS = 6000, 900
UR_FALL_SEQUENCES, UR_FALL_STEPS = 40, 400


@dataclass(frozen=True)
class Task:
    """What one encoder learns: raw values (n, *shape) and, per question, the right class (n,) of so many."""

    dataset: str
    modality: Modality
    values: Array
    answers: Mapping[str, Array]
    classes: Mapping[str, int]
    steps: int


def vast_tasks(seed: int) -> list[Task]:
    """Return the tasks of the clips' encoders: each names the slots that its modality shows."""
    clips = pool(seed, VAST_SAMPLES)
    return [
        Task(
            "vast",
            m,
            clips.inputs[m.name],
            {slot: clips.slots[slot] for slot in SHOWN_BY[m.name]},
            {slot: len(SLOTS[slot]) for slot in SHOWN_BY[m.name]},
            VAST_STEPS,
        )
        for m in VAST_MODALITIES
    ]


def ur_fall_tasks(seed: int) -> list[Task]:
    """Return the tasks of the posture encoders: each predicts the label from its modality alone."""
    arrays, labels = synthetic_pool(seed, UR_FALL_SEQUENCES)
    modalities = (card.ACCE, card.DEPTH_FEATURES, card.RGB)
    classes = {"posture": len(card.CODES)}
    return [Task("ur-fall", m, arrays[m.name], {"posture": labels}, classes, UR_FALL_STEPS) for m in modalities]


def pretrain_encoder(task: Task, seed: int) -> tuple[nn.Module, dict[str, float]]:
    """Return the encoder trained on nine tenths of `task`, and per question the probe's accuracy on the last tenth."""
    info = encoders_of([task.modality], Registry.installed())[task.modality.encoding]
    with torch_stream(seed, "mini", "encoder", task.dataset, task.modality.name):
        encoder = build_encoder(task.modality, DIM, info)
        probes = nn.ModuleDict({name: nn.Linear(DIM, size) for name, size in task.classes.items()})
    n_train = len(task.values) * 9 // 10
    generator = rng(seed, "mini", "encoder batches", task.dataset, task.modality.name)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *probes.parameters()], lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.steps)
    for _ in range(task.steps):
        rows = generator.integers(0, n_train, size=BATCH)
        features = encoder(torch.from_numpy(task.values[rows]))
        loss = sum((_loss(probes[q], features, task.answers[q][rows]) for q in probes), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        schedule.step()
    scores = _accuracies(encoder, probes, task, n_train)
    _standardise(encoder, task.values[:n_train])
    return encoder, scores


def _loss(probe: nn.Module, features: Tensor, answers: Array) -> Tensor:
    return nn.functional.cross_entropy(probe(features), torch.from_numpy(answers))


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
def _accuracies(encoder: nn.Module, probes: nn.ModuleDict, task: Task, first: int) -> dict[str, float]:
    """Return per question the share of right answers on the samples from `first` on."""
    features = encoder(torch.from_numpy(task.values[first:]))
    found = {q: probe(features).argmax(dim=1).numpy() for q, probe in probes.items()}
    return {q: float((found[q] == task.answers[q][first:]).mean()) for q in found}


def named_tensors(task: Task, encoder: nn.Module) -> dict[str, Tensor]:
    """Return the encoder's weights as <dataset>/<modality>/<param>."""
    prefix = f"{task.dataset}/{task.modality.name}/"
    return {prefix + name: tensor.detach().contiguous() for name, tensor in encoder.state_dict().items()}
