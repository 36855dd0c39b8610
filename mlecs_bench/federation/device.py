"""An edge device: its unified model, its private data and its view of the public data."""

from __future__ import annotations

from typing import Unpack

from mlecs_bench.data.samples import PartyData
from mlecs_bench.data.schedules import Rounds, in_round
from mlecs_bench.federation.party import Own, Party
from mlecs_bench.plan.training import Training


class Device(Party):
    """Edge device j: its unified model, its private data and its view of the public data.

    `train`, `test`: D_j; `public`: the training part of D'_j, the public samples through its own modalities. `rounds`
    says what it holds in which round, where that changes; its data follow, and its model is built for all of it.
    """

    def __init__(
        self, id_: str, seed: int, training: Training, *, public: PartyData, rounds: Rounds = (), **own: Unpack[Own]
    ) -> None:
        super().__init__(id_, seed, training, **own)
        self.public = public
        self._rounds = rounds
        self.start_round(1)

    def start_round(self, t: int) -> None:
        """Forget the steps and logs of the round before, and take the modalities of round t."""
        super().start_round(t)
        if self._rounds:
            held = in_round(self._rounds, t)
            self.test.sight.now = held
            self.model.hold(held)

    @property
    def modalities(self) -> tuple[str, ...]:
        """M_j, in the fixed order: what the device holds in this round."""
        return self.test.modalities

    @property
    def built_for(self) -> tuple[str, ...]:
        """The modalities that its model is built for, in the fixed order: all that it holds in any round."""
        return self.model.modalities
