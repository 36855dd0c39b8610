"""The clock: simulated seconds and FLOPs of rounds, from what was sent and what was trained.

A device takes latency and size over bandwidth for each message, and the FLOPs of its steps over its speed. A round
takes as long as the slowest of the devices that it waits for, and what the server takes itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mlecs_bench.errors import UsageError
from mlecs_bench.models.flops import step_flops
from mlecs_bench.plan.conditions_network import Network, is_given
from mlecs_bench.seeds import rng

if TYPE_CHECKING:
    from mlecs_bench.federation.build import Builder
    from mlecs_bench.plan.training import Budget

MEGABIT, GIGA = 1e6 / 8, 1e9
"""Bytes of a megabit, FLOPs of a GFLOP."""


@dataclass(frozen=True)
class Pace:
    """How fast one device is: bandwidths in Mbit/s, seconds of latency, GFLOP/s; None takes no time."""

    down: float | None
    up: float | None
    latency: float
    speed: float | None

    def download(self, size: int) -> float:
        """Return the seconds of a message of `size` bytes to the device."""
        return self.latency + (size / (self.down * MEGABIT) if self.down else 0.0)

    def upload(self, size: int) -> float:
        """Return the seconds of a message of `size` bytes from the device."""
        return self.latency + (size / (self.up * MEGABIT) if self.up else 0.0)

    def compute(self, flops: int) -> float:
        """Return the seconds of so many FLOPs."""
        return flops / (self.speed * GIGA) if self.speed else 0.0


def paces(network: Network, seed: int, ids: Sequence[str]) -> dict[str, Pace]:
    """Return how fast the devices of a seed are."""
    drawn = rng(seed, "network").standard_normal((len(ids), 3))
    sigmas = np.asarray([network.down_sigma, network.up_sigma, network.speed_sigma])
    factors = np.exp(sigmas * drawn)
    found = {}
    for id_, (down, up, speed) in zip(ids, factors.tolist(), strict=True):
        law = {
            "down": None if network.down is None else network.down * down,
            "up": None if network.up is None else network.up * up,
            "speed": None if network.speed is None else network.speed * speed,
            "latency": network.latency,
        }
        found[id_] = Pace(**(law | dict(network.devices.get(id_, {}))))  # type: ignore[arg-type]  # names of its fields
    return found


@dataclass(frozen=True)
class Clock:
    """What simulated time is made of in one cell. `step_flops` are those of one optimiser step of every device."""

    network: Network
    paces: Mapping[str, Pace]
    step_flops: Mapping[str, int] = field(default_factory=dict)

    def flops(self, id_: str, steps: Mapping[str, int]) -> int:
        """Return the FLOPs of a device's steps in a round."""
        return sum(steps.values()) * self.step_flops.get(id_, 0)

    def check(self, budget: Budget) -> None:
        """Raise UsageError where the steps of a round alone keep every device beyond the deadline."""
        steps = budget.private + budget.public + budget.pooled
        least = min(
            2 * pace.latency + pace.compute(steps * self.step_flops.get(id_, 0)) for id_, pace in self.paces.items()
        )
        deadline = self.network.deadline
        if deadline is not None and least >= deadline:
            raise UsageError(
                f"network: no upload arrives before the deadline of {deadline:g} s, as the fastest device computes for "
                f"{least:.3g} s; give more, or fewer steps"
            )


def clock_of(builder: Builder) -> Clock | None:
    """Return the clock of a builder's seed, None where no network is given.

    FLOPs are counted once for all devices of one structure, modalities and size of batch, on a model that is built for
    it and taken apart again. They are those of a supervised step of the device's model; a step of any other stage
    counts as one. Raises UsageError for a deadline that no device can meet.
    """
    plan, network = builder.plan, builder.plan.conditions.network
    if not is_given(network):
        return None
    counted: dict[object, int] = {}
    found = {}
    for id_, held, part in zip(
        plan.device_ids, builder.layout.masks.devices, builder.layout.partition.devices, strict=True
    ):
        kind = (plan.structures[id_], tuple(held), min(len(part.train), plan.training.batch_size))
        if kind not in counted:
            counted[kind] = _step_flops(builder, id_)
        found[id_] = counted[kind]
    clock = Clock(network, paces(network, builder.seed, plan.device_ids), found)
    if plan.training.counts == "steps":
        clock.check(plan.training.budget)
    return clock


def _step_flops(builder: Builder, id_: str) -> int:
    device = builder.device(id_)
    rows = device.train.rows[: device.training.batch_size]
    flops = 0
    if len(rows):
        flops = step_flops(device.model, device.train.batch(rows), device.prompt, device.train.targets(rows))
    builder.dismiss(device)
    return flops
