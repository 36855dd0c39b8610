"""Tables of scores: blocks of one rate and number of devices, a line per algorithm, the best of each column marked.

Devices' scores have a column for each point of evaluation that is asked for. A score that is the same at both, as where
nothing is sent, is printed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mlecs_bench.errors import check_choice
from mlecs_bench.records.names import rho_label
from mlecs_bench.report.arrange import Arm, Data, Place, Setting
from mlecs_bench.report.captions import score_caption
from mlecs_bench.report.controls import GAP, GAP_STAT, Block, Gap, control_notes, gap_note, gap_of
from mlecs_bench.report.frame import (
    BOTH_POINTS,
    SERVER,
    EvalPoint,
    Row,
    SeedMean,
    Stat,
    all_scores,
    honest_sentence,
    not_comparable,
)
from mlecs_bench.report.references import ReferenceRow, reference_notes, reference_rows
from mlecs_bench.report.statistics import ALPHA, FEW_SEEDS, holm, paired_difference
from mlecs_bench.report.table import Content, Line, Number, Published, Table

DEVICE_STATS: tuple[Stat, ...] = ("avg", "best", "worst")
SERVER_STAT: Stat = "server"
USUAL_STATS: tuple[Stat, ...] = ("avg", "server")
"""What tables of scores show unless more is asked for: those of all statistics are wider than a page."""
EQUAL = 1e-12
"""Means closer than this are one and the same score."""
SENT_NOTE = (
    "sent: parameters in both directions, the broadcast after the last round included, divided by devices and rounds"
)

Placed = tuple[Place, Row]


@dataclass(frozen=True)
class Asked:
    """What a reader asked of a report.

    `eval_points` are when devices are scored, `candidate` is the algorithm that is held against the others, `seeds`
    are those that every score should have; `published` puts published values beside ours where a study has them;
    `diagnostics` shows the diagnostic scores of datasets. The report's own tables of scores have the `metrics` that are
    named (none: all of them) and the statistics `stats`; CSV always has all. Studies choose for their own tables.
    """

    eval_points: tuple[EvalPoint, ...]
    candidate: str
    seeds: tuple[int, ...]
    published: bool = False
    diagnostics: bool = False
    metrics: tuple[str, ...] = ()
    stats: tuple[Stat, ...] = USUAL_STATS

    def points_of(self, stat: Stat) -> tuple[EvalPoint, ...]:
        """Return when a score is taken: a server, which receives nothing, has one point of evaluation."""
        return self.eval_points[:1] if stat == SERVER else self.eval_points


@dataclass(frozen=True)
class ScoreColumn:
    """One column of scores; `eval_point` says nothing of a server's. Raises ValueError for one that is none."""

    data: Data
    metric: str
    stat: Stat
    eval_point: EvalPoint = BOTH_POINTS[0]

    def __post_init__(self) -> None:
        check_choice(self.stat, Stat, "the statistic")
        check_choice(self.eval_point, EvalPoint, "the point of evaluation")


def score_name(metric: str, stat: Stat) -> str:
    """Return how tables call a score."""
    return f"{metric} {stat}"


@dataclass(frozen=True)
class ScoreLayout:
    """How a table of scores is worded and what else it holds.

    `labels` are those of a line, by rate, number of devices and algorithm; `heading` is that of a column, but for the
    point of evaluation. `published` finds what stands beside a score at the first point, `ranked` says which algorithms
    compete for the best. `sent` adds columns: the number of seeds before the scores, and what was sent behind them.
    """

    name: str
    title: str
    left: tuple[str, ...]
    labels: Callable[[str, int, str], tuple[str, ...]]
    heading: Callable[[ScoreColumn], tuple[str, ...]]
    published: Callable[[Place, ScoreColumn], Published | None] = lambda *_: None
    ranked: Callable[[Arm], bool] = lambda arm: not arm.is_ceiling
    sent: bool = False


@dataclass(frozen=True)
class _Entry:
    """A number of a table with the scores behind it."""

    number: Number
    cell: SeedMean
    higher_is_better: bool


def score_tables(setting: Setting, asked: Asked, suffix: str = "") -> list[Table]:
    """Return the scores of all algorithms, a table per dataset, with what was sent."""
    tables = []
    for data in setting.data:
        rows = [(place, row) for place, row in setting.rows.items() if place.data == data]
        columns = score_columns([data], rows, asked)
        if columns:
            layout = _layout(data, rows, suffix)
            found = _diagnostic_columns(data, rows, asked)
            shown = [column for column in [*columns, *found] if _is_shown(column, column in found, asked)]
            if shown:
                table = _one_table(setting, rows, shown, asked, layout)
                hides = len(shown) < len(columns) + len(found)
                whole = _one_table(setting, rows, [*columns, *found], asked, layout) if hides else None
                tables.append(replace(table, whole=whole))
    return tables


def _is_shown(column: ScoreColumn, diagnostic: bool, asked: Asked) -> bool:
    named = column.metric in asked.metrics if asked.metrics else asked.diagnostics or not diagnostic
    return named and column.stat in asked.stats


def _one_table(
    setting: Setting, rows: Sequence[Placed], columns: Sequence[ScoreColumn], asked: Asked, layout: ScoreLayout
) -> Table:
    """Return the scores of one dataset with what was sent, and how texts were read."""
    table, data = score_table(setting, rows, columns, asked, layout), columns[0].data
    caption = " ".join([table.caption, *_reading_sentences(columns)])
    notes = (*table.notes, *_share_notes(rows), *_unseen_notes(rows, columns), *_scorer_notes(data))
    return replace(table, caption=caption, notes=notes)


def _diagnostic_columns(data: Data, rows: Sequence[Placed], asked: Asked) -> list[ScoreColumn]:
    """Return the columns of the scores that a dataset's own diagnosis gave, by their names in the records."""
    own = {name: None for _, row in rows for _, name, _ in row.cells if name not in row.identity["scorers"]}
    return score_columns([replace(data, metrics=tuple(own))], rows, asked, of=data) if own else []


def _reading_sentences(columns: Sequence[ScoreColumn]) -> list[str]:
    """Return how scorers read texts where their identity does not say it, a sentence per metric."""
    readings = {column.metric: dict(column.data.readings).get(column.metric, "") for column in columns}
    return [f"{metric}: {reading}." for metric, reading in readings.items() if reading]


def _unseen_notes(rows: Sequence[Placed], columns: Sequence[ScoreColumn]) -> list[str]:
    """Return for every metric that sees nothing of some targets in how many of one party's they are, at most."""
    found: dict[str, tuple[int, int]] = {}
    shown = {column.metric for column in columns}
    for record in (record for _, row in rows for record in row.records):
        for metric, score in all_scores(record):
            if metric in shown and score.get("unseen", 0) > found.get(metric, (0, 0))[0]:
                found[metric] = (score["unseen"], score["n"])
    return [
        f"warning: {metric} sees nothing of {unseen} of the {n} targets of a party: its tokenizer or its model knows "
        "no part of them, and their scores mean nothing"
        for metric, (unseen, n) in found.items()
    ]


def _layout(data: Data, rows: Sequence[Placed], suffix: str) -> ScoreLayout:
    lower = {metric for _, row in rows for metric, higher in row.directions.items() if not higher}
    return ScoreLayout(
        name=f"scores-{file_part(data.label)}{suffix}",
        title=data.label,
        left=("rho", "devices", "algorithm"),
        labels=lambda rho, n, label: (rho, str(n), label),
        heading=lambda c: (f"{c.metric} (lower is better)" if c.metric in lower else c.metric, c.stat),
        ranked=lambda arm: not arm.is_ablation and not arm.is_ceiling,
        sent=True,
    )


def _seeds(seeds: Sequence[int], asked: Asked) -> str:
    n, of = len(seeds), len(asked.seeds)
    return str(n) if n == of else f"n={n}/{of}"


def _sent(row: Row) -> dict[str, Number]:
    """Return what a row sent per device and round, by the heading of its column."""
    keys = record_keys(row)
    shares = {
        share_name(name): Number(100 * value, kind="percent", records=keys)
        for name, (value, _) in row.traffic.shares.items()
    }
    return {"sent": Number(row.traffic.params, kind="count", records=keys), **shares}


def share_name(name: str) -> str:
    """Return how tables call a share of what is sent, which records name `name`."""
    return f"share ({name.replace('_', ' ')})"


def file_part(text: str) -> str:
    """Return a text as a part of a file's name."""
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in text).lower().split())


def score_columns(
    data: Iterable[Data], rows: Sequence[Placed], asked: Asked, of: Data | None = None
) -> list[ScoreColumn]:
    """Return the columns that at least one of `rows` has a score for, by dataset, metric and point of evaluation.

    `of` is the dataset that they are columns of where `data` is that with other metrics.
    """
    columns = []
    for one in data:
        own = [row for place, row in rows if place.data == (of or one)]
        wanted = [
            ScoreColumn(of or one, metric, stat, point)
            for metric in one.metrics
            for stat in (*DEVICE_STATS, SERVER_STAT)
            for point in asked.points_of(stat)
        ]
        columns += [c for c in wanted if any(row.cell(c.eval_point, c.metric, c.stat) for row in own)]
    return columns


def record_keys(row: Row, seeds: Iterable[int] | None = None) -> tuple[str, ...]:
    """Return the keys of the records of a row with these seeds, in their order; of all where none are named."""
    by_seed = {record["identity"]["seed"]: str(record["key"]) for record in row.records}
    return tuple(by_seed[seed] for seed in (row.seeds if seeds is None else seeds))


def score_table(
    setting: Setting, rows: Sequence[Placed], columns: Sequence[ScoreColumn], asked: Asked, layout: ScoreLayout
) -> Table:
    """Return a table of `rows` with a block of lines per rate and number of devices.

    Behind the scores stands which share of the gap between the controls the headline score closes, where there are any.
    """
    rates = setting.rates()
    blocks = sorted({(place.rho, place.n_devices) for place, _ in rows}, key=lambda at: (rates.index(at[0]), at[1]))
    gaps = _gaps(setting, blocks, columns)
    shown = gaps if any(gap.is_real for of in gaps.values() for gap in of.values()) else {}
    lines: list[Line] = []
    references: list[ReferenceRow] = []
    for rho, n in blocks:
        block = [(place, row) for place, row in rows if (place.rho, place.n_devices) == (rho, n)]
        found = _references(block)
        lines += _block_lines(block, columns, shown, asked, layout)
        lines += _reference_lines(found, columns, asked, layout, len(lines[-1].contents))
        references += [reference for by_data in found.values() for reference in by_data]
    before, behind = ((("seeds",),), [(name,) for name in _sent(rows[0][1])]) if layout.sent else ((), [])
    closed = [pointed(_gap_heading(column, layout, shown), column, asked) for column in shown]
    return Table(
        name=layout.name,
        title=layout.title,
        caption=score_caption([row for _, row in rows], setting, asked.eval_points),
        left=layout.left,
        columns=(*before, *(pointed(layout.heading(column), column, asked) for column in columns), *closed, *behind),
        lines=tuple(lines),
        notes=(
            *score_notes(rows, columns, asked),
            *dict.fromkeys(reference_notes(references)),
            *control_notes(place for place, _ in rows),
            *_gap_notes(gaps),
            *_comparability_notes([line for line in lines if _has_published(line)], rows),
        ),
        honest=honest_sentence([row for _, row in rows]),
        setting=setting.label,
    )


def _has_published(line: Line) -> bool:
    return any(isinstance(content, Number) and content.published for content in line.contents)


def _comparability_notes(lines: Sequence[Line], rows: Sequence[Placed]) -> list[str]:
    """Return why some rows have no difference to the published values beside them."""
    reasons = dict.fromkeys(reason for _, row in rows for reason in not_comparable(row)) if lines else {}
    return [f"no difference to published values is shown for rows of {', '.join(reasons)}"] if reasons else []


def pointed(heading: tuple[str, ...], column: ScoreColumn, asked: Asked) -> tuple[str, ...]:
    """Return the heading of a column with the point of evaluation behind it where the score has several."""
    return (*heading, column.eval_point) if len(asked.points_of(column.stat)) > 1 else heading


Gaps = Mapping[ScoreColumn, Mapping[Block, Gap]]


def _gap_heading(column: ScoreColumn, layout: ScoreLayout, gaps: Gaps) -> tuple[str, ...]:
    several = len({one.data for one in gaps}) > 1
    return (GAP, *([column.data.label] if several else []), layout.heading(column)[-1])


def _gaps(setting: Setting, blocks: Iterable[Block], columns: Iterable[ScoreColumn]) -> Gaps:
    """Return the gaps between the controls by block, of the columns of headline scores."""
    found: dict[ScoreColumn, dict[Block, Gap]] = {}
    for column in columns:
        if (column.metric, column.stat) == (column.data.headline, GAP_STAT):
            of_column = {block: gap_of(setting.rows, block, column.data, column.eval_point) for block in blocks}
            found[column] = {block: gap for block, gap in of_column.items() if gap is not None}
    return {column: of_column for column, of_column in found.items() if of_column}


def _gap_notes(gaps: Gaps) -> list[str]:
    by_data: dict[Data, dict[tuple[Block, EvalPoint], Gap]] = {}
    for column, of_column in gaps.items():
        found = {(block, column.eval_point): gap for block, gap in of_column.items()}
        by_data.setdefault(column.data, {}).update(found)
    return [gap_note(found, data) for data, found in by_data.items() if found]


def _group(rho: str, n_devices: int) -> str:
    return f"rho {rho}, {n_devices} devices"


def _block_lines(
    block: Sequence[Placed], columns: Sequence[ScoreColumn], gaps: Gaps, asked: Asked, layout: ScoreLayout
) -> Iterator[Line]:
    """Yield the lines of one block, the best of every column and what cannot be told from it marked."""
    arms = list(dict.fromkeys(place.arm for place, _ in block))
    by_place = {(place.arm, place.data): (place, row) for place, row in block}
    grid = [[_entry(by_place.get((arm, column.data)), column, asked, layout) for arm in arms] for column in columns]
    ranked = [layout.ranked(arm) for arm in arms]
    scores = zip(*(_marked(column, ranked) for column in grid), strict=True)
    for arm, numbers in zip(arms, scores, strict=True):
        place, row = next((place, row) for place, row in block if place.arm == arm)
        closed = [_closed(by_place.get((arm, column.data)), column, of) for column, of in gaps.items()]
        values = [_values(by_place.get((arm, column.data)), column) for column in columns]
        contents: tuple[Content | None, ...] = (
            *_once(columns, numbers, values),
            *_once(list(gaps), closed, [number and number.value for number in closed]),
        )
        if layout.sent:
            contents = (_seeds(row.seeds, asked), *contents, *_sent(row).values())
        labels = layout.labels(place.rho, place.n_devices, arm.label)
        yield Line(labels, contents, _group(place.rho, place.n_devices))


def _closed(placed: Placed | None, column: ScoreColumn, gaps: Mapping[Block, Gap]) -> Number | None:
    """Return which share of the gap between the controls a row closes."""
    if placed is None:
        return None
    place, row = placed
    cell, gap = row.cell(column.eval_point, column.metric, column.stat), gaps.get((place.rho, place.n_devices))
    return gap.closed(cell, record_keys(row, cell.values)) if gap and cell else None


def _once(
    columns: Sequence[ScoreColumn], numbers: Iterable[Number | None], behind: Iterable[object]
) -> Iterator[Number | None]:
    """Yield the numbers of a line, marked as repeated where what is `behind` one is behind that of the point before."""
    before: tuple[ScoreColumn, object] | None = None
    for column, number, values in zip(columns, numbers, behind, strict=True):
        repeats = before is not None and replace(before[0], eval_point=column.eval_point) == column
        yield replace(number, repeats=True) if number and before and repeats and before[1] == values else number
        before = column, values


def _values(placed: Placed | None, column: ScoreColumn) -> Mapping[int, float] | None:
    cell = placed[1].cell(column.eval_point, column.metric, column.stat) if placed else None
    return cell.values if cell else None


def _entry(placed: Placed | None, column: ScoreColumn, asked: Asked, layout: ScoreLayout) -> _Entry | None:
    if placed is None:
        return None
    place, row = placed
    cell = row.cell(column.eval_point, column.metric, column.stat)
    if cell is None:
        return None
    expected = row.seeds if layout.sent else asked.seeds  # else the column of seeds says it
    first = column.eval_point == asked.eval_points[0]
    published = layout.published(place, column) if asked.published and first else None
    number = beside_published(score_number(row, cell, expected), published, row)
    return _Entry(number, cell, row.directions.get(column.metric, True))


def beside_published(number: Number, published: Published | None, row: Row) -> Number:
    """Return a row's number beside what is published in its place, with a difference only where both are comparable."""
    if published is not None:
        published = replace(published, comparable=not not_comparable(row))
    return replace(number, published=published)


def score_number(row: Row, cell: SeedMean, seeds: Sequence[int]) -> Number:
    """Return a score as a table's number: mean and sd over seeds, how many of `seeds`, the records behind it."""
    keys = record_keys(row, sorted(cell.values))
    return Number(cell.mean, cell.sd, n=len(cell.values), expected=len(seeds), records=keys)


def _marked(column: Sequence[_Entry | None], ranked: Sequence[bool]) -> list[Number | None]:
    """Return the numbers of a column, the best of them marked, and those that a paired test cannot tell from it.

    A mean over fewer seeds than others have is not in the running: their seeds may be the harder ones.
    """
    numbers = [entry.number if entry else None for entry in column]
    competing = {i: entry for i, (entry, does) in enumerate(zip(column, ranked, strict=True)) if entry and does}
    most = max((len(entry.cell.values) for entry in competing.values()), default=0)
    running = {i: entry for i, entry in competing.items() if len(entry.cell.values) == most}
    if len(running) < 2:
        return numbers
    turned = {i: e.cell.mean if e.higher_is_better else -e.cell.mean for i, e in running.items()}
    best = max(turned, key=lambda i: turned[i])
    others = [i for i in running if turned[i] < turned[best] - EQUAL]
    found = [
        paired_difference(running[best].cell.values, running[i].cell.values, running[i].higher_is_better)
        for i in others
    ]
    adjusted = holm([difference.p for difference in found])
    close = {i for i, p in zip(others, adjusted, strict=True) if p is not None and p >= ALPHA and most >= FEW_SEEDS}
    for i, entry in running.items():
        numbers[i] = replace(entry.number, best=i not in others, close=i in close)
    return numbers


def _references(block: Sequence[Placed]) -> dict[Data, list[ReferenceRow]]:
    """Return the trivial references of the rows of one block, by dataset."""
    found: dict[Data, list[ReferenceRow]] = {}
    for data in dict.fromkeys(place.data for place, _ in block):
        by_block = reference_rows([row for place, row in block if place.data == data])
        found[data] = [reference for references in by_block.values() for reference in references]
    return found


def _reference_lines(
    found: Mapping[Data, Sequence[ReferenceRow]],
    columns: Sequence[ScoreColumn],
    asked: Asked,
    layout: ScoreLayout,
    width: int,
) -> Iterator[Line]:
    """Yield a line per reference; one that several datasets have is one line. Nothing is sent for it."""
    by_label: dict[str, dict[Data, ReferenceRow]] = {}
    for data, references in found.items():
        for reference in references:
            by_label.setdefault(reference.name, {})[data] = reference
    for label, by_data in by_label.items():
        any_ = next(iter(by_data.values()))
        where = (rho_label(any_.rho), any_.n_devices)
        seeds = any_.seeds
        expected = seeds if layout.sent else asked.seeds
        contents: list[Content | None] = [_seeds(seeds, asked)] if layout.sent else []
        numbers = [_reference_number(by_data.get(column.data), column, len(expected)) for column in columns]
        contents += _once(columns, numbers, [number and number.value for number in numbers])
        contents += [None] * (width - len(contents))
        yield Line(layout.labels(*where, label), tuple(contents), _group(*where), reference=True)


def _reference_number(reference: ReferenceRow | None, column: ScoreColumn, expected: int) -> Number | None:
    cell = reference.cell(column.metric, column.stat) if reference else None
    return Number(cell.mean, cell.sd, n=len(cell.values), expected=expected) if cell else None


def score_notes(rows: Sequence[Placed], columns: Sequence[ScoreColumn], asked: Asked) -> list[str]:
    """Return the scorers of the columns, and which rows lack which of the seeds, a line per set of seeds."""
    scorers = {
        column.metric: scorer
        for column in columns
        for place, row in rows
        if place.data == column.data and (scorer := row.identity["scorers"].get(column.metric))
    }
    lacking: dict[str, list[str]] = {}
    for place, row in rows:
        missing = ", ".join(str(seed) for seed in asked.seeds if seed not in row.seeds)
        if missing:
            where = f"{place.arm.label} on {place.data.label}, {_group(place.rho, place.n_devices)}"
            lacking.setdefault(missing, []).append(where)
    absent = [
        f"no record of seed {missing}: {'any row' if len(places) == len(rows) else '; '.join(places)}"
        for missing, places in lacking.items()
    ]
    return [f"Scorers: {'; '.join(f'{metric}: {scorer}' for metric, scorer in scorers.items())}.", *absent]


def _scorer_notes(data: Data) -> list[str]:
    return [f"{metric}: not scored (switched off, or its package is not installed)" for metric in data.unscored]


def _share_notes(rows: Sequence[Placed]) -> list[str]:
    shares = {(name, text): None for _, row in rows for name, (_, text) in row.traffic.shares.items()}
    return [SENT_NOTE, *(f"{share_name(name)}: {text}" for name, text in shares)]
