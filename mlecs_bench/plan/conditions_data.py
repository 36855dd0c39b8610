"""Conditions of the data: how samples go to devices, and what single samples of them have."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mlecs_bench.data.laws import ALPHA_LAWS, KIND_LAWS, LARGEST_ALPHA, MIN_SAMPLES, PUBLIC_SHARE, Dealing, Law
from mlecs_bench.data.partition import rates_of
from mlecs_bench.doors.hookspecs import Change
from mlecs_bench.doors.options import option
from mlecs_bench.errors import UsageError, check_choice
from mlecs_bench.plan.conditions_text import Written, pairs_of

NUMBERED: tuple[Law, ...] = (*ALPHA_LAWS, "shards")
"""The laws with a number."""
SHARES = (0.01, 0.99)
"""The least and the largest share of a part."""


@dataclass(frozen=True)
class Partitioning:
    """How samples go to devices, and how large the parts are.

    - iid: at random, the same number to each.
    - dirichlet: the samples of every label are shared out by a draw of Dir(number).
    - shards: `number` shards of samples in the order of their labels.
    - group: a device is one user, patient or camera: one value of the column `by`.
    - quantity: the numbers of samples are a draw of Dir(number).
    """

    demands: ClassVar[tuple[Change, ...]] = ()
    law: Law = option("iid", help="iid, dirichlet, shards, group or quantity", source="paper, section 4.1")
    number: float | None = option(
        None,
        help="alpha of dirichlet and quantity, shards of a device",
        source="arXiv 1905.12022 (dirichlet), arXiv 1602.05629 (shards), arXiv 2102.02079 (quantity)",
    )
    min_samples: int = option(
        MIN_SAMPLES, help="fewest samples of a device, testing ones included", source="ours: one to train, one to test"
    )
    test_share: float | None = option(
        None,
        help="share of a party's samples, or of its sequences, for testing; none: 0.1, in the sequence split 0.3",
        source="paper, section 4.1 (0.1); ours (0.3)",
    )
    public_share: float = option(PUBLIC_SHARE, help="share of all samples that is public", source="paper, section 4.1")
    by: str = option("group", help="the column whose values are the groups of the law group", source="ours")
    clusters: int = option(
        10, help="clusters of targets, in place of labels where there are none", source="arXiv 2104.08815"
    )

    def __post_init__(self) -> None:
        check_choice(self.law, Law, "partition")
        self._check_number()
        if self.min_samples < MIN_SAMPLES:
            raise ValueError(f"min_samples must be at least {MIN_SAMPLES}, got {self.min_samples}")
        for name in ("test_share", "public_share"):
            share = getattr(self, name)
            if share is not None and not SHARES[0] <= share <= SHARES[1]:
                raise ValueError(f"{name} must be from {SHARES[0]:g} to {SHARES[1]:g}, got {share:g}")
        if self.by != "group" and self.law != "group":
            raise ValueError(f"by={self.by} names the groups of the law group, got the law {self.law}")
        if self.clusters < 2:
            raise ValueError(f"clusters must be at least 2, got {self.clusters}")

    def _check_number(self) -> None:
        if self.law not in NUMBERED:
            if self.number is not None:
                raise ValueError(f"the law {self.law} takes no number, got {self.number:g}; leave it out")
        elif self.number is None:
            example = "shards:2" if self.law == "shards" else f"{self.law}:0.5"
            raise ValueError(f"the law {self.law} needs a number, such as {example}")
        elif self.law == "shards" and (self.number < 1 or self.number != int(self.number)):
            raise ValueError(
                f"shards of a device must be a whole number of at least 1, got {self.number:g}; "
                f"{max(1, math.floor(self.number))} would do"
            )
        elif self.law in ALPHA_LAWS and not 0 < self.number <= LARGEST_ALPHA:
            raise ValueError(
                f"alpha of {self.law} must be above 0 and at most {LARGEST_ALPHA:,.0f}, got {self.number:g}"
            )

    @classmethod
    def fields_of(cls, written: Written) -> Mapping[str, Any]:
        """Read ``dirichlet:0.3``, ``group:camera``, any of these with ``,min-samples=10``, or the fields themselves."""
        if isinstance(written, Mapping):
            return {str(name).replace("-", "_"): value for name, value in written.items()}
        parts = [part.strip() for part in str(written).split(",")]
        pairs = pairs_of(",".join(part for part in parts if "=" in part), "partition") if "=" in str(written) else {}
        found: dict[str, Any] = {name.replace("-", "_"): value for name, value in pairs.items()}
        laws = [part for part in parts if "=" not in part]
        if len(laws) > 1 or (laws and "law" in found):
            raise UsageError(f"partition names one law, such as dirichlet:0.3, got '{written}'")
        if laws:
            law, colon, number = laws[0].partition(":")
            found |= {"law": law} | ({"by" if law == "group" else "number": number} if colon else {})
        return found

    @property
    def dealing(self) -> Dealing:
        """The law and the shares, without what names groups and clusters."""
        return Dealing(self.law, self.number, self.min_samples, self.test_share, self.public_share)

    @property
    def looks_at_kinds(self) -> bool:
        """Does the law look at labels, or at clusters where there are none?"""
        return self.law in KIND_LAWS

    def words(self) -> str:
        """Return the law and what else is not as usual, such as "partition dirichlet 0.3, min samples 10"."""
        usual = type(self)()
        law = [self.law, *([] if self.number is None else [f"{self.number:g}"])]
        law += [f"by {self.by}"] if self.by != usual.by else []
        own = ("min_samples", "test_share", "public_share", "clusters")
        others = [name for name in own if getattr(self, name) != getattr(usual, name)]
        texts = [f"partition {' '.join(law)}"] if self.law != usual.law else []
        return ", ".join([*texts, *(f"{name.replace('_', ' ')} {getattr(self, name):g}" for name in others)])

    def check(self, n_devices: int, modalities: Sequence[str]) -> None:
        """Refuse nothing: how many devices there can be is known once the data are there."""

    def check_split(self, split: str) -> None:
        """Raise UsageError for groups of one sequence each: such a device has none to be tested on."""
        if self.law == "group" and self.by == "group" and split == "sequence":
            raise UsageError(
                "partition group gives a device one group, which the sequence split does not cut; use --split frame, "
                "or group:COLUMN with a column whose values have several sequences"
            )


@dataclass(frozen=True)
class SampleRates:
    """How often a sample of a device has a modality that the device holds.

    `rate` is that of all modalities, `rates` are those of some of them.
    """

    demands: ClassVar[tuple[Change, ...]] = ()
    rate: float = option(1.0, help="chance that a sample has a modality", source="ours: every sample is whole")
    rates: Mapping[str, float] = option({}, help="the chance by modality; all are named", source="ours")

    def __post_init__(self) -> None:
        for name, rate in [("rate", self.rate), *((f"rate of {name}", rate) for name, rate in self.rates.items())]:
            if not 0 < rate <= 1:
                raise ValueError(f"the {name} must be in (0, 1], got {rate:g}")
        if self.rates and self.rate != 1:
            raise ValueError("give one rate, or a rate for each modality")

    @classmethod
    def fields_of(cls, written: Written) -> Mapping[str, Any]:
        """Read ``0.8``, ``audio=0.5,vision=1``, a mapping of modalities to rates, or the fields themselves."""
        if isinstance(written, Mapping):
            is_fields = written.keys() <= {field.name for field in dataclasses.fields(cls)}
            return written if is_fields else {"rates": written}
        if "=" in str(written):
            return {"rates": pairs_of(str(written), "sample-rho")}
        return {"rate": written}

    @property
    def departs(self) -> bool:
        """May a sample lack a modality?"""
        return bool(self.rates) or self.rate < 1

    def by_modality(self, modalities: Sequence[str]) -> dict[str, float]:
        """Return the rate of every modality; raises UsageError where one is unknown or left out."""
        return rates_of(self.rates or self.rate, modalities, "sample-rho")

    def words(self) -> str:
        """Return the rates as tables name them."""
        rates = ",".join(f"{name}={rate:g}" for name, rate in sorted(self.rates.items()))
        return f"sample rho {rates or format(self.rate, 'g')}"

    def check(self, n_devices: int, modalities: Sequence[str]) -> None:
        """Raise UsageError for a modality that there is not, or one without a rate."""
        self.by_modality(modalities)
