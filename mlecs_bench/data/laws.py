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
from typing import TYPE_CHECKING, Any, Literal

from mlecs_bench.errors import UsageError
from mlecs_bench.seeds import rng

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Counts = NDArray[np.int64]

Law = Literal["iid", "dirichlet", "shards", "group", "quantity"]
"""How samples go to devices: alike, by label, by shards of sorted labels, a device per group, or in unlike numbers."""
KIND_LAWS: tuple[Law, ...] = ("dirichlet", "shards")
"""The laws that look at labels, or at what stands for them."""
ALPHA_LAWS: tuple[Law, ...] = ("dirichlet", "quantity")
"""The laws that draw shares with a concentration alpha."""
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
      replacement (McMahan et al., arXiv 1602.05629).
    - quantity: device j gets the share p_j of all units, p ~ Dir(alpha), whatever their kind (Li et al., arXiv
      2102.02079).

    The laws with alpha are drawn again while a device has too few samples. Rounding is that of Flower Datasets: shares
    are cut where their sums, rounded down, fall; of shards and equal parts the rest is dealt to nobody.
    """
    found = _dealt(units, n_devices, dealing, seed)
    if found is None:
        raise UsageError(f"{_reason(units, n_devices, dealing, seed)}; {_cure(units, n_devices, dealing, seed)}")
    return found


def _dealt(units: Units, n_devices: int, dealing: Dealing, seed: int) -> Dealt | None:
    """Return what `deal_units` does, None where a device would have too little."""
    if n_devices > _room(units, dealing):
        return None
    if dealing.law in ALPHA_LAWS:
        return _drawn(units, n_devices, dealing, seed)
    deal = _shards if dealing.law == "shards" else _even
    devices = deal(units, n_devices, dealing, seed)
    return Dealt(devices) if _enough(units, devices, dealing) else None


def _room(units: Units, dealing: Dealing) -> int:
    """Return the most devices for which there are units and samples, whatever the law."""
    return min(len(units) // units.least, units.n_rows(range(len(units))) // dealing.min_samples)


def _reason(units: Units, n_devices: int, dealing: Dealing, seed: int) -> str:
    if units.noun == "samples":
        have, needs = f"{len(units)} samples", f"{max(units.least, dealing.min_samples)} samples"
    else:
        n_rows = units.n_rows(range(len(units)))
        have = f"{len(units)} {units.noun} of {n_rows} samples"
        needs = f"{units.least} {units.noun} of {dealing.min_samples} samples"
    if n_devices > _room(units, dealing):
        return f"{have} are too few for {n_devices} devices of at least {needs} each"
    draws = f"all of {MAX_DRAWS} draws of seed {seed}" if dealing.law in ALPHA_LAWS else f"seed {seed}"
    return f"partition {dealing.written} leaves one of {n_devices} devices fewer than {needs} in {draws}"


def _cure(units: Units, n_devices: int, dealing: Dealing, seed: int) -> str:
    """Return a number that works: of the law, where there is room for so many devices, else of devices."""
    number, room = dealing.number or 1, _room(units, dealing)
    tried: list[tuple[int, float | None]] = []
    if n_devices <= room and dealing.law in ALPHA_LAWS:
        larger = (float(f"{number * 2**i:.3g}") for i in range(1, 40))
        tried += [(n_devices, alpha) for alpha in larger if alpha <= LARGEST_ALPHA]
    if n_devices <= room and dealing.law == "shards":
        tried += [(n_devices, float(n)) for n in range(min(int(number) - 1, len(units) // n_devices), 0, -1)]
    tried += [(min(room, n_devices) // 2**i, dealing.number) for i in range(32)]
    for n, own in tried:
        if n and _dealt(units, n, dataclasses.replace(dealing, number=own), seed) is not None:
            return f"{dealing.law}:{own:g} would do" if own != dealing.number else f"n-devices {n} would do"
    return "use more data, or another public-share"


def _even(units: Units, n_devices: int, _dealing: Dealing, _seed: int) -> tuple[tuple[int, ...], ...]:
    positions, size = range(len(units)), len(units) // n_devices
    return tuple(
        tuple(positions[j::n_devices] if units.by_stratum else positions[j * size : (j + 1) * size])
        for j in range(n_devices)
    )


def _shards(units: Units, n_devices: int, dealing: Dealing, seed: int) -> tuple[tuple[int, ...], ...]:
    """Return the positions of every device: some shards of units in the order of their kinds."""
    per_device = int(dealing.number or 1)
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
