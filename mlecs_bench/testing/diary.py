"""What the reference run shows beside its result. Several checks read it, so that they need no run of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch.optim.optimizer import register_optimizer_step_post_hook

from mlecs_bench.testing.bits import differing, frozen_weights, state_of
from mlecs_bench.testing.steps import Step

if TYPE_CHECKING:
    from mlecs_bench.federation.build import Federation


@dataclass(frozen=True)
class StepCount:
    """How many optimiser steps one call of the algorithm took, and how many it counted."""

    step: Step
    taken: int
    counted: int


@dataclass
class Diary:
    """Notes about a run of `federation`; taking them changes nothing in it."""

    federation: Federation
    step_counts: list[StepCount] = field(default_factory=list)
    foreign_changes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._frozen = {key: tensor.clone() for key, tensor in frozen_weights(self.federation).items()}
        self._server_model = self.federation.server.model.state()

    @contextmanager
    def watch(self, step: Step) -> Iterator[None]:
        """Note what a step changes and how often it calls an optimiser."""
        state, counted, taken = state_of(self.federation), sum(step.party.steps.values()), 0

        def count(*_: object) -> None:
            nonlocal taken
            taken += 1

        handle = register_optimizer_step_post_hook(count)
        try:
            yield
        finally:
            handle.remove()
        self.step_counts.append(StepCount(step, taken, sum(step.party.steps.values()) - counted))
        changed = sorted(differing(state, state_of(self.federation)))
        own = f"{step.party.id}:"
        self.foreign_changes += [f"{step} changed {name}" for name in changed if not name.startswith(own)]

    def changed_backbones(self) -> list[str]:
        """Return the tensors of the language models that are not as they were at the start."""
        return sorted(differing(self._frozen, frozen_weights(self.federation)))

    def server_model_changed(self) -> bool:
        """Is the server's model not as it was at the start?"""
        return bool(differing(self._server_model, self.federation.server.model.state()))
