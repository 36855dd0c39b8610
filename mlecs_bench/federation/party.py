"""What device and server have in common. All state of a run lives on parties and can be saved and loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NotRequired, TypedDict, Unpack

import torch

from mlecs_bench.data.samples import PartyData
from mlecs_bench.errors import PluginError
from mlecs_bench.models.unified import UnifiedModel
from mlecs_bench.plan.training import Training


class Own(TypedDict):
    """What every party is made with: its model, the prompt put to it, and the data it is trained and tested on.

    `proxy` and `pool` are there if the algorithm asked for one. `pools` gives pool and training settings of a round,
    where modalities come and go.
    """

    model: UnifiedModel
    train: PartyData
    test: PartyData
    prompt: str
    proxy: NotRequired[UnifiedModel | None]
    pool: NotRequired[PartyData | None]
    pools: NotRequired[Callable[[int], tuple[PartyData, Training]] | None]


class Party:
    """What device and server have in common.

    An id, a seed, training settings, a model with the data it is trained and tested on, the prompt put to it, and
    `memory`: named tensors that an algorithm keeps between rounds. `steps` and `logs` are of the current round.
    """

    def __init__(self, id_: str, seed: int, training: Training, **own: Unpack[Own]) -> None:
        self.id = id_
        self.seed = seed
        self.training = training
        self.model = own["model"]
        self.train = own["train"]
        self.test = own["test"]
        self.prompt = own["prompt"]
        self._proxy = own.get("proxy")
        self._pool = own.get("pool")
        self._pools = own.get("pools")
        self.memory: dict[str, torch.Tensor] = {}
        self.steps: dict[str, int] = {}
        self.logs: dict[str, float] = {}

    def start_round(self, t: int) -> None:
        """Forget the steps and logs of the round before, and take the modalities of round t.

        After the last round they stay those of the last one.
        """
        self.steps, self.logs = {}, {}
        if self._pools is not None:
            self._pool, self.training = self._pools(t)

    @property
    def proxy(self) -> UnifiedModel:
        """The small model beside the party's own; raises PluginError unless the algorithm's needs name it.

        Its adapter is "lora"; a second one, "domain", acts together with it. It has no encoders: its soft-prompt
        generator ("soft_prompt") takes the fused representation of the party's model.
        """
        if self._proxy is None:
            raise PluginError(f"{self.id} has no proxy model; let the algorithm's needs say proxy=True")
        return self._proxy

    @property
    def pool(self) -> PartyData:
        """The training data of all parties, through the modalities that this party and a sample's own both hold.

        Raises PluginError unless the algorithm's needs name it.
        """
        if self._pool is None:
            raise PluginError(f"{self.id} has no pool of all data; let the algorithm's needs say pool=True")
        return self._pool

    def count_steps(self, stage: str, steps: int) -> None:
        """Count optimiser steps of the current round against a field of the budget."""
        self.steps[stage] = self.steps.get(stage, 0) + steps

    def check_budget(self, t: int) -> None:
        """Raise PluginError when a stage took more optimiser steps in round t than its budget."""
        for stage, taken in self.steps.items():
            allowed = self.training.budget.allowed(stage, t)
            if taken > allowed:
                raise PluginError(f"{self.id} took {taken} {stage} steps in round {t}; the budget is {allowed}")

    def state(self) -> dict[str, torch.Tensor]:
        """Return all that the party carries from round to round."""
        for name, value in self.memory.items():
            if not isinstance(value, torch.Tensor):
                raise PluginError(f"{self.id}.memory['{name}'] is a {type(value).__name__}; store a tensor")
        state = named("model", self.model.state())
        if self._proxy is not None:
            state |= named("proxy", self._proxy.state())
        return state | named("memory", {name: tensor.detach().clone() for name, tensor in self.memory.items()})

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Read what `state` returned."""
        self.model.load_state(under("model", state))
        if self._proxy is not None:
            self._proxy.load_state(under("proxy", state))
        self.memory = {name: tensor.clone() for name, tensor in under("memory", state).items()}


def named(what: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors with `what` and a slash before their names."""
    return {f"{what}/{name}": tensor for name, tensor in tensors.items()}


def under(what: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with `what` and a slash, without these."""
    prefix = f"{what}/"
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
