"""Does a GPU compute what a CPU computes? Cells of several algorithms on the embedded models, without dropout.

Both sides begin with the same weights, data and batches. Compared are the losses of every party before training, the
gradients of the first step of every stage, the mean losses of the stages, and the scores and answers after a round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gpu_sections.runner import Options, Report
from mlecs_bench.data.samples import DataRequest, PartyData, Samples
from mlecs_bench.doors.registry import Registry
from mlecs_bench.doors.scoring import Metric
from mlecs_bench.federation.build import Federation, build_federation
from mlecs_bench.federation.engine import Cell, CellRun
from mlecs_bench.federation.evaluation import Evaluator, evaluator_of
from mlecs_bench.federation.fleet import InProcessFleet
from mlecs_bench.federation.host import DeviceHost
from mlecs_bench.federation.turns import MemoryTurns
from mlecs_bench.models.unified import UnifiedModel
from mlecs_bench.plan.plan import Plan
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import RunSpec

SEED = 27
ALGORITHMS = ("ml-ecs", "co-plms", "fedilora", "fedmllm", "multi-fedavg", "standalone")
STEPS, TEST_SAMPLES = 5, 24
"""Optimiser steps of a stage, and test samples of a party that are answered."""


@dataclasses.dataclass
class Seen:
    """What one cell did on one torch device."""

    before: dict[str, float] = dataclasses.field(default_factory=dict)
    """The loss of every party on its first training samples with the initial weights."""
    gradients: list[torch.Tensor] = dataclasses.field(default_factory=list)
    """All gradients of the first step of every stage, end to end, in the order of the stages."""
    losses: dict[str, float] = dataclasses.field(default_factory=dict)
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    answers: list[str] = dataclasses.field(default_factory=list)


class Remembering:
    """Scores as an evaluator does, the first test samples alone, and keeps the answers."""

    def __init__(self, evaluator: Evaluator, answers: list[str]) -> None:
        self._evaluator = evaluator
        self._answers = answers

    def score(self, model: UnifiedModel, test: PartyData, prompt: str) -> dict[str, Metric]:
        """Return every score of a model."""
        rows = test.rows[:TEST_SAMPLES]
        answers = model.generate(test.batch(rows), prompt, test.manifest.max_new_tokens)
        self._answers += answers
        return self._evaluator.compare(answers, test.targets(rows))


def measure(options: Options, report: Report) -> None:
    """Report per algorithm how far the device is from the CPU, and how far it is from itself."""
    cells = Cells(options.folder, steps=1 if options.tiny else STEPS)
    for algo in ALGORITHMS[:1] if options.tiny else ALGORITHMS:
        there = cells.run(algo, options.device)
        report(algo, differences(cells.run(algo, "cpu"), there))
        if algo == ALGORITHMS[0]:
            report(f"{algo}, twice", differences(there, cells.run(algo, options.device)))


class Cells:
    """Makes cells of one round on the synthetic vast data and the embedded models."""

    def __init__(self, folder: Path, steps: int) -> None:
        self._folder = folder
        self._steps = steps
        self._registry = Registry.installed()
        info = self._registry.dataset("vast").info
        self._samples = Samples.open(info.prepare(DataRequest(None, folder, info.options())))

    def run(self, algo: str, device: str) -> Seen:
        """Run a cell on a torch device."""
        spec = RunSpec(algo, "vast", 0.8, rounds=1, steps=self._steps, split="frame", device=device)
        plan = without_dropout(resolve(spec, self._registry))
        federation = build_federation(plan, SEED, self._samples, self._registry)
        seen = Seen(before=initial_losses(federation))
        evaluator = Remembering(evaluator_of(plan, self._samples, self._registry, self._folder), seen.answers)
        algorithm = self._registry.algorithm(algo).info.build(plan.options)
        fleet = InProcessFleet(DeviceHost(federation.devices, algorithm, evaluator, MemoryTurns()))
        cell = Cell(
            algorithm=algorithm,
            server=federation.server,
            fleet=fleet,
            evaluator=evaluator,
            key="agreement",
            rounds=1,
            evaluate_all=False,
            server_score=plan.server_score,
        )
        with first_gradients(seen.gradients):
            metrics = CellRun(cell).run().metrics
        seen.losses = dict(flat(metrics["rounds"][0]["losses"]))
        seen.scores = dict(values_of({side: metrics[side] for side in ("client", "server") if metrics[side]}))
        return seen


def without_dropout(plan: Plan) -> Plan:
    """Return a plan whose models draw nothing while they are trained, and that is scored by Rouge alone."""
    lora = dataclasses.replace(plan.profile.lora, dropout=0.0)
    profile = dataclasses.replace(plan.profile, lora=lora, connector_dropout=0.0)
    return dataclasses.replace(plan, profile=profile, metrics=("rouge_lsum",))


@torch.no_grad()
def initial_losses(federation: Federation) -> dict[str, float]:
    """Return the loss of every party on its first training samples, in evaluation mode."""
    found = {}
    for party in (federation.server, *federation.devices):
        party.model.switch(training=False)
        rows = party.train.rows[: party.training.batch_size]
        found[party.id] = float(party.model.loss(party.train.batch(rows), party.prompt, party.train.targets(rows)))
    return found


@contextmanager
def first_gradients(kept: list[torch.Tensor]) -> Iterator[None]:
    """Within the block keep the gradients of the first step of every optimiser; every stage has a new one."""
    known: set[torch.optim.Optimizer] = set()

    def keep(optimiser: torch.optim.Optimizer, _args: Any, _keywords: Any) -> None:
        if optimiser not in known:
            known.add(optimiser)
            given = [p.grad for group in optimiser.param_groups for p in group["params"]]
            kept.append(torch.cat([grad.detach().cpu().flatten() for grad in given if grad is not None]))

    handle = register_optimizer_step_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()


def flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in nested mappings with their path."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}{name}/")
        else:
            yield f"{path}{name}", float(value)


def values_of(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield every score by its path."""
    for path, value in flat(metrics):
        if path.endswith("/value"):
            yield path, value


def differences(one: Seen, other: Seen) -> dict[str, Any]:
    """Return how far two cells are apart: the largest differences, those of numbers relative to the first cell's."""
    gradients = list(zip(one.gradients, other.gradients, strict=True))
    return {
        "losses_before": largest(one.before, other.before),
        "losses": largest(one.losses, other.losses),
        "gradients": {
            "stages": len(gradients),
            "relative": max(float((a - b).norm() / a.norm().clamp_min(1e-30)) for a, b in gradients),
            "absolute": max(float((a - b).abs().max()) for a, b in gradients),
        },
        "scores": largest(one.scores, other.scores),
        "equal_answers": sum(a == b for a, b in zip(one.answers, other.answers, strict=True)) / len(one.answers),
    }


def largest(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Return the largest absolute and relative difference of two mappings of the same names."""
    if one.keys() != other.keys():
        raise ValueError(f"one cell has {sorted(one.keys() ^ other.keys())}, the other has not")
    pairs = [(one[name], other[name]) for name in one]
    return {
        "absolute": max(abs(a - b) for a, b in pairs),
        "relative": max(abs(a - b) / max(abs(a), 1e-30) if a != b else 0.0 for a, b in pairs),
    }
