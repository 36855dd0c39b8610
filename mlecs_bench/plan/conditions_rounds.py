"""Conditions of the rounds of a federation: who takes part in a round, who drops out of it, and what goes wrong."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mlecs_bench.doors.hookspecs import Change
from mlecs_bench.doors.options import default_text, option
from mlecs_bench.errors import UsageError, check_choice
from mlecs_bench.plan.conditions_text import headed, pairs_of
from mlecs_bench.plan.structure import canonical_devices, usual_id

Sampling = Literal["uniform", "weighted"]
"""How the devices of a round are drawn: each as likely as the other, or the more likely the more samples it has."""
TooFew = Literal["skip", "repeat"]
"""What becomes of a round in which too few devices report: it changes nothing on the server, or it is tried again."""
Corruption = Literal["none", "sign-flip", "noise", "nan", "stale", "repeated"]
"""What a faulty device sends: its upload with the sign turned, with noise, with NaN, the one of its round before, or
its upload twice."""
Refused = Literal["auto", "drop", "stop"]
"""What becomes of an upload that is not finite: it is left out, or ends the run."""
LAST = 2**31 - 1


@dataclass(frozen=True)
class Participation:
    """Who is asked to take part in a round.

    Either a `fraction` of all devices or a number of `devices`, drawn anew in every round and attempt. `away` keeps
    single devices out of rounds. A round in which fewer than `min_devices` report is skipped, or repeated up to
    `attempts` times in all and then skipped. Devices that are really lost end a run, unless `min_devices` is given.
    """

    demands: ClassVar[tuple[Change, ...]] = ("absence",)
    fraction: float | None = option(None, help="share of all devices that is asked in a round", source="ours")
    devices: int | None = option(None, help="number of devices that is asked in a round", source="ours")
    sampling: Sampling = option(
        "uniform", help="uniform, or weighted by training samples", source="McMahan et al. 2017 draw uniformly"
    )
    away: Mapping[str, str] = option(
        {}, help="rounds that single devices miss, such as 3- or 1,4-6, by device id", source="ours"
    )
    min_devices: int | None = option(None, help="least devices that have to report in a round", source="ours: 1")
    too_few: TooFew = option("skip", help="skip or repeat a round with fewer", source="ours")
    attempts: int = option(3, help="most attempts at a round that is repeated", source="ours")

    def __post_init__(self) -> None:
        check_choice(self.sampling, Sampling, "sampling")
        check_choice(self.too_few, TooFew, "too_few")
        if self.fraction is not None and self.devices is not None:
            raise ValueError("fraction and devices exclude each other; give one of them")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, got {self.fraction:g}")
        for name in ("devices", "min_devices", "attempts"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.attempts != 3 and self.too_few == "skip":
            raise ValueError("attempts are for rounds that are repeated; add too_few: repeat, or leave attempts out")
        if self.sampling == "weighted" and (self.fraction or 1) == 1 and self.devices is None:
            raise ValueError("sampling weighted needs fraction or devices: with all devices nothing is drawn")
        away = {usual_id(id_): ranges_text(rounds) for id_, rounds in self.away.items()}
        if len(away) < len(self.away):
            raise ValueError("away names a device twice")
        object.__setattr__(self, "away", dict(sorted(away.items())))
        if self.fraction == 1:  # the usual, in another spelling
            object.__setattr__(self, "fraction", None)

    @classmethod
    def fields_of(cls, written: Any) -> Mapping[str, Any]:
        """Read a share such as 0.5 (1.0 is all devices), a whole number of devices, or the fields themselves."""
        if isinstance(written, Mapping):
            away = written.get("away")
            rounds = {id_: str(t) for id_, t in away.items()} if isinstance(away, Mapping) else away
            return {**written, "away": rounds} if away else written
        head, pairs = headed(str(written), "participation")
        if not head:
            return pairs
        if head.lstrip("-").isdecimal() and int(head) < 1:
            raise UsageError(f"participation {head} asks nobody; give a share such as 0.5, or at least 1 device")
        return {"devices" if head.isdecimal() else "fraction": head, **pairs}

    def words(self) -> str:
        """Return what is not as usual in words."""
        if self.devices is None:
            asked = [] if self.fraction is None else [f"{self.fraction:g}"]
        else:
            asked = [f"{self.devices} a round"]
        return " ".join(["participation", *asked, *other_fields(self, ("fraction", "devices"))])

    def per_round(self, n_devices: int) -> int:
        """Return how many of so many devices are asked in a round; halves are rounded up."""
        if self.devices is not None:
            return self.devices
        return n_devices if self.fraction is None else math.floor(self.fraction * n_devices + 0.5)

    def check(self, n_devices: int, modalities: Sequence[str]) -> None:
        """Raise UsageError for a round that nobody, or not enough devices, could take part in."""
        asked = self.per_round(n_devices)
        if asked == 0:
            least = math.ceil(100 * 0.5 / n_devices) / 100
            raise UsageError(
                f"participation {self.fraction:g} of {n_devices} devices is none; give at least {least:g}, or more "
                "devices (see n-devices)"
            )
        if asked > n_devices:
            raise UsageError(f"participation asks {asked} devices a round of {n_devices}; give at most {n_devices}")
        most = asked if self.too_few == "skip" else min(n_devices, asked * self.attempts)
        if self.min_devices is not None and self.min_devices > most:
            raise UsageError(
                f"participation: min_devices is {self.min_devices}, and at most {most} of {n_devices} devices can "
                f"report in a round; give at most {most}"
            )
        canonical_devices(self.away, n_devices, "participation.away")

    def is_away(self, id_: str, t: int) -> bool:
        """Say whether a device misses round t."""
        return id_ in self.away and any(first <= t <= last for first, last in ranges(self.away[id_]))


def ranges(text: str) -> list[tuple[int, int]]:
    """Return the ranges of ``1,4-6,9-``; raises ValueError for anything else."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(-(\d*))?", part.strip())
        first = int(match[1]) if match else 0
        last = first if match is None or match[2] is None else int(match[3] or LAST)
        if first < 1 or last < first:
            raise ValueError(f"rounds are written 3, 4-6 or 9-, with commas between them, got '{text}'")
        found.append((first, last))
    return found


def ranges_text(text: str) -> str:
    """Return rounds in their usual spelling."""
    parts = sorted(ranges(text))
    return ",".join(f"{a}" if a == b else f"{a}-{'' if b == LAST else b}" for a, b in parts)


@dataclass(frozen=True)
class Dropout:
    """How likely an asked device drops out of a round.

    - before: nothing reached it.
    - during: it got the message and lost its work; its state is as before the round.
    - after: it has done its round and keeps its state, but its upload is lost.

    Bonawitz et al. 2019 (Towards Federated Learning at Scale, section 9) see 6 to 10 % of devices drop out.
    """

    demands: ClassVar[tuple[Change, ...]] = ("absence",)
    before: float = option(0.0, help="probability that nothing reaches a device", source="ours")
    during: float = option(0.0, help="probability that a device loses its work", source="ours")
    after: float = option(0.0, help="probability that a device's upload is lost", source="ours")

    def __post_init__(self) -> None:
        for name in ("before", "during", "after"):
            _check_probability(name, getattr(self, name))
        if self.total >= 1:
            raise ValueError(f"with {self.total:g} in all no device ever reports; give less than 1")

    @property
    def total(self) -> float:
        """The probability of any of the three."""
        return self.before + self.during + self.after

    @classmethod
    def fields_of(cls, written: Any) -> Mapping[str, Any]:
        """Read a probability, which is that of losing the work, or the fields themselves."""
        if isinstance(written, Mapping):
            return written
        head, pairs = headed(str(written), "dropout")
        return {**pairs, **({"during": head} if head else {})}

    def words(self) -> str:
        """Return the probabilities in words."""
        if self.total == self.during:
            return f"dropout {self.during:g}"
        return " ".join(["dropout", *other_fields(self, ())])

    def check(self, n_devices: int, modalities: Sequence[str]) -> None:
        """Nothing here depends on the devices."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong with uploads and with the server.

    `byzantine` says what the faulty devices send: those that `devices` names, or `count` or a `share` of all, drawn
    once. Each of their uploads is faulty with `probability`. `noise` is the standard deviation of what is added, over
    the root mean square of the tensor. With `server_restart` the server loses the uploads that it has, and goes on from
    what it saved before it asked for them. An upload that is not finite is `refused`: auto leaves it out where a fault
    is asked for and ends the run otherwise.
    """

    demands: ClassVar[tuple[Change, ...]] = ("absence",)
    byzantine: Corruption = option(
        "none", help="none, sign-flip, noise, nan, stale or repeated", source="Blanchard et al. 2017; Li et al. 2019"
    )
    devices: tuple[str, ...] = option((), help="the faulty devices by id", source="ours")
    count: int | None = option(None, help="how many devices are faulty", source="ours")
    share: float | None = option(None, help="which share of the devices is faulty", source="ours")
    probability: float = option(1.0, help="how likely an upload of a faulty device is faulty", source="ours")
    noise: float = option(1.0, help="standard deviation of the noise, in root mean squares of a tensor", source="ours")
    server_restart: float = option(0.0, help="probability that the server restarts in an attempt", source="ours")
    refused: Refused = option("auto", help="what becomes of uploads that are not finite", source="ours")

    def __post_init__(self) -> None:
        check_choice(self.byzantine, Corruption, "byzantine")
        check_choice(self.refused, Refused, "refused")
        for name in ("probability", "server_restart"):
            _check_probability(name, getattr(self, name))
        if self.server_restart == 1:
            raise ValueError("with server_restart 1 no upload is ever merged; give less")
        if not 0 < self.noise < math.inf:
            raise ValueError(f"noise must be above 0, got {self.noise:g}")
        named = [name for name in ("devices", "count", "share") if getattr(self, name) not in ((), None)]
        if (self.byzantine == "none") == bool(named) or len(named) > 1:
            raise ValueError("byzantine needs one of devices, count and share, and they need a kind of byzantine")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share:g}")
        object.__setattr__(self, "devices", tuple(sorted({usual_id(id_) for id_ in self.devices})))

    @classmethod
    def fields_of(cls, written: Any) -> Mapping[str, Any]:
        """Read the fields; raises UsageError for anything else."""
        return written if isinstance(written, Mapping) else pairs_of(str(written), "faults")

    def words(self) -> str:
        """Return what goes wrong in words."""
        kind = [] if self.byzantine == "none" else [self.byzantine]
        return " ".join(["faults", *kind, *other_fields(self, ("byzantine",))])

    def n_faulty(self, n_devices: int) -> int:
        """Return how many of so many devices are faulty, where that is drawn."""
        return self.count or math.floor((self.share or 0) * n_devices + 0.5)

    def check(self, n_devices: int, modalities: Sequence[str]) -> None:
        """Raise UsageError for faulty devices that there are not, or a share that is none."""
        canonical_devices(dict.fromkeys(self.devices), n_devices, "faults.devices")
        if self.byzantine != "none" and not self.devices and not 1 <= self.n_faulty(n_devices) <= n_devices:
            raise UsageError(
                f"faults makes {self.n_faulty(n_devices)} of {n_devices} devices faulty; give a count from 1 to "
                f"{n_devices}"
            )

    @property
    def drops_refused(self) -> bool:
        """Is an upload that is not finite left out, instead of ending the run?"""
        return self.refused == "drop" or (self.refused == "auto" and self != Faults())


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a probability and must be from 0 to 1, got {value:g}")


def other_fields(condition: Any, told: Sequence[str]) -> list[str]:
    """Return ``name value`` for the fields that are not the usual and not `told` otherwise."""
    found = []
    for field in dataclasses.fields(condition):
        value = getattr(condition, field.name)
        usual = field.default if field.default is not dataclasses.MISSING else {}
        if field.name not in told and value != usual:
            pairs = [f"{k}:{v}" for k, v in value.items()] if isinstance(value, Mapping) else [default_text(value)]
            found.append(f"{field.name.replace('_', '-')} {' '.join(pairs)}")
    return found
