"""Figures of a benchmark report, drawn from plain numbers: scores, their intervals, and what was sent.

Every label keeps one colour, marker, line style and hatch in all panels of a figure, and no two labels of the first
twelve share a marker or a hatch, so that a figure survives a grey printer. Nothing here reads records, opens a window
or depends on the user's matplotlib settings: the same numbers give the same bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.legend import Legend
    from matplotlib.text import Text
    from matplotlib.typing import RcKeyType

SENT_LABEL = "parameters sent per device and round"
SHARE_TITLE = "Parameters sent"
SHARE_LABEL = "per device and round, % of the device model's parameters"
ROUND_LABEL = "round"

PNG_DPI = 200
POINTS_PER_INCH = 72
MOST_COLUMNS = 3
WIDTHS = {1: 4.6, 2: 6.0, 3: 7.0}
"""Width of a figure in inches by its columns; three columns fill the text width of a page."""
PANEL_HEIGHT = 1.6
"""Height in inches of the drawing area of a panel, without its labels."""
LAYOUT_PASSES = 4
"""A pass wraps texts to the room the last one left; texts of real reports stop changing at the second."""
LEGEND_LABEL_ROOM = 125.0
BAR_LABEL_ROOM = 92.0
LINE_HEIGHT = 10.0
"""Points from one line of a label to the next."""
NARROWEST_AXIS = 100.0
"""Points along the x axis of the narrowest panel, beside which tick labels have to find room."""
ENOUGH_TICKS = 3
"""Ticks of a logarithmic axis at which powers of ten need no other numbers between them."""
MOST_MARKERS = 7
"""Markers along one curve; more would hide its line."""
LOG_SHARES_FROM = 30.0
"""Largest over smallest positive share above which bars of one linear scale would hide the small ones."""

# Okabe and Ito (2008), "Color Universal Design", without yellow, which is too light for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "d")
MARKER_SIZES = {"D": 5.0, "P": 7.0, "X": 7.0, "*": 9.0, "p": 7.0, "d": 7.0}
"""Points of the markers that look larger or smaller than the others at the same size."""
# Dots, circles and stars are sparse because each of them is a path in the SVG.
HATCHES = ("", "////", "..", "xxxx", "----", "\\\\\\\\", "||||", "oo", "++++", "**", "///..", "\\\\\\---")
LINES: tuple[tuple[float, tuple[float, ...] | None], ...] = (
    (0, None),
    (0, (5, 2)),
    (0, (1, 1.2)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (8, 2)),
    (0, (5, 1.5, 1, 1.5, 1, 1.5)),
)

STYLE: dict[RcKeyType, Any] = {
    "axes.axisbelow": True,
    "axes.labelsize": 8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.dpi": PNG_DPI,
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handleheight": 1.2,
    "legend.handlelength": 4.0,  # long enough for the gaps of a dashed line on both sides of a marker
    "lines.linewidth": 1.3,
    "svg.fonttype": "path",
    "svg.hashsalt": "mlecs-bench",
    "text.parse_math": False,  # a name with two dollar signs is a name
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval, which is None where there is one seed.

    Raises ValueError for a number that is not finite, half an interval, or ends in the wrong order.
    """

    mean: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.mean, self.low, self.high) if value is not None]
        if not all(map(math.isfinite, given)):
            raise ValueError(f"a figure shows finite numbers, got {self}")
        if (self.low is None) != (self.high is None) or given[1:] != sorted(given[1:]):
            raise ValueError(f"an interval has a low and a high end in this order, got {self}")

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the interval, or None."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class ShareBar:
    """What a label sends per device and round, as a fraction (>= 0) of the device model's parameters."""

    label: str
    share: float

    def __post_init__(self) -> None:
        _refuse_negative(self.share, self)


@dataclass(frozen=True)
class Point:
    """A score against the parameters (>= 0) sent per device and round."""

    label: str
    sent: float
    score: Estimate

    def __post_init__(self) -> None:
        _refuse_negative(self.sent, self)


@dataclass(frozen=True)
class PointPanel:
    """Points of one data set; `metric` names their scores."""

    title: str
    metric: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Bar:
    """A score or a difference of scores."""

    label: str
    height: Estimate


@dataclass(frozen=True)
class BarPanel:
    """Bars from zero; `zero_line` marks zero where bars are differences of either sign."""

    title: str
    metric: str
    bars: Sequence[Bar]
    zero_line: bool = False


@dataclass(frozen=True)
class Curve:
    """The scores of a label after each of `rounds`."""

    label: str
    rounds: Sequence[int]
    scores: Sequence[Estimate]

    def __post_init__(self) -> None:
        if len(self.rounds) != len(self.scores) or not self.rounds:
            raise ValueError(
                f"curve '{self.label}' needs one score per round, got {len(self.rounds)} rounds and "
                f"{len(self.scores)} scores"
            )


@dataclass(frozen=True)
class CurvePanel:
    """Curves of one data set; `metric` names their scores."""

    title: str
    metric: str
    curves: Sequence[Curve]


def _refuse_negative(value: float, owner: ShareBar | Point) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"what is sent is a finite number of at least 0, got {owner}")


@dataclass(frozen=True)
class _Look:
    """How one label is drawn in all panels of a figure."""

    colour: str
    marker: str
    hatch: str
    line: tuple[float, tuple[float, ...] | None]

    def patch(self) -> dict[str, Any]:
        """Return the properties of a bar, which is paler than a line to let the black hatch stand out."""
        from matplotlib.colors import to_rgb

        face = tuple(0.45 * channel + 0.55 for channel in to_rgb(self.colour))
        return {"facecolor": face, "edgecolor": "black", "linewidth": 0.6, "hatch": self.hatch}

    def point(self) -> dict[str, Any]:
        """Return the properties of a marker without a line."""
        return self.curve() | {"linestyle": "none"}

    def curve(self) -> dict[str, Any]:
        """Return the properties of a line with markers."""
        size = MARKER_SIZES.get(self.marker, 6.0)
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.5}
        return {"color": self.colour, "linestyle": self.line, "marker": self.marker, "markersize": size} | edge


def _looks(labels: Iterable[str]) -> dict[str, _Look]:
    """Return the look of each label in order of first appearance; the combination repeats after 84 labels."""
    return {
        label: _Look(
            COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], HATCHES[i % len(HATCHES)], LINES[i % len(LINES)]
        )
        for i, label in enumerate(dict.fromkeys(labels))
    }


@contextmanager
def _own_style() -> Iterator[None]:
    """Set matplotlib to its defaults and `STYLE`, and back again."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


@_own_style()
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
    looks = _looks([*barred, *pointed])
    names = [_wrapped(label, BAR_LABEL_ROOM) for label in barred]
    heights = _row_heights(1 + len(panels))
    heights[0] = max(heights[0], sum(map(_slot, names)) * LINE_HEIGHT / POINTS_PER_INCH)
    figure, axes = _grid(1 + len(panels), heights)
    _draw_shares(axes[0], bars, names, looks)
    for ax, panel in zip(axes[1:], panels, strict=True):
        _name_panel(ax, panel.title, panel.metric, SENT_LABEL)
        _draw_points(ax, panel.points, looks)
    handles: dict[str, tuple[Artist, ...]] = dict.fromkeys(looks, ())
    for label in dict.fromkeys(barred):
        handles[label] += (_patch(looks[label]),)
    for label in dict.fromkeys(pointed):
        handles[label] += (_line(looks[label].point()),)
    _add_legend(figure, handles)
    return _settled(figure, axes, heights)


@_own_style()
def ablation_figure(panels: Sequence[BarPanel]) -> Figure:
    """Return bars with their intervals, in each panel in the given order and starting at zero.

    Raises ValueError without panels or for a panel without bars.
    """
    _refuse_empty("ablation figure", {"panels": panels})
    _refuse_empty("ablation figure", {f"bars in panel '{panel.title}'": panel.bars for panel in panels})
    looks = _looks(bar.label for panel in panels for bar in panel.bars)
    heights = _row_heights(len(panels))
    figure, axes = _grid(len(panels), heights)
    for ax, panel in zip(axes, panels, strict=True):
        _name_panel(ax, panel.title, panel.metric)
        _draw_bars(ax, panel, looks)
    _add_legend(figure, {label: (_patch(look),) for label, look in looks.items()})
    return _settled(figure, axes, heights)


@_own_style()
def curves_figure(panels: Sequence[CurvePanel]) -> Figure:
    """Return a line per curve over the rounds, with its interval as a band, or as a bar where rounds lack neighbours.

    Raises ValueError without panels or for a panel without curves.
    """
    _refuse_empty("curves figure", {"panels": panels})
    _refuse_empty("curves figure", {f"curves in panel '{panel.title}'": panel.curves for panel in panels})
    looks = _looks(curve.label for panel in panels for curve in panel.curves)
    heights = _row_heights(len(panels))
    figure, axes = _grid(len(panels), heights)
    for ax, panel in zip(axes, panels, strict=True):
        _name_panel(ax, panel.title, panel.metric, ROUND_LABEL)
        _draw_curves(ax, panel.curves, looks)
    _add_legend(figure, {label: (_line(look.curve()),) for label, look in looks.items()})
    return _settled(figure, axes, heights)


@_own_style()
def figure_bytes(figure: Figure) -> dict[str, bytes]:
    """Return a figure of this module as `svg` (self-contained, text as paths) and as `png` (200 pixels per inch).

    The bytes depend on the figure and the version of matplotlib alone, not on the time, the process or earlier calls.
    """
    svg, png = BytesIO(), BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return {"svg": svg.getvalue(), "png": png.getvalue()}


def _refuse_empty(figure: str, parts: Mapping[str, Sequence[object]]) -> None:
    for name, part in parts.items():
        if not part:
            raise ValueError(f"a {figure} needs at least one of its {name}, got none")


# Panels


def _draw_shares(ax: Axes, bars: Sequence[ShareBar], names: Sequence[str], looks: Mapping[str, _Look]) -> None:
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


def _draw_points(ax: Axes, points: Sequence[Point], looks: Mapping[str, _Look]) -> None:
    for point in points:
        look = looks[point.label]
        _draw_interval(ax, point.sent, point.score, look.colour)
        ax.plot([point.sent], [point.score.mean], zorder=3, **look.point())
    _scale_sent(ax, [point.sent for point in points])
    _scale_scores(ax, [point.score for point in points])


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
    to_axes = ax.transScale + ax.transLimits
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)

    def are_apart(one: float, other: float) -> bool:
        distance = abs(to_axes.transform((one, 0))[0] - to_axes.transform((other, 0))[0])
        room = (_text_width(text(one)) + _text_width(text(other))) / 2 + _text_width("0")
        return bool(distance * NARROWEST_AXIS >= room)

    ticks = list(chosen)
    for digit in (1, 3, 2, 5, 4, 6, 7, 8, 9):
        if len(ticks) - len(chosen) >= ENOUGH_TICKS:
            break
        for tick in (digit * 10.0**decade for decade in decades):
            if low <= tick <= high and all(are_apart(tick, other) for other in ticks):
                ticks.append(tick)
    ax.set_xticks(ticks, [text(tick) for tick in ticks])
    ax.minorticks_off()


def _count_text(count: float) -> str:
    """Return a number of parameters as it is spoken of: 300k, 8M, 7B."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:g}{suffix}"
    return f"{count:g}"


def _draw_bars(ax: Axes, panel: BarPanel, looks: Mapping[str, _Look]) -> None:
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


def _draw_curves(ax: Axes, curves: Sequence[Curve], looks: Mapping[str, _Look]) -> None:
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


# Layout


def _columns(count: int) -> int:
    """Return the columns of a grid of panels; four make a square."""
    return 2 if count == 4 else min(count, MOST_COLUMNS)


def _row_heights(count: int) -> list[float]:
    return [PANEL_HEIGHT] * math.ceil(count / _columns(count))


def _grid(count: int, heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels, row by row; `heights` are those of the rows, in inches."""
    from matplotlib.figure import Figure

    columns = _columns(count)
    roomy = sum(heights) + 1.2 * len(heights)  # layout fails where labels leave no room; _settled takes off the excess
    figure = Figure(figsize=(WIDTHS[columns], roomy))
    cells = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    return figure, [figure.add_subplot(cells[divmod(i, columns)]) for i in range(count)]


def _patch(look: _Look) -> Artist:
    from matplotlib.patches import Patch

    return Patch(**look.patch())


def _line(properties: Mapping[str, Any]) -> Artist:
    from matplotlib.lines import Line2D

    return Line2D([], [], **properties)


def _add_legend(figure: Figure, handles: Mapping[str, tuple[Artist, ...]]) -> None:
    """Explain every label once below the panels, in as few rows as fit the width; the figure grows by its height."""
    names = [_wrapped(label, LEGEND_LABEL_ROOM) for label in handles]
    for rows in range(1, len(names) + 1):
        legend = _legend(figure, list(handles.values()), names, math.ceil(len(names) / rows))
        box = legend.get_window_extent()
        if box.width <= 0.97 * figure.bbox.width or rows == len(names):
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + box.height / figure.dpi)


def _legend(figure: Figure, handles: list[Any], names: list[str], columns: int) -> Legend:
    """Return a new legend; a handle is a tuple of artists shown side by side, which matplotlib's types lack."""
    from matplotlib.legend_handler import HandlerTuple

    handlers = {tuple: HandlerTuple(ndivide=None)}
    return figure.legend(handles, names, loc="outside lower center", ncols=columns, handler_map=handlers)


def _settled(figure: Figure, axes: Sequence[Axes], heights: Sequence[float]) -> Figure:
    """Return the figure with texts wrapped to their panels, rows of the given heights in inches, and places fixed.

    Constrained layout moves panels a little at every drawing; a fixed layout is drawn the same each time.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine()
    full = {text: text.get_text() for ax in axes for text in (ax.title, ax.xaxis.label, ax.yaxis.label)}
    for _ in range(LAYOUT_PASSES):
        layout.execute(figure)
        sizes = [ax.get_position().size * figure.get_size_inches() for ax in axes]
        lines_above_and_below = 0
        for ax, (width, height) in zip(axes, sizes, strict=True):
            lines_above_and_below += _wrap_again(ax.title, full[ax.title], width)
            lines_above_and_below += _wrap_again(ax.xaxis.label, full[ax.xaxis.label], width)
            _wrap_again(ax.yaxis.label, full[ax.yaxis.label], height)
        firsts = sizes[:: _columns(len(axes))]
        excess = sum(height - wanted for (_, height), wanted in zip(firsts, heights, strict=True))
        # Too much where lines of panels in one row count twice, which is excess in the next pass; too little fails.
        new = lines_above_and_below * STYLE["axes.titlesize"] * 1.5 / POINTS_PER_INCH
        figure.set_figheight(figure.get_figheight() - excess + new)
    layout.execute(figure)
    return figure


def _wrap_again(text: Text, full: str, room: float) -> int:
    """Wrap a drawn text to `room` inches and return how many lines it has gained (0 where it has lost some)."""
    before = text.get_text().count("\n")
    text.set_text(_wrapped(full, room * POINTS_PER_INCH, text.get_fontproperties()))
    return max(0, text.get_text().count("\n") - before)


# Texts


def _wrapped(text: str, room: float, font: FontProperties | None = None) -> str:
    """Return `text` in lines of at most `room` points; without a font, in that of labels."""

    def fits(line: str) -> bool:
        return _text_width(line.rstrip(), font) <= room

    return "\n".join(line.rstrip() for line in _lines(" ".join(text.split()), fits, BREAKS))


def _text_width(line: str, font: FontProperties | None = None) -> float:
    """Return the width of one line of text in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(line, font or FontProperties(), ismath=False)
    return float(width)


BREAKS = (r"\S+\s*", r"[^,;:=/_-]*[,;:=/_-]+|[^,;:=/_-]+", r".")
"""Where a line may end, best first: after a word, after a part of a name, after a character."""


def _lines(text: str, fits: Callable[[str], bool], breaks: Sequence[str]) -> list[str]:
    """Break `text` at the first of `breaks`, and only pieces that are too long for a line at the next one."""
    lines: list[str] = []
    for piece in re.findall(breaks[0], text):
        if lines and fits(lines[-1] + piece):
            lines[-1] += piece
        elif fits(piece) or len(breaks) == 1:
            lines.append(piece)
        else:
            lines += _lines(piece, fits, breaks[1:])
    return lines
