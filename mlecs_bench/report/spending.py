"""Scores against what they cost: bytes sent, simulated seconds and floating-point operations, added up over rounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from typing import Any, Literal

from mlecs_bench.report.arrange import CONDITIONS, Place, Setting
from mlecs_bench.report.drawings import draw_spending, estimate
from mlecs_bench.report.figure_parts import Spending, SpendingPanel
from mlecs_bench.report.frame import Row
from mlecs_bench.report.robustness import Family
from mlecs_bench.report.scores import score_name
from mlecs_bench.report.table import Figure

Cost = Literal["bytes", "time", "flops"]
"""What a score may be held against."""
COSTS: Mapping[Cost, str] = {
    "bytes": "bytes sent so far, both ways, all devices",
    "time": "simulated seconds so far",
    "flops": "floating-point operations so far",
}
WHEN = "Average device after local training, against all that was spent up to then, averaged over seeds"

Record = Mapping[str, Any]


@dataclass(frozen=True)
class _Drawn:
    """The panels of a figure and the rows that they show."""

    panels: list[SpendingPanel]
    rows: list[Row]


def draw_costs(setting: Setting, suffix: str = "") -> Figure | None:
    """Return the average device against what every algorithm had spent, a panel per dataset and cost.

    Rows that were scored in every round are lines, others single points. None where no row was scored in every round
    and no network or other condition is there, so that the figure of communication says the same.
    """
    if not setting.curves and not any(CONDITIONS in row.identity for row in setting.rows.values()):
        return None
    drawn = _Drawn([], [])
    n = setting.usual_devices()
    for data in (one for one in setting.data if one.metrics):
        own = {p: row for p, row in _scored(setting).items() if p.data == data and p.n_devices == n}
        own = {place: row for place, row in own.items() if not place.arm.is_ablation and place.rho == _fullest(own)}
        for cost, what in COSTS.items():
            lines = [line for p, row in own.items() if (line := _line(p.arm.label, row, data.headline, cost))]
            if lines:
                title = f"{data.label}, rho {_fullest(own)}"
                drawn.panels.append(SpendingPanel(title, score_name(data.headline, "avg"), what, lines))
                drawn.rows.extend(own.values())
    if not drawn.panels:
        return None
    return draw_spending(f"costs{suffix}", "Scores against costs", f"{WHEN}. {n} devices.", drawn.panels, drawn.rows)


def draw_costs_by_condition(family: Family, suffix: str = "") -> Figure | None:
    """Return for every algorithm its average device against bytes sent, a line or a point per condition."""
    drawn = _Drawn([], [])
    n = family.usual.usual_devices()
    for data in (one for one in family.usual.data if one.metrics):
        places = [p for p in family.usual.rows if p.data == data and p.n_devices == n and not p.arm.is_ablation]
        rho = _fullest(places)
        for place in (place for place in places if place.rho == rho):
            found = [(family.label(one), row) for one in family.settings if (row := _scored(one).get(place))]
            lines = [line for label, row in found if (line := _line(label, row, data.headline, "bytes"))]
            if lines:
                title = f"{place.arm.label}, {data.label}, rho {rho}"
                drawn.panels.append(SpendingPanel(title, score_name(data.headline, "avg"), COSTS["bytes"], lines))
                drawn.rows.extend(row for _, row in found)
    if not drawn.panels:
        return None
    return draw_spending(
        f"costs-by-condition{suffix}",
        "Scores against bytes under each condition",
        f"{WHEN}. {n} devices; a panel per algorithm.",
        drawn.panels,
        drawn.rows,
    )


def _scored(setting: Setting) -> dict[Place, Row]:
    """Return the rows of a setting, where there are such those that were scored in every round."""
    return {place: setting.curves.get(place, row) for place, row in setting.rows.items()}


def _fullest(places: Sequence[Place] | Mapping[Place, Row]) -> str:
    """Return the first rate, ascending, of those with most rows."""
    rates = sorted(place.rho for place in places)
    return max(rates, key=rates.count, default="")


def _line(label: str, row: Row, metric: str, cost: Cost) -> Spending | None:
    """Return what a row had spent and scored after its rounds, averaged over seeds; None where no record says it."""
    by_round: dict[int, list[tuple[float, float]]] = {}
    for record in row.records:
        for t, spent, score in _points(record, metric, cost):
            by_round.setdefault(t, []).append((spent, score))
    if not by_round:
        return None
    # Only rounds that all records were scored in: of other ones the mean over seeds would be of other seeds.
    full = [t for t in sorted(by_round) if len(by_round[t]) == max(map(len, by_round.values()))]
    amounts = [fmean(spent for spent, _ in by_round[t]) for t in full]
    return Spending(label, amounts, [estimate([score for _, score in by_round[t]]) for t in full])


def _points(record: Record, metric: str, cost: Cost) -> Iterator[tuple[int, float, float]]:
    """Yield the rounds in which devices were scored, what was spent up to then, and the mean over devices."""
    spent = _spent(record, cost)
    for one in record["metrics"]["rounds"]:
        t = int(one["round"])
        devices = (one.get("client") or {}).get(metric)
        if devices and t in spent:
            yield t, spent[t], fmean(score["value"] for score in devices.values())


def _spent(record: Record, cost: Cost) -> dict[int, float]:
    """Return what a run had spent after each of its rounds; nothing where the record does not say it of all."""
    if cost == "bytes":
        sent = {int(one["round"]): float(one["up_bytes"] + one["down_bytes"]) for one in record["comm"]["by_round"]}
        rounds = [int(one["round"]) for one in record["metrics"]["rounds"]]
        amounts = {t: sent.get(t, 0.0) for t in rounds} if sent or not record["comm"]["entries"] else {}
    else:
        rounds = record["metrics"]["rounds"]
        amounts = {int(one["round"]): float(one[cost]) for one in rounds if one.get(cost) is not None}
        amounts = amounts if len(amounts) == len(rounds) else {}
    return dict(zip(amounts, accumulate(amounts.values()), strict=True))
