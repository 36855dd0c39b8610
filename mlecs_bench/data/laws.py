"""Laws by which samples go to devices: how unlike their labels and their sizes are.

What is dealt are units, a sample or a whole sequence each, in the random order of a seed. Every unit goes to one device
or to none.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from mlecs_bench.errors import UsageError
from mlecs_bench.seeds import rng

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Counts = NDArray[np.int64]

Law = Literal["iid", "dirichlet", "shards", "group", "quantity"]
"""How samples go to devices: alike, by label, by shards of sorted labels, a device per group, or in unlike numbers."""
LAWS: tuple[Law, ...] = get_args(Law)
KIND_LAWS: tuple[Law, ...] = ("dirichlet", "shards")
"""The laws that look at labels, or at what stands for them."""
PUBLIC_SHARE = 0.25
"""Share of all samples that are public (paper, section 4.1)."""
MIN_SAMPLES = 2
"""The fewest samples of a device: one to train and one to test on."""
LARGEST_ALPHA = 1e6
"""Beyond it a Dirichlet draw cannot be told from equal shares."""
MAX_DRAWS = 1_000
"""Draws after which a law that leaves a device too little is refused."""
TINY = 1e-9
"""Shares of whole numbers are off by less, so that 0.29 of 100 are 29."""


@dataclass(frozen=True)
class Dealing:
    """How samples go to devices: by which law, and how large the parts are.

    `number` is alpha of the laws dirichlet and quantity, and the shards of a device. A device has at least
    `min_samples` samples, testing ones included. `test_share` is the share of a party's samples (in the sequence split
    of its sequences) that are for testing, None for that of the split; `public_share` the share of all that is public.
    """

    law: Law = "iid"
    number: float | None = None
    min_samples: int = MIN_SAMPLES
    test_share: float | None = None
    public_share: float = PUBLIC_SHARE

    @property
    def written(self) -> str:
        """The law as it is written on the command line."""
        return self.law if self.number is None else f"{self.law}:{self.number:g}"


@dataclass(frozen=True)
class Units:
    """What is dealt, in random order: the rows of every unit, and its kind, a label or what stands for one.

    A device needs `least` units, so that it can train on one and be tested on another; `noun` is what they are. Units
    in the order of their strata (`by_stratum`) go round the devices in turn where all get the same.
    """

    rows: Sequence[Sequence[int]]
    kinds: Sequence[str]
    least: int
    noun: str = "samples"
    by_stratum: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def n_rows(self, positions: Sequence[int]) -> int:
        """Return how many samples the units at some positions hold."""
        return sum(len(self.rows[position]) for position in positions)


@dataclass(frozen=True)
class Dealt:
    """The positions of every device's units, in their order, and how many draws left a device too little."""

    devices: tuple[tuple[int, ...], ...]
    redraws: int = 0


def floor_share(share: float, n: int) -> int:
    """Return a share of n rounded down, of which floating point takes nothing away."""
    return math.floor(share * n + TINY)


def ceil_share(share: float, n: int) -> int:
    """Return a share of n rounded up, to which floating point adds nothing."""
    return math.ceil(share * n - TINY)


def deal_units(units: Units, n_devices: int, dealing: Dealing, seed: int) -> Dealt:
    """Deal units by a law other than group; raises UsageError, with a number that works, for what cannot be.

    - iid: every device gets the same number.
    - dirichlet: of every kind device j gets the share p_j, p ~ Dir(alpha), drawn anew for each kind (Yurochkin et al.,
      arXiv 1905.12022); no device is left out for having much already.
    - shards: units sorted by kind are cut into shards of one size, of which every device gets `number`, drawn without
      replacement (McMahan et al., arXiv 1602.05629, section 3).
    - quantity: device j gets the share p_j of all units, p ~ Dir(alpha), whatever their kind (Li et al., arXiv
      2102.02079, section 4).

    The laws with alpha are drawn again while a device has too few samples. Rounding is that of Flower Datasets: shares
    are cut where their sums, rounded down, fall; of shards and equal parts the rest is dealt to nobody.
    """
    _check_room(units, n_devices, dealing)
    if dealing.law == "iid":
        return _even(units, n_devices, dealing)
    if dealing.law == "shards":
        return _shards(units, n_devices, dealing, seed)
    found = _drawn(units, n_devices, dealing, seed)
    if found is None:
        raise UsageError(_never(units, n_devices, dealing, seed))
    return found


def _check_room(units: Units, n_devices: int, dealing: Dealing) -> None:
    """Raise UsageError where there are too few units or samples for so many devices under any law."""
    n_rows = units.n_rows(range(len(units)))
    most = min(len(units) // units.least, n_rows // dealing.min_samples)
    if n_devices > most:
        have = f"{len(units)} {units.noun}" + (f" of {n_rows} samples" if units.noun != "samples" else "")
        raise UsageError(
            f"{have} are too few for {n_devices} devices of at least {units.least} {units.noun} and min-samples "
            f"{dealing.min_samples} each; use {_at_most(most)} or more data"
        )


def _at_most(n_devices: int) -> str:
    return f"n-devices {n_devices} at most" if n_devices else "another public-share"


def _even(units: Units, n_devices: int, dealing: Dealing) -> Dealt:
    size = len(units) // n_devices
    positions = range(len(units))
    owned = (
        positions[j::n_devices] if units.by_stratum else positions[j * size : (j + 1) * size] for j in range(n_devices)
    )
    devices = tuple(map(tuple, owned))
    if not _enough(units, devices, dealing):
        fewest = min(map(units.n_rows, devices))
        raise UsageError(
            f"one of {n_devices} devices has {fewest} samples, fewer than min-samples {dealing.min_samples}; use fewer "
            f"devices, or min-samples {fewest} at most"
        )
    return Dealt(devices)


def _shards(units: Units, n_devices: int, dealing: Dealing, seed: int) -> Dealt:
    per_device = int(dealing.number or 1)
    size = len(units) // (n_devices * per_device)
    if not size:
        raise UsageError(
            f"{len(units)} {units.noun} cannot be cut into {n_devices * per_device} shards for {n_devices} devices; "
            f"use shards:{len(units) // n_devices} at most"
        )
    devices = _drawn_shards(units, n_devices, per_device, seed)
    if not _enough(units, devices, dealing):
        fits = (
            n for n in range(n_devices, 0, -1) if _enough(units, _drawn_shards(units, n, per_device, seed), dealing)
        )
        raise UsageError(
            f"partition {dealing.written} leaves one of {n_devices} devices fewer than {units.least} {units.noun} or "
            f"min-samples {dealing.min_samples} with seed {seed}; n-devices {next(fits, 1)} would do"
        )
    return Dealt(devices)


def _drawn_shards(units: Units, n_devices: int, per_device: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Return the positions of every device: some shards of units in the order of their kinds."""
    size = len(units) // (n_devices * per_device)
    order = sorted(range(len(units)), key=lambda position: units.kinds[position])
    shards = [int(i) for i in rng(seed, "partition", "law").permutation(n_devices * per_device)]
    owned = (shards[j * per_device : (j + 1) * per_device] for j in range(n_devices))
    return tuple(tuple(sorted(p for shard in own for p in order[shard * size : (shard + 1) * size])) for own in owned)


def _enough(units: Units, devices: Sequence[Sequence[int]], dealing: Dealing) -> bool:
    """Has every device the units and samples that it needs?"""
    return all(len(own) >= units.least and units.n_rows(own) >= dealing.min_samples for own in devices)


def _drawn(units: Units, n_devices: int, dealing: Dealing, seed: int) -> Dealt | None:
    """Return the first draw that leaves every device enough, None where `MAX_DRAWS` do not."""
    kinds = [""] * len(units) if dealing.law == "quantity" else units.kinds
    by_kind = [[i for i, own in enumerate(kinds) if own == kind] for kind in sorted(set(kinds))]
    sizes = [len(positions) for positions in by_kind]
    stream = rng(seed, "partition", "law")
    for draw in range(MAX_DRAWS):
        counts = _cut_by_shares(stream.dirichlet([float(dealing.number or 1)] * n_devices, size=len(sizes)), sizes)
        if counts.sum(axis=0).min() < units.least:
            continue  # most draws that fail do here, before any unit is looked at
        devices = tuple(_taken(by_kind, counts, j) for j in range(n_devices))
        if _enough(units, devices, dealing):
            return Dealt(devices, draw)
    return None


def _cut_by_shares(shares: NDArray[Any], sizes: Sequence[int]) -> Counts:
    """Return how many of `sizes` (kinds,) go to each device by its shares (kinds, devices): all, and none twice."""
    import numpy as np

    ends = np.floor(np.cumsum(shares, axis=1) * np.asarray(sizes)[:, None]).astype(np.int64)
    ends = np.minimum(ends, np.asarray(sizes)[:, None])
    ends[:, -1] = sizes
    counts: Counts = np.diff(ends, axis=1, prepend=0)
    return counts


def _taken(by_kind: Sequence[Sequence[int]], counts: Counts, j: int) -> tuple[int, ...]:
    """Return the positions that device j takes from every kind, behind those of the devices before it."""
    starts, ends = counts[:, :j].sum(axis=1), counts[:, : j + 1].sum(axis=1)
    slices = [positions[a:b] for positions, a, b in zip(by_kind, starts, ends, strict=True)]
    return tuple(sorted(itertools.chain.from_iterable(slices)))


def _never(units: Units, n_devices: int, dealing: Dealing, seed: int) -> str:
    """Return that no draw left every device enough, with an alpha, or else a number of devices, that does."""
    alpha = float(dealing.number or 1)
    larger = (float(f"{alpha * 2**i:.3g}") for i in range(1, 40))
    tried = [(n_devices, a) for a in larger if a <= LARGEST_ALPHA]
    tried += [(n_devices // 2**i, alpha) for i in range(1, 20) if n_devices // 2**i]
    works = next(
        ((n, a) for n, a in tried if _drawn(units, n, dataclasses.replace(dealing, number=a), seed) is not None),
        (1, alpha),
    )
    cure = f"{dealing.law}:{works[1]:g}" if works[0] == n_devices else f"n-devices {works[0]}"
    return (
        f"partition {dealing.written} leaves one of {n_devices} devices fewer than {units.least} {units.noun} or "
        f"min-samples {dealing.min_samples} in all of {MAX_DRAWS} draws of seed {seed}; {cure} would do"
    )
