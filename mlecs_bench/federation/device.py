"""An edge device: its unified model, its private data and its view of the public data."""

from __future__ import annotations

from typing import Unpack

from mlecs_bench.data.samples import PartyData
from mlecs_bench.federation.party import Own, Party
from mlecs_bench.plan.training import Training


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
