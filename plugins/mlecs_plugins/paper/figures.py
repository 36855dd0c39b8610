"""The paper's Figures 3 and 4: the share of its model that a device sends, and the two ablations on each dataset."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from mlecs_bench.api import (
    Bar,
    BarPanel,
    Data,
    Figure,
    Row,
    ShareBar,
    StudyView,
    draw_bars,
    draw_shares,
    estimate,
    file_part,
)
from mlecs_plugins.paper.layout import WHEN, dataset_title, is_printed, printed_columns
from mlecs_plugins.paper.measured import SHARE
from mlecs_plugins.paper.printed import ML_ECS, methods, titles
from mlecs_plugins.paper.tables import score_name, table1_rows

FIGURE4 = (ML_ECS, "ml-ecs/no-mma", "ml-ecs/no-se-ccl")
"""The algorithm and its variants of Figure 4, in its order."""


def figure3(view: StudyView) -> Figure | None:
    """Return Figure 3: what the methods of Table 1 that send anything send, averaged over datasets and rates."""
    rows: dict[str, list[Row]] = {}
    for place, row in table1_rows(view):
        if is_printed(place.arm) and place.data.name in titles() and SHARE in row.traffic.shares:
            rows.setdefault(place.arm.algo, []).append(row)
    shares = {algo: fmean(row.traffic.shares[SHARE][0] for row in own) for algo, own in rows.items()}
    bars = [ShareBar(methods()[algo], share) for algo, share in shares.items() if share > 0]
    if not bars:
        return None
    return draw_shares(
        f"figure3{view.suffix}",
        "Figure 3: communication overhead",
        f"Parameters that a device sends per round, in per cent of those of its language model, mean over datasets and "
        f"rates, {view.setting.usual_devices()} devices. Counted as the paper counts: what goes one way.",
        bars,
        [row for own in rows.values() for row in own],
    )


def figure4(view: StudyView) -> list[Figure]:
    """Return Figure 4, one picture per dataset: the devices' average and the server by metric, of three variants."""
    return [
        one for letter, data in zip("abcdef", _ablated(view), strict=False) if (one := _figure4(view, data, letter))
    ]


def _ablated(view: StudyView) -> Iterator[Data]:
    data = [one for name in titles() for one in view.setting.data if one.name == name]
    yield from (one for one in data if any(p.data == one and p.arm.algo in FIGURE4[1:] for p in view.setting.rows))


def _figure4(view: StudyView, data: Data, letter: str) -> Figure | None:
    setting, point = view.setting, view.asked.eval_points[0]
    n = setting.usual_devices()
    own = {
        (place.arm.algo, place.rho): row
        for place, row in setting.rows.items()
        if place.data == data and place.n_devices == n and place.arm.label == place.arm.algo in FIGURE4
    }
    rates = [rho for rho in setting.rates() if all((algo, rho) in own for algo in FIGURE4)]
    rho = next(iter(rates), None) or next(rho for algo, rho in own)
    rows = {algo: own[algo, rho] for algo in FIGURE4 if (algo, rho) in own}
    panels = []
    for column in printed_columns(view):
        if column.data == data and column.stat in ("avg", "server"):
            bars = [
                Bar(methods()[algo], estimate(list(cell.values.values())))
                for algo, row in rows.items()
                if (cell := row.cell(point, column.metric, column.stat))
            ]
            name = score_name(column.metric, column.stat)
            panels += [BarPanel(f"{dataset_title(data)}, ρ = {rho}", name, bars)] if bars else []
    if not panels:
        return None
    return draw_bars(
        f"figure4{letter}-{file_part(data.label)}{view.suffix}",
        f"Figure 4{letter}: ablation study on {dataset_title(data)}",
        f"Scores {WHEN[point]} at ρ = {rho} (the paper names no rate), {n} devices.",
        panels,
        list(rows.values()),
    )
