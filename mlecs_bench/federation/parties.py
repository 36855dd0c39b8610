"""The parties of a federation: devices and the server. All state of a run lives here and can be saved and loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict, Unpack

import torch

from mlecs_bench.data.samples import PartyData
from mlecs_bench.doors.profile import LearningRates
from mlecs_bench.errors import PluginError
from mlecs_bench.models.unified import UnifiedModel


@dataclass(frozen=True)
class Budget:
    """Optimiser steps per round: on a device's private data, on its public data, and at the server.

    `setup`: steps that the server takes in round 1 alone, on top of the others.
    """

    private: int
    public: int
    server: int
    setup: int = 0

    def allowed(self, stage: str, t: int) -> int:
        """Return the steps of `stage` in round t; raises PluginError for a name that is none of the fields."""
        names = [field.name for field in dataclasses.fields(self)]
        if stage not in names:
            raise PluginError(f"a stage counts against '{stage}'; use one of {', '.join(names)}")
        return 0 if stage == "setup" and t > 1 else int(getattr(self, stage))


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
    """What every party is made with: its model, the prompt put to it, and the data it is trained and tested on.

    `proxy` is there if the algorithm asked for one.
    """

    model: UnifiedModel
    train: PartyData
    test: PartyData
    prompt: str
    proxy: NotRequired[UnifiedModel | None]


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
        self.memory: dict[str, torch.Tensor] = {}
        self.start_round()

    def start_round(self) -> None:
        """Forget the steps and logs of the round before."""
        self.steps: dict[str, int] = {}
        self.logs: dict[str, float] = {}

    @property
    def proxy(self) -> UnifiedModel:
        """The small model beside the party's own; raises PluginError unless the algorithm's needs name it.

        Its adapter is "lora"; a second one, "domain", acts together with it. It has no encoders: its soft-prompt
        generator ("soft_prompt") takes the fused representation of the party's model.
        """
        if self._proxy is None:
            raise PluginError(f"{self.id} has no proxy model; let the algorithm's needs say proxy=True")
        return self._proxy

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
        state = _named("model", self.model.state())
        if self._proxy is not None:
            state |= _named("proxy", self._proxy.state())
        return state | _named("memory", {name: tensor.detach().clone() for name, tensor in self.memory.items()})

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Read what `state` returned."""
        self.model.load_state(_under("model", state))
        if self._proxy is not None:
            self._proxy.load_state(_under("proxy", state))
        self.memory = {name: tensor.clone() for name, tensor in _under("memory", state).items()}


def _named(what: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{what}/{name}": tensor for name, tensor in tensors.items()}


def _under(what: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = f"{what}/"
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


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


class Server(Party):
    """The cloud: the omni-modal unified model with the LLM, the public data, and `slm`.

    `slm` is a unified model of the devices' kind (the SLM) that holds every modality and starts from the weights the
    devices start from: ML-ECS's server-side SLM, FedAvg's global model. It is built when first used; the rank of its
    adapter is the largest of the devices'. `devices` maps every device's id to its modalities, `ranks` to the rank of
    its adapter.
    """

    def __init__(
        self,
        seed: int,
        training: Training,
        *,
        make_slm: Callable[[], UnifiedModel],
        devices: Mapping[str, Sequence[str]],
        ranks: Mapping[str, int],
        **own: Unpack[Own],
    ) -> None:
        super().__init__("server", seed, training, **own)
        self.devices = {id_: tuple(devices[id_]) for id_ in sorted(devices)}
        self.ranks = {id_: ranks[id_] for id_ in sorted(ranks)}
        self._make_slm = make_slm
        self._slm: UnifiedModel | None = None

    @property
    def slm(self) -> UnifiedModel:
        """The server's model of the devices' kind."""
        if self._slm is None:
            self._slm = self._make_slm()
        return self._slm

    def is_last_broadcast(self, t: int) -> bool:
        """Is `t` the broadcast after the last round?"""
        return t > self.training.rounds

    def state(self) -> dict[str, torch.Tensor]:
        """Return all that the server carries from round to round."""
        state = super().state()
        return state if self._slm is None else state | _named("slm", self._slm.state())

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Read what `state` returned."""
        super().load_state(state)
        slm = _under("slm", state)
        if slm:
            self.slm.load_state(slm)
