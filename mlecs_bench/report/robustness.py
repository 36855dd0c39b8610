"""What conditions of a federation change: scores under each relative to the usual ones, and without each modality."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from mlecs_bench.report.arrange import CONDITIONS, Data, Place, Setting, differs_in_conditions_alone
from mlecs_bench.report.conditions import STATIC, conditions_label
from mlecs_bench.report.frame import BOTH_POINTS, EVAL_POINTS, SERVER, Row, SeedMean, Stat, honest_sentence
from mlecs_bench.report.scores import Asked, file_part, pointed, record_keys, score_number
from mlecs_bench.report.scores import ScoreColumn as Column
from mlecs_bench.report.statistics import differences_by_seed
from mlecs_bench.report.table import Content, Line, Number, Table

SHOWN: tuple[Stat, ...] = ("avg", "server")
"""The scores that are held against those under the usual conditions."""
CONTROLS = "control rows"
"""What stands above the lines of controls, below a rule."""
POSITIVE = "mean ± sd (ddof = 1) over the seeds that both have; above zero is better."
ALL = "with all"


@dataclass(frozen=True)
class Family:
    """Settings that differ in the conditions of the federation alone: one has none but `shared`, which all have.

    `name` sets the family apart from others of a report, "" for the only one.
    """

    usual: Setting
    others: tuple[Setting, ...]
    shared: Mapping[str, Any]
    name: str = ""

    @property
    def settings(self) -> tuple[Setting, ...]:
        """All its settings, the usual one first."""
        return (self.usual, *self.others)

    def label(self, setting: Setting) -> str:
        """Return in words what a setting has beside the conditions that all share."""
        own = {name: fields for name, fields in _conditions(setting).items() if name not in self.shared}
        return conditions_label({CONDITIONS: own})


def families(settings: Sequence[Setting]) -> list[Family]:
    """Return the settings that differ in nothing but conditions, where one of them has no other than all have."""
    found: dict[str, list[Setting]] = {}
    for setting in settings:
        found.setdefault(differs_in_conditions_alone(setting), []).append(setting)
    made = []
    for members in found.values():
        first, *rest = map(_conditions, members)
        shared = {name: own for name, own in first.items() if all(one.get(name) == own for one in rest)}
        usual = [one for one in members if _conditions(one) == shared]
        others = tuple(one for one in members if _conditions(one) != shared)
        made += [Family(usual[0], others, shared, usual[0].label)] if usual and others else []
    return made if len(made) > 1 else [replace(one, name="") for one in made]


def _conditions(setting: Setting) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(iter(setting.rows.values())).identity.get(CONDITIONS, {})
    return found


def robustness_tables(family: Family, asked: Asked, suffix: str = "") -> list[Table]:
    """Return, for every dataset and score of the headline metric, an algorithm a line and a condition a column."""
    columns = [
        Column(data, data.headline, stat, point)
        for data in family.usual.data
        if data.metrics
        for stat in SHOWN
        for point in asked.points_of(stat)
    ]
    return [table for column in columns if (table := _table(family, column, asked, suffix)) is not None]


def _table(family: Family, column: Column, asked: Asked, suffix: str) -> Table | None:
    scored = {p: row for p, row in family.usual.rows.items() if p.data == column.data and _cell(row, column)}
    if not scored:
        return None
    lines = [
        Line((place.rho, str(place.n_devices), place.arm.label), _contents(place, row, family, column, asked))
        for place, row in scored.items()
    ]
    shown = [replace(line, group=f"rho {line.labels[0]}, {line.labels[1]} devices") for line in lines]
    score = " ".join(pointed((column.metric, column.stat), column, asked))
    part = file_part(" ".join(pointed((column.data.label, column.stat), column, asked)))
    rows = [row for setting in family.settings for p, row in setting.rows.items() if p.data == column.data]
    when = "" if column.stat == SERVER else f" {EVAL_POINTS[column.eval_point]}"
    return Table(
        name=f"robustness-{part}{suffix}",
        title=f"{column.data.label}: {score} by condition",
        caption=f"{score}{when}. {STATIC}: no condition but those that all columns share. Others: the difference to "
        f"that, paired by seed, {POSITIVE}",
        left=("rho", "devices", "algorithm"),
        columns=tuple((family.label(setting),) for setting in family.settings),
        lines=tuple(controls_last(shown, [place.arm.control is not None for place in scored])),
        honest=honest_sentence(rows),
        setting=family.name,
    )


def _contents(place: Place, row: Row, family: Family, column: Column, asked: Asked) -> tuple[Content | None, ...]:
    cell = _cell(row, column)
    others = [setting.rows.get(place) for setting in family.others]
    usual = score_number(row, cell, asked.seeds) if cell else None
    return (usual, *(_difference(other, row, column, asked) if other else None for other in others))


def _difference(other: Row, usual: Row, column: Column, asked: Asked) -> Number | None:
    """Return how much better a row is than the one under the usual conditions, over their common seeds."""
    ours, theirs = _cell(other, column), _cell(usual, column)
    if ours is None or theirs is None:
        return None
    higher = usual.directions.get(column.metric, True)
    by_seed = differences_by_seed(ours.values, theirs.values, higher)
    keys = (*record_keys(other, by_seed), *record_keys(usual, by_seed))
    return difference_number(by_seed, len(asked.seeds), keys)


def difference_number(by_seed: Mapping[int, float], expected: int, records: tuple[str, ...]) -> Number | None:
    """Return the mean of differences by seed with its sd; None without one."""
    values = list(by_seed.values())
    if not values:
        return None
    sd = stdev(values) if len(values) > 1 else None
    return Number(fmean(values), sd, n=len(values), expected=expected, kind="difference", records=records)


def _cell(row: Row, column: Column) -> SeedMean | None:
    return row.cell(column.eval_point, column.metric, column.stat)


def controls_last(lines: Iterable[Line], are_controls: Iterable[bool]) -> list[Line]:
    """Return lines with those of controls at the end of their block, below a rule."""
    blocks: dict[str, tuple[list[Line], list[Line]]] = {}
    for line, is_control in zip(lines, are_controls, strict=True):
        blocks.setdefault(line.group, ([], []))[is_control].append(line)
    return [
        line
        for own, controls in blocks.values()
        for line in (*own, *(replace(one, opens="" if i or not own else CONTROLS) for i, one in enumerate(controls)))
    ]


def without_table(setting: Setting, data: Data, asked: Asked, suffix: str = "") -> Table | None:
    """Return what every algorithm loses without each modality at test; None where no record was scored so."""
    rows = {p: row for p, row in setting.rows.items() if p.data == data and data.metrics and _removed(row)}
    if not rows:
        return None
    modalities = list(dict.fromkeys(name for row in rows.values() for name in _removed(row)))
    parties = [stat for stat in SHOWN if any(_with_all(row, data.headline, stat) for row in rows.values())]
    lines = [
        Line(
            (place.rho, str(place.n_devices), place.arm.label),
            tuple(content for stat in parties for content in _removals(row, data.headline, stat, modalities, asked)),
            group=f"rho {place.rho}, {place.n_devices} devices",
        )
        for place, row in rows.items()
    ]
    return Table(
        name=f"without-{file_part(data.label)}{suffix}",
        title=f"{data.label}: {data.headline} without one modality",
        caption=f"Scores {EVAL_POINTS['received']}, and of the server. With all modalities, and the difference to that "
        f"where one is taken from all test samples: {POSITIVE} A party that does not hold the modality loses nothing.",
        left=("rho", "devices", "algorithm"),
        columns=tuple((stat, what) for stat in parties for what in (ALL, *(f"without {name}" for name in modalities))),
        lines=tuple(controls_last(lines, [place.arm.control is not None for place in rows])),
        honest=honest_sentence(list(rows.values())),
        setting=setting.label,
    )


def _removed(row: Row) -> list[str]:
    return list(dict.fromkeys(name for record in row.records for name in record["metrics"].get("without", {})))


def _with_all(row: Row, metric: str, stat: Stat) -> SeedMean | None:
    return row.cell(BOTH_POINTS[-1], metric, stat)


def _removals(row: Row, metric: str, stat: Stat, modalities: Sequence[str], asked: Asked) -> tuple[Content | None, ...]:
    whole = _with_all(row, metric, stat)
    if whole is None:
        return (None,) * (1 + len(modalities))
    sign = 1.0 if row.directions.get(metric, True) else -1.0
    contents: list[Content | None] = [score_number(row, whole, asked.seeds)]
    for name in modalities:
        less = _scores_without(row, name, metric, stat)
        by_seed = {seed: sign * (value - whole.values[seed]) for seed, value in less.items() if seed in whole.values}
        contents.append(difference_number(by_seed, len(asked.seeds), record_keys(row, by_seed)))
    return tuple(contents)


def _scores_without(row: Row, modality: str, metric: str, stat: Stat) -> dict[int, float]:
    """Return by seed the score without a modality: the mean over devices, or the server's."""
    found = {}
    for record in row.records:
        scores = record["metrics"].get("without", {}).get(modality)
        if scores is None:
            continue
        of = scores["client"].get(metric, {}) if stat != SERVER else {}
        if stat == SERVER and (scores["server"] or {}).get(metric):
            of = {SERVER: scores["server"][metric]}
        if of:
            found[int(record["identity"]["seed"])] = fmean(score["value"] for score in of.values())
    return dict(sorted(found.items()))
