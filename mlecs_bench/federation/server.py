"""The cloud server: the omni-modal model with the LLM, the public data, and a model of the devices' kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Unpack

import torch

from mlecs_bench.data.schedules import Rounds, ever, in_round
from mlecs_bench.federation.party import Own, Party, named, under
from mlecs_bench.models.unified import UnifiedModel
from mlecs_bench.plan.training import Training


class Server(Party):
    """The cloud: the omni-modal unified model with the LLM, the public data, and `slm`.

    `slm` is a unified model of the devices' kind (the SLM) that holds every modality and starts from the weights the
    devices start from: a server-side SLM, or a global model. It is built when first used; the rank of its adapter is
    the largest of the devices'. `devices` maps every device's id to the modalities that it holds in this round,
    `built_for` to those of all rounds, which its model is built for, `ranks` to the rank of its adapter. `rounds` says
    who holds what in which round, where that changes.
    """

    def __init__(
        self,
        seed: int,
        training: Training,
        *,
        make_slm: Callable[[], UnifiedModel],
        devices: Mapping[str, Sequence[str]],
        ranks: Mapping[str, int],
        rounds: Mapping[str, Rounds] = MappingProxyType({}),
        **own: Unpack[Own],
    ) -> None:
        super().__init__("server", seed, training, **own)
        self.devices = {id_: tuple(devices[id_]) for id_ in sorted(devices)}
        self.built_for = {id_: ever(rounds[id_]) if rounds else held for id_, held in self.devices.items()}
        self._rounds = rounds
        self.ranks = {id_: ranks[id_] for id_ in sorted(ranks)}
        self._make_slm = make_slm
        self._slm: UnifiedModel | None = None

    def start_round(self, t: int) -> None:
        """Forget the steps and logs of the round before; the devices hold their modalities of round t."""
        super().start_round(t)
        if self._rounds:
            self.devices = {id_: in_round(self._rounds[id_], t) for id_ in sorted(self._rounds)}

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
        return state if self._slm is None else state | named("slm", self._slm.state())

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Read what `state` returned."""
        super().load_state(state)
        slm = under("slm", state)
        if slm:
            self.slm.load_state(slm)
