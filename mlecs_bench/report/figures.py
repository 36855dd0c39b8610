"""Figures of a benchmark report, drawn from plain numbers: scores, their intervals, and what was sent.

Every label keeps one colour, marker, line style and hatch in all panels of a figure, and no two labels of the first
twelve share a marker or a hatch, so that a figure survives a grey printer. Nothing here reads records, opens a window
or depends on the user's matplotlib settings: the same numbers give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from mlecs_bench.report.figure_layout import (
    POINTS_PER_INCH,
    add_legend,
    grid,
    line_handle,
    patch_handle,
    row_heights,
    settled,
    text_width,
    wrapped,
)
from mlecs_bench.report.figure_look import PNG_DPI, Look, looks_of, own_style
from mlecs_bench.report.figure_parts import (
    BarPanel,
    Curve,
    CurvePanel,
    Estimate,
    GainLine,
    GainPanel,
    Point,
    PointPanel,
    ShareBar,
    Spending,
    SpendingPanel,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SENT_LABEL = "parameters sent per device and round"
SHARE_TITLE = "Parameters sent"
SHARE_LABEL = "per device and round, % of the device model's parameters"
ROUND_LABEL = "round"
BAR_LABEL_ROOM = 92.0
LINE_HEIGHT = 10.0
"""Points from one line of a label to the next."""
NARROWEST_AXIS = 100.0
"""Points along the x axis of the narrowest panel, beside which tick labels have to find room."""
LABEL_ROOM = 60.0
"""Points that the labels of a panel's y axis take of its width, and the space between panels."""
ENOUGH_TICKS = 3
"""Ticks of a logarithmic axis at which powers of ten need no other numbers between them."""
MOST_MARKERS = 7
"""Markers along one curve; more would hide its line."""
LOG_SHARES_FROM = 30.0
"""Largest over smallest positive share above which bars of one linear scale would hide the small ones."""
LOG_VALUES_FROM = 8.0
"""Largest over smallest swept number above which its axis is one of powers of two."""
BESIDE, MOST_BESIDE = 3.0, 12.0
"""Points from one line's intervals to the next one's at the same value, and at most from the first to the last."""


@own_style()
def communication_figure(bars: Sequence[ShareBar], panels: Sequence[PointPanel]) -> Figure:
    """Return what each label sends, as bars in per cent, beside its scores against the parameters sent.

    The bars have a logarithmic axis only where the largest is more than 30 times the smallest above zero. Parameters
    sent have one always; where a point sends nothing, the axis has a place for 0, set apart by a dotted line.

    Raises ValueError without bars, without panels, or for a panel without points.
    """
    _refuse_empty("communication figure", {"bars": bars, "panels": panels})
    _refuse_empty("communication figure", {f"points in panel '{panel.title}'": panel.points for panel in panels})
    barred = [bar.label for bar in bars]
    pointed = [point.label for panel in panels for point in panel.points]
    looks = looks_of([*barred, *pointed])
    names = [wrapped(label, BAR_LABEL_ROOM) for label in barred]
    heights = row_heights(1 + len(panels))
    heights[0] = max(heights[0], sum(map(_slot, names)) * LINE_HEIGHT / POINTS_PER_INCH)
    figure, axes = grid(1 + len(panels), heights)
    _draw_shares(axes[0], bars, names, looks)
    for ax, panel in zip(axes[1:], panels, strict=True):
        _name_panel(ax, panel.title, panel.metric, SENT_LABEL)
        _draw_points(ax, panel.points, looks)
    handles: dict[str, tuple[Artist, ...]] = dict.fromkeys(looks, ())
    for label in dict.fromkeys(barred):
        handles[label] += (patch_handle(looks[label]),)
    for label in dict.fromkeys(pointed):
        handles[label] += (line_handle(looks[label].point()),)
    add_legend(figure, handles)
    return settled(figure, axes, heights)


@own_style()
def shares_figure(bars: Sequence[ShareBar]) -> Figure:
    """Return what each label sends, as the bars of `communication_figure` alone; raises ValueError without bars."""
    _refuse_empty("figure of shares", {"bars": bars})
    names = [wrapped(bar.label, BAR_LABEL_ROOM) for bar in bars]
    heights = row_heights(1)
    heights[0] = max(heights[0], sum(map(_slot, names)) * LINE_HEIGHT / POINTS_PER_INCH)
    figure, axes = grid(1, heights)
    _draw_shares(axes[0], bars, names, looks_of(bar.label for bar in bars))
    return settled(figure, axes, heights)


@own_style()
def ablation_figure(panels: Sequence[BarPanel]) -> Figure:
    """Return bars with their intervals, in each panel in the given order and starting at zero.

    Raises ValueError without panels or for a panel without bars.
    """
    _refuse_empty("ablation figure", {"panels": panels})
    _refuse_empty("ablation figure", {f"bars in panel '{panel.title}'": panel.bars for panel in panels})
    looks = looks_of(bar.label for panel in panels for bar in panel.bars)
    heights = row_heights(len(panels))
    figure, axes = grid(len(panels), heights)
    for ax, panel in zip(axes, panels, strict=True):
        _name_panel(ax, panel.title, panel.metric)
        _draw_bars(ax, panel, looks)
    add_legend(figure, {label: (patch_handle(look),) for label, look in looks.items()})
    return settled(figure, axes, heights)


@own_style()
def curves_figure(panels: Sequence[CurvePanel]) -> Figure:
    """Return a line per curve over the rounds, with its interval as a band, or as a bar where rounds lack neighbours.

    Raises ValueError without panels or for a panel without curves.
    """
    _refuse_empty("curves figure", {"panels": panels})
    _refuse_empty("curves figure", {f"curves in panel '{panel.title}'": panel.curves for panel in panels})
    looks = looks_of(curve.label for panel in panels for curve in panel.curves)
    heights = row_heights(len(panels))
    figure, axes = grid(len(panels), heights)
    for ax, panel in zip(axes, panels, strict=True):
        _name_panel(ax, panel.title, panel.metric, ROUND_LABEL)
        _draw_curves(ax, panel.curves, looks)
    add_legend(figure, {label: (line_handle(look.curve()),) for label, look in looks.items()})
    return settled(figure, axes, heights)


@own_style()
def spending_figure(panels: Sequence[SpendingPanel]) -> Figure:
    """Return a line per label over what it had spent, with the interval of its last score.

    Amounts have a logarithmic axis, with a place for 0 where nothing is spent, set apart by a dotted line. Raises
    ValueError without panels or for a panel without lines.
    """
    _refuse_empty("figure of spending", {"panels": panels})
    _refuse_empty("figure of spending", {f"lines in panel '{panel.title}'": panel.lines for panel in panels})
    looks = looks_of(line.label for panel in panels for line in panel.lines)
    heights = row_heights(len(panels))
    figure, axes = grid(len(panels), heights)
    for ax, panel in zip(axes, panels, strict=True):
        _name_panel(ax, panel.title, panel.metric, panel.what)
        _draw_spending(ax, panel.lines, looks)
    add_legend(figure, {label: (line_handle(look.curve()),) for label, look in looks.items()})
    return settled(figure, axes, heights)


@own_style()
def gains_figure(panels: Sequence[GainPanel], labels: Sequence[str] = ()) -> Figure:
    """Return gains against swept numbers, about a line at zero: a colour per label, a dashed line at the second point.

    A dotted line stands at the base. `labels` have their colours whether they are drawn or not, so that figures share
    them.
    All panels of one metric have the same scale. Values have an axis of powers of two where the largest is more than 8
    times the smallest, and stand beside each other where lines share them. Raises ValueError without panels or for a
    panel without lines.
    """
    _refuse_empty("figure of gains", {"panels": panels})
    _refuse_empty("figure of gains", {f"lines in panel '{panel.title}'": panel.lines for panel in panels})
    lines = [line for panel in panels for line in panel.lines]
    drawn, points = {line.label for line in lines}, _points_of(lines)
    shared = looks_of([*labels, *(line.label for line in lines)])
    looks = {label: look for label, look in shared.items() if label in drawn}
    heights = row_heights(len(panels))
    figure, axes = grid(len(panels), heights)
    for ax, panel in zip(axes, panels, strict=True):
        _name_panel(ax, panel.title, panel.metric, panel.what)
        _scale_swept(ax, panel)
        alike = [line for other in panels if other.metric == panel.metric for line in other.lines]
        _scale_scores(ax, [Estimate(0.0), *(gain for line in alike for gain in line.gains)])
        ax.axhline(0, color="black", linewidth=0.8, zorder=1.5)
        if panel.base is not None:
            ax.axvline(panel.base, color="#777777", linestyle=":", linewidth=0.9, zorder=1)
        _draw_gains(ax, panel, looks, points)
    handles: dict[str, tuple[Artist, ...]] = {
        label: (line_handle(_gain_look(look, first=True)),) for label, look in looks.items()
    }
    if len(points) > 1:
        plain = Look("#555555", "o", "", (0, None))
        handles |= {point: (line_handle(_gain_look(plain, first=point == points[0])),) for point in points}
    add_legend(figure, handles)
    return settled(figure, axes, heights)


@own_style()
def figure_bytes(figure: Figure) -> dict[str, bytes]:
    """Return a figure of this module as `svg` (self-contained, text as paths), `png` (200 pixels per inch) and `pdf`.

    The bytes depend on the figure and the version of matplotlib alone, not on the time, the process or earlier calls.
    """
    svg, png, pdf = BytesIO(), BytesIO(), BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return {"svg": svg.getvalue(), "png": png.getvalue(), "pdf": pdf.getvalue()}


def _refuse_empty(figure: str, parts: Mapping[str, Sequence[object]]) -> None:
    for name, part in parts.items():
        if not part:
            raise ValueError(f"a {figure} needs at least one of its {name}, got none")


# Panels


def _draw_shares(ax: Axes, bars: Sequence[ShareBar], names: Sequence[str], looks: Mapping[str, Look]) -> None:
    shares = [100 * bar.share for bar in bars]
    tops = [0.0, *accumulate(map(_slot, names))]
    places = [(top + bottom) / 2 for top, bottom in pairwise(tops)]
    for bar, share, place in zip(bars, shares, places, strict=True):
        ax.barh(place, share, height=1.0, **looks[bar.label].patch())
    _scale_shares(ax, shares)
    for share, place in zip(shares, places, strict=True):
        end = max(share, ax.get_xlim()[0])  # no bar on a logarithmic axis reaches 0
        ax.annotate(
            f"{share:.3g}", (end, place), xytext=(3, 0), textcoords="offset points", va="center", annotation_clip=False
        )
    ax.set_yticks(places, names)
    ax.set_ylim(tops[-1], 0)
    ax.tick_params(axis="y", length=0)
    ax.set_title(SHARE_TITLE)
    ax.set_xlabel(SHARE_LABEL)


def _slot(name: str) -> float:
    """Return the room of a bar with its label, in lines of text."""
    return name.count("\n") + 1.4


def _scale_shares(ax: Axes, shares: Sequence[float]) -> None:
    """Choose the axis of the bars so that the number behind the longest one has room."""
    positive = [share for share in shares if share > 0] or [1.0]
    low, high = min(positive), max(positive)
    if high / low <= LOG_SHARES_FROM:
        ax.set_xlim(0, 1.35 * high)
        ax.locator_params(axis="x", nbins=4)
        return
    low, high = low / 3, high * (3 * high / low) ** 0.4
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    _set_log_ticks(ax, low, high, "{:g}".format)


def _draw_points(ax: Axes, points: Sequence[Point], looks: Mapping[str, Look]) -> None:
    for point in points:
        look = looks[point.label]
        _draw_interval(ax, point.sent, point.score, look.colour)
        ax.plot([point.sent], [point.score.mean], zorder=3, **look.point())
    _scale_sent(ax, [point.sent for point in points])
    _scale_scores(ax, [point.score for point in points])


def _draw_spending(ax: Axes, lines: Sequence[Spending], looks: Mapping[str, Look]) -> None:
    for i, line in enumerate(lines):
        look = looks[line.label]
        _draw_interval(ax, line.spent[-1], line.scores[-1], look.colour)
        step = math.ceil(len(line.spent) / MOST_MARKERS)
        means = [score.mean for score in line.scores]
        ax.plot(line.spent, means, zorder=3, markevery=(i % step, step), **look.curve())
    _scale_sent(ax, [amount for line in lines for amount in line.spent])
    _scale_scores(ax, [one for line in lines for one in (*(Estimate(s.mean) for s in line.scores), line.scores[-1])])


def _scale_sent(ax: Axes, sent: Sequence[float]) -> None:
    """Set a logarithmic axis; a point that sends nothing adds a linear stretch from 0 to below the least sent."""
    positive = [value for value in sent if value > 0]
    if not positive:
        ax.set_xlim(-1, 1)
        ax.set_xticks([0], ["0"])
        return
    low, high = min(positive) / 2, max(positive) * 2
    if len(positive) == len(sent):
        ax.set_xscale("log")
        ax.set_xlim(low, high)
        _set_log_ticks(ax, low, high, _count_text)
    else:
        stretch = 0.2 * math.log10(high / low)
        ax.set_xscale("symlog", linthresh=low, linscale=stretch)
        ax.set_xlim(-0.6 * low, high)
        ax.axvline(low / 2, color="#777777", linestyle=":", linewidth=0.9, zorder=1)
        _set_log_ticks(ax, low, high, _count_text, [0.0])


def _set_log_ticks(
    ax: Axes, low: float, high: float, text: Callable[[float], str], chosen: Sequence[float] = ()
) -> None:
    """Set the `chosen` ticks and the round numbers from `low` to `high` that have room, powers of ten first."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = list(chosen)
    for digit in (1, 3, 2, 5, 4, 6, 7, 8, 9):
        if len(ticks) - len(chosen) >= ENOUGH_TICKS:
            break
        for tick in (digit * 10.0**decade for decade in decades):
            if low <= tick <= high and all(_are_apart(ax, tick, other, text) for other in ticks):
                ticks.append(tick)
    ax.set_xticks(ticks, [text(tick) for tick in ticks])
    ax.minorticks_off()


def _are_apart(
    ax: Axes, one: float, other: float, text: Callable[[float], str], length: float = NARROWEST_AXIS
) -> bool:
    """Have two ticks of an axis of so many points room for their labels beside each other?"""
    to_axes = ax.transScale + ax.transLimits
    distance = abs(to_axes.transform((one, 0))[0] - to_axes.transform((other, 0))[0])
    room = (text_width(text(one)) + text_width(text(other))) / 2 + text_width("0")
    return bool(distance * length >= room)


def _count_text(count: float) -> str:
    """Return a large number as it is spoken of: 300k, 8M, 7B, 2T."""
    for size, suffix in ((1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:g}{suffix}"
    return f"{count:g}"


def _draw_bars(ax: Axes, panel: BarPanel, looks: Mapping[str, Look]) -> None:
    for place, bar in enumerate(panel.bars):
        ax.bar(place, bar.height.mean, width=0.8, **looks[bar.label].patch())
        _draw_interval(ax, place, bar.height, "black")
    ends = _ends(bar.height for bar in panel.bars)
    low, high = min(0.0, *ends), max(0.0, *ends)
    margin = 0.06 * (high - low) or 0.05
    ax.set_ylim(low - margin if low < 0 else 0.0, high + margin if high > 0 or low == 0 else 0.0)
    if panel.zero_line or low < 0:
        ax.axhline(0, color="black", linewidth=0.8)
        ax.spines["bottom"].set_visible(False)
    ax.set_xlim(-0.7, len(panel.bars) - 0.3)
    ax.set_xticks([])
    ax.grid(visible=True)


def _draw_curves(ax: Axes, curves: Sequence[Curve], looks: Mapping[str, Look]) -> None:
    from matplotlib.ticker import MaxNLocator

    for i, curve in enumerate(curves):
        look = looks[curve.label]
        for stretch in _stretches(curve):
            if len(stretch) == 1:
                _draw_interval(ax, *stretch[0], look.colour)
            else:
                ends = [score.interval or () for _, score in stretch]
                lows, highs = zip(*ends, strict=True)
                ax.fill_between([r for r, _ in stretch], lows, highs, color=look.colour, alpha=0.13, linewidth=0)
        step = math.ceil(len(curve.rounds) / MOST_MARKERS)
        means = [score.mean for score in curve.scores]
        ax.plot(curve.rounds, means, zorder=3, markevery=(i % step, step), **look.curve())
    rounds = [round_ for curve in curves for round_ in curve.rounds]
    margin = 0.04 * (max(rounds) - min(rounds)) or 0.5
    ax.set_xlim(min(rounds) - margin, max(rounds) + margin)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    _scale_scores(ax, [score for curve in curves for score in curve.scores])


def _stretches(curve: Curve) -> list[list[tuple[int, Estimate]]]:
    """Return the runs of consecutive scores that have an interval, with their rounds."""
    runs: list[list[tuple[int, Estimate]]] = [[]]
    for round_, score in zip(curve.rounds, curve.scores, strict=True):
        if score.interval:
            runs[-1].append((round_, score))
        else:
            runs.append([])
    return [run for run in runs if run]


def _points_of(lines: Iterable[GainLine]) -> list[str]:
    """Return the points of evaluation of gains, in the order they first occur."""
    return list(dict.fromkeys(line.scored for line in lines if line.scored))


def _gain_look(look: Look, *, first: bool) -> dict[str, Any]:
    """Return the properties of a line of gains: solid with full markers, or dashed with empty ones."""
    own = look.curve() | {"linestyle": "solid", "markersize": 0.8 * look.curve()["markersize"]}
    empty = {"linestyle": (0, (3, 1.5)), "markerfacecolor": "white", "markeredgecolor": look.colour}
    return own if first else own | empty | {"markeredgewidth": 1.0}


def _draw_gains(ax: Axes, panel: GainPanel, looks: Mapping[str, Look], points: Sequence[str]) -> None:
    from matplotlib.transforms import ScaledTranslation

    apart = min(BESIDE, MOST_BESIDE / len(panel.lines))
    for i, line in enumerate(panel.lines):
        look = looks[line.label]
        properties = _gain_look(look, first=line.scored in ("", *points[:1]))
        beside = 0.0 if panel.every else apart * (i - (len(panel.lines) - 1) / 2)
        place = ax.transData + ScaledTranslation(beside / POINTS_PER_INCH, 0, ax.figure.dpi_scale_trans)
        known = [(value, gain.interval) for value, gain in zip(line.values, line.gains, strict=True) if gain.interval]
        if panel.every and known:
            lows, highs = zip(*(ends for _, ends in known), strict=True)
            ax.fill_between([value for value, _ in known], lows, highs, color=look.colour, alpha=0.13, linewidth=0)
        else:
            for value, ends in known:
                ax.plot(
                    [value, value], ends, color=look.colour, linewidth=0.9, marker="_", markersize=3, transform=place
                )
        step = math.ceil(len(line.values) / MOST_MARKERS) if panel.every else 1
        means = [gain.mean for gain in line.gains]
        ax.plot(line.values, means, zorder=3, transform=place, markevery=step, **properties)


def _scale_swept(ax: Axes, panel: GainPanel) -> None:
    """Set the axis of a swept number, with a tick at each of its values, named where there is room."""
    from matplotlib.ticker import MaxNLocator

    values = sorted({value for line in panel.lines for value in line.values})
    low, high = values[0], values[-1]
    if low > 0 and high > LOG_VALUES_FROM * low and not panel.every:
        margin = (high / low) ** 0.07
        ax.set_xscale("log", base=2)
        ax.set_xlim(low / margin, high * margin)
    else:
        margin = 0.07 * (high - low) or 0.5
        ax.set_xlim(low - margin, high + margin)
    if panel.every:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
        return
    named: list[float] = []
    for value in (*([] if panel.base is None else [panel.base]), low, high, *values):
        if all(_are_apart(ax, value, other, "{:g}".format, _axis_room(ax)) for other in named):
            named.append(value)
    ax.set_xticks(values, [f"{value:g}" if value in named else "" for value in values])
    ax.minorticks_off()


def _axis_room(ax: Axes) -> float:
    """Return about how many points the x axis of a panel is long, before anything is laid out."""
    spec = ax.get_subplotspec()
    columns = 1 if spec is None else spec.get_gridspec().ncols
    return float(ax.figure.bbox.width / ax.figure.dpi * POINTS_PER_INCH / columns - LABEL_ROOM)


def _draw_interval(ax: Axes, place: float, estimate: Estimate, colour: str) -> None:
    if estimate.interval:
        ax.plot([place, place], estimate.interval, color=colour, linewidth=1.1, marker="_", markersize=5, zorder=2.5)


def _scale_scores(ax: Axes, scores: Sequence[Estimate]) -> None:
    ends = _ends(scores)
    margin = 0.06 * (max(ends) - min(ends)) or 0.05 * (abs(ends[0]) or 1.0)
    ax.set_ylim(min(ends) - margin, max(ends) + margin)
    ax.grid(visible=True)


def _ends(estimates: Iterable[Estimate]) -> list[float]:
    """Return every number that an axis has to show."""
    return [end for estimate in estimates for end in (estimate.mean, *(estimate.interval or ()))]


def _name_panel(ax: Axes, title: str, metric: str, x_label: str = "") -> None:
    ax.set_title(title)
    ax.set_ylabel(metric)
    ax.set_xlabel(x_label)
    ax.locator_params(axis="y", nbins=6)
