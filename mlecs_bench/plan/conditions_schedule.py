"""The condition `schedule`: modalities of devices that come and go from round to round."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mlecs_bench.doors.hookspecs import Change
from mlecs_bench.doors.options import option
from mlecs_bench.errors import UsageError, check_choice
from mlecs_bench.plan.conditions_text import Written, by_device, check_known, modality_list, pairs_of
from mlecs_bench.plan.structure import canonical_devices

ScheduleLaw = Literal["static", "markov", "duty", "given"]
"""How modalities come and go: never, by failures and repairs, in turn, or as the user says."""
MARKOV_SOURCE = (
    "one probability each way, as FLGo simulates whether a client is there; here for each modality of a device, which "
    "IoT devices lose during federated learning (arXiv 2505.16138)"
)
DUTY_SOURCE = "availability in cycles, as of clients in arXiv 2302.03109; here for each modality of a device"
FUTURE_WORK = "paper, conclusion: time-varying modality availability is its future work"
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "static": (),
    "markov": ("fail", "repair"),
    "duty": ("on", "off"),
    "given": ("devices",),
}
"""What each law needs, and all others refuse."""


@dataclass(frozen=True)
class Scheduled:
    """How the modalities of devices come and go over rounds, from what the masks deal in round 1.

    - static: never.
    - markov: each modality of a device fails with probability `fail` from one round to the next, and comes back with
      probability `repair`; in round 1 all are there.
    - duty: each modality of a device is there for `on` rounds and away for `off`, from a place in that cycle drawn.
    - given: as `devices` says: device to round to the modalities that it holds from that round on.
    """

    demands: ClassVar[tuple[Change, ...]] = ("drift",)
    law: ScheduleLaw = option("static", help="static, markov, duty or given", source="paper: devices never change")
    fail: float = option(0.0, help="markov: probability that a modality fails, per round", source=MARKOV_SOURCE)
    repair: float = option(0.0, help="markov: probability that it comes back, per round", source=MARKOV_SOURCE)
    on: int = option(0, help="duty: rounds that a modality is there", source=DUTY_SOURCE)
    off: int = option(0, help="duty: rounds that it is away", source=DUTY_SOURCE)
    devices: Mapping[str, Mapping[str, tuple[str, ...]]] = option(
        {}, help="given: modalities by device id and by the round from which they are held", source=FUTURE_WORK
    )

    def __post_init__(self) -> None:
        check_choice(self.law, ScheduleLaw, "schedule")
        needed, usual = PARAMETERS[self.law], {field.name: field.default for field in dataclasses.fields(self)}
        for name in ("fail", "repair", "on", "off"):
            if name not in needed and getattr(self, name) != usual[name]:
                raise ValueError(f"{name} is no parameter of the law {self.law}; leave it out")
        if ("devices" in needed) != bool(self.devices):
            raise ValueError("devices and rounds are given by the law given and by no other")
        for name in ("fail", "repair"):
            if name in needed and not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}; such as fail=0.2,repair=0.5")
        for name in ("on", "off"):
            if name in needed and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 round, got {getattr(self, name)}; such as on=3,off=1")

    @classmethod
    def fields_of(cls, written: Written) -> Mapping[str, Any]:
        """Read ``static``, ``markov:fail=0.2,repair=0.5``, ``duty:on=3,off=1``, the fields, or a mapping of devices.

        That maps devices to rounds, and these to modalities: ``{d01: {3: [rgb], 5: [rgb, depth]}}``.
        """
        if isinstance(written, Mapping):
            names = {field.name for field in dataclasses.fields(cls)}
            if not written.keys() <= names:
                return {"law": "given", "devices": _told(written)}
            return {**written, "devices": _told(written["devices"])} if "devices" in written else written
        law, colon, text = str(written).partition(":")
        if not colon or law.strip() not in PARAMETERS:
            return {"law": law.strip()}  # whoever reads it says which laws there are
        if not all(pair.partition("=")[2] for pair in text.split(",")):
            raise UsageError(f"schedule is written markov:fail=0.2,repair=0.5 or duty:on=3,off=1, got '{written}'")
        return {"law": law.strip(), **pairs_of(text, "schedule")}

    def words(self) -> str:
        """Return how modalities come and go; what is told is named, so that two tables can be told apart."""
        if self.law == "markov":
            return f"modalities fail {self.fail:g} repair {self.repair:g}"
        if self.law == "duty":
            return f"modalities {self.on} rounds on {self.off} off"
        told = [(id_, t, "+".join(held)) for id_, rounds in self.devices.items() for t, held in rounds.items()]
        return "modalities " + " ".join(f"{id_}@{t}={held or 'none'}" for id_, t, held in told)

    def check(self, n_devices: int, modalities: Sequence[str]) -> None:
        """Raise UsageError for a device or a modality that there is not, and where all devices are left with none."""
        told = canonical_devices(self.devices, n_devices, "schedule")
        for id_, rounds in told.items():
            for t, held in rounds.items():
                check_known(held, modalities, f"schedule gives {id_} in round {t}")
        for t in sorted({int(t) for rounds in told.values() for t in rounds}):
            if len(told) == n_devices and not any(_from(rounds, t, modalities) for rounds in told.values()):
                raise UsageError(f"schedule leaves all devices without modalities in round {t}; leave one somewhere")

    def check_rounds(self, rounds: int, min_modalities: int) -> None:
        """Raise UsageError for a round that there is not, and for a device left with fewer modalities than allowed."""
        for id_, told in self.devices.items():
            for t, held in told.items():
                if int(t) > rounds:
                    raise UsageError(f"schedule names round {t} for {id_}, and the run has {rounds}; see rounds")
                if len(held) < min_modalities:
                    raise UsageError(
                        f"schedule leaves {id_} without modalities in round {t}; leave it one, or give min-modalities 0"
                    )


def _from(rounds: Mapping[str, tuple[str, ...]], t: int, before: Sequence[str]) -> Sequence[str]:
    """Return what a device holds in round t by what it is told; `before` if that is nothing yet."""
    latest = max((int(start) for start in rounds if int(start) <= t), default=None)
    return before if latest is None else rounds[str(latest)]


def _told(written: Any) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return modalities by device and round as a user gives them; raises UsageError for anything else."""
    if not isinstance(written, Mapping):
        raise UsageError(f"schedule must map devices to rounds, such as {{d01: {{3: [rgb]}}}}, got {written!r}")
    return {id_: _told_rounds(id_, rounds) for id_, rounds in by_device(written, "schedule").items()}


def _told_rounds(id_: str, written: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(written, Mapping) or not written:
        raise UsageError(f"schedule of {id_} must map rounds to modalities, such as {{3: [rgb]}}, got {written!r}")
    found: dict[int, tuple[str, ...]] = {}
    for name, held in written.items():
        text = str(name)
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= 1) or int(text) in found:
            raise UsageError(f"schedule of {id_} must name rounds 1, 2, ... each once, got '{name}'")
        found[int(text)] = modality_list(held, f"schedule of {id_} in round {text}")
    return {str(t): found[t] for t in sorted(found)}
