"""How figures look: one colour, marker, line style and hatch per label, and settings that are nobody's but ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

PNG_DPI = 200
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
    "pdf.fonttype": 42,  # whole letters, which journals ask for
    "svg.fonttype": "path",
    "svg.hashsalt": "mlecs-bench",
    "text.parse_math": False,  # a name with two dollar signs is a name
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


@dataclass(frozen=True)
class Look:
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


def looks_of(labels: Iterable[str]) -> dict[str, Look]:
    """Return the look of each label in order of first appearance; the combination repeats after 84 labels."""
    return {
        label: Look(
            COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], HATCHES[i % len(HATCHES)], LINES[i % len(LINES)]
        )
        for i, label in enumerate(dict.fromkeys(labels))
    }


@contextmanager
def own_style() -> Iterator[None]:
    """Set matplotlib to its defaults and `STYLE`, and back again."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield
