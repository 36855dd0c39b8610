"""Who holds what: the cut of the samples over public part and devices, and the draw of modality masks.

Both are pure functions of (data, seed, rate, N): nothing is stored on disk, and no algorithm can influence them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlecs_bench.data.groups import split_groups
from mlecs_bench.data.laws import KIND_LAWS, PUBLIC_SHARE, Dealing, Units, deal_units, floor_share
from mlecs_bench.data.parts import (
    TEST_SHARES,
    Columns,
    Part,
    Partition,
    Sequences,
    check_public,
    cut_rows,
    fewest_units,
    test_share_of,
)
from mlecs_bench.errors import DataError, UsageError
from mlecs_bench.seeds import rng

if TYPE_CHECKING:
    import numpy as np

__all__ = (
    "Columns",
    "Masks",
    "Part",
    "Partition",
    "deal",
    "draw_exact_masks",
    "draw_masks",
    "given_masks",
    "limit_tests",
    "limited",
    "partition",
    "rates_of",
    "split_frames",
    "split_sequences",
)
USUAL = Dealing()
"""The paper's dealing (section 4.1)."""
MAX_REDRAWS = 100_000
EXACT_DRAWS = 1_000
"""Draws of exact masks after which devices that hold too little take over from others."""


@dataclass(frozen=True)
class Masks:
    """The modalities of every device, how many rows were drawn again because they were empty, and the realised rate."""

    devices: tuple[tuple[str, ...], ...]
    redraws: int
    rate: float


def split_frames(n: int, n_devices: int, seed: int, dealing: Dealing = USUAL, kinds: Sequence[str] = ()) -> Partition:
    """Cut n samples at random: a share is public, the rest goes to devices by a law, and most of each is for training.

    As usual n // 4 are public, the same number times three are spread evenly, and 90 % of each part, rounded down, are
    for training. `kinds` are labels, for the laws that look at them. Raises UsageError when a party would have no
    sample to train or test on, or too few, and for a law that cannot be.
    """
    order = [int(i) for i in rng(seed, "partition").permutation(n)]
    n_public = floor_share(dealing.public_share, n)
    n_private = 3 * n_public if dealing.public_share == PUBLIC_SHARE else n - n_public
    pool = order[n_public : n_public + n_private]
    if dealing == USUAL:  # what is too little is said of the whole, below
        size = n_private // n_devices
        owned, redraws = [pool[j * size : (j + 1) * size] for j in range(n_devices)], 0
    else:
        check_public([n], dealing, "frame", "samples")
        own_kinds = [kinds[row] for row in pool] if dealing.law in KIND_LAWS else []
        units = Units([(row,) for row in pool], own_kinds, fewest_units(dealing, "frame"))
        dealt = deal_units(units, n_devices, dealing, seed)
        owned, redraws = [[pool[i] for i in own] for own in dealt.devices], dealt.redraws
    parts = [cut_rows(rows, test_share_of(dealing, "frame")) for rows in (order[:n_public], *owned)]
    if not all(part.train and part.test for part in parts):
        most = n_private // fewest_units(dealing, "frame") if parts[0].train and parts[0].test else 0
        cure = f"use at most {most} devices, or more data" if most else "use more data"
        raise UsageError(f"{n} samples are too few for {n_devices} devices; {cure}")
    return _partition(parts, n, redraws)


def _partition(parts: Sequence[Part], n: int, redraws: int) -> Partition:
    """Return the partition of n samples with these parts, the public one first."""
    return Partition(parts[0], tuple(parts[1:]), n - _n_train(parts) - _n_test(parts), redraws)


def split_sequences(
    groups: Sequence[str],
    strata: Sequence[str],
    n_devices: int,
    seed: int,
    dealing: Dealing = USUAL,
    kinds: Sequence[str] = (),
) -> Partition:
    """Deal whole sequences: a share of every stratum is public, the rest goes to devices by a law.

    As usual a quarter is public and the rest goes round the devices in turn, stratum by stratum. At every party a share
    of its sequences, 30 % as usual, is for testing, stratum by stratum as far as they divide. `groups`, `strata` and
    `kinds` name the sequence of each sample, and its stratum and label. Raises UsageError when a party would get too
    few sequences or samples, and for a law that cannot be.
    """
    sequences = Sequences.of(groups, strata)
    public: list[str] = []
    private: list[str] = []
    for kind in sorted(set(sequences.stratum.values())):
        names = sorted(name for name in sequences.rows if sequences.stratum[name] == kind)
        names = [names[int(i)] for i in rng(seed, "partition", kind).permutation(len(names))]
        n_public = floor_share(dealing.public_share, len(names))
        public += names[:n_public]
        private += names[n_public:]
    if dealing == USUAL:
        owned, redraws = [private[j::n_devices] for j in range(n_devices)], 0
    else:
        check_public(list(Counter(sequences.stratum.values()).values()), dealing, "sequence", "sequences")
        owned, redraws = _dealt_sequences(
            sequences, private, n_devices, seed, dealing, dict(zip(groups, kinds, strict=False))
        )
    if min(len(public), *(len(own) for own in owned)) < 2:
        raise UsageError(
            f"{len(sequences.rows)} sequences are too few for {n_devices} devices, each needs two; "
            f"use {f'at most {len(private) // 2} devices' if len(private) > 1 < len(public) else 'more data'}, or "
            "--split frame"
        )
    parts = [sequences.hold_out(party, test_share_of(dealing, "sequence")) for party in [public, *owned]]
    return _partition(parts, len(groups), redraws)


def _dealt_sequences(
    sequences: Sequences, private: Sequence[str], n_devices: int, seed: int, dealing: Dealing, kinds: Mapping[str, str]
) -> tuple[list[list[str]], int]:
    """Return the private sequences of every device by a law, and the redraws; `kinds` are their labels by name."""
    names = list(private)
    if dealing.law != "iid":
        names = [names[int(i)] for i in rng(seed, "partition", "sequences").permutation(len(names))]
    units = Units(
        rows=[sequences.rows[name] for name in names],
        kinds=[kinds.get(name, "") for name in names],
        least=fewest_units(dealing, "sequence"),
        noun="sequences",
        by_stratum=dealing.law == "iid",
    )
    dealt = deal_units(units, n_devices, dealing, seed)
    return [[names[i] for i in own] for own in dealt.devices], dealt.redraws


def limited(cut: Partition, private: int | None, public: int | None, seed: int) -> Partition:
    """Leave every device at most `private` and the public part at most `public` training samples; None: all of them.

    Which ones is drawn from the seed; testing samples stay. What is left out counts as unused.
    """
    kept_public = _keep(cut.public, public, rng(seed, "public limit"))
    kept = tuple(_keep(part, private, rng(seed, "private limit", j)) for j, part in enumerate(cut.devices))
    dropped = _n_train((cut.public, *cut.devices)) - _n_train((kept_public, *kept))
    return replace(cut, public=kept_public, devices=kept, unused=cut.unused + dropped)


def _keep(part: Part, limit: int | None, generator: np.random.Generator) -> Part:
    """Return a part with at most `limit` of its training rows, in their order."""
    if limit is None or len(part.train) <= limit:
        return part
    chosen = sorted(int(i) for i in generator.choice(len(part.train), size=limit, replace=False))
    return Part(tuple(part.train[i] for i in chosen), part.test)


def _n_train(parts: Sequence[Part]) -> int:
    return sum(len(part.train) for part in parts)


def limit_tests(cut: Partition, limit: int | None, seed: int) -> Partition:
    """Leave every party at most `limit` test samples, in their order; None: all of them. Training samples stay.

    Every party's are drawn from a stream of its own; a smaller limit takes some of a larger one's. What is left out
    counts as unused.
    """
    public = _keep_tests(cut.public, limit, rng(seed, "test limit", "public"))
    devices = tuple(_keep_tests(part, limit, rng(seed, "test limit", j)) for j, part in enumerate(cut.devices))
    dropped = _n_test((cut.public, *cut.devices)) - _n_test((public, *devices))
    return replace(cut, public=public, devices=devices, unused=cut.unused + dropped)


def _keep_tests(part: Part, limit: int | None, generator: np.random.Generator) -> Part:
    if limit is None or len(part.test) <= limit:
        return part
    chosen = sorted(int(i) for i in generator.permutation(len(part.test))[:limit])
    return Part(part.train, tuple(part.test[i] for i in chosen))


def _n_test(parts: Sequence[Part]) -> int:
    return sum(len(part.test) for part in parts)


def draw_masks(rates: Mapping[str, float], n_devices: int, seed: int, min_modalities: int = 1) -> Masks:
    """Draw M_j: device j holds modality m with probability rates[m], independently (paper, section 4.1).

    A device with fewer than `min_modalities` modalities is drawn again from its own stream, and the redraws are
    counted. `rate` is the realised share of (device, modality) pairs held.
    """
    names = sorted(rates)
    devices: list[tuple[str, ...]] = []
    redraws = 0
    for j in range(n_devices):
        stream = rng(seed, "masks", j)
        while True:
            draws = stream.random(len(names))
            held = tuple(name for name, draw in zip(names, draws, strict=True) if draw < rates[name])
            if len(held) >= min_modalities:
                break
            redraws += 1
            if redraws > MAX_REDRAWS:
                raise UsageError(f"rho is so small that {redraws} draws gave no modality; use a larger rate")
        devices.append(held)
    return Masks(tuple(devices), redraws, sum(map(len, devices)) / (n_devices * len(names)))


def draw_exact_masks(rates: Mapping[str, float], n_devices: int, seed: int, min_modalities: int = 1) -> Masks:
    """Draw M_j so that as many (device, modality) pairs are held as the rates say, rounded to whole pairs.

    Of every modality the same number of devices hold it for all draws, but for the pairs that rounding leaves: those go
    to modalities drawn at random. Which devices hold it is drawn without replacement, all of them again while one has
    fewer than `min_modalities`; after `EXACT_DRAWS` draws such devices take a modality over from those that hold most.
    Raises UsageError where the rates give fewer pairs than the devices need.
    """
    names = sorted(rates)
    pairs = _whole(sum(rates.values()) * n_devices)
    if pairs < n_devices * min_modalities:
        least = math.ceil(100 * min_modalities / len(names)) / 100
        raise UsageError(
            f"exact rates of {sum(rates.values()) / len(names):g} give {n_devices} devices {pairs} modalities, fewer "
            f"than one each; use a rate of at least {least:g}, or min-modalities 0"
        )
    stream = rng(seed, "exact masks")
    counts = _holders(rates, names, n_devices, pairs, stream)
    for draw in range(EXACT_DRAWS):
        held = [set[str]() for _ in range(n_devices)]
        for name in names:
            for j in stream.permutation(n_devices)[: counts[name]]:
                held[int(j)].add(name)
        if min(map(len, held)) >= min_modalities:
            return _exact(held, draw, names)
    _relieve(held, min_modalities, stream)
    return _exact(held, EXACT_DRAWS, names)


def _whole(x: float) -> int:
    """Return the nearest whole number, halves up; sums of rates are off by less than a millionth."""
    return math.floor(x + 0.5 + 1e-9)


def _holders(
    rates: Mapping[str, float], names: Sequence[str], n_devices: int, pairs: int, stream: np.random.Generator
) -> dict[str, int]:
    """Return how many devices hold each modality; what rounding down leaves goes to modalities drawn at random."""
    counts = {name: math.floor(rates[name] * n_devices + 1e-9) for name in names}
    open_ = [name for name in names if counts[name] < n_devices and rates[name] * n_devices - counts[name] > 1e-9]
    for i in stream.permutation(len(open_))[: pairs - sum(counts.values())]:
        counts[open_[int(i)]] += 1
    return counts


def _relieve(held: Sequence[set[str]], least: int, stream: np.random.Generator) -> None:
    """Let every device with too few modalities take one over from a device with most of them."""
    for own in held:
        while len(own) < least:
            rich = max((other for other in held if other - own), key=len)
            choices = sorted(rich - own)
            taken = choices[int(stream.integers(len(choices)))]
            rich.remove(taken)
            own.add(taken)


def _exact(held: Sequence[set[str]], redraws: int, names: Sequence[str]) -> Masks:
    rate = sum(map(len, held)) / (len(held) * len(names))
    return Masks(tuple(tuple(sorted(own)) for own in held), redraws, rate)


def given_masks(devices: Sequence[Sequence[str]], modalities: Sequence[str]) -> Masks:
    """Return the masks of devices that hold what the user says."""
    held = tuple(tuple(sorted(own)) for own in devices)
    return Masks(held, 0, sum(map(len, held)) / (len(held) * len(modalities)))


def rates_of(rho: float | Mapping[str, float], modalities: Sequence[str], what: str = "rho") -> dict[str, float]:
    """Return the rate of every modality; raises UsageError when `rho` names one the dataset lacks or leaves one out.

    `what` is what the error calls the rates.
    """
    if not isinstance(rho, Mapping):
        return {m: float(rho) for m in modalities}
    unknown = sorted(set(rho) - set(modalities))
    missing = sorted(set(modalities) - set(rho))
    if unknown or missing:
        wrong = f"unknown modality '{unknown[0]}'" if unknown else f"no rate for modality '{missing[0]}'"
        raise UsageError(f"{what} has {wrong}; the dataset's modalities are {', '.join(modalities)}")
    return {m: float(rho[m]) for m in modalities}


def partition(groups: Sequence[str], strata: Sequence[str], split: str, n_devices: int, seed: int) -> Partition:
    """Return the usual partition by the named split, "frame" or "sequence"; raises DataError for any other."""
    return deal(Columns(groups, strata), split, n_devices, seed)


def deal(columns: Columns, split: str, n_devices: int, seed: int, dealing: Dealing = USUAL) -> Partition:
    """Return the partition by the named split and a law.

    Raises DataError for an unknown split, UsageError for what cannot be.
    """
    if split not in TEST_SHARES:
        raise DataError(f"unknown split '{split}'; use {' or '.join(TEST_SHARES)}")
    if dealing.law == "group":
        return split_groups(columns, split, n_devices, seed, dealing)
    if split == "frame":
        return split_frames(len(columns.groups), n_devices, seed, dealing, columns.kinds)
    return split_sequences(columns.groups, columns.strata, n_devices, seed, dealing, columns.kinds)
