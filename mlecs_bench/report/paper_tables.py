"""The paper's Tables 1 and 2 and the ablations of its Figure 4, filled with the scores of a setting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mlecs_bench.records.results import record_name
from mlecs_bench.report.arrange import Arm, Data, Place, Setting
from mlecs_bench.report.frame import Cell, Moment, Row, Stat
from mlecs_bench.report.overview import MOMENTS, honest_sentence
from mlecs_bench.report.paper import F1_NOTE, RATE_NOTE, Printed, erratum, printed, printed_in_table2
from mlecs_bench.report.references import ReferenceRow, reference_notes, reference_rows
from mlecs_bench.report.statistics import ALPHA, holm, paired_difference
from mlecs_bench.report.table import Line, Number, Table

CLIENT_STATS: tuple[Stat, ...] = ("avg", "best", "worst")
STAT_NAMES: Mapping[str, str] = {"avg": "Avg.", "best": "B.", "worst": "W.", "server": "server"}
METRIC_NAMES: Mapping[str, str] = {
    "rouge_lsum": "RLS",
    "bertscore": "BS",
    "f1_macro": "F1",
    "f1_weighted": "F1 (weighted)",
}
SHORT_FOR: Mapping[str, str] = {"RLS": "Rouge-LSum", "BS": "BERTScore", "F1": "macro F1"}
EQUAL = 1e-12
"""Means closer than this are one and the same score."""


@dataclass(frozen=True)
class Asked:
    """What a reader asked of a report.

    `moment` is when devices are scored, `candidate` the algorithm that claims are about, `seeds` are those that every
    score should have; `with_paper` puts the paper's values beside ours.
    """

    moment: Moment
    candidate: str
    seeds: tuple[int, ...]
    with_paper: bool = False


@dataclass(frozen=True)
class Column:
    """One column of scores."""

    data: Data
    metric: str
    stat: Stat

    @property
    def side(self) -> str:
        """Whose scores these are."""
        return "server" if self.stat == "server" else "client"

    @property
    def heading(self) -> tuple[str, str, str]:
        """The headings from the dataset down."""
        return (self.data.label, self.side, score_name(self.metric, self.stat))


@dataclass(frozen=True)
class _Entry:
    """A number of a table with the scores behind it."""

    number: Number
    cell: Cell
    higher_is_better: bool


def metric_name(metric: str) -> str:
    """Return how tables call a metric."""
    return METRIC_NAMES.get(metric, metric)


def score_name(metric: str, stat: Stat) -> str:
    """Return how tables call a metric of one side: "Avg. RLS" of devices, "RLS" of the server."""
    return metric_name(metric) if stat == "server" else f"{STAT_NAMES[stat]} {metric_name(metric)}"


def score_columns(data: Iterable[Data], rows: Sequence[tuple[Place, Row]], moment: Moment) -> list[Column]:
    """Return the columns that at least one of `rows` has a score for: devices, then the server, by dataset."""
    columns = []
    for one in data:
        own = [row for place, row in rows if place.data == one]
        wanted = [Column(one, metric, stat) for metric in one.metrics for stat in CLIENT_STATS]
        wanted += [Column(one, metric, "server") for metric in one.metrics]
        columns += [c for c in wanted if any(row.cell(moment, c.metric, c.stat) for row in own)]
    return columns


def record_names(row: Row, seeds: Iterable[int]) -> tuple[str, ...]:
    """Return the file names of the records of a row with these seeds, in their order."""
    by_seed = {record["identity"]["seed"]: record_name(record["identity"]) for record in row.records}
    return tuple(by_seed[seed] for seed in seeds)


def table1(setting: Setting, asked: Asked, suffix: str = "") -> Table | None:
    """Return the paper's Table 1: rates and algorithms, scored on every dataset; None without a row.

    Rows are those with as many devices as most algorithms have, ablations left out.
    """
    n = setting.usual_devices()
    rows = [(p, row) for p, row in setting.rows.items() if p.n_devices == n and not p.arm.is_ablation]
    title = f"Table 1: algorithms at {n} devices"
    return _by_rate(rows, setting, asked, (f"table1{suffix}", title, "MER"))


def ablation_table(setting: Setting, asked: Asked, suffix: str = "") -> Table | None:
    """Return the scores of the candidate and of its ablations (paper, Figure 4); None without an ablation."""
    n = setting.usual_devices()
    places = [p for p in setting.rows if p.n_devices == n and p.arm.is_ablation and p.arm.base == asked.candidate]
    blocks = {(place.data, place.rho) for place in places}
    full = [
        place
        for place in setting.rows
        if place.n_devices == n and place.arm.label == asked.candidate and (place.data, place.rho) in blocks
    ]
    rows = [(place, setting.rows[place]) for place in [*full, *places]]
    title = f"Ablations of {asked.candidate} at {n} devices"
    return _by_rate(rows, setting, asked, (f"ablation{suffix}", title, "MER")) if places else None


def _by_rate(
    rows: Sequence[tuple[Place, Row]], setting: Setting, asked: Asked, names: tuple[str, str, str]
) -> Table | None:
    """Return a table with a group of lines per rate; `names`: in files, as a title, and that of the rate."""
    name, title, rate = names
    columns = score_columns(setting.data, rows, asked.moment)
    if not columns:
        return None
    lines: list[Line] = []
    references: list[ReferenceRow] = []
    for rho in setting.rates():
        block = [(place, row) for place, row in rows if place.rho == rho]
        group = f"{rate} {rho}"
        lines += _block_lines(block, columns, asked, rho, group)
        found = _references(block)
        lines += _reference_lines(found, columns, asked, (rho, group))
        references += [reference for by_data in found.values() for reference in by_data]
    return Table(
        name=name,
        title=title,
        caption=_caption([row for _, row in rows], columns, setting, asked.moment),
        left=(rate, "method"),
        columns=tuple(column.heading for column in columns),
        lines=tuple(lines),
        notes=(*_notes(rows, columns, asked), *_reference_notes(references), *_paper_notes(lines, columns)),
        honest=honest_sentence([row for _, row in rows]),
        setting=setting.label,
    )


def _block_lines(
    block: Sequence[tuple[Place, Row]], columns: Sequence[Column], asked: Asked, rho: str, group: str
) -> list[Line]:
    """Return the lines of one rate, the best of every column and what cannot be told from it marked."""
    arms = list(dict.fromkeys(place.arm for place, _ in block))
    by_place = {(place.arm, place.data): (place, row) for place, row in block}
    grid = [
        [_entry(by_place[arm, c.data], c, asked, _printed) if (arm, c.data) in by_place else None for c in columns]
        for arm in arms
    ]
    marked = zip(*(_marked(column) for column in zip(*grid, strict=True)), strict=True) if grid else []
    return [Line((rho, arm.label), tuple(numbers), group) for arm, numbers in zip(arms, marked, strict=True)]


def _entry(
    placed: tuple[Place, Row], column: Column, asked: Asked, printed_at: Callable[[Place, Column], Printed | None]
) -> _Entry | None:
    place, row = placed
    cell = row.cell(asked.moment, column.metric, column.stat)
    if cell is None:
        return None
    number = score_number(row, cell, asked.seeds)
    if asked.with_paper and place.arm.label == place.arm.algo:
        number = _beside(number, printed_at(place, column))
    return _Entry(number, cell, row.directions.get(column.metric, True))


def score_number(row: Row, cell: Cell, seeds: Sequence[int]) -> Number:
    """Return a score as a table's number: mean and sd over seeds, how many of `seeds`, the records behind it."""
    return Number(
        cell.mean, cell.sd, n=len(cell.values), expected=len(seeds), records=record_names(row, sorted(cell.values))
    )


def _printed(place: Place, column: Column) -> Printed | None:
    """Return what the paper's Table 1 prints for a place, or what its Table 2 does for other numbers of devices."""
    return printed(place.arm.algo, place.data.name, place.rho, place.n_devices, column.metric, column.stat)


def _printed_in_table2(place: Place, column: Column) -> Printed | None:
    """Return what the paper's Table 2 prints for a place; at three devices it repeats Table 1, but for a misprint."""
    known = _printed(place, column) is not None
    return printed_in_table2(place.data.name, place.n_devices, column.metric, column.stat) if known else None


def _beside(number: Number, value: Printed | None) -> Number:
    return number if value is None else replace(number, paper=value.value, misprint="".join(value.misprints))


def _marked(column: Sequence[_Entry | None]) -> list[Number | None]:
    """Return the numbers of a column, the best of them marked, and those that a paired test cannot tell from it.

    A mean over fewer seeds than others have is not in the running: their seeds may be the harder ones.
    """
    numbers = [entry.number if entry else None for entry in column]
    most = max((len(entry.cell.values) for entry in column if entry), default=0)
    running = {i: entry for i, entry in enumerate(column) if entry and len(entry.cell.values) == most}
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


def _references(block: Sequence[tuple[Place, Row]]) -> dict[Data, list[ReferenceRow]]:
    """Return the trivial references of the rows of one rate, by dataset."""
    found: dict[Data, list[ReferenceRow]] = {}
    for data in dict.fromkeys(place.data for place, _ in block):
        by_block = reference_rows([row for place, row in block if place.data == data])
        found[data] = [reference for references in by_block.values() for reference in references]
    return found


def _reference_lines(
    found: Mapping[Data, Sequence[ReferenceRow]], columns: Sequence[Column], asked: Asked, where: tuple[str, str]
) -> Iterator[Line]:
    """Yield a line per reference; `where` is the rate and the group. One that several datasets have is one line."""
    rho, group = where
    by_label: dict[str, dict[Data, ReferenceRow]] = {}
    for data, references in found.items():
        for reference in references:
            label = f"{reference.name} ({reference.apart})" if reference.apart else reference.name
            by_label.setdefault(label, {})[data] = reference
    for label, by_data in by_label.items():
        contents = tuple(_reference_number(by_data.get(column.data), column, asked) for column in columns)
        yield Line((rho, label), contents, group, reference=True)


def _reference_number(reference: ReferenceRow | None, column: Column, asked: Asked) -> Number | None:
    cell = reference.cell(column.metric, column.stat) if reference else None
    return Number(cell.mean, cell.sd, n=len(cell.values), expected=len(asked.seeds)) if cell else None


def table2(setting: Setting, asked: Asked, suffix: str = "") -> Table | None:
    """Return the paper's Table 2: scores by number of devices, of every algorithm and rate that has several; or None.

    With the paper's values, where it prints any.
    """
    numbers: dict[tuple[Arm, str], set[int]] = {}
    for place in setting.rows:
        numbers.setdefault((place.arm, place.rho), set()).add(place.n_devices)
    series = [key for key, counts in numbers.items() if len(counts) > 1]
    if not series:
        return None
    columns = [(arm, rho, n) for arm, rho in series for n in sorted(numbers[arm, rho])]
    rows = [(place, row) for place, row in setting.rows.items() if (place.arm, place.rho) in series]
    by_place = {(place.arm, place.rho, place.n_devices, place.data): (place, row) for place, row in rows}
    scores = score_columns(setting.data, rows, asked.moment)
    lines = []
    for score in scores:
        placed = [by_place.get((*column, score.data)) for column in columns]
        entries = [_entry(one, score, asked, _printed_in_table2) if one else None for one in placed]
        contents = tuple(entry.number if entry else None for entry in entries)
        labels = (score.data.label, score.side, score_name(score.metric, score.stat))
        lines.append(Line(labels, contents, score.data.label))
    return Table(
        name=f"table2{suffix}",
        title="Table 2: number of devices",
        caption=_caption([row for _, row in rows], scores, setting, asked.moment),
        left=("dataset", "side", "score"),
        columns=tuple((f"{arm.label}, MER {rho}", f"N = {n}") for arm, rho, n in columns),
        lines=tuple(lines),
        notes=(*_notes(rows, scores, asked, marks=False), *_paper_notes(lines, scores, RATE_NOTE)),
        honest=honest_sentence([row for _, row in rows]),
        setting=setting.label,
    )


def _caption(rows: Sequence[Row], columns: Sequence[Column], setting: Setting, moment: Moment) -> str:
    about = f"{setting.about[0].upper()}{setting.about[1:]}"
    data = {row.identity["dataset"]["name"]: row.identity["dataset"] for row in rows}
    views = [f"{name}: {one['view']}, split {_splits(rows, name)}" for name, one in data.items()]
    short = [f"{METRIC_NAMES[m]}: {SHORT_FOR[METRIC_NAMES[m]]}" for m in METRIC_NAMES if METRIC_NAMES[m] in SHORT_FOR]
    used = {metric_name(column.metric) for column in columns}
    names = ", ".join(text for text in short if text.partition(":")[0] in used)
    return (
        f"{about}. {'; '.join(views)}. Client: average (Avg.), best (B.) and worst (W.) device, scored "
        f"{MOMENTS[moment]}. Mean ± sd (ddof = 1) over seeds. {names}."
    )


def _splits(rows: Sequence[Row], name: str) -> str:
    splits = {row.identity["dataset"]["split"] for row in rows if row.identity["dataset"]["name"] == name}
    return " or ".join(sorted(splits))


def _notes(rows: Sequence[tuple[Place, Row]], columns: Sequence[Column], asked: Asked, marks: bool = True) -> list[str]:
    scorers = {
        column.metric: scorer
        for column in columns
        for place, row in rows
        if place.data == column.data and (scorer := row.identity["scorers"][column.metric])
    }
    notes = [f"MER: the rate at which a device holds a modality. Scorers: {_scorer_text(scorers)}."]
    if marks:
        notes.append(
            "Bold: best of its rate, of the rows with most seeds. Underlined: not distinguishable from the best by a "
            f"paired t-test at level {ALPHA:g}, corrected (Holm) for the rows of the rate."
        )
    return notes + _missing_notes(rows, asked.seeds)


def _missing_notes(rows: Sequence[tuple[Place, Row]], seeds: Sequence[int]) -> list[str]:
    """Return which rows lack which of the seeds, a line per set of seeds."""
    lacking: dict[str, list[str]] = {}
    for place, row in rows:
        missing = ", ".join(str(seed) for seed in seeds if seed not in row.seeds)
        if missing:
            where = f"{place.arm.label} on {place.data.label}, MER {place.rho}, N = {place.n_devices}"
            lacking.setdefault(missing, []).append(where)
    return [
        f"no record of seed {missing}: {'any row' if len(places) == len(rows) else '; '.join(places)}"
        for missing, places in lacking.items()
    ]


def _scorer_text(scorers: Mapping[str, str]) -> str:
    return "; ".join(f"{metric_name(metric)}: {scorer}" for metric, scorer in scorers.items())


def _reference_notes(references: Sequence[ReferenceRow]) -> list[str]:
    return list(dict.fromkeys(reference_notes(references)))


def _paper_notes(lines: Sequence[Line], columns: Sequence[Column], *more: str) -> list[str]:
    """Return what explains the paper's values in a table, `more` among it; nothing where it has none."""
    numbers = [c for line in lines for c in line.contents if isinstance(c, Number) and c.paper is not None]
    if not numbers:
        return []
    compared = [F1_NOTE] if any(metric_name(column.metric) == "F1" for column in columns) else []
    letters = sorted({letter for number in numbers for letter in number.misprint})
    return [*compared, *more, *(f"[{letter}] {erratum(letter)}" for letter in letters)]
