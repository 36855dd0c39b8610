"""Conditions of a federation: who holds what, who takes part, what fails. They belong to a run, not to an algorithm.

Each is a frozen dataclass of options. A user writes one as a text (``exact``), as ``name=value`` pairs with commas, or
in a file as a mapping; a spec keeps what departs from the usual, so that equal conditions are equal however they are
written. With all of them as usual a run is what it would be without them, to the last bit.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from mlecs_bench.doors.hookspecs import Change
from mlecs_bench.doors.options import build_options, option, plain
from mlecs_bench.errors import UsageError, check_choice
from mlecs_bench.plan.conditions_compression import Compression
from mlecs_bench.plan.conditions_data import Partitioning, SampleRates
from mlecs_bench.plan.conditions_network import Network
from mlecs_bench.plan.conditions_rounds import Dropout, Faults, Participation
from mlecs_bench.plan.conditions_schedule import Scheduled
from mlecs_bench.plan.conditions_text import Written, by_device, check_known, modality_list, pairs_of
from mlecs_bench.plan.structure import canonical_devices

HoldingLaw = Literal["bernoulli", "exact", "given"]
"""How modalities are dealt: a draw for each device, as many as the rate says, or as the user says."""


class Condition(Protocol):
    """One condition. All its fields have defaults, which are the usual; it refuses what cannot be with ValueError."""

    demands: ClassVar[tuple[Change, ...]]
    """What an algorithm has to cope with where the condition is not the usual."""

    @classmethod
    def fields_of(cls, written: Written) -> Mapping[str, Any]:
        """Return the fields that a user has written, not checked yet; raises UsageError."""
        ...

    def words(self) -> str:
        """Return the condition as tables name it, such as "exact rates"."""
        ...

    def check(self, n_devices: int, modalities: Sequence[str]) -> None:
        """Raise UsageError for what cannot be in a federation of this size with these modalities."""
        ...


ConditionT = TypeVar("ConditionT", bound=Condition)


@dataclass(frozen=True)
class Holding:
    """Which modalities the devices hold.

    - bernoulli: each device holds each modality with its rate (paper, section 4.1); what is realised may be far off.
    - exact: as many (device, modality) pairs are held as the rates say, which ones is drawn.
    - given: as `devices` says; a device that it leaves out holds all.
    """

    demands: ClassVar[tuple[Change, ...]] = ()
    law: HoldingLaw = option("bernoulli", help="bernoulli, exact or given", source="paper, section 4.1")
    devices: Mapping[str, tuple[str, ...]] = option(
        {}, help="modalities by device id, for the law given", source="ours"
    )

    def __post_init__(self) -> None:
        check_choice(self.law, HoldingLaw, "modalities")
        if (self.law == "given") != bool(self.devices):
            raise ValueError("modalities of single devices are given by the law given and by no other")

    @classmethod
    def fields_of(cls, written: Written) -> Mapping[str, Any]:
        """Read ``exact``, ``d00=rgb+depth,d01=acce``, a mapping of devices to modalities, or the fields themselves."""
        if isinstance(written, Mapping):
            is_fields = written.keys() <= {field.name for field in dataclasses.fields(cls)}
            return written if is_fields else {"law": "given", "devices": _listed(written)}
        if "=" not in str(written):
            return {"law": written}
        return {"law": "given", "devices": _listed(pairs_of(str(written), "modalities"))}

    def words(self) -> str:
        """Return how modalities are dealt; those given are named, so that two tables can be told apart."""
        if self.law != "given":
            return "exact rates"
        return "modalities " + " ".join(f"{id_}={'+'.join(held) or 'none'}" for id_, held in self.devices.items())

    def check(self, n_devices: int, modalities: Sequence[str]) -> None:
        """Raise UsageError for a device or a modality that there is not."""
        for id_, held in canonical_devices(self.devices, n_devices, "modalities").items():
            check_known(held, modalities, f"modalities gives {id_}")


def _listed(written: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the modalities of devices from ``rgb+depth`` or lists."""
    return by_device({id_: modality_list(held, f"modalities of {id_}") for id_, held in written.items()}, "modalities")


@dataclass(frozen=True)
class Conditions:
    """All conditions of a run, by the names of its settings."""

    modalities: Holding = field(default_factory=Holding)
    partition: Partitioning = field(default_factory=Partitioning)
    sample_rho: SampleRates = field(default_factory=SampleRates)
    participation: Participation = field(default_factory=Participation)
    dropout: Dropout = field(default_factory=Dropout)
    faults: Faults = field(default_factory=Faults)
    network: Network = field(default_factory=Network)
    schedule: Scheduled = field(default_factory=Scheduled)
    compression: Compression = field(default_factory=Compression)

    def departures(self) -> dict[str, dict[str, Any]]:
        """Return, as JSON values, the fields of every condition that are not the usual; without those of none."""
        found = {field.name: departing(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {name: fields for name, fields in found.items() if fields}

    def words(self) -> list[str]:
        """Return in words what is not as usual."""
        return [str(getattr(self, name).words()) for name in self.departures()]

    def check(self, n_devices: int, modalities: Sequence[str], copes: Sequence[Change], algorithm: str) -> None:
        """Raise UsageError for conditions that cannot be, or that the algorithm does not say it copes with."""
        for name in self.departures():
            condition = getattr(self, name)
            condition.check(n_devices, modalities)
            lacking = [change for change in condition.demands if change not in copes]
            if lacking:
                raise UsageError(
                    f"algorithm '{algorithm}' does not say that it copes with {COPES[lacking[0]]}, which "
                    f"{name.replace('_', '-')} brings; leave that out, or let its needs say copes=('{lacking[0]}',)"
                )


COPES: Mapping[Change, str] = {
    "absence": "devices that stay away",
    "drift": "modalities that come and go",
}
"""What an algorithm may have to cope with, in words."""
TYPES: Mapping[str, type[Any]] = typing.get_type_hints(Conditions)
"""The conditions by the names of their settings."""


def condition(name: str, written: Any) -> Any:
    """Return the condition that a user has written, None for the usual; raises UsageError."""
    type_ = TYPES[name]
    if written is None:
        return type_()
    if isinstance(written, bool) or not isinstance(written, str | int | float | Mapping):
        raise UsageError(f"{name.replace('_', '-')} must be a text, a number or a mapping, got {written!r}")
    fields = {str(field).replace("-", "_"): value for field, value in type_.fields_of(written).items()}
    return build_options(type_, fields, name.replace("_", "-"))


def departing(condition: Any) -> dict[str, Any]:
    """Return the fields of a condition that are not the usual, as JSON values; `condition` reads them back."""
    usual = plain(type(condition)())
    return {name: value for name, value in plain(condition).items() if value != usual[name]}
