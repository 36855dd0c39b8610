"""Tables of evidence: what the differences of scores show, and what was sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from mlecs_bench.report.arrange import Arm, Data, Place, Setting
from mlecs_bench.report.comparisons import (
    DIFFERENCE_COLUMNS,
    Comparison,
    difference_contents,
    family,
    overall,
)
from mlecs_bench.report.frame import Row, Stat, honest_sentence
from mlecs_bench.report.scores import SENT_NOTE, Asked, file_part, record_keys, score_name, share_name
from mlecs_bench.report.statistics import ALPHA, MARGIN, POWER, SignFlip
from mlecs_bench.report.table import Line, Number, Table

TESTED: tuple[Stat, ...] = ("avg", "server")
"""The scores that are tested: the average device and the server."""


def candidates(setting: Setting, asked: Asked) -> list[Arm]:
    """Return the arms of the candidate, with other options too, but none of its ablations."""
    return [arm for arm in setting.arms if arm.algo == asked.candidate]


def statistics_tables(setting: Setting, asked: Asked, suffix: str = "") -> list[Table]:
    """Return for every arm of the candidate how it differs from every baseline at every rate, and whether it shows."""
    found = []
    for arm in candidates(setting, asked):
        comparisons = [one for data in setting.data for one in tested(setting, arm, data, asked)]
        if comparisons:
            variant = file_part(arm.label.removeprefix(arm.algo))
            name = f"statistics{'-' if variant else ''}{variant}{suffix}"
            found.append(_differences(comparisons, setting, name, f"{arm.label} against baselines"))
    return found


def tested(setting: Setting, arm: Arm, data: Data, asked: Asked) -> list[Comparison]:
    """Return the comparisons of one arm on one dataset: a family of baselines and rates per metric and side."""
    n = setting.usual_devices()
    families = [
        family(setting, arm, metric, stat, data, n, asked.eval_point) for metric in data.metrics for stat in TESTED
    ]
    return [comparison for one in families for comparison in one]


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
        for comparison in family(setting, arm, metric, stat, data, n, asked.eval_point, ablations)
    ]
    if not comparisons:
        return None
    title = f"{asked.candidate} against its ablations"
    return _differences(comparisons, setting, f"ablation-statistics{suffix}", title)


def overall_sentence(setting: Setting, arm: Arm, asked: Asked) -> str:
    """Return the overall test of an arm against all baselines, on the average device and the headline metrics."""
    found = [
        comparison
        for data in setting.data
        for comparison in tested(setting, arm, data, asked)
        if comparison.metric == data.headline and comparison.stat == "avg"
    ]
    if not found:
        return ""
    baselines = ", ".join(dict.fromkeys(one.baseline.label for one in found))
    return (
        f"Overall, {arm.label} against {baselines} on the average device ({len(found)} blocks of dataset, rate and "
        f"baseline): {flip_text(overall(found))}."
    )


def flip_text(test: SignFlip) -> str:
    """Return the result of the overall test in words."""
    if test.statistic == 0:
        return "the mean scaled difference is zero"
    flips = f"all {test.flips:,} flips" if test.exact else f"{test.flips:,} random flips"
    direction = "above" if test.statistic > 0 else "below"
    shown = "differs from zero" if test.p < ALPHA else "cannot be told from zero"
    return (
        f"the mean scaled difference lies {direction} zero at {test.statistic:+.2f} and {shown} "
        f"(sign-flip test of {test.units} units, {flips}, p = {test.p:.4f})"
    )


def _differences(comparisons: Sequence[Comparison], setting: Setting, name: str, title: str) -> Table:
    rows = [row for one in comparisons for row in (one.candidate_row, one.baseline_row)]
    lines = [
        Line(
            (one.data.label, score_name(one.metric, one.stat), one.rho, one.baseline.label),
            difference_contents(one),
            group=f"{one.data.label}, {score_name(one.metric, one.stat)}",
        )
        for one in comparisons
    ]
    return Table(
        name=name,
        title=title,
        caption=(
            "Differences paired by seed; positive: better. Interval: Student's t, 95 %. p: two-sided paired t-test; "
            "corrected: Holm over the lines of one dataset and score. Tied: the interval lies within "
            f"±{MARGIN:g}; undecided: neither tied nor significant at level {ALPHA:g} after the correction. "
            f"Detectable: the smallest true gain that these seeds would have shown with {100 * POWER:.0f} % power, "
            "uncorrected."
        ),
        left=("dataset", "score", "rho", "against"),
        columns=DIFFERENCE_COLUMNS,
        lines=tuple(lines),
        honest=honest_sentence(rows),
        setting=setting.label,
    )


def communication_table(setting: Setting, suffix: str = "") -> Table | None:
    """Return what every algorithm sends per device and round, by dataset; None without a row."""
    n = setting.usual_devices()
    rows = {p: row for p, row in setting.rows.items() if p.n_devices == n and not p.arm.is_ablation}
    if not rows:
        return None
    shares = {name: text for row in rows.values() for name, (_, text) in row.traffic.shares.items()}
    columns = [(data, name) for data in setting.data for name in (None, *shares)]
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
        ),
        left=("algorithm",),
        columns=tuple((data.label, share_name(name) if name else "sent") for data, name in columns),
        lines=tuple(lines),
        honest=honest_sentence(list(rows.values())),
        setting=setting.label,
    )


def _rows_of(rows: dict[Place, Row], arm: Arm, data: Data) -> list[Row]:
    return [row for place, row in rows.items() if place.arm == arm and place.data == data]


def _sent(rows: Sequence[Row], share: str | None) -> Number | None:
    """Return a share of what rows sent, or where none is named, the parameters sent."""
    if not rows:
        return None
    keys = tuple(key for row in rows for key in record_keys(row))
    n = len(keys)
    if share is None:
        return Number(fmean(row.traffic.params for row in rows), n=n, expected=n, kind="count", records=keys)
    return Number(100 * mean_share(rows, share), n=n, expected=n, kind="percent", records=keys)


def mean_share(rows: Iterable[Row], name: str) -> float:
    """Return a share of the device model's parameters, as a fraction, over rows."""
    return fmean(row.traffic.shares[name][0] for row in rows)
