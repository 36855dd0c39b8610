"""Tables of scores: blocks of one rate and number of devices, a line per algorithm, the best of each column marked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mlecs_bench.records.names import rho_label
from mlecs_bench.report.arrange import Arm, Data, Place, Setting
from mlecs_bench.report.frame import EVAL_POINTS, EvalPoint, Row, SeedMean, Stat, honest_sentence
from mlecs_bench.report.references import ReferenceRow, reference_notes, reference_rows
from mlecs_bench.report.statistics import ALPHA, holm, paired_difference
from mlecs_bench.report.table import Content, Line, Number, Published, Table

DEVICE_STATS: tuple[Stat, ...] = ("avg", "best", "worst")
EQUAL = 1e-12
"""Means closer than this are one and the same score."""
SENT_NOTE = (
    "sent: parameters in both directions, the broadcast after the last round included, divided by devices and rounds"
)

Placed = tuple[Place, Row]


@dataclass(frozen=True)
class Asked:
    """What a reader asked of a report.

    `eval_point` is when devices are scored, `candidate` the algorithm that is held against the others, `seeds` are
    those that every score should have; `published` puts published values beside ours where a study has them.
    """

    eval_point: EvalPoint
    candidate: str
    seeds: tuple[int, ...]
    published: bool = False


@dataclass(frozen=True)
class ScoreColumn:
    """One column of scores."""

    data: Data
    metric: str
    stat: Stat


def score_name(metric: str, stat: Stat) -> str:
    """Return how tables call a score."""
    return f"{metric} {stat}"


@dataclass(frozen=True)
class ScoreLayout:
    """How a table of scores is worded and what else it holds.

    `labels` are those of a line, by rate, number of devices and algorithm; `heading` is that of a column. `published`
    finds what stands beside a score, `ranked` says which algorithms compete for the best. `sent` adds columns: the
    number of seeds before the scores, and what was sent behind them.
    """

    name: str
    title: str
    left: tuple[str, ...]
    labels: Callable[[str, int, str], tuple[str, ...]]
    heading: Callable[[ScoreColumn], tuple[str, ...]]
    published: Callable[[Place, ScoreColumn], Published | None] = lambda *_: None
    ranked: Callable[[Arm], bool] = lambda _: True
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
        columns = score_columns([data], rows, asked.eval_point)
        if columns:
            layout = _layout(data, rows, suffix)
            table = score_table(setting, rows, columns, asked, layout)
            tables.append(replace(table, notes=(*table.notes, *_share_notes(rows), *_scorer_notes(data))))
    return tables


def _layout(data: Data, rows: Sequence[Placed], suffix: str) -> ScoreLayout:
    lower = {metric for metric in data.metrics for _, row in rows if not row.directions.get(metric, True)}
    return ScoreLayout(
        name=f"scores-{file_part(data.label)}{suffix}",
        title=data.label,
        left=("rho", "devices", "algorithm"),
        labels=lambda rho, n, label: (rho, str(n), label),
        heading=lambda c: (f"{c.metric} (lower is better)" if c.metric in lower else c.metric, c.stat),
        ranked=lambda arm: not arm.is_ablation,
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


def score_columns(data: Iterable[Data], rows: Sequence[Placed], eval_point: EvalPoint) -> list[ScoreColumn]:
    """Return the columns that at least one of `rows` has a score for, by dataset and metric."""
    columns = []
    for one in data:
        own = [row for place, row in rows if place.data == one]
        wanted = [ScoreColumn(one, metric, stat) for metric in one.metrics for stat in (*DEVICE_STATS, "server")]
        columns += [c for c in wanted if any(row.cell(eval_point, c.metric, c.stat) for row in own)]
    return columns


def record_keys(row: Row, seeds: Iterable[int] | None = None) -> tuple[str, ...]:
    """Return the keys of the records of a row with these seeds, in their order; of all where none are named."""
    by_seed = {record["identity"]["seed"]: str(record["key"]) for record in row.records}
    return tuple(by_seed[seed] for seed in (row.seeds if seeds is None else seeds))


def score_table(
    setting: Setting, rows: Sequence[Placed], columns: Sequence[ScoreColumn], asked: Asked, layout: ScoreLayout
) -> Table:
    """Return a table of `rows` with a block of lines per rate and number of devices."""
    rates = setting.rates()
    blocks = sorted({(place.rho, place.n_devices) for place, _ in rows}, key=lambda at: (rates.index(at[0]), at[1]))
    lines: list[Line] = []
    references: list[ReferenceRow] = []
    for rho, n in blocks:
        block = [(place, row) for place, row in rows if (place.rho, place.n_devices) == (rho, n)]
        found = _references(block)
        lines += _block_lines(block, columns, asked, layout)
        lines += _reference_lines(found, columns, asked, layout, len(lines[-1].contents))
        references += [reference for by_data in found.values() for reference in by_data]
    before, behind = ((("seeds",),), [(name,) for name in _sent(rows[0][1])]) if layout.sent else ((), [])
    return Table(
        name=layout.name,
        title=layout.title,
        caption=score_caption([row for _, row in rows], setting, asked.eval_point),
        left=layout.left,
        columns=(*before, *map(layout.heading, columns), *behind),
        lines=tuple(lines),
        notes=(*score_notes(rows, columns, asked), *dict.fromkeys(reference_notes(references))),
        honest=honest_sentence([row for _, row in rows]),
        setting=setting.label,
    )


def _group(rho: str, n_devices: int) -> str:
    return f"rho {rho}, {n_devices} devices"


def _block_lines(
    block: Sequence[Placed], columns: Sequence[ScoreColumn], asked: Asked, layout: ScoreLayout
) -> Iterator[Line]:
    """Yield the lines of one block, the best of every column and what cannot be told from it marked."""
    arms = list(dict.fromkeys(place.arm for place, _ in block))
    by_place = {(place.arm, place.data): (place, row) for place, row in block}
    grid = [[_entry(by_place.get((arm, column.data)), column, asked, layout) for arm in arms] for column in columns]
    ranked = [layout.ranked(arm) for arm in arms]
    scores = zip(*(_marked(column, ranked) for column in grid), strict=True)
    for arm, numbers in zip(arms, scores, strict=True):
        place, row = next((place, row) for place, row in block if place.arm == arm)
        contents: tuple[Content | None, ...] = numbers
        if layout.sent:
            contents = (_seeds(row.seeds, asked), *numbers, *_sent(row).values())
        labels = layout.labels(place.rho, place.n_devices, arm.label)
        yield Line(labels, contents, _group(place.rho, place.n_devices))


def _entry(placed: Placed | None, column: ScoreColumn, asked: Asked, layout: ScoreLayout) -> _Entry | None:
    if placed is None:
        return None
    place, row = placed
    cell = row.cell(asked.eval_point, column.metric, column.stat)
    if cell is None:
        return None
    expected = row.seeds if layout.sent else asked.seeds  # else the column of seeds says it
    published = layout.published(place, column) if asked.published else None
    number = replace(score_number(row, cell, expected), published=published)
    return _Entry(number, cell, row.directions.get(column.metric, True))


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
    close = {i for i, p in zip(others, adjusted, strict=True) if p is not None and p >= ALPHA}
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
        contents += [_reference_number(by_data.get(column.data), column, len(expected)) for column in columns]
        contents += [None] * (width - len(contents))
        yield Line(layout.labels(*where, label), tuple(contents), _group(*where), reference=True)


def _reference_number(reference: ReferenceRow | None, column: ScoreColumn, expected: int) -> Number | None:
    cell = reference.cell(column.metric, column.stat) if reference else None
    return Number(cell.mean, cell.sd, n=len(cell.values), expected=expected) if cell else None


def score_caption(rows: Sequence[Row], setting: Setting, eval_point: EvalPoint) -> str:
    """Return what scores are of: the setting, the data, and when and over what they are taken."""
    about = f"{setting.about[0].upper()}{setting.about[1:]}"
    structure = "".join(f", {text}" for text in _structure(rows))
    data = {row.identity["dataset"]["name"]: row.identity["dataset"] for row in rows}
    views = [f"{name}: {one['view']}, split {_splits(rows, name)}" for name, one in data.items()]
    return (
        f"{about}{structure}. {'; '.join(views)}. Scores {EVAL_POINTS[eval_point]}: per seed the average, the best and "
        "the worst device, and the server; then mean ± sd (ddof = 1) over seeds."
    )


def _splits(rows: Sequence[Row], name: str) -> str:
    splits = {row.identity["dataset"]["split"] for row in rows if row.identity["dataset"]["name"] == name}
    return " or ".join(sorted(splits))


def _structure(rows: Sequence[Row]) -> list[str]:
    """Return in what single devices differ from the profile, which is alike in all rows of a setting."""
    structure = rows[0].identity["structure"]
    models = {id_: model["name"] for id_, model in structure["slm"].items()}
    parts = {"SLM": models, "LoRA rank": structure["rank"], "encoder width": structure["encoder_width"]}
    return [f"{what} of {id_}: {value}" for what, values in parts.items() for id_, value in values.items()]


def score_notes(rows: Sequence[Placed], columns: Sequence[ScoreColumn], asked: Asked) -> list[str]:
    """Return the scorers of the columns, and which rows lack which of the seeds, a line per set of seeds."""
    scorers = {
        column.metric: scorer
        for column in columns
        for place, row in rows
        if place.data == column.data and (scorer := row.identity["scorers"][column.metric])
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
    return [f"{metric}: scorer not installed" for metric in data.unscored]


def _share_notes(rows: Sequence[Placed]) -> list[str]:
    shares = {(name, text): None for _, row in rows for name, (_, text) in row.traffic.shares.items()}
    return [SENT_NOTE, *(f"{share_name(name)}: {text}" for name, text in shares)]
