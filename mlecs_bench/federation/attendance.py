"""Attendance: who is asked to take part in which round, who drops out of it, and whose upload is faulty.

All of it is drawn from streams that depend on the seed, the round and the attempt alone, so it is the same for every
algorithm, whatever has happened before and wherever the devices are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from mlecs_bench.plan.conditions import Conditions
from mlecs_bench.seeds import rng

Drop = Literal["before", "during", "after"]
"""When a device drops out of a round: before anything reaches it, while it works, or after its work."""


class Attendance:
    """Who is there in the rounds of one seed. `samples` are the training samples of every device, by id in order."""

    def __init__(self, conditions: Conditions, seed: int, samples: Mapping[str, int]) -> None:
        self._conditions = conditions
        self.seed = seed
        self._samples = samples
        self._ids = tuple(samples)
        self._faulty = self._draw_faulty()

    @property
    def attempts(self) -> int:
        """How many attempts a round has at most."""
        own = self._conditions.participation
        return own.attempts if own.too_few == "repeat" else 1

    @property
    def least(self) -> int:
        """How many devices have to report."""
        return self._conditions.participation.min_devices or 1

    def asked(self, t: int, attempt: int) -> list[str]:
        """Return the devices that are asked in an attempt at round t, in order."""
        own = self._conditions.participation
        there = [id_ for id_ in self._ids if not own.is_away(id_, t)]
        wanted = own.per_round(len(self._ids))
        if wanted >= len(there):
            return there
        # Keys of Efraimidis and Spirakis (2006): the largest log(u) / w are a draw without replacement by weights w.
        drawn = rng(self.seed, "participation", t, attempt).random(len(self._ids))
        weights = [float(self._samples[id_]) if own.sampling == "weighted" else 1.0 for id_ in self._ids]
        with np.errstate(divide="ignore"):
            keys = {id_: np.log(u) / w if w else -np.inf for id_, u, w in zip(self._ids, drawn, weights, strict=True)}
        chosen = set(sorted(there, key=lambda id_: keys[id_], reverse=True)[:wanted])
        return [id_ for id_ in there if id_ in chosen]

    def drops(self, t: int, attempt: int) -> dict[str, Drop]:
        """Return which devices would drop out of an attempt at round t, and when."""
        own = self._conditions.dropout
        if not own.total:
            return {}
        found: dict[str, Drop] = {}
        for id_, u in zip(self._ids, self._drawn("dropout", t, attempt), strict=True):
            if u < own.before:
                found[id_] = "before"
            elif u < own.before + own.during:
                found[id_] = "during"
            elif u < own.total:
                found[id_] = "after"
        return found

    def restarts(self, t: int, attempt: int) -> bool:
        """Say whether the server restarts in an attempt at round t, before it has merged what it has."""
        chance = self._conditions.faults.server_restart
        return chance > 0 and float(rng(self.seed, "server-restart", t, attempt).random()) < chance

    @property
    def faulty(self) -> tuple[str, ...]:
        """The devices whose uploads may be faulty."""
        return self._faulty

    def corrupts(self, id_: str, t: int) -> bool:
        """Say whether the upload of a device in round t is faulty."""
        if id_ not in self._faulty:
            return False
        drawn = self._drawn("byzantine-round", t)[self._ids.index(id_)]
        return bool(drawn < self._conditions.faults.probability)

    def _draw_faulty(self) -> tuple[str, ...]:
        own = self._conditions.faults
        if own.byzantine == "none" or own.devices:
            return own.devices
        chosen = rng(self.seed, "byzantine").permutation(len(self._ids))[: own.n_faulty(len(self._ids))]
        return tuple(self._ids[j] for j in sorted(chosen))

    def _drawn(self, stream: str, *path: int) -> Sequence[float]:
        drawn: list[float] = rng(self.seed, stream, *path).random(len(self._ids)).tolist()
        return drawn
