"""What `mlecs-bench compare` says: paired differences of scores as Markdown tables, or as JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from mlecs_bench.errors import RecordError, UsageError, did_you_mean
from mlecs_bench.report.arrange import Data, Setting
from mlecs_bench.report.comparisons import (
    AT_ALL,
    DIFFERENCE_COLUMNS,
    AtPoints,
    Comparison,
    at_points,
    compare_rows,
    corrected,
    difference_contents,
    overall,
)
from mlecs_bench.report.conditions import conditions_label
from mlecs_bench.report.evidence import flip_text
from mlecs_bench.report.frame import (
    BOTH_POINTS,
    EVAL_POINTS,
    SERVER,
    EvalPoint,
    Row,
    Stat,
    honest_sentence,
    score_rows,
)
from mlecs_bench.report.markdown import report_markdown
from mlecs_bench.report.pairing import Pair, Pairing, Record, conditioned, origin_notes
from mlecs_bench.report.statistics import ALPHA, FEW_SEEDS, MARGIN, POWER, SignFlip
from mlecs_bench.report.table import Line, Number, Report, Section, Table

ALL_METRICS = "all"
_LEGEND = (
    "Difference: A minus B on the n seeds that both have, turned so that positive means A is better: mean ± sd, "
    "Student's 95 % interval, and the mean in per cent of B's. p: two-sided paired t-test; corrected: Holm over all "
    "lines here of one dataset, score and point of evaluation. Verdict on A: tied if the interval lies within "
    f"±{MARGIN:g}, else better or worse if the corrected p is below {ALPHA:g}; undecided with fewer than {FEW_SEEDS} "
    "seeds. Detectable: the smallest true gain that "
    f"these seeds would have shown with {100 * POWER:.0f} % power, uncorrected."
)
_BOTH_LEGEND = (
    " Devices are scored at two points: local, after their own training, and received, after the last broadcast; both: "
    "the differences are the same. Holds at both: the verdict of both, undecided where they differ."
)


@dataclass(frozen=True)
class Shown:
    """Which scores are shown: `metric` None stands for the headline of each dataset, "all" for all its metrics."""

    eval_points: tuple[EvalPoint, ...] = BOTH_POINTS
    metric: str | None = None
    stats: tuple[Stat, ...] = ("avg", "server")

    def metrics(self, data: Data) -> tuple[str, ...]:
        """Return the metrics of a dataset to show."""
        if self.metric == ALL_METRICS:
            return data.metrics
        return (self.metric or data.headline,)

    def points_of(self, stat: Stat) -> tuple[EvalPoint, ...]:
        """Return when a score is taken: a server, which receives nothing, has one point of evaluation."""
        return self.eval_points[:1] if stat == SERVER else self.eval_points


@dataclass(frozen=True)
class Identical:
    """How many of the paired scores of the last round are equal to the last bit, and how many records in all of them.

    `largest` is the largest difference between two scores.
    """

    scores: int
    of_scores: int
    records: int
    of_records: int
    largest: float


@dataclass(frozen=True)
class Block:
    """The comparisons of one score in one setting: what one table shows."""

    setting: Setting
    data: Data
    metric: str
    stat: Stat
    comparisons: tuple[AtPoints, ...]


@dataclass(frozen=True)
class Compared:
    """A compared with B: A is better where differences are positive. `identical` is None for two algorithms.

    `overall` is the overall test at each point of evaluation, over as many `headline` comparisons.
    """

    names: tuple[str, str]
    folders: bool
    shown: Shown
    blocks: tuple[Block, ...]
    headline: int
    overall: Mapping[EvalPoint, SignFlip]
    identical: Identical | None
    notes: tuple[str, ...]


def compare_pairs(pairing: Pairing, names: tuple[str, str], shown: Shown, folders: bool) -> Compared:
    """Compare all pairs; `folders` says that they are cells of two folders, whose numbers could be the very same.

    Raises UsageError for a metric that no record has, and RecordError where no pair has the scores asked for.
    """
    pairs = pairing.pairs
    _check_metric(shown.metric, pairs)
    blocks = _blocks(pairs, shown)
    if not blocks:
        raise RecordError(
            f"no score to compare: {names[0]} and {names[1]} have no {' or '.join(shown.stats)} score of "
            f"{shown.metric or 'the first metric'} in common; leave out --metric and --stat"
        )
    headline = {point: _headline(pairs, point) for point in shown.eval_points}
    return Compared(
        names=names,
        folders=folders,
        shown=shown,
        blocks=blocks,
        headline=max(map(len, headline.values())),
        overall={point: overall(found) for point, found in headline.items()},
        identical=_identical(pairs) if folders else None,
        notes=(*pairing.notes, *_unscored_notes(pairs, shown, blocks), *(origin_notes(pairs) if folders else ())),
    )


def _headline(pairs: Sequence[Pair], eval_point: EvalPoint) -> list[Comparison]:
    """Return the comparisons of the average device in the first metric of each dataset."""
    found = [compare_rows(p.candidate, p.baseline, p.candidate[0].data.headline, "avg", eval_point) for p in pairs]
    return [comparison for comparison in found if comparison is not None]


def _check_metric(metric: str | None, pairs: Sequence[Pair]) -> None:
    known = {ALL_METRICS, *(name for pair in pairs for row in pair.rows for name in row.directions)}
    if metric is not None and metric not in known:
        raise UsageError(f"no metric '{metric}' in these records. {did_you_mean(metric, known)}")


def _blocks(pairs: Sequence[Pair], shown: Shown) -> tuple[Block, ...]:
    """Return the tables' comparisons; those of one dataset, score and point are one family in all settings."""
    places = {(p.candidate[0].data, metric): None for p in pairs for metric in shown.metrics(p.candidate[0].data)}
    scores = [(data, metric, stat) for data, metric in places for stat in shown.stats]
    blocks: list[Block] = []
    for data, metric, stat in scores:
        own = [pair for pair in pairs if pair.candidate[0].data == data]
        found = {
            point: [compare_rows(pair.candidate, pair.baseline, metric, stat, point) for pair in own]
            for point in shown.points_of(stat)
        }
        joined = at_points([corrected([one for one in members if one is not None]) for members in found.values()])
        settings = {pair.rows[0].group: pair.setting for pair in own}
        by_setting: dict[str, tuple[Setting, list[AtPoints]]] = {}
        for one in joined:
            setting = settings[one.first.candidate_row.group]
            by_setting.setdefault(setting.label, (setting, []))[1].append(one)
        blocks += [Block(setting, data, metric, stat, tuple(members)) for setting, members in by_setting.values()]
    return tuple(blocks)


def _unscored_notes(pairs: Sequence[Pair], shown: Shown, blocks: Sequence[Block]) -> list[str]:
    """Return which of the scores to show no pair has."""
    scored = {(block.data, block.metric, block.stat) for block in blocks}
    data = dict.fromkeys(pair.candidate[0].data for pair in pairs)
    wanted = [(one, metric, stat) for one in data for metric in shown.metrics(one) for stat in shown.stats]
    return [
        f"{one.label}: not both have a {metric} {stat} score"
        for one, metric, stat in wanted
        if (one, metric, stat) not in scored
    ]


def _identical(pairs: Sequence[Pair]) -> Identical:
    """Count equal scores among those that both records of a pair have from the same scorer."""
    by_record = []
    for pair in pairs:
        scorers = pair.candidate[1].identity["scorers"]
        apart = {metric for metric, scorer in scorers.items() if scorer is None}
        for one, other in pair.records():
            ours, theirs = _scores(one, apart), _scores(other, apart)
            by_record.append([abs(ours[where] - theirs[where]) for where in ours.keys() & theirs.keys()])
    gaps = [gap for record in by_record for gap in record]
    return Identical(
        scores=gaps.count(0.0),
        of_scores=len(gaps),
        records=sum(not any(record) for record in by_record),
        of_records=len(by_record),
        largest=max(gaps, default=0.0),
    )


def _scores(record: Record, without: set[str]) -> dict[tuple[str, str, str], float]:
    """Return the scores of the last round by point of evaluation, metric and device."""
    metrics = record["metrics"]
    rows = score_rows({}, metrics["client"], metrics["server"] or {})
    return {(r["eval_point"], r["metric"], r["device"]): r["value"] for r in rows if r["metric"] not in without}


def compared_text(compared: Compared) -> str:
    """Return the Markdown of a comparison: what A and B are, a table per score, the overall test, and notes."""
    a, b = compared.names
    kind = "folder" if compared.folders else "algorithm"
    about = [f"A is the {kind} {a}, B the {kind} {b}. Positive differences: A is better."]
    if compared.identical is not None:
        about.append(_identical_text(compared.identical))
    legend = _LEGEND + (_BOTH_LEGEND if len(compared.shown.eval_points) > 1 else "")
    sections = [
        Section("Scores", legend, [_table(block, compared) for block in compared.blocks]),
        Section("Overall", _overall_text(compared)),
    ]
    if compared.notes:
        sections.append(Section("Notes", "\n\n".join(compared.notes)))
    return report_markdown(Report(f"{a} against {b}", "\n\n".join(about), "", sections))


def _identical_text(found: Identical) -> str:
    text = (
        f"Bit-identical: {found.scores} of {found.of_scores} scores of the last round, and all scores of "
        f"{found.records} of {found.of_records} pairs of records."
    )
    return text + (f" Largest difference: {found.largest:.3g}." if found.scores < found.of_scores else "")


def _table(block: Block, compared: Compared) -> Table:
    first = block.comparisons[0].first.candidate_row
    several = len(compared.shown.points_of(block.stat)) > 1
    lower = "" if first.directions[block.metric] else ", lower is better"
    data = first.identity["dataset"]
    points = " and ".join(EVAL_POINTS[point] for point in compared.shown.eval_points)
    scored = "of the server" if block.stat == SERVER else points
    plan = f"{block.setting.about}; data: {data['view']}, split {data['split']}; scores {scored}."
    return Table(
        name=f"{block.data.name}-{block.metric}-{block.stat}",
        title=f"{block.data.label}: {block.metric} {block.stat}{lower}",
        caption=f"{plan[0].upper()}{plan[1:]}",
        left=(
            "rho",
            "devices",
            *(("algorithm",) if compared.folders else ("A", "B")),
            *(["scored"] if several else []),
        ),
        columns=(("score A",), ("score B",), *([AT_ALL] if several else []), *DIFFERENCE_COLUMNS),
        lines=tuple(_line(c, one, compared.folders, several) for c in block.comparisons for one in c.at),
        notes=tuple(text for c in block.comparisons for text in _missing(c.first, compared)),
        honest=honest_sentence(_rows(block.comparisons)),
        setting=block.setting.label,
    )


def _rows(comparisons: Sequence[AtPoints]) -> list[Row]:
    return [row for c in comparisons for row in (c.first.candidate_row, c.first.baseline_row)]


def _line(all_: AtPoints, c: Comparison, folders: bool, several: bool) -> Line:
    arms = (c.candidate.label,) if folders else _told_apart(c)
    scores = (_score(_common(c, row)) for row in (c.candidate_row, c.baseline_row))
    labels = (c.rho, str(c.n_devices), *arms, *([all_.scored(c)] if several else []))
    return Line(labels, (*scores, *([all_.verdict] if several else []), *difference_contents(c)))


def _told_apart(c: Comparison) -> tuple[str, str]:
    """Return the algorithms of A and B, with the conditions of their federations where these differ."""
    ours, theirs = c.candidate_row, c.baseline_row
    if conditions_label(ours.identity) == conditions_label(theirs.identity):
        return c.candidate.label, c.baseline.label
    return conditioned(c.candidate, ours), conditioned(c.baseline, theirs)


def _values(c: Comparison, row: Row) -> Mapping[int, float]:
    cell = row.cell(c.eval_point, c.metric, c.stat)
    return cell.values if cell else {}


def _common(c: Comparison, row: Row) -> list[float]:
    """Return the scores of a row on the common seeds."""
    values = _values(c, row)
    return [values[seed] for seed in c.difference.seeds]


def _score(values: Sequence[float]) -> Number | None:
    return Number(fmean(values), _sd(values)) if values else None


def _sd(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _missing(c: Comparison, compared: Compared) -> list[str]:
    """Return which scores are not compared since the other side lacks their seeds."""
    names = compared.names if compared.folders else (c.candidate.label, c.baseline.label)
    return [
        f"rho {c.rho}, {c.n_devices} devices: only {name} has seed {', '.join(map(str, seeds))}"
        for name, row in zip(names, (c.candidate_row, c.baseline_row), strict=True)
        if (seeds := _alone(c, row))
    ]


def _alone(c: Comparison, row: Row) -> list[int]:
    return [seed for seed in _values(c, row) if seed not in c.difference.seeds]


def _overall_text(compared: Compared) -> str:
    several = len(compared.overall) > 1
    found = [(f"{point}: " if several else "") + flip_text(test) for point, test in compared.overall.items()]
    blocks = f"{compared.headline} blocks of dataset and rate"
    return f"First metric of each dataset, average device, {blocks}: {'; '.join(found)}."


def compared_json(compared: Compared) -> dict[str, Any]:
    """Return a comparison as JSON values, with nothing rounded."""
    comparisons = [
        _comparison_json(block.setting, c, one) for block in compared.blocks for c in block.comparisons for one in c.at
    ]
    return {
        "schema": "mlecs-bench/compare/2",
        "compared": "folders" if compared.folders else "algorithms",
        "a": compared.names[0],
        "b": compared.names[1],
        "eval_points": list(compared.shown.eval_points),
        "honest": honest_sentence([row for block in compared.blocks for row in _rows(block.comparisons)]),
        "comparisons": comparisons,
        "overall": {p: {**asdict(test), "blocks": compared.headline} for p, test in compared.overall.items()},
        "identical": None if compared.identical is None else asdict(compared.identical),
        "notes": list(compared.notes),
    }


def _comparison_json(setting: Setting, all_: AtPoints, c: Comparison) -> dict[str, Any]:
    sides = {}
    for side, arm, row in (("a", c.candidate, c.candidate_row), ("b", c.baseline, c.baseline_row)):
        common = _common(c, row)
        values = {str(seed): value for seed, value in _values(c, row).items()}
        mean = fmean(common) if common else None
        sides[side] = {
            "algorithm": arm.label,
            "mean": mean,
            "sd": _sd(common),
            "values": values,
            "alone": _alone(c, row),
        }
    return {
        "setting": {"label": setting.label, "about": setting.about},
        "dataset": c.data.label,
        "rho": c.rho,
        "n_devices": c.n_devices,
        "metric": c.metric,
        "stat": c.stat,
        "scored": all_.scored(c) or SERVER,
        "higher_is_better": c.candidate_row.directions[c.metric],
        **sides,
        "difference": {
            **asdict(c.difference),
            "seeds": list(c.difference.seeds),
            "by_seed": {str(seed): value for seed, value in c.by_seed.items()},
        },
        "relative_percent": c.relative,
        "adjusted_p": c.adjusted_p,
        "verdict": c.verdict,
        "holds_at_all_points": all_.verdict,
        "records": list(c.records),
    }
