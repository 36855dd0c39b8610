"""The report's figures: which scores of a setting go into which panel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from mlecs_bench.report.arrange import Arm, Data, Place, Setting
from mlecs_bench.report.evidence import TESTED, mean_share
from mlecs_bench.report.figure_parts import (
    Bar,
    BarPanel,
    Curve,
    CurvePanel,
    Estimate,
    GainPanel,
    Point,
    PointPanel,
    ShareBar,
    SpendingPanel,
)
from mlecs_bench.report.figures import (
    ablation_figure,
    communication_figure,
    curves_figure,
    figure_bytes,
    gains_figure,
    shares_figure,
    spending_figure,
)
from mlecs_bench.report.frame import SERVER, EvalPoint, Row, Stat, honest_sentence
from mlecs_bench.report.scores import Asked, score_name, share_name
from mlecs_bench.report.statistics import t_interval
from mlecs_bench.report.table import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

INTERVAL = "Intervals: Student's t over seeds, 95 %."
ONE_WAY = "one_way"
"""The share of what is sent that bars show."""


@dataclass(frozen=True)
class FigureWords:
    """What a figure calls things: its name in files, its title, the rate, scores by metric and statistic, the share."""

    name: str
    title: str
    rate: str = "rho"
    score: Callable[[str, Stat], str] = score_name
    share: str = share_name(ONE_WAY)


COMMUNICATION = FigureWords("communication", "Scores against parameters sent")
ABLATION = FigureWords("ablation", "Ablations")


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of scores by seed with its 95 % t interval, None where there is one seed."""
    ends = t_interval(values)
    return Estimate(fmean(values)) if ends is None else Estimate(fmean(values), *ends)


def draw_communication(
    setting: Setting, asked: Asked, suffix: str = "", words: FigureWords = COMMUNICATION
) -> Figure | None:
    """Return the share of its model that a device sends, and scores against parameters sent; None without a row.

    One panel per dataset and point of evaluation at the lowest rate that all its algorithms have, average device,
    headline metric.
    """
    n = setting.usual_devices()
    rows = {p: row for p, row in setting.rows.items() if p.n_devices == n and not p.arm.is_ablation}
    places = [(data, point) for data in setting.data for point in asked.eval_points]
    panels = [panel for data, at in places if (panel := _points(rows, data, at, asked, words)) is not None]
    if not panels:
        return None
    first = setting.data[0]
    bars = [
        ShareBar(arm.label, mean_share(own, ONE_WAY))
        for arm in dict.fromkeys(place.arm for place in rows)
        if (own := [row for place, row in rows.items() if place.arm == arm and place.data == first])
    ]
    return _figure(
        f"{words.name}{suffix}",
        words.title,
        f"Left: {words.share} of the device's language model, sent per device and round on {first.label}. Right: "
        f"average device against parameters sent. {n} devices. {INTERVAL}",
        list(rows.values()),
        communication_figure(bars, panels),
    )


def _points(
    rows: Mapping[Place, Row], data: Data, eval_point: EvalPoint, asked: Asked, words: FigureWords
) -> PointPanel | None:
    own = {place: row for place, row in rows.items() if place.data == data}
    if not own:
        return None
    rho = _fullest_rate(own)
    points = [
        Point(place.arm.label, row.traffic.params, estimate(list(cell.values.values())))
        for place, row in own.items()
        if place.rho == rho and (cell := row.cell(eval_point, data.headline, "avg"))
    ]
    title = _panel_title(data, rho, asked, words, eval_point)
    return PointPanel(title, words.score(data.headline, "avg"), points) if points else None


def _panel_title(data: Data, rho: str, asked: Asked, words: FigureWords, eval_point: EvalPoint | None) -> str:
    """Return what a panel shows; scores that have several points of evaluation name theirs."""
    when = f", {eval_point}" if eval_point and len(asked.eval_points) > 1 else ""
    return f"{data.label}, {words.rate} {rho}{when}"


def _fullest_rate(rows: Mapping[Place, Row]) -> str:
    """Return the first rate, ascending, of those with most rows."""
    counts: dict[str, int] = {}
    for place in rows:
        counts[place.rho] = counts.get(place.rho, 0) + 1
    return min(counts, key=lambda rho: (-counts[rho], rho))


def draw_ablation(setting: Setting, asked: Asked, suffix: str = "", words: FigureWords = ABLATION) -> Figure | None:
    """Return the candidate and its ablations, per dataset and side; None without an ablation."""
    n = setting.usual_devices()
    ablated = [p for p in setting.rows if p.arm.is_ablation and p.arm.base == asked.candidate and p.n_devices == n]
    panels, rows = [], []
    for data in (one for one in setting.data if any(place.data == one for place in ablated)):
        rho = _fullest_rate({place: setting.rows[place] for place in ablated if place.data == data})
        arms = [arm for arm in setting.arms if arm.label == asked.candidate]
        arms += list(dict.fromkeys(place.arm for place in ablated))
        found = {arm: row for arm in arms if (row := setting.rows.get(Place(arm, data, rho, n)))}
        rows += list(found.values())
        panels += _ablation_panels(found, data, rho, asked, words)
    if not panels:
        return None
    return _figure(
        f"{words.name}{suffix}",
        words.title,
        f"{asked.candidate} and itself without one part, {n} devices. {INTERVAL}",
        rows,
        ablation_figure(panels),
    )


def _ablation_panels(
    found: Mapping[Arm, Row], data: Data, rho: str, asked: Asked, words: FigureWords
) -> list[BarPanel]:
    panels = []
    scored = [(stat, point) for stat in TESTED for point in asked.points_of(stat)]
    for stat, eval_point in scored:
        bars = [
            Bar(arm.label, estimate(list(cell.values.values())))
            for arm, row in found.items()
            if (cell := row.cell(eval_point, data.headline, stat))
        ]
        if bars:
            title = _panel_title(data, rho, asked, words, None if stat == SERVER else eval_point)
            panels.append(BarPanel(title, words.score(data.headline, stat), bars))
    return panels


def draw_bars(name: str, title: str, caption: str, panels: Sequence[BarPanel], rows: Sequence[Row]) -> Figure:
    """Return scores of `rows` as bars with their intervals; raises ValueError for a panel without bars."""
    return _figure(name, title, f"{caption} {INTERVAL}", rows, ablation_figure(panels))


def draw_shares(name: str, title: str, caption: str, bars: Sequence[ShareBar], rows: Sequence[Row]) -> Figure:
    """Return the shares of their models that devices send in `rows`, as bars; raises ValueError without bars."""
    return _figure(name, title, caption, rows, shares_figure(bars))


def draw_curves(setting: Setting, suffix: str = "") -> Figure | None:
    """Return the average device after each round, of rows that were scored in every round; None without one."""
    panels, rows = [], []
    for data in setting.data:
        own = {p: row for p, row in setting.curves.items() if p.data == data and not p.arm.is_ablation}
        if not own:
            continue
        rho = _fullest_rate(own)
        chosen = {place: row for place, row in own.items() if place.rho == rho}
        drawn = [c for place, row in chosen.items() if (c := _curve(place.arm, row, data.headline)) is not None]
        if drawn:
            panels.append(CurvePanel(f"{data.label}, rho {rho}", score_name(data.headline, "avg"), drawn))
            rows += list(chosen.values())
    if not panels:
        return None
    return _figure(
        f"curves{suffix}",
        "Learning curves",
        f"Average device after local training of every round. {INTERVAL}",
        rows,
        curves_figure(panels),
    )


def draw_losses(setting: Setting, suffix: str = "") -> Figure | None:
    """Return the losses of every round, averaged over devices, and those of the server; None where none are logged."""
    panels, rows = [], []
    for data in setting.data:
        own = {p: row for p, row in setting.rows.items() if p.data == data and not p.arm.is_ablation}
        if not own:
            continue
        rho, n = _fullest_rate(own), setting.usual_devices()
        chosen = {place: row for place, row in own.items() if (place.rho, place.n_devices) == (rho, n)}
        for party, of in (("devices", "average device"), (SERVER, SERVER)):
            drawn = [curve for place, row in chosen.items() for curve in _loss_curves(place.arm, row, party)]
            if drawn:
                panels.append(CurvePanel(f"{data.label}, rho {rho}, {of}", "loss", drawn))
        rows += list(chosen.values())
    if not panels:
        return None
    return _figure(
        f"losses{suffix}",
        "Losses",
        "Mean loss of every stage of a round; stages of several kinds have losses of different scales. "
        f"{setting.usual_devices()} devices. {INTERVAL}",
        rows,
        curves_figure(panels),
    )


def _loss_curves(arm: Arm, row: Row, party: str) -> list[Curve]:
    """Return a curve for every stage of the devices or the server: averaged over devices, then over seeds."""
    found: dict[str, dict[int, list[float]]] = {}
    for record in row.records:
        for one in record["metrics"]["rounds"]:
            logs = [own for id_, own in one.get("losses", {}).items() if (id_ == SERVER) == (party == SERVER)]
            for stage in dict.fromkeys(name for own in logs for name in own if "/" not in name):  # whole losses
                values = [own[stage] for own in logs if stage in own]
                found.setdefault(stage, {}).setdefault(int(one["round"]), []).append(fmean(values))
    return [
        Curve(
            f"{arm.label}: {stage}" if len(found) > 1 else arm.label, sorted(by), [estimate(by[t]) for t in sorted(by)]
        )
        for stage, by in found.items()
    ]


def _curve(arm: Arm, row: Row, metric: str) -> Curve | None:
    """Return the scores of a row by round, averaged over devices, then over seeds."""
    by_round: dict[int, list[float]] = {}
    for record in row.records:
        for one in record["metrics"]["rounds"]:
            devices = (one.get("client") or {}).get(metric)
            if devices:
                by_round.setdefault(int(one["round"]), []).append(fmean(score["value"] for score in devices.values()))
    if not by_round:
        return None
    rounds = sorted(by_round)
    return Curve(arm.label, rounds, [estimate(by_round[round_]) for round_ in rounds])


def draw_spending(name: str, title: str, caption: str, panels: Sequence[SpendingPanel], rows: Sequence[Row]) -> Figure:
    """Return scores of `rows` against what was spent; raises ValueError for a panel without lines."""
    return _figure(name, title, f"{caption} {INTERVAL} A line has that of its end.", rows, spending_figure(panels))


def draw_gains(
    words: tuple[str, str, str], panels: Sequence[GainPanel], rows: Sequence[Row], labels: Sequence[str]
) -> Figure:
    """Return what `rows` gain against swept numbers, under a name, a title and a caption (`words`).

    `labels` share their colours with other figures. Raises ValueError for a panel without lines.
    """
    name, title, caption = words
    return _figure(name, title, f"{caption} {INTERVAL}", rows, gains_figure(panels, labels))


def _figure(name: str, title: str, caption: str, rows: Sequence[Row], drawing: Drawing) -> Figure:
    honest = honest_sentence(rows)
    return Figure(name, title, f"{caption} {honest}".strip(), figure_bytes(drawing))
