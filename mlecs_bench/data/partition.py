"""Who holds what: the cut of the samples over public part and devices, and the draw of modality masks.

Both are pure functions of (data, seed, rate, N): nothing is stored on disk, and no algorithm can influence them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlecs_bench.errors import DataError, UsageError
from mlecs_bench.seeds import rng

if TYPE_CHECKING:
    import numpy as np

TRAIN_SHARE = 0.9
"""Share of a party's samples used for training in the frame split (paper, section 4.1)."""
MAX_REDRAWS = 100_000
EXACT_DRAWS = 1_000
"""Draws of exact masks after which devices that hold too little take over from others."""
SEQUENCE_TEST_SHARE = 0.3
"""Least share of a party's sequences kept for testing in the sequence split: with fewer the noise drowns margins."""


@dataclass(frozen=True)
class Part:
    """The rows of one party."""

    train: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class Partition:
    """A quarter of the samples is public, three quarters are spread evenly over the devices."""

    public: Part
    devices: tuple[Part, ...]
    unused: int


@dataclass(frozen=True)
class Masks:
    """The modalities of every device, how many rows were drawn again because they were empty, and the realised rate."""

    devices: tuple[tuple[str, ...], ...]
    redraws: int
    rate: float


def split_frames(n: int, n_devices: int, seed: int) -> Partition:
    """Cut n samples at random: n // 4 public, the same number times three spread evenly, 90 % of each for training.

    Rounds the training part down. Raises UsageError when a party would have no sample to train or test on.
    """
    order = [int(i) for i in rng(seed, "partition").permutation(n)]
    quarter = n // 4
    share = 3 * quarter // n_devices
    public = _cut(order[:quarter])
    starts = [quarter + j * share for j in range(n_devices)]
    devices = tuple(_cut(order[start : start + share]) for start in starts)
    if not all(part.train and part.test for part in (public, *devices)):
        raise UsageError(f"{n} samples are too few for {n_devices} devices; use fewer devices or more data")
    return Partition(public, devices, n - quarter - n_devices * share)


def _cut(rows: Sequence[int]) -> Part:
    n_train = math.floor(TRAIN_SHARE * len(rows))
    return Part(tuple(rows[:n_train]), tuple(rows[n_train:]))


def split_sequences(groups: Sequence[str], strata: Sequence[str], n_devices: int, seed: int) -> Partition:
    """Deal whole sequences: a quarter of every stratum is public, the rest goes round the devices in turn.

    At every party at least 30 % of its sequences are for testing, stratum by stratum as far as they divide.
    `groups` and `strata` name the sequence and the stratum of each sample. Raises UsageError when a party would get
    fewer than two sequences.
    """
    rows: dict[str, list[int]] = {}
    stratum: dict[str, str] = {}
    for row, (group, kind) in enumerate(zip(groups, strata, strict=True)):
        rows.setdefault(group, []).append(row)
        stratum[group] = kind
    public: list[str] = []
    dealt: list[list[str]] = [[] for _ in range(n_devices)]
    turn = 0
    for kind in sorted(set(stratum.values())):
        names = sorted(g for g in rows if stratum[g] == kind)
        names = [names[int(i)] for i in rng(seed, "partition", kind).permutation(len(names))]
        n_public = len(names) // 4
        public += names[:n_public]
        for name in names[n_public:]:
            dealt[turn % n_devices].append(name)
            turn += 1
    if min(len(public), *(len(d) for d in dealt)) < 2:
        raise UsageError(
            f"{len(rows)} sequences are too few for {n_devices} devices, each needs two; "
            "use fewer devices or --split frame"
        )
    parts = [_hold_out(party, stratum, rows) for party in [public, *dealt]]
    return Partition(parts[0], tuple(parts[1:]), 0)


def _hold_out(party: Sequence[str], stratum: Mapping[str, str], rows: Mapping[str, Sequence[int]]) -> Part:
    """Keep the last sequences of each stratum for testing, and more of the largest until the share is reached."""
    train = {kind: [g for g in party if stratum[g] == kind] for kind in sorted({stratum[g] for g in party})}
    test: list[str] = []
    for names in train.values():
        for _ in range(math.ceil(SEQUENCE_TEST_SHARE * len(names)) if len(names) > 1 else 0):
            test.append(names.pop())
    while len(test) < math.ceil(SEQUENCE_TEST_SHARE * len(party)):
        test.append(max(train.values(), key=len).pop())
    kept = [g for names in train.values() for g in names]
    return Part(_rows_of(kept, rows), _rows_of(test, rows))


def _rows_of(groups: Sequence[str], rows: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    return tuple(row for group in sorted(groups) for row in rows[group])


def limited(cut: Partition, private: int | None, public: int | None, seed: int) -> Partition:
    """Leave every device at most `private` and the public part at most `public` training samples; None: all of them.

    Which ones is drawn from the seed; testing samples stay. What is left out counts as unused.
    """
    kept_public = _keep(cut.public, public, rng(seed, "public limit"))
    kept = tuple(_keep(part, private, rng(seed, "private limit", j)) for j, part in enumerate(cut.devices))
    dropped = _n_train((cut.public, *cut.devices)) - _n_train((kept_public, *kept))
    return Partition(kept_public, kept, cut.unused + dropped)


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
    return Partition(public, devices, cut.unused + dropped)


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


def rates_of(rho: float | Mapping[str, float], modalities: Sequence[str]) -> dict[str, float]:
    """Return the rate of every modality; raises UsageError when `rho` names one the dataset lacks or leaves one out."""
    if not isinstance(rho, Mapping):
        return {m: float(rho) for m in modalities}
    unknown = sorted(set(rho) - set(modalities))
    missing = sorted(set(modalities) - set(rho))
    if unknown or missing:
        wrong = f"unknown modality '{unknown[0]}'" if unknown else f"no rate for modality '{missing[0]}'"
        raise UsageError(f"rho has {wrong}; the dataset's modalities are {', '.join(modalities)}")
    return {m: float(rho[m]) for m in modalities}


def partition(groups: Sequence[str], strata: Sequence[str], split: str, n_devices: int, seed: int) -> Partition:
    """Return the partition by the named split, "frame" or "sequence"; raises DataError for any other."""
    if split == "frame":
        return split_frames(len(groups), n_devices, seed)
    if split == "sequence":
        return split_sequences(groups, strata, n_devices, seed)
    raise DataError(f"unknown split '{split}'; use frame or sequence")
