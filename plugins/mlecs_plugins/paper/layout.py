"""The paper's Tables 1 and 2 as it prints them: its columns, rows, names and digits, filled with scores of a setting.

What it does not print stands below a rule (controls, variants, other algorithms) or in companion tables: the spread
over seeds, both points of evaluation, trivial references, and what it prints beside ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlecs_bench.api import (
    Arm,
    Data,
    EvalPoint,
    Line,
    Number,
    Place,
    Row,
    ScoreColumn,
    ScoreLayout,
    StudyView,
    Table,
    control_notes,
    file_part,
    honest_sentence,
    score_notes,
    score_table,
)
from mlecs_plugins.paper.printed import ML_ECS, RATE_NOTE, baselines, columns, methods, sizes, titles
from mlecs_plugins.paper.tables import (
    SHORT_FOR,
    Placed,
    ablation_rows,
    metric_name,
    score_name,
    table1_rows,
    table2,
    tables_by_rate,
)

SIDES = {"server": "Server Perf."}
CLIENTS = "Client Perf."
DEVICES = "Number of Edge Devices"
BESIDE = "Not in the paper's table"
WHEN = {"local": "after local training", "received": "after the last broadcast"}


def is_printed(arm: Arm) -> bool:
    """Is it a method of Table 1, with its usual options?"""
    return arm.label == arm.algo and arm.algo in (*baselines(), ML_ECS)


def printed_columns(view: StudyView) -> list[ScoreColumn]:
    """Return the columns of Table 1, in its order, for the datasets of a setting that it has; at the first point."""
    point = view.asked.eval_points[0]
    return [
        ScoreColumn(data, metric, stat, point)
        for name in titles()
        for data in view.setting.data
        if data.name == name
        for dataset, metric, stat in columns()
        if dataset == name
    ]


def dataset_title(data: Data) -> str:
    """Return what the paper calls a dataset, with what sets it apart from others of its name."""
    return titles().get(data.name, data.name) + data.label.removeprefix(data.name)


def _side(column: ScoreColumn) -> str:
    return SIDES.get(column.stat, CLIENTS)


def printed_table1(view: StudyView) -> Table | None:
    """Return Table 1: a block per rate with its six methods, all else below a rule; None without its datasets."""
    shown = printed_columns(view)
    rows = [(place, row) for place, row in table1_rows(view) if place.data.name in titles()]
    if not rows:
        return None
    order = list(methods())
    printed = [(place, row) for place, row in rows if is_printed(place.arm)]
    own = sorted(printed, key=lambda placed: order.index(placed[0].arm.algo))
    others = [(place, row) for place, row in rows if not is_printed(place.arm)]
    lines = [*_lines(view, own, shown), *_below(_lines(view, others, shown), bool(own))]
    n = view.setting.usual_devices()
    return Table(
        name=f"table1{view.suffix}",
        title=f"Table 1: algorithms at {n} devices",
        caption=_caption(view, rows),
        left=("MER", "Method"),
        columns=tuple(
            (dataset_title(column.data), _side(column), score_name(column.metric, column.stat)) for column in shown
        ),
        lines=tuple(lines),
        notes=(*_absences(own, shown), *_names(own), *_explanations(shown), *_row_notes(view, rows, shown)),
        honest=honest_sentence([row for _, row in rows]),
        setting=view.setting.label,
    )


def _lines(view: StudyView, rows: Sequence[Placed], shown: Sequence[ScoreColumn]) -> list[Line]:
    """Return a line per rate and algorithm with means alone, the best of the paper's methods of each rate marked."""
    if not rows:
        return []
    layout = ScoreLayout(
        name="",
        title="",
        left=("MER", "Method"),
        labels=lambda rho, _, label: (f"ρ = {rho}", methods().get(label, label)),
        heading=lambda column: (column.metric,),
        ranked=is_printed,
    )
    asked = replace(view.asked, eval_points=view.asked.eval_points[:1], published=False)
    table = score_table(view.setting, rows, shown, asked, layout)
    return [
        replace(line, contents=tuple(map(_mean, line.contents[: len(shown)])))
        for line in table.lines
        if not line.reference
    ]


def _mean(content: Number | str | None) -> Number | str | None:
    """Return a score as the paper prints it, without its spread; its companion has that."""
    if not isinstance(content, Number):
        return content
    return Number(content.value, best=content.best, records=content.records)


def _below(lines: Sequence[Line], ruled: bool) -> list[Line]:
    """Return the lines that stand below a rule, which has words where there are lines above it."""
    return [replace(line, opens=BESIDE if ruled and i == 0 else "") for i, line in enumerate(lines)]


def _caption(view: StudyView, rows: Sequence[Placed]) -> str:
    about, point = view.setting.about, view.asked.eval_points[0]
    seeds = sorted({seed for _, row in rows for seed in row.seeds})
    return (
        f"{about[0].upper()}{about[1:]}. Scores {WHEN[point]}, mean over "
        f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'}; the tables of spread have all else."
    )


def _explanations(shown: Sequence[ScoreColumn]) -> list[str]:
    used = dict.fromkeys(metric_name(column.metric) for column in shown)
    short = "; ".join(f"{name}: {SHORT_FOR[name]}" for name in used if name in SHORT_FOR)
    return [
        f"{short}. Avg., B., W.: average, best and worst device. MER (ρ): the rate at which a device holds a modality."
    ]


def _names(own: Sequence[Placed]) -> list[str]:
    """Say which algorithms the names of methods stand for where they are other words."""
    algos = dict.fromkeys(place.arm.algo for place, _ in own)
    other = [f"{methods()[algo]} is {algo}" for algo in algos if methods()[algo].lower() != algo]
    return [f"Names as the paper prints them: {', '.join(other)}."] if other else []


def _row_notes(view: StudyView, rows: Sequence[Placed], shown: Sequence[ScoreColumn]) -> list[str]:
    return [*score_notes(rows, shown, view.asked), *control_notes(place for place, _ in rows)]


def _absences(own: Sequence[Placed], shown: Sequence[ScoreColumn]) -> list[str]:
    """Say what a dash stands for: no model on the server, a metric that no record has, or no record."""
    lines = dict.fromkeys((place.arm.algo, place.rho) for place, _ in own)
    scored = {(place.arm.algo, place.rho, column) for place, row in own for column in shown if _has(row, place, column)}
    metrics = {(column.data, column.metric) for _, _, column in scored}
    on_server = {algo for algo, _, column in scored if column.stat == "server"}
    serverless, unscored, left = dict[str, None](), dict[str, None](), False
    for algo, rho in lines:
        for column in (column for column in shown if (algo, rho, column) not in scored):
            if (column.data, column.metric) not in metrics:
                unscored[metric_name(column.metric)] = None
            elif column.stat == "server" and algo not in on_server:
                serverless[methods()[algo]] = None
            else:
                left = True
    notes = []
    if serverless:
        verb = "is" if len(serverless) == 1 else "are"
        notes.append(f"“-”: {_listed(list(serverless))} {verb} not applicable for evaluating server performance.")
    if unscored:
        notes.append(f"“-” under {_listed(list(unscored))}: no record holds this score.")
    return [*notes, *(["“-” elsewhere: there is no such record."] if left else [])]


def _has(row: Row, place: Place, column: ScoreColumn) -> bool:
    return place.data == column.data and row.cell(column.eval_point, column.metric, column.stat) is not None


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def printed_table2(view: StudyView) -> list[Table]:
    """Return Table 2, scores by number of devices, at the paper's rate and at every other that has several numbers."""
    counts: dict[str, set[int]] = {}
    for place in view.setting.rows:
        if place.arm.label == ML_ECS and place.data.name in titles():
            counts.setdefault(place.rho, set()).add(place.n_devices)
    rates = sorted((rho for rho, ns in counts.items() if len(ns) > 1), key=lambda rho: (rho != sizes().table2_rho, rho))
    return [_table2(view, rho, sorted(counts[rho]), first=rho == rates[0]) for rho in rates]


def _table2(view: StudyView, rho: str, ns: Sequence[int], first: bool) -> Table:
    shown = printed_columns(view)
    rows = [
        (place, row)
        for place, row in view.setting.rows.items()
        if place.rho == rho and place.n_devices in ns and place.data.name in titles() and not place.arm.is_ablation
    ]
    several = {arm for arm in view.setting.arms if len({p.n_devices for p, _ in rows if p.arm == arm}) > 1}
    arms = sorted(several, key=lambda arm: (arm.label != ML_ECS, view.setting.arms.index(arm)))
    rows = [(place, row) for place, row in rows if place.arm in several]
    others = [line for arm in arms[1:] for line in _device_lines(rows, arm, ns, shown)]
    return Table(
        name=f"table2{'' if first else f'-{file_part(rho)}'}{view.suffix}",
        title="Table 2: number of devices" + ("" if first else f", ρ = {rho}"),
        caption=f"{_caption(view, rows)} ρ = {rho}.",
        left=("Dataset", "Perf.", "Score"),
        columns=tuple((DEVICES, str(n)) for n in ns),
        lines=(*_device_lines(rows, arms[0], ns, shown), *_below(others, ruled=True)),
        notes=(*_explanations(shown), RATE_NOTE, *_row_notes(view, rows, shown)),
        honest=honest_sentence([row for _, row in rows]),
        setting=view.setting.label,
    )


def _device_lines(rows: Sequence[Placed], arm: Arm, ns: Sequence[int], shown: Sequence[ScoreColumn]) -> list[Line]:
    """Return a line per score of the paper's algorithm; of any other the devices' average and the server alone."""
    own = arm.label == ML_ECS
    by_place = {(place.data, place.n_devices): row for place, row in rows if place.arm == arm}
    lines = []
    for column in shown:
        found = [by_place.get((column.data, n)) for n in ns]
        contents = tuple(_score(row, column) for row in found)
        if any(contents) and (own or column.stat in ("avg", "server")):
            title = dataset_title(column.data)
            labels = (title if own else f"{title}, {arm.label}", _side(column), score_name(column.metric, column.stat))
            lines.append(Line(labels, contents, f"{title} {arm.label}"))
    return lines


def _score(row: Row | None, column: ScoreColumn) -> Number | None:
    cell = row.cell(column.eval_point, column.metric, column.stat) if row else None
    return Number(cell.mean, records=tuple(r["key"] for r in row.records)) if row and cell else None


def companions(view: StudyView) -> list[Table]:
    """Return what the paper's tables leave out: spread, both points, controls, references, and the paper's values."""
    found = []
    for point in view.asked.eval_points:
        at = replace(view, asked=replace(view.asked, eval_points=(point,), published=_beside(view, point)))
        for rows, name, title in (
            (table1_rows(view), "table1-spread", "Table 1 with its spread"),
            (ablation_rows(view), "figure4-spread", "Figure 4 in numbers"),
        ):
            made = tables_by_rate(at, rows, name, title)
            found += [replace(t, name=f"{t.name}-{point}", title=f"{t.title}, {WHEN[point]}") for t in made]
    return [*found, *_companions2(view)]


def _beside(view: StudyView, point: EvalPoint) -> bool:
    """Do the paper's values stand beside scores at a point? Beside the first alone."""
    return view.asked.published and point == view.asked.eval_points[0]


def _companions2(view: StudyView) -> list[Table]:
    """Return Table 2 with its spread, a table per algorithm: side by side they fit no page."""
    found = []
    for arm in view.setting.arms:
        rows = {place: row for place, row in view.setting.rows.items() if place.arm == arm}
        table = table2(replace(view, setting=replace(view.setting, rows=rows)))
        if table:
            name = f"table2-spread-{file_part(arm.label)}{view.suffix}"
            found.append(replace(table, name=name, title=f"Table 2 with its spread, {arm.label}"))
    return found
