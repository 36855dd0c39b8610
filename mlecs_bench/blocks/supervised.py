"""One training stage: some parameters, some data, a fixed number of optimiser steps, a loss of one or more terms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mlecs_bench.blocks.loss_scale import LossScale
from mlecs_bench.doors.hookspecs import BudgetName, Part
from mlecs_bench.errors import MlecsError, PluginError, check_choice
from mlecs_bench.seeds import rng, torch_stream

if TYPE_CHECKING:
    from mlecs_bench.data.samples import PartyData
    from mlecs_bench.federation.device import Device
    from mlecs_bench.federation.party import Party
    from mlecs_bench.federation.server import Server
    from mlecs_bench.models.unified import UnifiedModel
    from mlecs_bench.plan.training import Training

ALL_PARTS: tuple[Part, ...] = get_args(Part)
"""Everything a party trains: encoders, the connector's three parts, and the adapter."""


@dataclass(frozen=True)
class Stage:
    """One stage of a round.

    `budget` names what its steps count against; `name` tells stages of one
    budget apart. `models` lists what is trained: a model and its parts. Each model's gradient is clipped on its own,
    so several models trained in one stage are as independent as with an optimiser each. They need a backbone each,
    since a backbone has one active adapter at a time. Raises ValueError for an unknown budget, or a part that a model
    does not have.
    """

    name: str
    budget: BudgetName
    round: int
    steps: int
    models: Sequence[tuple[UnifiedModel, Sequence[str]]]

    def __post_init__(self) -> None:
        check_choice(self.budget, BudgetName, f"the budget of stage '{self.name}'")
        for model, parts in self.models:
            for part in parts:
                model.check_part(part)


Loss = Callable[[Int64[np.ndarray, " b"]], Float[Tensor, ""]]


@dataclass(frozen=True)
class Terms:
    """What a stage makes of one batch: the terms whose sum it minimises, weights included, and what it only watches."""

    minimised: Mapping[str, Float[Tensor, ""]]
    watched: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)

    @property
    def total(self) -> Float[Tensor, ""]:
        """The sum of the terms."""
        first, *others = self.minimised.values()
        for term in others:
            first = first + term
        return first

    def logged(self) -> dict[str, Tensor]:
        """Return what is worth a log beside the total: each of several terms, and all that is watched."""
        terms = self.minimised if len(self.minimised) > 1 else {}
        return {name: value.detach() for name, value in (*terms.items(), *self.watched.items())}


@dataclass(frozen=True)
class Objective:
    """What a party minimises in one stage: the sum of the terms of batches of `data`.

    Building one trains nothing, so the terms can also be looked at one by one.
    """

    data: PartyData
    stage: Stage
    terms: Callable[[Int64[np.ndarray, " b"]], Terms]


def batches(n: int, size: int, steps: int, generator: np.random.Generator) -> list[Int64[np.ndarray, " b"]]:
    """Return `steps` batches of positions 0..n-1: passes shuffled, batches never short.

    A pass takes every sample once, except the n mod size that would not fill a batch; so no batch holds a sample
    twice. A dataset smaller than `size` gives batches of n.
    """
    size = min(size, n)
    order: list[int] = []
    result = []
    for _ in range(steps):
        if len(order) < size:
            order = [int(i) for i in generator.permutation(n)]
        taken, order = order[:size], order[size:]
        result.append(np.asarray(taken, dtype=np.int64))
    return result


def train_stage(party: Party, data: PartyData, stage: Stage, loss: Loss) -> list[float]:
    """Take `stage.steps` AdamW steps on `loss(rows of data)`; return the losses.

    The optimiser is new in every stage, as in the authors' script. Batch order and dropout follow streams named by
    party, round and stage, so neither other parties nor other algorithms can change them; a second stage of one budget
    goes on with the first one's batches. Returns [] when there is nothing to train on, or nothing that could be
    trained, such as the encoders of a device without modalities. Raises MlecsError when a loss is not finite,
    PluginError when models share a backbone or the data is the party's test data.
    """
    _check_backbones(stage)
    if data is party.test:
        raise PluginError(f"stage {stage.name} trains {party.id} on its test data; that is for scores alone")
    if stage.steps == 0 or len(data) == 0 or not any(model.parameters(parts) for model, parts in stage.models):
        return []
    taken = party.steps.get(stage.budget, 0)
    stream = rng(party.seed, "batches", party.id, stage.round, stage.budget)
    order = batches(len(data), party.training.batch_size, taken + stage.steps, stream)[taken:]
    losses = []
    with ExitStack() as stack:
        stack.enter_context(torch_stream(party.seed, "dropout", party.id, stage.round, stage.name))
        for model, parts in stage.models:
            stack.enter_context(model.only_trainable(parts))
        optimiser, clipped = _optimiser(party, stage)
        backward = _backward(stage)
        for positions in order:
            value = loss(data.rows[positions])
            optimiser.zero_grad(set_to_none=True)
            backward(value)
            for parameters in clipped:
                torch.nn.utils.clip_grad_norm_(parameters, party.training.clip_norm)
            optimiser.step()
            losses.append(value.detach())
            del value  # and with it the graph, which a loss scale retains, before the next one is built
    party.count_steps(stage.budget, stage.steps)
    values: list[float] = torch.stack(losses).tolist()
    if not all(map(math.isfinite, values)):
        raise MlecsError(f"{party.id} diverged in stage {stage.name} of round {stage.round}: lower the learning rates")
    party.logs[stage.name] = sum(values) / len(values)
    return values


def minimise(party: Party, objective: Objective) -> list[float]:
    """Train a stage on its objective as `train_stage` does; return the losses.

    Logs the mean of each of several terms, and of what is watched, as "stage/name" beside that of the whole loss.
    """
    seen: list[dict[str, Tensor]] = []

    def loss(rows: Int64[np.ndarray, " b"]) -> Float[Tensor, ""]:
        terms = objective.terms(rows)
        seen.append(terms.logged())
        return terms.total

    losses = train_stage(party, objective.data, objective.stage, loss)
    for name in seen[0] if losses else ():
        party.logs[f"{objective.stage.name}/{name}"] = float(torch.stack([logged[name] for logged in seen]).mean())
    return losses


def _check_backbones(stage: Stage) -> None:
    # Activating one adapter freezes the others of its backbone: all but the last would rest without a word.
    if len({id(model.backbone) for model, _ in stage.models}) < len(stage.models):
        names = " and ".join(model.name for model, _ in stage.models)
        raise PluginError(f"stage {stage.name} trains {names} on one backbone; give each a stage of its own")


def _backward(stage: Stage) -> Callable[[Float[Tensor, ""]], None]:
    """Return the backward pass of a stage: torch's own, but for models of float16, whose losses are scaled."""
    if any(model.backbone.needs_loss_scale for model, _ in stage.models):
        return LossScale([p for model, parts in stage.models for p in model.parameters(parts)]).backward
    return torch.Tensor.backward


def _optimiser(party: Party, stage: Stage) -> tuple[torch.optim.Optimizer, list[list[torch.nn.Parameter]]]:
    rates = party.training.learning_rates
    by_part = {"encoder": rates.encoder, "lora": rates.lora, "domain": rates.lora}
    groups = [
        {"params": model.parameters([part]), "lr": by_part.get(part, rates.connector)}
        for model, parts in stage.models
        for part in parts
    ]
    groups = [g for g in groups if g["params"]]
    clipped = [model.parameters(parts) for model, parts in stage.models]
    return torch.optim.AdamW(groups, weight_decay=party.training.weight_decay, fused=True), clipped


def supervised_loss(model: UnifiedModel, data: PartyData, prompt: str) -> Loss:
    """Return L_lb (Eq. 12) of rows of `data` under `model`."""

    def loss(rows: Int64[np.ndarray, " b"]) -> Float[Tensor, ""]:
        return model.loss(data.batch(rows), prompt, data.targets(rows))

    return loss


def train_on_private(device: Device, t: int) -> list[float]:
    """Minimise L_lb(D_j) over all of the device's parts for the round's private steps; return the losses."""
    stage = Stage("private", "private", t, device.training.budget.private, [(device.model, ALL_PARTS)])
    return train_stage(device, device.train, stage, supervised_loss(device.model, device.train, device.prompt))


def train_server(server: Server, data: PartyData, t: int) -> list[float]:
    """Minimise L_lb over the server's model on `data` for the round's server steps; return the losses."""
    stage = Stage("server", "server", t, server.training.budget.server, [(server.model, server_parts(server.training))])
    return train_stage(server, data, stage, supervised_loss(server.model, data, server.prompt))


def server_parts(training: Training, trains_encoders: bool | None = None) -> tuple[str, ...]:
    """Return the parts of the server's model that are trained; None leaves the encoders to the profile."""
    with_encoders = training.server_trains_encoders if trains_encoders is None else trains_encoders
    return ALL_PARTS if with_encoders else ALL_PARTS[1:]
