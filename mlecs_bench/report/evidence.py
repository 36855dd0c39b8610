"""Tables of evidence: what the differences of scores show, and what was sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean

from mlecs_bench.report.arrange import CONDITIONS, Arm, Data, Place, Setting
from mlecs_bench.report.comparisons import (
    AT_ALL,
    DIFFERENCE_COLUMNS,
    AtPoints,
    Comparison,
    difference_contents,
    families,
    overall,
)
from mlecs_bench.report.controls import control_notes, floors
from mlecs_bench.report.frame import EVAL_POINTS, Row, Stat, honest_sentence
from mlecs_bench.report.scores import SENT_NOTE, Asked, file_part, record_keys, score_name, share_name
from mlecs_bench.report.statistics import ALPHA, FEW_SEEDS, MARGIN, POWER, SignFlip
from mlecs_bench.report.table import Line, Number, Table

SENT, BYTES = "sent", "bytes"
"""Columns of what was sent: parameters, and where messages are compressed their size."""
COMPRESSED = " Bytes: the size on the way, per device and round; scales and places of compressed tensors count in both."
TESTED: tuple[Stat, ...] = ("avg", "server")
"""The scores that are tested: the average device and the server."""


def candidates(setting: Setting, asked: Asked) -> list[Arm]:
    """Return the arms of the candidate, with other options too, but none of its ablations and no control."""
    return [arm for arm in setting.arms if arm.algo == asked.candidate and not arm.control]


def statistics_tables(setting: Setting, asked: Asked, suffix: str = "") -> list[Table]:
    """Return for every arm of the candidate how it differs from every baseline and control, and whether it shows."""
    found = []
    for arm in candidates(setting, asked):
        comparisons = [one for data in setting.data for one in tested(setting, arm, data, asked)]
        if comparisons:
            variant = file_part(arm.label.removeprefix(arm.algo))
            name = f"statistics{'-' if variant else ''}{variant}{suffix}"
            controls = " and controls" if any(one.first.baseline.control for one in comparisons) else ""
            table = _differences(comparisons, setting, asked, name, f"{arm.label} against baselines{controls}")
            places = [place for place in setting.rows if place.n_devices == setting.usual_devices()]
            found.append(replace(table, notes=tuple(control_notes(places))))
    return found


def tested(setting: Setting, arm: Arm, data: Data, asked: Asked) -> list[AtPoints]:
    """Return the comparisons of one arm on one dataset: a family of baselines and rates per metric, side and point."""
    n = setting.usual_devices()
    found = [
        families(setting, arm, metric, stat, data, n, asked.points_of(stat))
        for metric in data.metrics
        for stat in TESTED
    ]
    return [comparison for one in found for comparison in one]


def ablation_statistics(setting: Setting, asked: Asked, suffix: str = "") -> Table | None:
    """Return how the candidate differs from itself without one part; None without an ablation of it."""
    ablations = [arm for arm in setting.arms if arm.is_ablation and arm.base == asked.candidate]
    whole = [arm for arm in candidates(setting, asked) if arm.label == asked.candidate]
    n = setting.usual_devices()
    comparisons = [
        comparison
        for arm in whole
        for data in setting.data
        for metric in data.metrics
        for stat in TESTED
        for comparison in families(setting, arm, metric, stat, data, n, asked.points_of(stat), ablations)
    ]
    if not comparisons:
        return None
    title = f"{asked.candidate} against its ablations"
    return _differences(comparisons, setting, asked, f"ablation-statistics{suffix}", title)


def overall_sentences(setting: Setting, arm: Arm, asked: Asked) -> list[str]:
    """Return what holds of an arm on the average device in the headline metrics, against baselines and each floor.

    In how many comparisons it is better at all points of evaluation, and the overall test at each of them.
    """
    found = [
        comparison
        for data in setting.data
        for comparison in tested(setting, arm, data, asked)
        if comparison.first.metric == data.headline and comparison.first.stat == "avg"
    ]
    baselines = [one for one in found if not one.first.baseline.control]
    names = ", ".join(dict.fromkeys(one.first.baseline.label for one in baselines))
    sides = {f"the baselines ({names})": baselines}
    for floor in floors(setting):
        sides[f"the control {floor.label}"] = [one for one in found if one.first.baseline == floor]
    return [
        f"Average device, {arm.label} against {against}: {standing(members, asked)}. Overall test of {len(members)} "
        f"block{'s' * (len(members) > 1)} of dataset, rate and baseline: {_tests(members, asked)}."
        for against, members in sides.items()
        if members
    ]


def standing(comparisons: Sequence[AtPoints], asked: Asked) -> str:
    """Return in how many comparisons the candidate is better, and worse, at all points of evaluation that are asked."""
    count = Counter(one.verdict for one in comparisons)
    where = " at both points" if len(asked.eval_points) > 1 else f" ({asked.eval_points[0]})"
    better = f"better{where} in {count['better']} of {len(comparisons)}"
    return f"{better}, worse in {count['worse']}, tied in {count['tied']}"


def _tests(comparisons: Sequence[AtPoints], asked: Asked) -> str:
    """Return the overall test at every point, where a comparison that is the same at all of them counts at each."""
    at = {
        point: [next((c for c in one.at if c.eval_point == point), one.first) for one in comparisons]
        for point in asked.eval_points
    }
    return "; ".join(f"{point}: {flip_text(overall(members))}" for point, members in at.items())


def flip_text(test: SignFlip) -> str:
    """Return the result of the overall test in words."""
    if test.statistic == 0:
        return "the mean scaled difference is zero"
    flips = f"all {test.flips:,} flips" if test.exact else f"{test.flips:,} random flips"
    direction = "above" if test.statistic > 0 else "below"
    if test.units < FEW_SEEDS:
        return (
            f"the mean scaled difference lies {direction} zero at {test.statistic:+.2f}; {test.units} "
            f"seed{'s are' if test.units > 1 else ' is'} too few to test it"
        )
    shown = "differs from zero" if test.p < ALPHA else "cannot be told from zero"
    least = 2 / 2**test.units
    blind = f"; {test.units} seeds cannot show p below {least:g}" if test.exact and least >= ALPHA else ""
    return (
        f"the mean scaled difference lies {direction} zero at {test.statistic:+.2f} and {shown} "
        f"(sign-flip test by seed, {test.units} seeds, {flips}, p = {test.p:.4f}{blind})"
    )


def _differences(comparisons: Sequence[AtPoints], setting: Setting, asked: Asked, name: str, title: str) -> Table:
    rows = [row for one in comparisons for row in (one.first.candidate_row, one.first.baseline_row)]
    several = len(asked.eval_points) > 1
    return Table(
        name=name,
        title=title,
        caption=_differences_caption(asked),
        left=("dataset", "score", "rho", "against", *(["scored"] if several else [])),
        columns=(*([AT_ALL] if several else []), *DIFFERENCE_COLUMNS),
        lines=tuple(_line(one, at, several) for one in comparisons for at in one.at),
        honest=honest_sentence(rows),
        setting=setting.label,
    )


def _differences_caption(asked: Asked) -> str:
    several = len(asked.eval_points) > 1
    when = " and ".join(EVAL_POINTS[point] for point in asked.eval_points)
    both = "; both: the same differences at both. Holds at both: the verdict of both, undecided where they differ"
    return (
        f"Differences paired by seed; positive: better. Devices are scored {when}{both if several else ''}. Interval: "
        "Student's t, 95 %. p: two-sided paired t-test; corrected: Holm over the lines of one dataset"
        f"{', score and point' if several else ' and score'}. Tied: the interval lies within ±{MARGIN:g}; undecided: "
        f"neither tied nor significant at level {ALPHA:g} after the correction, or fewer than {FEW_SEEDS} seeds. "
        "Detectable: the smallest true gain "
        f"that these seeds would have shown with {100 * POWER:.0f} % power, uncorrected."
    )


def _line(one: AtPoints, at: Comparison, several: bool) -> Line:
    score = score_name(at.metric, at.stat)
    return Line(
        (at.data.label, score, at.rho, at.baseline.label, *([one.scored(at)] if several else [])),
        (*([one.verdict] if several else []), *difference_contents(at)),
        group=f"{at.data.label}, {score}",
    )


def communication_table(setting: Setting, suffix: str = "") -> Table | None:
    """Return what every algorithm sends per device and round, by dataset; None without a row."""
    n = setting.usual_devices()
    rows = {p: row for p, row in setting.rows.items() if p.n_devices == n and not p.arm.is_ablation}
    if not rows:
        return None
    shares = {name: text for row in rows.values() for name, (_, text) in row.traffic.shares.items()}
    compressed = any("compression" in row.identity.get(CONDITIONS, {}) for row in rows.values())
    shown = (SENT, *([BYTES] if compressed else []), *shares)
    columns = [(data, name) for data in setting.data for name in shown]
    lines = []
    for arm in dict.fromkeys(place.arm for place in rows):
        by_data = {data: _rows_of(rows, arm, data) for data in setting.data}
        contents = tuple(_sent(by_data[data], name) for data, name in columns)
        lines.append(Line((arm.label,), contents))
    return Table(
        name=f"communication{suffix}",
        title="Parameters sent",
        caption=(
            f"{n} devices, mean over rates and seeds. {SENT_NOTE[0].upper()}{SENT_NOTE[1:]}. "
            + "; ".join(f"{share_name(name)}: {text}" for name, text in shares.items())
            + "."
            + (COMPRESSED if compressed else "")
        ),
        left=("algorithm",),
        columns=tuple((data.label, share_name(name) if name in shares else name) for data, name in columns),
        lines=tuple(lines),
        honest=honest_sentence(list(rows.values())),
        setting=setting.label,
    )


def _rows_of(rows: dict[Place, Row], arm: Arm, data: Data) -> list[Row]:
    return [row for place, row in rows.items() if place.arm == arm and place.data == data]


def _sent(rows: Sequence[Row], what: str) -> Number | None:
    """Return the parameters or the bytes that rows sent, or a share of them."""
    if not rows:
        return None
    keys = tuple(key for row in rows for key in record_keys(row))
    n = len(keys)
    if what in (SENT, BYTES):
        sent = [row.traffic.params if what == SENT else row.traffic.bytes for row in rows]
        return Number(fmean(sent), n=n, expected=n, kind="count", records=keys)
    return Number(100 * mean_share(rows, what), n=n, expected=n, kind="percent", records=keys)


def mean_share(rows: Iterable[Row], name: str) -> float:
    """Return a share of the device model's parameters, as a fraction, over rows."""
    return fmean(row.traffic.shares[name][0] for row in rows)
