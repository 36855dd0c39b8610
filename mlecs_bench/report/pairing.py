"""Which rows a comparison sets against each other: two algorithms of one folder, or the same cells of two folders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from types import MappingProxyType
from typing import Any

from mlecs_bench.errors import RecordError, UsageError, did_you_mean
from mlecs_bench.records.names import key_digits, rho_label
from mlecs_bench.records.results import canonical_json
from mlecs_bench.report.arrange import NO_CARDS, Arm, Cards, Place, Setting, arrange
from mlecs_bench.report.conditions import condition_words, conditions_label
from mlecs_bench.report.controls import NO_FLOOR
from mlecs_bench.report.frame import Row, build_rows, flatten

OF_AN_ALGORITHM = ("algo", "structure.proxy", "evaluate", "robustness")
"""Parts of an identity in which two algorithms may differ."""
COMPUTED_WITH = ("algo.version", "algo.code", "dataset.version", "numerics", "scorers", "evaluate", "robustness")
"""Parts of an identity in which two folders may differ: versions, code, machine, what is scored beside the last round.

Scorers may differ in version and device; scores of scorers that differ otherwise are not compared.
"""
ORIGIN = ("packages", "python", "system", "git", "hardware")
"""Parts of a record's provenance that say what its numbers were computed with."""
MOST_NAMED = 4
"""How many differences between two rows one message names."""

Record = Mapping[str, Any]
Folder = tuple[str, Sequence[Record]]
"""What messages call a folder, and its records."""


@dataclass(frozen=True)
class Pair:
    """Two rows with at least one common seed, what messages call their sides, and the setting of the candidate's."""

    names: tuple[str, str]
    setting: Setting
    candidate: tuple[Place, Row]
    baseline: tuple[Place, Row]

    @property
    def rows(self) -> tuple[Row, Row]:
        """Both rows, the candidate's first."""
        return self.candidate[1], self.baseline[1]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that both rows have, ascending."""
        ours, theirs = self.rows
        return tuple(seed for seed in ours.seeds if seed in theirs.seeds)

    def records(self) -> Iterator[tuple[Record, Record]]:
        """Yield the two records of every common seed."""
        ours, theirs = ({record["identity"]["seed"]: record for record in row.records} for row in self.rows)
        yield from ((ours[seed], theirs[seed]) for seed in self.seeds)


@dataclass(frozen=True)
class Pairing:
    """At least one pair, and in `notes` what could not be paired and why."""

    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]


def pair_algorithms(
    records: Sequence[Record],
    candidate: str,
    baseline: str,
    folder: str,
    cards: Cards = NO_CARDS,
    variants: Mapping[str, str] = MappingProxyType({}),
) -> Pairing:
    """Pair the rows of two algorithms that differ in nothing else.

    An algorithm is given by its name, which stands for all its variants, by the label of one of them, or by what else
    is printed of its records: `variants` say in what they depart from the usual, by key. Rows of different settings are
    paired only where what was given names one of them, such as "ml-ecs (steps=10)". Raises UsageError unless two
    algorithms of the folder are given, and RecordError when nothing can be paired.
    """
    settings = arrange(build_rows(records), candidate, cards)
    arms = list(dict.fromkeys(arm for setting in settings for arm in setting.arms))
    sides = tuple(_named(name, settings, variants, folder) for name in (candidate, baseline))
    ours, theirs = sides
    if ours.rows == theirs.rows:
        labels = "; ".join(arm.label for arm in (ours.arms if len(ours.arms) > 1 else arms))
        raise UsageError(f"'{candidate}' and '{baseline}' are the same; name two of: {labels}")
    across = ours.one_setting or theirs.one_setting
    found = [
        (Pair((place.arm.label, other.arm.label), setting, (place, row), (other, second.rows[other])), second)
        for setting in settings
        for place, row in setting.rows.items()
        if (setting.label, place) in ours.rows
        for second, other in _counterparts(setting, place, theirs, settings if across else [setting])
    ]
    placed = [pair for pair, _ in found]
    if not placed:
        of = [[s.rows[p] for s in settings for p in s.rows if (s.label, p) in side.rows] for side in sides]
        raise RecordError(
            f"nothing to pair in {folder}: {candidate} and {baseline} differ in more than the algorithm, at least in "
            f"{_nearest(of[0], of[1], OF_AN_ALGORITHM)}; run both with the same settings"
        )
    notes = [
        *_alone_notes(settings, found, (*ours.arms, *theirs.arms)),
        *_control_notes(arms, theirs.arms, folder),
        *(_setting_notes(placed) if across else ()),
    ]
    return _with_common_seeds(placed, notes)


@dataclass(frozen=True)
class _Side:
    """What a name stands for: rows by the label of their setting and their place; does it name a setting?"""

    rows: frozenset[tuple[str, Place]]
    arms: tuple[Arm, ...]
    one_setting: bool = False


def _counterparts(
    setting: Setting, place: Place, side: _Side, settings: Sequence[Setting]
) -> list[tuple[Setting, Place]]:
    """Return where the other side has what stands at a place: in the same setting, and only failing that in others.

    Of the others those count that differ in the fewest things, and of these the ones with the fewest conditions.
    """
    found = [
        (one, other)
        for one in settings
        for other in one.rows
        if (one.label, other) in side.rows and replace(other, arm=place.arm) == place
        if (one.label, other) != (setting.label, place)
    ]
    same = [(one, other) for one, other in found if one is setting]
    if same or not found:
        return same
    ours = setting.rows[place].identity
    theirs = [one.rows[other].identity for one, other in found]
    distances = [(len(apart(ours, other, OF_AN_ALGORITHM)), len(condition_words(other))) for other in theirs]
    return [where for where, distance in zip(found, distances, strict=True) if distance == min(distances)]


def _named(name: str, settings: Sequence[Setting], variants: Mapping[str, str], folder: str) -> _Side:
    """Return what a name stands for, as tables, progress, data frames and names of record files print it."""
    every = [(setting.label, place, row) for setting in settings for place, row in setting.rows.items()]
    found = [(label, place) for label, place, _ in every if name in (place.arm.algo, place.arm.label)]
    if found:
        return _side(found)
    found = [(label, place) for label, place, row in every if _words(name) == _words(conditioned(place.arm, row))]
    found = found or [
        (label, place)
        for label, place, row in every
        if any(_is_printed_of(name, place, record, variants) for record in row.records)
    ]
    if found:
        return replace(_side(found), one_setting=len(settings) > 1)
    references = {
        name for _, _, row in every for record in row.records for name in record["metrics"].get("references", {})
    }
    if name in references:
        raise UsageError(f"'{name}' is a trivial reference, not an algorithm; tables of scores show it beside them")
    known = {text for _, place, _ in every for text in (place.arm.algo, place.arm.label)}
    known |= {conditioned(place.arm, row) for _, place, row in every if condition_words(row.identity)}
    raise UsageError(f"no algorithm '{name}' in {folder}. {did_you_mean(name, known)}")


def _side(rows: Sequence[tuple[str, Place]]) -> _Side:
    return _Side(frozenset(rows), tuple(dict.fromkeys(place.arm for _, place in rows)))


def _is_printed_of(name: str, place: Place, record: Record, variants: Mapping[str, str]) -> bool:
    """Is it what names of files, progress or data frames call a record, or a part of it that names its algorithm?

    A file is known by its key; of everything else the words count, in any order.
    """
    digits = key_digits(name)
    if digits:
        return str(record["key"]).startswith(digits)
    identity = record["identity"]
    cell = f"{place.arm.label} {place.data.label} rho {place.rho} {place.n_devices} devices seed {identity['seed']}"
    words = _words(name)
    return place.arm.algo in words and words <= _words(
        f"{place.arm.algo} {cell} {variants.get(str(record['key']), '')} {conditions_label(identity)}"
    )


def _words(label: str) -> set[str]:
    return set(re.sub(r"[()\[\]\"|\\*=,]", " ", label).split())


def conditioned(arm: Arm, row: Row) -> str:
    """Return an algorithm with the conditions of its federation, such as "ml-ecs (static)"."""
    return f"{arm.label} ({conditions_label(row.identity)})"


def _setting_notes(placed: Sequence[Pair]) -> list[str]:
    """Return in what else than the algorithm the rows of a pair differ, which whoever named a setting wants to see."""
    both = [(ours.identity, theirs.identity) for pair in placed for ours, theirs in [pair.rows]]
    texts = [text for ours, theirs in both for text in apart(ours, theirs, OF_AN_ALGORITHM)]
    return [f"differs: {text}" for text in dict.fromkeys(texts)]


def _control_notes(arms: Sequence[Arm], baselines: Sequence[Arm], folder: str) -> list[str]:
    """Return what else to compare with before a gain is put down to collaboration; nothing if that is a baseline."""
    if any(arm.is_floor for arm in baselines):
        return []
    floors = [arm for arm in arms if arm.is_floor]
    if not floors:
        return [f"{folder}: {NO_FLOOR}"]
    return [f"compare with '{arm.label}', too: {arm.control.says}" for arm in floors if arm.control]


def _alone_notes(settings: Sequence[Setting], found: Sequence[tuple[Pair, Setting]], arms: Sequence[Arm]) -> list[str]:
    """Return what rows of the algorithms have no counterpart, by setting, the rates of one in one line.

    `found` are the pairs with the setting of their second rows.
    """
    paired = {
        where
        for pair, second in found
        for where in ((pair.setting.label, pair.candidate[0]), (second.label, pair.baseline[0]))
    }
    rates: dict[tuple[str, str, int, str], list[str]] = {}
    for setting in settings:
        for place in setting.rows:
            if place.arm in arms and (setting.label, place) not in paired:
                where = (place.arm.label, place.data.label, place.n_devices, setting.label)
                rates.setdefault(where, []).append(place.rho)
    return [
        f"only {arm} has: {data} at rho {', '.join(rho)}, {n} devices" + (f" ({setting})" if setting else "")
        for (arm, data, n, setting), rho in rates.items()
    ]


def pair_folders(candidate: Folder, baseline: Folder) -> Pairing:
    """Pair the rows of two folders that computed the same, whatever the versions, the code and the machine.

    Raises RecordError when nothing can be paired.
    """
    names = (candidate[0], baseline[0])
    ours, theirs = (_by_work(records) for _, records in (candidate, baseline))
    chosen = [_nearest_pair(rows, theirs[work]) for work, rows in ours.items() if work in theirs]
    if not chosen:
        every = [list(chain.from_iterable(side.values())) for side in (ours, theirs)]
        raise RecordError(
            f"nothing to pair: no cell of {names[0]} is one of {names[1]}, they differ at least in "
            f"{_nearest(every[0], every[1], COMPUTED_WITH)}; run both with the same settings"
        )
    others = {row.group: other for row, other in chosen}
    settings = arrange([_with_common_scorers(row, other) for row, other in chosen], candidate="")
    placed = [
        Pair(names, setting, (place, row), (place, others[row.group]))
        for setting in settings
        for place, row in setting.rows.items()
        if place.data.metrics
    ]
    scorers = _scorer_notes(chosen)
    if not placed:
        raise RecordError(f"nothing to pair: {'; '.join(scorers)}; score both with the same models")
    left_out = [
        *_left_out(names[0], ours, [row for row, _ in chosen], theirs),
        *_left_out(names[1], theirs, [row for _, row in chosen], ours),
    ]
    return _with_common_seeds(placed, [*scorers, *left_out])


def _by_work(records: Sequence[Record]) -> dict[str, list[Row]]:
    """Return the rows by what they computed; two of one work differ in what they computed it with."""
    found: dict[str, list[Row]] = {}
    for row in build_rows(records):
        found.setdefault(canonical_json(_without(row.identity, COMPUTED_WITH)), []).append(row)
    return found


def _without(value: Mapping[str, Any], parts: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """Return nested objects without these parts, named by their dotted paths."""
    return {
        name: _without(item, parts, f"{prefix}{name}.") if isinstance(item, Mapping) else item
        for name, item in value.items()
        if f"{prefix}{name}" not in parts
    }


def _nearest_pair(ours: Sequence[Row], theirs: Sequence[Row]) -> tuple[Row, Row]:
    """Return two rows of one work: with equal identities if there are such, else with most common seeds."""
    return max(
        product(ours, theirs), key=lambda two: (two[0].group == two[1].group, len({*two[0].seeds} & {*two[1].seeds}))
    )


def _with_common_scorers(row: Row, other: Row) -> Row:
    """Return `row` with those scorers alone that both rows have."""
    theirs = other.identity["scorers"]
    common = {
        metric: scorer if _same_scorer(scorer, theirs.get(metric)) else None
        for metric, scorer in row.identity["scorers"].items()
    }
    return replace(row, identity={**row.identity, "scorers": common})


def _same_scorer(one: str | None, other: str | None) -> bool:
    """Are two scorers the same but for versions and device?"""
    first, second = (re.sub(r"==\S+| device=\S+", "", scorer or "") for scorer in (one, other))
    return first == second


def _scorer_notes(pairs: Iterable[tuple[Row, Row]]) -> list[str]:
    notes = [
        f"{metric} on {row.identity['dataset']['name']}: the scorers differ ({scorer or 'none'} / {theirs or 'none'})"
        for row, other in pairs
        for metric, scorer in row.identity["scorers"].items()
        if not _same_scorer(scorer, theirs := other.identity["scorers"].get(metric))
    ]
    return list(dict.fromkeys(notes))


def _left_out(
    name: str, rows: Mapping[str, Sequence[Row]], chosen: Sequence[Row], others: Mapping[str, Sequence[Row]]
) -> list[str]:
    """Return what rows of the folder `name` are not compared, and in what they differ from their nearest like."""
    used = {row.group: row for row in chosen}
    rates: dict[tuple[str, str, int, str], list[str]] = {}
    for work, members in rows.items():
        for row in members:
            if row.group in used:
                continue
            if work in others:
                what = _nearest([row], [used[member.group] for member in members if member.group in used])
            else:
                like = _like(row, chain.from_iterable(others.values()))
                what = _nearest([row], like, COMPUTED_WITH) if like else ""
            i = row.identity
            rates.setdefault((i["algo"]["name"], i["dataset"]["name"], i["n_devices"], what), []).append(
                rho_label(i["rho"])
            )
    return [
        f"left out of {name}: {algo} on {data} at rho {', '.join(rho)}, {n} devices"
        + (f" (the nearest differs in {what})" if what else "")
        for (algo, data, n, what), rho in rates.items()
    ]


def _like(row: Row, others: Iterable[Row]) -> list[Row]:
    """Return the rows of the same algorithm, dataset, rates and number of devices."""
    return [other for other in others if _position(other.identity) == _position(row.identity)]


def _position(identity: Mapping[str, Any]) -> tuple[Any, ...]:
    return identity["algo"]["name"], identity["dataset"]["name"], identity["rho"], identity["n_devices"]


def _with_common_seeds(placed: Sequence[Pair], notes: Iterable[str]) -> Pairing:
    pairs = tuple(pair for pair in placed if pair.seeds)
    apart = [f"no common seed: {_seeds_apart(pair)}" for pair in placed if not pair.seeds]
    if not pairs:
        raise RecordError(f"nothing to pair, {apart[0]}; run the same --seeds of both")
    return Pairing(pairs, (*notes, *apart))


def _seeds_apart(pair: Pair) -> str:
    place = pair.candidate[0]
    has = [f"{name} has {', '.join(map(str, row.seeds))}" for name, row in zip(pair.names, pair.rows, strict=True)]
    return f"{place.arm.algo} on {place.data.label} at rho {place.rho}, {place.n_devices} devices ({'; '.join(has)})"


def _nearest(ours: Sequence[Row], theirs: Sequence[Row], may_differ: Sequence[str] = ()) -> str:
    """Return in what those two rows differ that differ in least, apart from the parts that may."""
    texts = min((apart(row.identity, other.identity, may_differ) for row, other in product(ours, theirs)), key=len)
    more = [f"{len(texts) - MOST_NAMED} more"] if len(texts) > MOST_NAMED else []
    return ", ".join([*texts[:MOST_NAMED], *more])


def apart(one: Mapping[str, Any], other: Mapping[str, Any], may_differ: Sequence[str] = ()) -> list[str]:
    """Return the leaves in which two objects differ, with both values, apart from the parts that may."""
    first, second = (flatten(_without(value, may_differ)) for value in (one, other))
    return [
        f"{path} {first.get(path, 'absent')} / {second.get(path, 'absent')}"
        for path in sorted(first.keys() | second.keys())
        if first.get(path) != second.get(path)
    ]


def origin_notes(pairs: Sequence[Pair]) -> list[str]:
    """Return in what versions, code and machine the paired records differ, and in how many of them."""
    both = [two for pair in pairs for two in pair.records()]
    texts = Counter(
        text
        for one, other in both
        for text in [*apart(one["identity"], other["identity"]), *apart(_origin(one), _origin(other))]
    )
    if not texts:
        return ["the records name the same versions, revision and machine"]
    return [
        f"differs: {text}" + (f" ({n} of {len(both)} pairs of records)" if n < len(both) else "")
        for text, n in sorted(texts.items())
    ]


def _origin(record: Record) -> dict[str, Any]:
    return {name: value for name, value in record["provenance"].items() if name in ORIGIN}
