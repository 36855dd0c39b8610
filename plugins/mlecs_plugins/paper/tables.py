"""The paper's Tables 1 and 2 and the ablations of its Figure 4, filled with the scores of a setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mlecs_bench.api import (
    Arm,
    Line,
    Number,
    Place,
    Published,
    Row,
    ScoreColumn,
    ScoreLayout,
    Stat,
    StudyView,
    Table,
    beside_published,
    control_notes,
    file_part,
    honest_sentence,
    score_caption,
    score_columns,
    score_notes,
    score_number,
    score_table,
)
from mlecs_plugins.paper.masks import informative_notes
from mlecs_plugins.paper.printed import F1_NOTE, RATE_NOTE, Printed, erratum, printed, printed_in_table2

STAT_NAMES: Mapping[str, str] = {"avg": "Avg.", "best": "B.", "worst": "W.", "server": "server"}
METRIC_NAMES: Mapping[str, str] = {
    "rouge_lsum": "RLS",
    "rouge_lsum_sentences": "RLS (sentences)",
    "bertscore": "BS",
    "f1_macro": "F1",
    "f1_weighted": "F1 (weighted)",
}
SHORT_FOR: Mapping[str, str] = {
    "RLS": "Rouge-LSum",
    "RLS (sentences)": "Rouge-LSum of texts split into sentences",
    "BS": "BERTScore",
    "F1": "macro F1",
}
SOURCE = "paper"
MER_NOTE = "MER: the rate at which a device holds a modality."
POINT_NOTE = "The paper's values stand beside the first point: the authors' script scores after local training."

Placed = tuple[Place, Row]


def metric_name(metric: str) -> str:
    """Return how the paper calls a metric."""
    return METRIC_NAMES.get(metric, metric)


def score_name(metric: str, stat: Stat) -> str:
    """Return how the paper calls a metric of one side: "Avg. RLS" of devices, "RLS" of the server."""
    return metric_name(metric) if stat == "server" else f"{STAT_NAMES[stat]} {metric_name(metric)}"


def side(column: ScoreColumn) -> str:
    """Return whose scores these are."""
    return "server" if column.stat == "server" else "client"


def _columns(view: StudyView, rows: Sequence[Placed]) -> list[ScoreColumn]:
    """Return the columns of scores by dataset, the devices' before the server's."""
    data = view.setting.data
    columns = score_columns(data, rows, view.asked)
    return sorted(columns, key=lambda column: (data.index(column.data), column.stat == "server"))


def table1(view: StudyView) -> list[Table]:
    """Return the paper's Table 1, a table per dataset since both points of evaluation stand in it."""
    title = f"Table 1: algorithms at {view.setting.usual_devices()} devices"
    return tables_by_rate(view, table1_rows(view), "table1", title)


def ablation_rows(view: StudyView) -> list[Placed]:
    """Return the rows of the candidate, its ablations and the controls, where there are ablations."""
    setting, candidate = view.setting, view.asked.candidate
    n = setting.usual_devices()
    places = [p for p in setting.rows if p.n_devices == n and p.arm.is_ablation and p.arm.base == candidate]
    blocks = {(place.data, place.rho) for place in places}
    full = [
        place
        for place in setting.rows
        if place.n_devices == n and (place.data, place.rho) in blocks
        if place.arm.label == candidate or place.arm.control
    ]
    return [(place, setting.rows[place]) for place in [*full, *places]]


def ablation_tables(view: StudyView) -> list[Table]:
    """Return the scores of the candidate, its ablations (Figure 4) and the controls, a table per dataset that has any.

    Below it stands how many seeds tell the candidate from the ablation of its aggregation by modalities at all.
    """
    title = f"Ablations of {view.asked.candidate} at {view.setting.usual_devices()} devices"
    return tables_by_rate(view, ablation_rows(view), "ablation", title)


def table1_rows(view: StudyView) -> list[Placed]:
    """Return the rows with as many devices as most algorithms have, ablations left out."""
    n = view.setting.usual_devices()
    return [(p, row) for p, row in view.setting.rows.items() if p.n_devices == n and not p.arm.is_ablation]


def tables_by_rate(view: StudyView, rows: Sequence[Placed], name: str, title: str) -> list[Table]:
    """Return the scores of rows at the points asked for, a table per dataset with a block of lines per rate."""
    tables = []
    for data in view.setting.data:
        own = [(place, row) for place, row in rows if place.data == data]
        columns = _columns(view, own)
        if columns:
            layout = ScoreLayout(
                name=f"{name}-{file_part(data.label)}{view.suffix}",
                title=f"{title}, {data.label}",
                left=("MER", "method"),
                labels=lambda rho, _, label: (rho, label),
                heading=lambda column: (side(column), score_name(column.metric, column.stat)),
                published=_published,
            )
            table = score_table(view.setting, own, columns, view.asked, layout)
            table = replace(table, notes=(*table.notes, *informative_notes(own)))
            tables.append(_explained(table, columns))
    return tables


def _published(place: Place, column: ScoreColumn) -> Published | None:
    """Return what Table 1 prints for a place, or what Table 2 does for other numbers of devices."""
    return _beside(_printed(place, column))


def _printed(place: Place, column: ScoreColumn) -> Printed | None:
    """Return what the paper prints for an algorithm with its usual options."""
    arm = place.arm
    if arm.label != arm.algo:
        return None
    return printed(arm.algo, place.data.name, place.rho, place.n_devices, column.metric, column.stat)


def _published_in_table2(place: Place, column: ScoreColumn) -> Published | None:
    """Return what Table 2 prints for a place; at three devices it repeats Table 1, but for a misprint."""
    if _printed(place, column) is None:
        return None
    return _beside(printed_in_table2(place.data.name, place.n_devices, column.metric, column.stat))


def _beside(value: Printed | None) -> Published | None:
    return None if value is None else Published(value.value, SOURCE, "".join(value.misprints))


def table2(view: StudyView) -> Table | None:
    """Return the paper's Table 2: scores by number of devices, of every algorithm and rate that has several; or None.

    With the paper's values, where it prints any.
    """
    setting, asked = view.setting, view.asked
    counts: dict[tuple[Arm, str], set[int]] = {}
    for place in setting.rows:
        counts.setdefault((place.arm, place.rho), set()).add(place.n_devices)
    columns = [(arm, rho, n) for (arm, rho), ns in counts.items() if len(ns) > 1 for n in sorted(ns)]
    if not columns:
        return None
    rows = [(place, row) for place, row in setting.rows.items() if len(counts[place.arm, place.rho]) > 1]
    by_place = {(place.arm, place.rho, place.n_devices, place.data): (place, row) for place, row in rows}
    scores = _columns(view, rows)
    several = len(asked.eval_points) > 1
    lines = [
        Line(
            (score.data.label, side(score), score_name(score.metric, score.stat), *_scored(score, several)),
            tuple(_number(by_place.get((*column, score.data)), score, view) for column in columns),
            score.data.label,
        )
        for score in scores
    ]
    table = Table(
        name=f"table2{view.suffix}",
        title="Table 2: number of devices",
        caption=score_caption([row for _, row in rows], setting, asked.eval_points),
        left=("dataset", "side", "score", *(["scored"] if several else [])),
        columns=tuple((f"{arm.label}, MER {rho}", f"N = {n}") for arm, rho, n in columns),
        lines=tuple(lines),
        notes=(*score_notes(rows, scores, asked), *control_notes(place for place, _ in rows)),
        honest=honest_sentence([row for _, row in rows]),
        setting=setting.label,
    )
    return _explained(table, scores, RATE_NOTE)


def _scored(score: ScoreColumn, several: bool) -> tuple[str, ...]:
    """Return when the scores of a line are taken, where that has to be said; a server's have one point alone."""
    return ("" if side(score) == "server" else score.eval_point,) if several else ()


def _number(placed: Placed | None, score: ScoreColumn, view: StudyView) -> Number | None:
    if placed is None or (cell := placed[1].cell(score.eval_point, score.metric, score.stat)) is None:
        return None
    first = score.eval_point == view.asked.eval_points[0]
    published = _published_in_table2(placed[0], score) if view.asked.published and first else None
    return beside_published(score_number(placed[1], cell, view.asked.seeds), published, placed[1])


def _explained(table: Table, columns: Sequence[ScoreColumn], *more: str) -> Table:
    """Return a table with what its short names mean, and what explains the paper's values, `more` among it."""
    used = {metric_name(column.metric) for column in columns}
    short = ", ".join(f"{name}: {text}" for name, text in SHORT_FOR.items() if name in used)
    caption = f"{table.caption} Avg., B. and W.: average, best and worst device. {short}".rstrip() + "."
    published = [number.published for number in table.numbers() if number.published]
    letters = sorted({letter for one in published for letter in one.footnotes})
    compared = [F1_NOTE] if published and "F1" in used else []
    compared += [POINT_NOTE] if published and len({column.eval_point for column in columns}) > 1 else []
    misprints = [f"[{letter}] {erratum(letter)}" for letter in letters]
    notes = (MER_NOTE, *table.notes, *compared, *(more if published else ()), *misprints)
    return replace(table, caption=caption, notes=notes)
