"""The law group: a device for every user, patient or camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlecs_bench.data.laws import Dealing, floor_share
from mlecs_bench.data.parts import (
    Columns,
    Part,
    Partition,
    Sequences,
    check_public,
    cut_rows,
    fewest_units,
    test_share_of,
)
from mlecs_bench.errors import UsageError
from mlecs_bench.seeds import rng

Units = Mapping[str, Sequence[Sequence[int]]]
"""By owner, the rows of each of its units: samples, or whole sequences."""


def count_groups(columns: Columns, split: str, dealing: Dealing) -> int:
    """Return how many groups can be devices; the seed has no say in it."""
    return len(_possible(_owned(columns, split), split, dealing))


def split_groups(columns: Columns, split: str, n_devices: int, seed: int, dealing: Dealing) -> Partition:
    """Make a device of every group that can be one, or of `n_devices` of them, which are drawn.

    The public part is the public share of every group's samples, or sequences, rounded down, so that how much is left
    of a group does not depend on the seed. A group can be a device where it keeps `min_samples`, and enough to train
    and to test on. Devices are in the order of the groups' names. Samples of other groups that are not public are
    unused, as are private ones of no group. Raises UsageError for more devices than there are groups.
    """
    owned = _owned(columns, split)
    possible = _possible(owned, split, dealing)
    noun = "samples" if split == "frame" else "sequences"
    if n_devices > len(possible):
        raise UsageError(_too_few(owned, possible, n_devices, dealing, split))
    check_public([len(units) for units in owned.values()], dealing, split, noun)
    drawn = rng(seed, "partition", "law").permutation(len(possible))[:n_devices]
    chosen = sorted(possible[int(i)] for i in drawn)
    public: list[Sequence[int]] = []
    private: dict[str, list[Sequence[int]]] = {}
    for owner, units in owned.items():
        mixed = [units[int(i)] for i in rng(seed, "partition", "group", owner).permutation(len(units))]
        n_public = floor_share(dealing.public_share, len(units))
        public += mixed[:n_public]
        private[owner] = mixed[n_public:]
    public = [public[int(i)] for i in rng(seed, "partition").permutation(len(public))]
    parts = [_part(units, columns, split, dealing) for units in (public, *(private[owner] for owner in chosen))]
    held = sum(len(part.train) + len(part.test) for part in parts)
    return Partition(parts[0], tuple(parts[1:]), len(columns.groups) - held)


def _owned(columns: Columns, split: str) -> Units:
    """Return the units of every owner, both in the order of their names or rows; those of no owner are left out."""
    if split == "frame":
        rows: dict[str, list[Sequence[int]]] = {}
        for row, owner in enumerate(columns.owners):
            rows.setdefault(owner, []).append((row,))
        return {owner: rows[owner] for owner in sorted(rows) if owner}
    sequences = Sequences.of(columns.groups, columns.strata)
    found: dict[str, list[Sequence[int]]] = {}
    for name in sorted(sequences.rows):
        owners = sorted({columns.owners[row] for row in sequences.rows[name]})
        if len(owners) > 1:
            raise UsageError(
                f"sequence '{name}' is of two groups, '{owners[0]}' and '{owners[1]}', and goes to a device whole; "
                "use --split frame"
            )
        found.setdefault(owners[0], []).append(sequences.rows[name])
    return {owner: found[owner] for owner in sorted(found) if owner}


def _possible(owned: Units, split: str, dealing: Dealing) -> list[str]:
    """Return the owners whose private units are enough whichever of them are public."""
    return [owner for owner in owned if _certain_samples(owned[owner], split, dealing) >= dealing.min_samples]


def _certain_samples(units: Sequence[Sequence[int]], split: str, dealing: Dealing) -> int:
    """Return how many private samples an owner has at least, 0 where there are too few units to train and to test."""
    n_private = len(units) - floor_share(dealing.public_share, len(units))
    return sum(sorted(map(len, units))[:n_private]) if n_private >= fewest_units(dealing, split) else 0


def _too_few(owned: Units, possible: Sequence[str], n_devices: int, dealing: Dealing, split: str) -> str:
    have = f"{len(possible)} of {len(owned)} groups have min-samples {dealing.min_samples} to train and to test on"
    if possible:
        return f"{have}, got n-devices {n_devices}; n-devices {len(possible)} would do, or all"
    most = max((_certain_samples(units, split, dealing) for units in owned.values()), default=0)
    return f"{have}; " + (f"min-samples {most} would do" if most else "use another law, such as partition iid")


def _part(units: Sequence[Sequence[int]], columns: Columns, split: str, dealing: Dealing) -> Part:
    share = test_share_of(dealing, split)
    if split == "frame":
        return cut_rows([row for unit in units for row in unit], share)
    sequences = Sequences.of(columns.groups, columns.strata)
    return sequences.hold_out([columns.groups[unit[0]] for unit in units], share)
