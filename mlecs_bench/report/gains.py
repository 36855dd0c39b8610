"""Where collaboration pays: what algorithms gain over the control, against every number that a study sweeps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from mlecs_bench.report.arrange import Arm, Place
from mlecs_bench.report.comparisons import AT_ALL, AtPoints, Comparison, at_points, compare_rows, corrected
from mlecs_bench.report.drawings import draw_gains
from mlecs_bench.report.figure_parts import Estimate, GainLine, GainPanel
from mlecs_bench.report.frame import EVAL_POINTS, SERVER, EvalPoint, Row, SeedMean, Stat, honest_sentence
from mlecs_bench.report.scores import Asked, file_part, score_name
from mlecs_bench.report.statistics import ALPHA, FEW_SEEDS, MARGIN, Difference
from mlecs_bench.report.swept import FEWEST_VALUES, Axis, Spot, Swept
from mlecs_bench.report.table import Content, Figure, Line, Number, NumberKind, Table

TITLE = "Where collaboration pays"
SHOWN: tuple[Stat, ...] = ("avg", "server")
"""The scores whose gains are shown, a table and a figure each: the average device and the server."""
OWN_POINT: EvalPoint = "local"
"""When devices are scored in rounds before the last."""
ROUND, ROUND_WORDS = "round", "after each round of the base"
MOST_ROUNDS = 20
"""Rounds that a table shows of a run; the figure has all."""


@dataclass(frozen=True)
class Gain:
    """What one algorithm gains at one value of an axis; `tested`: it has a part in the correction and a verdict."""

    axis: str
    value: float
    found: AtPoints
    tested: bool = True

    @property
    def arm(self) -> Arm:
        """The algorithm."""
        return self.found.first.candidate


@dataclass(frozen=True)
class Gains:
    """All gains of one dataset in one score of its headline metric, axis by axis, those after each round the last."""

    swept: Swept
    stat: Stat
    on_axes: tuple[Gain, ...]
    by_round: tuple[Gain, ...]

    @property
    def name(self) -> str:
        """What its table and its figure are called in files."""
        return f"gains-{file_part(self.swept.data.label)}{'-server' if self.stat == SERVER else ''}"

    @property
    def score(self) -> str:
        """What the score is called."""
        return score_name(self.swept.data.headline, self.stat)

    def rows(self) -> list[Row]:
        """Return every row behind it."""
        both = [row for gain in self.on_axes for row in _rows(gain.found.first)]
        return list({row.group: row for row in both}.values())


def _rows(one: Comparison) -> tuple[Row, Row]:
    return one.candidate_row, one.baseline_row


def gains_of(swept: Swept, asked: Asked) -> list[Gains]:
    """Return the gains in every score that algorithms and control have."""
    found = [Gains(swept, stat, _on_axes(swept, stat, asked), _by_round(swept, stat, asked)) for stat in SHOWN]
    return [one for one in found if one.on_axes]


def _on_axes(swept: Swept, stat: Stat, asked: Asked) -> tuple[Gain, ...]:
    """Return the gains at every value of every axis, corrected together; those of the base count once."""
    points = asked.points_of(stat)
    arms = swept.rivals()
    by_spot: dict[int, list[list[Comparison]]] = {}
    for spot in swept.spots:
        at = [[_compared(swept, spot, arm, stat, point) for point in points] for arm in arms]
        by_spot[id(spot)] = [[one for one in of_arm if one] for of_arm in at if all(of_arm)]
    pairs = [of_arm for of_spot in by_spot.values() for of_arm in of_spot]
    tested = iter(at_points([corrected(of_point) for of_point in zip(*pairs, strict=True)]))
    found = {where: [next(tested) for _ in of_spot] for where, of_spot in by_spot.items()}
    by_axis = [
        [Gain(axis.path, value, one) for value, spot in axis.spots.items() for one in found[id(spot)]]
        for axis in swept.axes
    ]
    return tuple(gain for gains in by_axis for gain in _moving(gains))


def _moving(gains: Sequence[Gain]) -> list[Gain]:
    """Return the gains on one axis of the algorithms that have several there, and not that of the base alone."""
    counts = Counter(gain.arm for gain in gains)
    return [gain for gain in gains if counts[gain.arm] > 1]


def _compared(swept: Swept, spot: Spot, arm: Arm, stat: Stat, point: EvalPoint) -> Comparison | None:
    """Return an algorithm against the control at one spot, uncorrected; None without a seed that both have."""
    row, control = spot.row(arm, swept.data), spot.row(swept.floor, swept.data)
    if row is None or control is None:
        return None
    places = spot.place(arm, swept.data), spot.place(swept.floor, swept.data)
    return _paired((places[0], row), (places[1], control), stat, point)


def _paired(ours: tuple[Place, Row], control: tuple[Place, Row], stat: Stat, point: EvalPoint) -> Comparison | None:
    found = compare_rows(ours, control, ours[0].data.headline, stat, point)
    return found if found and found.by_seed else None


def _by_round(swept: Swept, stat: Stat, asked: Asked) -> tuple[Gain, ...]:
    """Return the gains after each round of the base's runs, which devices are scored in at one point alone."""
    if stat != SERVER and OWN_POINT not in asked.eval_points:
        return ()
    curves, data = swept.base.setting.curves, swept.data
    control = swept.base.place(swept.floor, data)
    if control not in curves:
        return ()
    metric = data.headline
    others = _after_rounds(curves[control], metric)
    found = []
    for place in (swept.base.place(arm, data) for arm in swept.rivals()):
        own = _after_rounds(curves[place], metric) if place in curves else {}
        for t in (t for t in own if t in others):
            one = _paired((place, own[t]), (control, others[t]), stat, OWN_POINT)
            found += [Gain(ROUND, t, AtPoints((one,)), tested=False)] if one else []
    rounds = {gain.value for gain in found}
    return tuple(sorted(found, key=lambda gain: gain.value)) if len(rounds) >= FEWEST_VALUES else ()


def _after_rounds(row: Row, metric: str) -> dict[int, Row]:
    """Return a row as it was after each round that all its records were scored in."""
    scores: dict[int, dict[Stat, dict[int, float]]] = {}
    for record in row.records:
        for entry in record["metrics"]["rounds"]:
            of_round = scores.setdefault(int(entry["round"]), {stat: {} for stat in SHOWN})
            for stat, value in _round_scores(entry, metric):
                of_round[stat][int(record["identity"]["seed"])] = value
    return {
        t: replace(row, cells=cells)
        for t, of_round in sorted(scores.items())
        if (cells := {_where(stat, metric): _mean(of) for stat, of in of_round.items() if len(of) == len(row.records)})
    }


def _round_scores(entry: Mapping[str, Any], metric: str) -> Iterator[tuple[Stat, float]]:
    devices = (entry.get("client") or {}).get(metric)
    if devices:
        yield "avg", fmean(score["value"] for score in devices.values())
    server = (entry.get("server") or {}).get(metric)
    if server:
        yield "server", float(server["value"])


def _where(stat: Stat, metric: str) -> tuple[str, str, Stat]:
    return SERVER if stat == SERVER else OWN_POINT, metric, stat


def _mean(by_seed: Mapping[int, float]) -> SeedMean:
    values = list(by_seed.values())
    return SeedMean(fmean(values), stdev(values) if len(values) > 1 else None, dict(sorted(by_seed.items())))


# ---------------------------------------------------------------------------------------------------------- tables


def gains_table(gains: Gains, asked: Asked, suffix: str = "", setting: str = "") -> Table:
    """Return a line per axis, value and algorithm: what it gains at each point, and what holds at all of them."""
    points = asked.points_of(gains.stat)
    several = len(points) > 1
    names = {axis.path: axis.name for axis in gains.swept.axes}
    shown = (*gains.on_axes, *_thinned(gains.by_round))
    columns = [(*([point] if several else []), name) for point in points for name in GAIN_COLUMNS]
    return Table(
        name=f"{gains.name}{suffix}",
        title=f"{gains.swept.data.label}: gain in {gains.score} over {gains.swept.floor.label}",
        caption=_caption(gains, asked),
        left=("number", "value", "algorithm"),
        columns=(AT_ALL if several else ("verdict",), *columns, ("n",)),
        lines=tuple(_line(gain, names.get(gain.axis, gain.axis), points) for gain in shown),
        notes=(f"control row {gains.swept.floor.label}: {_says(gains.swept.floor)}",),
        honest=honest_sentence(gains.rows()),
        setting=setting,
    )


GAIN_COLUMNS = ("gain", "low", "high", "corrected p")


def _says(floor: Arm) -> str:
    return floor.control.says if floor.control else ""


def _thinned(gains: Sequence[Gain]) -> list[Gain]:
    """Return the gains after every round, or after every so many, the last among them."""
    rounds = sorted({gain.value for gain in gains})
    kept = {*rounds[:: -max(1, math.ceil(len(rounds) / MOST_ROUNDS))]}
    return [gain for gain in gains if gain.value in kept]


def _line(gain: Gain, name: str, points: Sequence[EvalPoint]) -> Line:
    first = gain.found.first
    contents: list[Content | None] = [gain.found.verdict if gain.tested else None]
    for i, _ in enumerate(points):
        if i < len(gain.found.at):
            contents += _contents(gain.found.at[i])
        else:
            contents += [replace(one, repeats=True) if one and gain.found.same else None for one in _contents(first)]
    contents.append(Number(first.difference.n, kind="count", records=first.records))
    return Line((name, f"{gain.value:g}", gain.arm.label), tuple(contents), group=name)


def _contents(one: Comparison) -> list[Number | None]:
    """Return what stands under `GAIN_COLUMNS`."""
    found = one.difference

    def number(value: float | None, kind: NumberKind = "difference", sd: float | None = None) -> Number | None:
        if value is None:
            return None
        expected = len({seed for row in _rows(one) for seed in row.seeds})
        return Number(value, sd, n=found.n, expected=expected, kind=kind, records=one.records)

    return [number(found.mean, sd=found.sd), number(found.low), number(found.high), number(one.adjusted_p, "p")]


def _caption(gains: Gains, asked: Asked) -> str:
    several = len(asked.points_of(gains.stat)) > 1
    rounds = f" {_round_words(gains)} These are not corrected and have no verdict." if gains.by_round else ""
    both = " Holds at both: the verdict of both points, undecided where they differ." if several else ""
    return (
        f"{_what(gains, asked)} Mean ± sd (ddof = 1), low and high the ends of Student's t interval, 95 %; p: "
        f"two-sided paired t-test, corrected: Holm over the lines of the table{' at one point' if several else ''}, "
        f"the base once.{both} Better, worse: the corrected p is below {ALPHA:g} and the interval above or below zero; "
        f"tied: it lies within ±{MARGIN:g}; undecided: neither, or fewer than {FEW_SEEDS} seeds.{rounds}"
    )


def _what(gains: Gains, asked: Asked) -> str:
    swept = gains.swept
    when = " and ".join(EVAL_POINTS[point] for point in asked.points_of(gains.stat))
    scored = "" if gains.stat == SERVER else f", scored {when}"
    return (
        f"Gain over {swept.floor.label} in {gains.score}{scored}, paired by seed; above zero is better. One number "
        f"differs at a time from the base: {swept.base_words()} ({swept.base.setting.about})."
    )


def _round_words(gains: Gains) -> str:
    at = "" if gains.stat == SERVER else ", scored after local training, the one point that records hold of every round"
    return f"Round: the base's runs after each of their rounds{at}."


# --------------------------------------------------------------------------------------------------------- figures


def draw_gains_of(gains: Gains, asked: Asked, suffix: str = "") -> Figure:
    """Return a panel per axis, and one of rounds where they were scored: a line per algorithm and point."""
    shown = {gain.axis for gain in gains.on_axes}
    panels = [_panel(axis, gains, asked) for axis in gains.swept.axes if axis.path in shown]
    if gains.by_round:
        when = f", {OWN_POINT}" if len(asked.points_of(gains.stat)) > 1 else ""
        lines = list(_lines(gains.by_round, (OWN_POINT,)))
        panels.append(GainPanel(f"{ROUND_WORDS}{when}", f"gain in {gains.score}", ROUND, lines, every=True))
    words = (
        f"{gains.name}{suffix}",
        f"{gains.swept.data.label}: gain in {gains.score} over {gains.swept.floor.label}",
        f"{_what(gains, asked)} Dotted: the base.{f' {_round_words(gains)}' if gains.by_round else ''}",
    )
    return draw_gains(words, panels, gains.rows(), [arm.label for arm in gains.swept.rivals()])


def _panel(axis: Axis, gains: Gains, asked: Asked) -> GainPanel:
    own = [gain for gain in gains.on_axes if gain.axis == axis.path]
    lines = list(_lines(own, asked.points_of(gains.stat)))
    base = gains.swept.base.numbers[axis.path]
    return GainPanel(axis.words, f"gain in {gains.score}", axis.name, lines, base)


def _lines(gains: Sequence[Gain], points: Sequence[EvalPoint]) -> Iterator[GainLine]:
    """Yield a line per algorithm and point; what is the same at all points is one line."""
    for arm in dict.fromkeys(gain.arm for gain in gains):
        own = [gain for gain in gains if gain.arm == arm]
        for i, point in enumerate(points if not all(gain.found.same for gain in own) else points[:1]):
            at = [gain.found.at[min(i, len(gain.found.at) - 1)] for gain in own]
            scored = "" if at[0].stat == SERVER else point
            yield GainLine(arm.label, [gain.value for gain in own], [_estimate(one.difference) for one in at], scored)


def _estimate(found: Difference) -> Estimate:
    return Estimate(found.mean or 0.0, found.low, found.high)
