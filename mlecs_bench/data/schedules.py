"""Who holds what in which round: modalities that fail and are repaired, rest in turn, or change as the user says.

All are pure functions of what the masks deal, the law, the seed and the device; every device has a stream of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING

from mlecs_bench.seeds import rng

if TYPE_CHECKING:
    import numpy as np

Held = tuple[str, ...]
"""Modalities that a device holds in a round, in the fixed order."""
Rounds = tuple[Held, ...]
"""What a device holds in round 1, 2, ...; what it holds in the last one it keeps."""


def in_round(rounds: Rounds, t: int) -> Held:
    """Return what a device holds in round t >= 1."""
    return rounds[min(t, len(rounds)) - 1]


def ever(rounds: Rounds) -> Held:
    """Return all that a device holds in any round."""
    return tuple(sorted({m for held in rounds for m in held}))


@dataclass(frozen=True)
class Schedule:
    """Who holds what in which round, by device."""

    devices: tuple[Rounds, ...]

    def held(self, j: int, t: int) -> Held:
        """Return what device j holds in round t; after the last round it keeps that one's."""
        return in_round(self.devices[j], t)

    def ever(self, j: int) -> Held:
        """Return all that device j holds in any round."""
        return ever(self.devices[j])

    def rates(self, n_modalities: int) -> list[float]:
        """Return for every round the share of (device, modality) pairs that are held."""
        n_rounds, pairs = max(map(len, self.devices)), len(self.devices) * n_modalities
        return [sum(len(self.held(j, t)) for j in range(len(self.devices))) / pairs for t in range(1, n_rounds + 1)]


def static(masks: Sequence[Held]) -> Schedule:
    """Return the schedule by which every device always holds what it was dealt."""
    return Schedule(tuple((held,) for held in masks))


def markov(masks: Sequence[Held], fail: float, repair: float, rounds: int, seed: int, least: int) -> Schedule:
    """Return the schedule by which every modality that was dealt is a two-state chain, independent of all others.

    In round 1 all are there. From one round to the next, one that is there fails with probability `fail`, and one that
    is not comes back with probability `repair`; so it is there in round t with probability s + (1 - s)(1 - fail -
    repair)^(t - 1), where s = repair / (fail + repair). Where fewer than `least` (0 or 1) would be left to a device
    that was dealt some, one of those that it held in the round before, drawn at random, does not fail.
    """

    def chain(dealt: Held, stream: np.random.Generator) -> Iterator[Held]:
        held = dealt
        while True:
            yield held
            draws = dict(zip(dealt, stream.random(len(dealt)).tolist(), strict=True))
            after = tuple(m for m in dealt if (draws[m] >= fail if m in held else draws[m] < repair))
            held = _with_one(after, held, least, stream)

    return _drawn(masks, chain, rounds, seed)


def duty(masks: Sequence[Held], on: int, off: int, rounds: int, seed: int, least: int) -> Schedule:
    """Return the schedule by which every modality that was dealt is there for `on` rounds, then away for `off`, again.

    Where in its cycle a modality of a device starts is drawn, each place as likely as any other. Where fewer than
    `least` (0 or 1) would be left to a device that was dealt some, one of those that it held in the round before (in
    round 1 of all), drawn at random, stays, and its cycle goes on.
    """

    def cycle(dealt: Held, stream: np.random.Generator) -> Iterator[Held]:
        places = dict(zip(dealt, stream.integers(on + off, size=len(dealt)).tolist(), strict=True))
        held = dealt
        for t in count():
            held = _with_one(tuple(m for m in dealt if (places[m] + t) % (on + off) < on), held, least, stream)
            yield held

    return _drawn(masks, cycle, rounds, seed)


def _drawn(
    masks: Sequence[Held], law: Callable[[Held, np.random.Generator], Iterator[Held]], rounds: int, seed: int
) -> Schedule:
    streams = (rng(seed, "schedule", j) for j in range(len(masks)))
    return Schedule(
        tuple(tuple(islice(law(dealt, stream), rounds)) for dealt, stream in zip(masks, streams, strict=False))
    )


def _with_one(held: Held, before: Held, least: int, stream: np.random.Generator) -> Held:
    """Return what is held, or one of those held before where nothing would be left and something should."""
    return held if len(held) >= least or not before else (before[int(stream.integers(len(before)))],)


def as_told(masks: Sequence[Held], told: Mapping[int, Mapping[int, Held]], rounds: int) -> Schedule:
    """Return the schedule by which device j holds `told[j][t]` from round t on, and before what it was dealt."""
    devices = []
    for j, dealt in enumerate(masks):
        found, held = [], dealt
        for t in range(1, rounds + 1):
            held = told.get(j, {}).get(t, held)
            found.append(held)
        devices.append(tuple(found))
    return Schedule(tuple(devices))
