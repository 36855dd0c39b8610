"""The parties of a federation: devices and the server. All state of a run lives here and can be saved and loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch

from mlecs_bench.data import PartyData
from mlecs_bench.errors import MlecsError
from mlecs_bench.models.unified import UnifiedModel
from mlecs_bench.profiles import LearningRates


@dataclass(frozen=True)
class Budget:
    """Optimiser steps per round: on a device's private data, on its public data, and at the server."""

    private: int
    public: int
    server: int


@dataclass(frozen=True)
class Training:
    """How a stage is trained: the same for every party and algorithm."""

    learning_rates: LearningRates
    batch_size: int
    clip_norm: float
    weight_decay: float
    budget: Budget
    rounds: int
    server_trains_encoders: bool


class Own(TypedDict):
    """What every party is made with: its model and the data that model is trained and tested on."""

    model: UnifiedModel
    train: PartyData
    test: PartyData


class Party:
    """What device and server have in common.

    An id, a seed, training settings, a model with the data it is trained and tested on, the prompt put to it, and
    `memory`: named tensors that an algorithm keeps between rounds. `steps` and `logs` are of the current round.
    """

    def __init__(
        self, id_: str, seed: int, training: Training, *, model: UnifiedModel, train: PartyData, test: PartyData
    ) -> None:
        self.id = id_
        self.seed = seed
        self.training = training
        self.model = model
        self.train = train
        self.test = test
        self.prompt = train.manifest.prompt
        self.memory: dict[str, torch.Tensor] = {}
        self.steps: dict[str, int] = {}
        self.logs: dict[str, float] = {}

    def count_steps(self, stage: str, steps: int) -> None:
        """Count optimiser steps of a stage ("private", "public", "server") of the current round."""
        self.steps[stage] = self.steps.get(stage, 0) + steps

    def check_budget(self) -> None:
        """Raise MlecsError when a stage took more optimiser steps in this round than its budget."""
        for stage, taken in self.steps.items():
            allowed = getattr(self.training.budget, stage)
            if taken > allowed:
                raise MlecsError(f"{self.id} took {taken} {stage} steps in a round; the budget is {allowed}")

    def _memory_state(self) -> dict[str, torch.Tensor]:
        return {f"memory/{name}": tensor.detach().clone() for name, tensor in self.memory.items()}

    def _load_memory(self, state: Mapping[str, torch.Tensor]) -> None:
        self.memory = {k.removeprefix("memory/"): t.clone() for k, t in state.items() if k.startswith("memory/")}


class Device(Party):
    """Edge device j: its unified model, its private data and its view of the public data.

    `train`, `test`: D_j; `public`: the training part of D'_j, the public samples through its own modalities.
    """

    def __init__(self, id_: str, seed: int, training: Training, *, public: PartyData, **own: Unpack[Own]) -> None:
        super().__init__(id_, seed, training, **own)
        self.public = public

    @property
    def modalities(self) -> tuple[str, ...]:
        """M_j, in the fixed order."""
        return self.model.modalities

    def state(self) -> dict[str, torch.Tensor]:
        """Return all that the device carries from round to round."""
        return {f"model/{k}": t for k, t in self.model.state().items()} | self._memory_state()

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Read what `state` returned."""
        self.model.load_state({k.removeprefix("model/"): t for k, t in state.items() if k.startswith("model/")})
        self._load_memory(state)


class Server(Party):
    """The cloud: the omni-modal unified model with the LLM, the public data, and `twin`.

    `twin` is a unified model of the devices' kind (the SLM) that holds every modality and starts from the weights the
    devices start from: ML-ECS's server-side SLM, FedAvg's global model. It is built when first used.
    `devices` maps every device's id to its modalities.
    """

    def __init__(
        self,
        seed: int,
        training: Training,
        *,
        make_twin: Callable[[], UnifiedModel],
        devices: Mapping[str, Sequence[str]],
        **own: Unpack[Own],
    ) -> None:
        super().__init__("server", seed, training, **own)
        self.devices = {id_: tuple(devices[id_]) for id_ in sorted(devices)}
        self._make_twin = make_twin
        self._twin: UnifiedModel | None = None

    @property
    def twin(self) -> UnifiedModel:
        """The server's model of the devices' kind."""
        if self._twin is None:
            self._twin = self._make_twin()
        return self._twin

    def is_last_broadcast(self, t: int) -> bool:
        """Is `t` the broadcast after the last round?"""
        return t > self.training.rounds

    def state(self) -> dict[str, torch.Tensor]:
        """Return all that the server carries from round to round."""
        state = {f"model/{k}": t for k, t in self.model.state().items()} | self._memory_state()
        if self._twin is not None:
            state |= {f"twin/{k}": t for k, t in self._twin.state().items()}
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Read what `state` returned."""
        self.model.load_state({k.removeprefix("model/"): t for k, t in state.items() if k.startswith("model/")})
        twin = {k.removeprefix("twin/"): t for k, t in state.items() if k.startswith("twin/")}
        if twin:
            self.twin.load_state(twin)
        self._load_memory(state)
