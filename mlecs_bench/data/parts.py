"""Parts: the rows of one party, for training and for testing, and how a party's share is cut into the two."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlecs_bench.data.laws import Dealing, ceil_share, floor_share
from mlecs_bench.errors import UsageError

TEST_SHARES: Mapping[str, float] = {"frame": 0.1, "sequence": 0.3}
"""Usual share of a party's samples, or of its sequences, kept for testing, by split.

In the frame split it is the paper's (section 4.1); with fewer sequences than that the noise drowns margins.
"""


@dataclass(frozen=True)
class Part:
    """The rows of one party."""

    train: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class Partition:
    """Who has which samples, how many nobody has, and how many draws of a law left a device too little."""

    public: Part
    devices: tuple[Part, ...]
    unused: int
    redraws: int = 0


@dataclass(frozen=True)
class Columns:
    """What a partition depends on, for every sample.

    `groups` and `strata` name its sequence and its stratum, `kinds` its label or what stands for one (for the laws that
    look at it), `owners` the user, camera or the like that it is of (for the law group; "" for none).
    """

    groups: Sequence[str]
    strata: Sequence[str]
    kinds: Sequence[str] = ()
    owners: Sequence[str] = ()


@dataclass(frozen=True)
class Sequences:
    """The samples of every sequence, and its stratum, by its name."""

    rows: Mapping[str, Sequence[int]]
    stratum: Mapping[str, str]

    @classmethod
    def of(cls, groups: Sequence[str], strata: Sequence[str]) -> Sequences:
        """Return the sequences that samples with these groups and strata make up."""
        rows: dict[str, list[int]] = {}
        stratum: dict[str, str] = {}
        for row, (group, kind) in enumerate(zip(groups, strata, strict=True)):
            rows.setdefault(group, []).append(row)
            stratum[group] = kind
        return cls(rows, stratum)

    def hold_out(self, party: Sequence[str], test_share: float) -> Part:
        """Keep the last sequences of each stratum for testing, and more of the largest until the share is reached.

        A stratum keeps one sequence to train on.
        """
        train = {
            kind: [g for g in party if self.stratum[g] == kind] for kind in sorted({self.stratum[g] for g in party})
        }
        test: list[str] = []
        for names in train.values():
            for _ in range(min(ceil_share(test_share, len(names)), len(names) - 1)):
                test.append(names.pop())
        while len(test) < ceil_share(test_share, len(party)):
            test.append(max(train.values(), key=len).pop())
        kept = [g for names in train.values() for g in names]
        return Part(self.rows_of(kept), self.rows_of(test))

    def rows_of(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return the samples of some sequences, in the order of their names."""
        return tuple(row for name in sorted(names) for row in self.rows[name])


def cut_rows(rows: Sequence[int], test_share: float) -> Part:
    """Return the first of `rows`, rounded down, for training, the others for testing."""
    n_train = floor_share(1 - test_share, len(rows))
    return Part(tuple(rows[:n_train]), tuple(rows[n_train:]))


def test_share_of(dealing: Dealing, split: str) -> float:
    """Return the share of a party's units that are for testing: as asked for, or the split's own."""
    return TEST_SHARES[split] if dealing.test_share is None else dealing.test_share


def fewest_units(dealing: Dealing, split: str) -> int:
    """Return the fewest samples, or sequences, of a party of which one is for training and one for testing."""
    share = test_share_of(dealing, split)
    if split == "frame":
        return next(n for n in itertools.count(2) if 1 <= floor_share(1 - share, n) < n)
    return next(n for n in itertools.count(2) if 1 <= ceil_share(share, n) < n)


def check_public(sizes: Sequence[int], dealing: Dealing, split: str, noun: str) -> None:
    """Raise UsageError where the public share of every one of `sizes`, rounded down, is too little for the server."""
    fewest = fewest_units(dealing, split)
    found = sum(floor_share(dealing.public_share, n) for n in sizes)
    if found < fewest:
        shares = (percent / 100 for percent in range(1, 100))
        works = next((s for s in shares if sum(floor_share(s, n) for n in sizes) >= fewest), None)
        cure = "use more data" if works is None else f"public-share {works:g} would do"
        raise UsageError(
            f"public-share {dealing.public_share:g} makes {found} {noun} public, and the server needs {fewest}; {cure}"
        )
