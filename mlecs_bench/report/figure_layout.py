"""Where things stand in a figure: a grid of panels, the legend below them, and texts broken to the room they have."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlecs_bench.report.figure_look import STYLE, Look

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.legend import Legend
    from matplotlib.text import Text

POINTS_PER_INCH = 72
MOST_COLUMNS = 3
WIDTHS = {1: 4.6, 2: 6.0, 3: 7.0}
"""Width of a figure in inches by its columns; three columns fill the text width of a page."""
PANEL_HEIGHT = 1.6
"""Height in inches of the drawing area of a panel, without its labels."""
LAYOUT_PASSES = 4
"""A pass wraps texts to the room the last one left; texts of real reports stop changing at the second."""
LEGEND_LABEL_ROOM = 125.0
"""Points that a label of the legend has before it is broken."""


def _columns(count: int) -> int:
    """Return the columns of a grid of panels; four make a square."""
    return 2 if count == 4 else min(count, MOST_COLUMNS)


def row_heights(count: int) -> list[float]:
    """Return the heights of the rows of a grid of panels, in inches."""
    return [PANEL_HEIGHT] * math.ceil(count / _columns(count))


def grid(count: int, heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels, row by row; `heights` are those of the rows, in inches."""
    from matplotlib.figure import Figure

    columns = _columns(count)
    roomy = sum(heights) + 1.2 * len(heights)  # layout fails where labels leave no room; settled takes off the excess
    figure = Figure(figsize=(WIDTHS[columns], roomy))
    cells = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    return figure, [figure.add_subplot(cells[divmod(i, columns)]) for i in range(count)]


def patch_handle(look: Look) -> Artist:
    """Return what a legend shows for a bar."""
    from matplotlib.patches import Patch

    return Patch(**look.patch())


def line_handle(properties: Mapping[str, Any]) -> Artist:
    """Return what a legend shows for points or a curve."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **properties)


def add_legend(figure: Figure, handles: Mapping[str, tuple[Artist, ...]]) -> None:
    """Explain every label once below the panels, in as few rows as fit the width; the figure grows by its height."""
    names = [wrapped(label, LEGEND_LABEL_ROOM) for label in handles]
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


def settled(figure: Figure, axes: Sequence[Axes], heights: Sequence[float]) -> Figure:
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
    text.set_text(wrapped(full, room * POINTS_PER_INCH, text.get_fontproperties()))
    return max(0, text.get_text().count("\n") - before)


def wrapped(text: str, room: float, font: FontProperties | None = None) -> str:
    """Return `text` in lines of at most `room` points; without a font, in that of labels."""

    def fits(line: str) -> bool:
        return text_width(line.rstrip(), font) <= room

    return "\n".join(line.rstrip() for line in _lines(" ".join(text.split()), fits, BREAKS))


def text_width(line: str, font: FontProperties | None = None) -> float:
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
