"""Figures against the numbers they are given, through matplotlib's objects and through the pixels."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from PIL import Image

from mlecs_bench.report import figure_layout, figure_look, figures
from mlecs_bench.report.figure_parts import (
    Bar,
    BarPanel,
    Curve,
    CurvePanel,
    Estimate,
    GainLine,
    GainPanel,
    Point,
    PointPanel,
    ShareBar,
)
from mlecs_bench.report.figures import (
    ablation_figure,
    communication_figure,
    curves_figure,
    figure_bytes,
    gains_figure,
)

SIX = ("ml-ecs", "standalone", "multi-fedavg", "co-plms", "fedilora", "fedmllm")
LONG = "ml-ecs (amt_trains=encoder,lora,connector)"
TWELVE = (LONG, *SIX[1:], *(f"{name} (rank=24)" for name in SIX))
SHARES = (0.05, 0.0, 0.25, 0.20, 0.54, 0.08)
SENT = (39e6, 0.0, 190e6, 150e6, 420e6, 62e6)
TITLES = ("VAST, rho 0.5", "UR-FALL, rho 0.5", "VAST, rho 0.8, 50 devices of three kinds")


def estimate(rng: np.random.Generator, low: float = 0.45, high: float = 0.55) -> Estimate:
    mean = rng.uniform(low, high)
    return Estimate(mean, mean - rng.uniform(0.01, 0.02), mean + rng.uniform(0.01, 0.02))


def titles(n: int) -> list[str]:
    return list(itertools.islice(itertools.cycle(TITLES), n))


def share_bars(labels=SIX, factor=1.0):
    return [ShareBar(label, factor * share) for label, share in zip(labels, itertools.cycle(SHARES), strict=False)]


def point_panels(n=2, labels=SIX, sent=SENT, seed=0):
    rng = np.random.default_rng(seed)
    pairs = list(zip(labels, itertools.cycle(sent), strict=False))
    return [PointPanel(t, "ROUGE-L", [Point(name, s, estimate(rng)) for name, s in pairs]) for t in titles(n)]


def bar_panels(n=2, labels=SIX, seed=0, **kwargs):
    rng = np.random.default_rng(seed)
    return [BarPanel(t, "ROUGE-L", [Bar(label, estimate(rng)) for label in labels], **kwargs) for t in titles(n)]


def curve_panels(n=2, labels=SIX, rounds=(1, 2, 3, 4, 5), seed=0):
    rng = np.random.default_rng(seed)
    return [
        CurvePanel(t, "ROUGE-L", [Curve(label, rounds, [estimate(rng) for _ in rounds]) for label in labels])
        for t in titles(n)
    ]


def communication(n=2, labels=SIX, **kwargs):
    return communication_figure(share_bars(labels), point_panels(n, labels, **kwargs))


def ablation(n=2, labels=SIX, **kwargs):
    return ablation_figure(bar_panels(n, labels, **kwargs))


def curves(n=2, labels=SIX, **kwargs):
    return curves_figure(curve_panels(n, labels, **kwargs))


KINDS = (communication, ablation, curves)


@cache
def drawn(kind, n: int):
    """Return a figure of `n` panels, drawn once for all tests that only look at it: with six labels, or with twelve."""
    return kind(n, SIX if n == 1 else TWELVE)


def each_figure() -> Iterator[tuple[Any, int, Any]]:
    """Yield every kind of figure with one panel and with several, in two rows where that is cheap."""
    yield from ((kind, n, drawn(kind, n)) for kind in KINDS for n in (1, 5 if kind is ablation else 2))


@pytest.fixture
def unsettled(monkeypatch):
    """Figures whose layout is left out, for tests that look at what is drawn and not at where."""
    monkeypatch.setattr(figures, "settled", lambda figure, axes, heights: figure)


def one_point_panel(*points: Point):
    return communication_figure([ShareBar("a", 0.1)], [PointPanel("t", "m", points)]).axes[1]


def one_bar_panel(*heights: Estimate, zero_line=False):
    bars = [Bar(f"b{i}", height) for i, height in enumerate(heights)]
    return ablation_figure([BarPanel("t", "m", bars, zero_line=zero_line)]).axes[0]


def one_curve_panel(rounds, *scores: Estimate):
    return curves_figure([CurvePanel("t", "m", [Curve("a", rounds, scores)])]).axes[0]


def solid(text: str) -> str:
    """Return a text without the spaces at which it may have been broken."""
    return re.sub(r"\s", "", text)


def legend_labels(figure) -> Counter[str]:
    (legend,) = figure.legends
    assert not any(ax.get_legend() for ax in figure.axes)
    return Counter(solid(text.get_text()) for text in legend.get_texts())


def patches(ax):
    return [patch for container in ax.containers for patch in container.patches]


def interval_lines(ax):
    return [line for line in ax.lines if line.get_marker() == "_"]


def marked_lines(ax):
    """Return the lines and points of an axis that carry a label's marker."""
    return [line for line in ax.lines if line.get_marker() not in ("_", "None", None)]


def bands(ax):
    """Return per band its lower and upper end at each x."""
    found = []
    for band in ax.collections:
        assert isinstance(band, PolyCollection)
        ends: dict[float, list[float]] = {}
        for x, y in np.concatenate([path.vertices for path in band.get_paths()]):
            ends.setdefault(float(x), []).append(float(y))
        found.append({x: (min(ys), max(ys)) for x, ys in ends.items()})
    return found


# What is drawn


def test_panels_stand_in_a_grid_of_at_most_three_columns():
    for n in range(1, 9):
        _, axes = figure_layout.grid(n, figure_layout.row_heights(n))
        boxes = [ax.get_position() for ax in axes]
        assert len(boxes) == n
        assert len({round(box.x0, 3) for box in boxes}) == {4: 2}.get(n, min(n, 3))
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_each_panel_has_one_axis_with_its_title_and_metric():
    for kind, n, figure in each_figure():
        assert len(figure.axes) == n + (kind is communication)
        boxes = [ax.get_position() for ax in figure.axes]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        own = figure.axes[1:] if kind is communication else figure.axes
        assert [solid(ax.get_title()) for ax in own] == [solid(title) for title in titles(n)]
        assert {ax.get_ylabel() for ax in own} == {"ROUGE-L"}


def test_every_label_is_in_the_one_legend_once():
    for _, n, figure in each_figure():
        assert legend_labels(figure) == Counter(map(solid, SIX if n == 1 else TWELVE))
    assert legend_labels(ablation(1, ("only",))) == Counter(["only"])


@pytest.mark.usefixtures("unsettled")
def test_a_label_of_one_panel_only_is_in_the_legend_too():
    panels = [*point_panels(1, ("a", "b")), *point_panels(1, ("b", "c"))]
    assert legend_labels(communication_figure([ShareBar("d", 0.1)], panels)) == Counter("abcd")


def test_shares_are_horizontal_bars_in_per_cent_from_top_to_bottom():
    ax = drawn(communication, 1).axes[0]
    assert [bar.get_width() for bar in patches(ax)] == pytest.approx([100 * share for share in SHARES])
    assert [text.get_text() for text in ax.texts] == ["5", "0", "25", "20", "54", "8"]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(SIX)
    middles = [bar.get_window_extent().y0 for bar in patches(ax)]
    assert middles == sorted(middles, reverse=True)
    assert "%" in ax.get_xlabel()


@pytest.mark.usefixtures("unsettled")
def test_shares_have_a_logarithmic_axis_only_where_they_span_more_than_thirty():
    for shares, scale in (
        ((0.01, 0.3), "linear"),
        ((0.01, 0.301), "log"),
        ((0.0, 0.01, 0.3), "linear"),
        ((0.0, 0.0001, 0.3), "log"),
        ((0.0, 0.0), "linear"),
        ((1.5,), "linear"),
    ):
        bars = [ShareBar(str(i), share) for i, share in enumerate(shares)]
        ax = communication_figure(bars, point_panels(1, ("a",))).axes[0]
        assert ax.get_xscale() == scale
        low, high = ax.get_xlim()
        assert high > 100 * max(shares)
        assert low == 0 if scale == "linear" else 0 < low < 100 * min(share for share in shares if share)
        assert [bar.get_width() for bar in patches(ax)] == pytest.approx([100 * share for share in shares])


@pytest.mark.usefixtures("unsettled")
def test_points_and_their_intervals_are_at_the_given_numbers():
    for seed in range(2):
        panels = point_panels(2, seed=seed)
        for ax, panel in zip(communication_figure(share_bars(), panels).axes[1:], panels, strict=True):
            assert [line.get_xydata().tolist() for line in marked_lines(ax)] == [
                [[p.sent, p.score.mean]] for p in panel.points
            ]
            assert [line.get_xydata().tolist() for line in interval_lines(ax)] == [
                [[p.sent, p.score.low], [p.sent, p.score.high]] for p in panel.points
            ]
            assert "parameters sent per device and round" in " ".join(ax.get_xlabel().split())


@pytest.mark.usefixtures("unsettled")
def test_bars_and_their_intervals_have_the_given_heights_in_the_given_order():
    for seed in range(2):
        panels = bar_panels(2, seed=seed)
        for ax, panel in zip(ablation_figure(panels).axes, panels, strict=True):
            drawn = patches(ax)
            assert [bar.get_height() for bar in drawn] == [bar.height.mean for bar in panel.bars]
            assert [bar.get_y() for bar in drawn] == [0] * len(drawn)
            middles = [bar.get_x() + bar.get_width() / 2 for bar in drawn]
            assert middles == sorted(middles)
            assert all(a.get_x() + a.get_width() < b.get_x() for a, b in itertools.pairwise(drawn))
            for line, middle, bar in zip(interval_lines(ax), middles, panel.bars, strict=True):
                assert line.get_xdata().tolist() == pytest.approx([middle] * 2)
                assert line.get_ydata().tolist() == [bar.height.low, bar.height.high]


@pytest.mark.usefixtures("unsettled")
def test_curves_and_their_bands_are_at_the_given_numbers():
    for seed in range(2):
        panels = curve_panels(2, seed=seed)
        for ax, panel in zip(curves_figure(panels).axes, panels, strict=True):
            for line, band, curve in zip(marked_lines(ax), bands(ax), panel.curves, strict=True):
                assert line.get_xdata().tolist() == list(curve.rounds)
                assert line.get_ydata().tolist() == [score.mean for score in curve.scores]
                assert band == {r: (s.low, s.high) for r, s in zip(curve.rounds, curve.scores, strict=True)}
            assert ax.get_xlabel() == "round"


@pytest.mark.usefixtures("unsettled")
def test_estimates_without_an_interval_are_drawn_without_one():
    bare = Estimate(0.5)
    assert interval_lines(one_point_panel(Point("a", 10, bare))) == []
    assert interval_lines(one_bar_panel(bare, bare)) == []
    ax = one_curve_panel((1, 2, 3), bare, bare, bare)
    assert interval_lines(ax) == bands(ax) == []


@pytest.mark.usefixtures("unsettled")
def test_a_band_stops_where_an_interval_is_missing():
    whole, bare = Estimate(0.5, 0.4, 0.6), Estimate(0.5)
    ax = one_curve_panel((1, 2, 3, 4, 5), whole, whole, bare, whole, bare)
    assert bands(ax) == [{1.0: (0.4, 0.6), 2.0: (0.4, 0.6)}]
    assert [line.get_xydata().tolist() for line in interval_lines(ax)] == [[[4, 0.4], [4, 0.6]]]


@pytest.mark.usefixtures("unsettled")
def test_one_round_has_one_tick_and_its_interval_as_a_bar():
    ax = one_curve_panel((1,), Estimate(0.5, 0.4, 0.6))
    (line,) = interval_lines(ax)
    assert line.get_xydata().tolist() == [[1, 0.4], [1, 0.6]]
    assert bands(ax) == []
    assert [tick for tick in ax.get_xticks() if 0.5 <= tick <= 1.5] == [1]


@pytest.mark.usefixtures("unsettled")
def test_ticks_of_rounds_are_whole_numbers():
    for last in (1, 2, 5, 20, 300):
        ax = one_curve_panel(range(1, last + 1), *[Estimate(0.5)] * last)
        assert all(float(tick).is_integer() for tick in ax.get_xticks())


@pytest.mark.usefixtures("unsettled")
def test_a_long_curve_has_few_markers():
    rounds = range(1, 101)
    ax = one_curve_panel(rounds, *[Estimate(0.5)] * len(rounds))
    (line,) = marked_lines(ax)
    start, step = line.get_markevery()
    assert len(rounds[start::step]) <= 7


# Axes


@pytest.mark.usefixtures("unsettled")
def test_score_axes_show_all_intervals_and_little_else():
    for low, high in ((0.45, 0.5), (-0.5, -0.45), (-0.1, 0.1), (0.5, 0.5), (0.0, 0.0), (3e4, 5e4), (1e-7, 3e-7)):
        middle = (low + high) / 2
        for ax in (
            one_point_panel(Point("a", 1e6, Estimate(middle, low, high))),
            one_curve_panel((1, 2), Estimate(middle, low, high), Estimate(middle)),
        ):
            bottom, top = ax.get_ylim()
            assert bottom < low <= high < top
            assert top - bottom <= 1.2 * (high - low) or low == high


@pytest.mark.usefixtures("unsettled")
def test_bars_of_scores_start_at_zero():
    bottom, top = one_bar_panel(Estimate(0.5, 0.45, 0.6), Estimate(0.4)).get_ylim()
    assert bottom == 0
    assert top > 0.6


@pytest.mark.usefixtures("unsettled")
def test_bars_of_either_sign_have_a_line_at_zero():
    for zero_line in (True, False):
        ax = one_bar_panel(Estimate(-0.02, -0.05, 0.01), Estimate(0.01, -0.01, 0.03), zero_line=zero_line)
        bottom, top = ax.get_ylim()
        assert bottom < -0.05
        assert top > 0.03
        assert [list(line.get_ydata()) for line in ax.lines if line.get_marker() == "None"] == [[0, 0]]


@pytest.mark.usefixtures("unsettled")
def test_bars_below_or_at_zero_are_inside_their_axis():
    for heights, zero_line in (((-0.2, -0.1), False), ((-0.2, -0.1), True), ((0.0, 0.0), True)):
        bottom, top = one_bar_panel(*map(Estimate, heights), zero_line=zero_line).get_ylim()
        assert bottom <= min(heights)
        assert top >= 0
        assert top > bottom


def visible_ticks(ax):
    """Return position and text of the ticks within the limits of the x axis."""
    low, high = ax.get_xlim()
    ticks = zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
    return {float(place): label.get_text() for place, label in ticks if low <= place <= high}


@pytest.mark.usefixtures("unsettled")
def test_a_point_that_sends_nothing_has_its_place_before_a_dotted_line():
    ax = one_point_panel(Point("a", 0, Estimate(0.5)), Point("b", 4e6, Estimate(0.5)), Point("c", 2e8, Estimate(0.5)))
    ticks = visible_ticks(ax)
    assert ticks[0] == "0"
    assert ax.get_xlim()[0] < 0  # not at the edge
    assert {"10M", "100M"} <= set(ticks.values())
    (dotted,) = [line for line in ax.lines if line.get_linestyle() == ":"]
    x = dotted.get_xdata()[0]
    assert 0 < x < min(4e6, *(tick for tick in ticks if tick > 0))
    places = [ax.transData.transform((value, 0.5))[0] for value in (0, x, 4e6, 2e7, 1e8, 2e8)]
    assert places == sorted(places)
    assert places[3] - places[2] == pytest.approx(places[4] - places[3])  # both a factor of five


@pytest.mark.usefixtures("unsettled")
def test_a_panel_in_which_all_send_something_has_a_logarithmic_axis():
    ax = one_point_panel(Point("a", 4e6, Estimate(0.5)), Point("b", 2e8, Estimate(0.5)))
    assert ax.get_xscale() == "log"
    assert 0 < ax.get_xlim()[0] < 4e6
    assert ax.get_xlim()[1] > 2e8
    assert not any(line.get_linestyle() == ":" for line in ax.lines)


@pytest.mark.usefixtures("unsettled")
def test_a_panel_in_which_nothing_is_sent_shows_zero():
    assert visible_ticks(one_point_panel(Point("a", 0, Estimate(0.5)))) == {0.0: "0"}


def test_an_axis_of_parameters_has_at_least_two_numbers_and_their_texts_are_apart():
    rng, panels = np.random.default_rng(0), []
    for spread in (0.01, 3, 6):
        points = [Point(str(i), 10 ** rng.uniform(4, 4 + spread), Estimate(0.5)) for i in range(4)]
        panels += [PointPanel("t", "m", points), PointPanel("t", "m", [*points, Point("none", 0, Estimate(0.5))])]
    figure = communication_figure([ShareBar(LONG, 0.1)], panels)
    assert all(len([tick for tick in visible_ticks(ax) if tick]) >= 2 for ax in figure.axes[1:])
    assert_texts_are_apart_and_inside(figure)


def test_parameters_are_counted_in_thousands_millions_and_billions():
    for count, text in ((0, "0"), (7, "7"), (300, "300"), (1e3, "1k"), (3e5, "300k"), (2e6, "2M"), (7e9, "7B")):
        assert figures._count_text(count) == text


# Without colour


def styles(figure):
    """Return by panel the marker and the dashes of each curve."""
    return [[(line.get_marker(), line._unscaled_dash_pattern) for line in marked_lines(ax)] for ax in figure.axes]


def test_twelve_curves_differ_without_their_colours():
    for panel in styles(drawn(curves, 2)):
        assert len(set(panel)) == len({marker for marker, _ in panel}) == 12
    assert all(len({line for _, line in panel}) == 6 for panel in styles(drawn(curves, 1)))


def test_twelve_bars_differ_without_their_colours():
    for ax in drawn(ablation, 5).axes:
        assert len({bar.get_hatch() for bar in patches(ax)}) == 12


def test_twelve_points_differ_without_their_colours():
    for ax in drawn(communication, 2).axes[1:]:
        assert len({line.get_marker() for line in marked_lines(ax)}) == 12


def test_eighty_four_labels_have_a_colour_marker_and_hatch_of_their_own():
    looks = figure_look.looks_of(f"label {i}" for i in range(84)).values()
    assert len({(look.colour, look.marker) for look in looks}) == 84
    assert len({(look.colour, look.hatch) for look in looks}) == 84


@pytest.mark.usefixtures("unsettled")
def test_a_label_looks_the_same_in_all_panels_whatever_their_order():
    first, second = curve_panels(2)
    figure = curves_figure([first, CurvePanel(second.title, second.metric, second.curves[::-1])])
    one, other = (
        [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in marked_lines(ax)] for ax in figure.axes
    )
    assert one == other[::-1]


def test_looks_are_given_in_order_of_first_appearance():
    looks = figure_look.looks_of(["b", "a", "b", "c"])
    assert [look.colour for look in looks.values()] == list(figure_look.COLOURS[:3])
    assert list(looks) == ["b", "a", "c"]


def test_bars_and_points_of_a_label_share_their_colour():
    shares, *panels = drawn(communication, 2).axes
    for ax in panels:
        for bar, line in zip(patches(shares), marked_lines(ax), strict=True):
            colour = np.array(to_rgba(line.get_color())[:3])
            assert bar.get_facecolor()[:3] == pytest.approx(0.45 * colour + 0.55)


def grey_handles(figure) -> list[np.ndarray]:
    """Return the drawn handles of the legend as arrays of grey levels, one size for all."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = np.asarray(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("L"), dtype=float)
    (legend,) = figure.legends
    handles = []
    for text in legend.get_texts():
        box = text.get_window_extent()
        right, middle = round(box.x0) - 20, image.shape[0] - round((box.y0 + box.y1) / 2)
        handles.append(image[middle - 18 : middle + 18, right - 85 : right])
    return handles


def least_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the smallest mean difference of grey levels over small shifts, which say nothing to a reader."""
    inner = one[4:-4, 4:-4]
    height, width = inner.shape
    shifts = itertools.product(range(9), range(9))
    return min(float(np.abs(inner - other[y : y + height, x : x + width]).mean()) for y, x in shifts)


def closest_pair(handles) -> float:
    return min(least_difference(a, b) for a, b in itertools.combinations(handles, 2))


@pytest.mark.usefixtures("unsettled")
def test_handles_of_a_legend_differ_on_paper_without_colours(monkeypatch):
    names = [f"label {i}" for i in range(12)]
    for kind in (ablation, curves):
        with monkeypatch.context() as patch:
            patch.setattr(figure_look, "COLOURS", ("#707070",))
            assert closest_pair(grey_handles(kind(1, names))) > 2
            patch.setattr(figure_look, "HATCHES", ("//",))
            patch.setattr(figure_look, "MARKERS", ("o",))
            patch.setattr(figure_look, "LINES", ((0, None),))
            assert closest_pair(grey_handles(kind(1, names))) < 1  # the check sees handles that are alike


# Texts


def shown_texts(figure):
    """Return every text that a reader sees, with its box in pixels, after drawing."""
    figure.draw_without_rendering()
    texts = [text for legend in figure.legends for text in legend.get_texts()]
    for ax in figure.axes:
        texts += [ax.title, ax.xaxis.label, ax.yaxis.label, ax.yaxis.get_offset_text(), *ax.texts]
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
            texts += [label for place, label in ticks if low <= place <= high]
    return [(text, text.get_window_extent()) for text in texts if text.get_text()]


def assert_texts_are_apart_and_inside(figure):
    texts = shown_texts(figure)
    canvas = figure.bbox
    for text, box in texts:
        assert canvas.x0 <= box.x0 <= box.x1 <= canvas.x1, text
        assert canvas.y0 <= box.y0 <= box.y1 <= canvas.y1, text
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        assert min(a.x1, b.x1) - max(a.x0, b.x0) <= 0.5 or min(a.y1, b.y1) - max(a.y0, b.y0) <= 0.5, (one, other)


def test_texts_are_inside_the_canvas_and_apart():
    for _, _, figure in each_figure():
        assert_texts_are_apart_and_inside(figure)


def test_texts_are_inside_the_canvas_and_apart_in_the_svg():
    for kind in KINDS:
        figure = kind(1, TWELVE[:1])
        figure.dpi = 72
        assert_texts_are_apart_and_inside(figure)


def test_a_legend_is_below_all_panels():
    for _, _, figure in each_figure():
        texts = shown_texts(figure)
        (legend,) = figure.legends
        names = legend.get_texts()
        top = legend.get_window_extent().y1
        assert all(box.y0 >= top for text, box in texts if text not in names)
        assert all(ax.get_window_extent().y0 > top for ax in figure.axes)


def test_no_text_is_smaller_than_eight_points_and_no_figure_wider_than_seven_inches():
    for _, _, figure in each_figure():
        assert min(text.get_fontsize() for text, _ in shown_texts(figure)) >= 8
        columns = len({round(ax.get_position().x0, 3) for ax in figure.axes})
        assert figure.get_figwidth() == {1: 4.6, 2: 6, 3: 7}[columns]


def test_panels_keep_their_height_under_long_titles():
    panels = [BarPanel("word " * 20, "metric " * 12, [Bar(LONG * 3, Estimate(0.5))]) for _ in range(2)]
    figure = ablation_figure(panels)
    heights = [ax.get_window_extent().height / figure.dpi for ax in figure.axes]
    assert heights == pytest.approx([figure_layout.PANEL_HEIGHT] * 2, abs=0.05)
    assert_texts_are_apart_and_inside(figure)


def test_long_labels_beside_the_bars_of_shares_have_room():
    bars = [ShareBar(f"{LONG}, rank={i}", 0.05 * i) for i in range(6)]
    figure = communication_figure(bars, point_panels(1, SIX[:1]))
    assert [solid(label.get_text()) for label in figure.axes[0].get_yticklabels()] == [solid(bar.label) for bar in bars]
    assert_texts_are_apart_and_inside(figure)


def test_a_name_is_shown_as_it_is():
    for name in ("_private", "a_b^c", "50 % \\alpha", "nolegend", "$a$ and $b$"):
        figure = ablation_figure([BarPanel(name, name, [Bar(name, Estimate(0.5))])])
        (text,) = figure.legends[0].get_texts()
        for shown in (text, figure.axes[0].title, figure.axes[0].yaxis.label):
            assert shown.get_text() == name
            assert not shown.get_parse_math()
    figure_bytes(figure)


def test_lines_break_after_words_then_after_parts_of_names_then_anywhere():
    with figure_look.own_style():
        for text, room, lines in (
            ("ml-ecs", 100, ["ml-ecs"]),
            (LONG, 92, ["ml-ecs", "(amt_trains=encoder,", "lora,connector)"]),
            ("multi-fedavg of seven", 60, ["multi-fedavg", "of seven"]),
            ("WWWW", 16, ["WW", "WW"]),
            ("  spaced \n out ", 200, ["spaced out"]),
            ("", 50, [""]),
        ):
            assert figure_layout.wrapped(text, room).split("\n") == lines


def test_lines_keep_every_character_and_fit():
    for seed in range(3):
        rng = np.random.default_rng(seed)
        text = "".join(rng.choice(list("abcdWiM ,=_-/():")) for _ in range(120))
        with figure_look.own_style():
            wrapped = figure_layout.wrapped(text, 70)
            assert solid(wrapped) == solid(text)
            assert max(figure_layout.text_width(line) for line in wrapped.split("\n")) <= 70


# Bytes

CHILD = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("test_figures", {path!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(json.dumps(module.digests()))
"""


def digests() -> list[dict[str, str]]:
    found = [figure_bytes(kind(1, ("a",))) for kind in KINDS]
    return [{name: hashlib.sha256(data).hexdigest() for name, data in files.items()} for files in found]


def test_bytes_are_the_same_in_another_process_with_other_settings(tmp_path):
    settings = tmp_path / "matplotlibrc"
    settings.write_text(
        "font.size: 20\naxes.grid: True\nsavefig.dpi: 30\nsavefig.transparent: True\nhatch.color: red\n"
    )
    code = CHILD.format(path=__file__)
    environment = os.environ | {"MATPLOTLIBRC": str(settings), "PYTHONHASHSEED": "5", "SOURCE_DATE_EPOCH": "7"}
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(child.stdout) == digests()


@cache
def drawn_bytes(kind) -> dict[str, bytes]:
    return figure_bytes(drawn(kind, 1))


def test_bytes_are_the_same_in_every_call():
    for kind in KINDS:
        assert set(drawn_bytes(kind)) == {"svg", "png", "pdf"}
        assert figure_bytes(drawn(kind, 1)) == drawn_bytes(kind)


def test_other_numbers_are_other_bytes():
    one, other = (figure_bytes(curves(1, ("a",), seed=seed)) for seed in (0, 1))
    assert one["svg"] != other["svg"]
    assert one["png"] != other["png"]


def test_the_png_has_200_pixels_per_inch_of_the_figure():
    for kind in KINDS:
        data = drawn_bytes(kind)["png"]
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", data[16:24])
        assert (width, height) == pytest.approx(tuple(200 * drawn(kind, 1).get_size_inches()), abs=1)
        assert b"tEXt" not in data
        assert b"tIME" not in data


def test_the_svg_scales_and_needs_nothing_beside_it():
    for kind in KINDS:
        data = drawn_bytes(kind)["svg"].decode()
        root = ET.fromstring(data)  # noqa: S314 - our own text
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        x, y, width, height = map(float, root.attrib["viewBox"].split())
        assert (x, y) == (0, 0)
        size = [float(root.attrib[name].rstrip("pt")) for name in ("width", "height")]
        assert width / height == pytest.approx(size[0] / size[1])
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert not tags & {"text", "image", "script"}
        assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', data))
        assert not re.search(r"@font-face|dc:date|[Mm]atplotlib v", data)


def test_settings_of_matplotlib_are_left_alone():
    before = dict(rcParams)
    figure_bytes(curves(1, ("a",)))
    assert dict(rcParams) == before


def test_nothing_is_imported_before_a_figure_is_drawn_and_pyplot_never():
    code = """
import sys
from mlecs_bench.report.figures import *
from mlecs_bench.report.figure_parts import *
assert not {"matplotlib", "numpy"} & set(sys.modules)
figure_bytes(ablation_figure([BarPanel("t", "m", [Bar("a", Estimate(1.0))])]))
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# Mistakes


def test_nothing_to_draw_is_one_line_of_error():
    for draw, what in (
        (lambda: communication_figure(share_bars(), []), "panels"),
        (lambda: communication_figure([], point_panels()), "bars"),
        (lambda: communication_figure(share_bars(), [PointPanel("t", "m", [])]), "points in panel 't'"),
        (lambda: ablation_figure([]), "panels"),
        (lambda: ablation_figure([BarPanel("t", "m", [])]), "bars in panel 't'"),
        (lambda: curves_figure([]), "panels"),
        (lambda: curves_figure([CurvePanel("t", "m", [])]), "curves in panel 't'"),
    ):
        with pytest.raises(ValueError, match=what) as caught:
            draw()
        assert "\n" not in str(caught.value)


def test_numbers_that_cannot_be_drawn_are_one_line_of_error():
    for make in (
        lambda: Estimate(math.nan),
        lambda: Estimate(0.5, -math.inf, 0.6),
        lambda: Estimate(0.5, 0.4),
        lambda: Estimate(0.5, None, 0.6),
        lambda: Estimate(0.5, 0.6, 0.4),
        lambda: ShareBar("a", -0.1),
        lambda: Point("a", -1, Estimate(0.5)),
        lambda: Point("a", math.inf, Estimate(0.5)),
        lambda: Curve("a", (1, 2), [Estimate(0.5)]),
        lambda: Curve("a", (), ()),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the line says which number
            make()
        assert "\n" not in str(caught.value)


# Gains


@pytest.mark.usefixtures("unsettled")
def test_panels_of_gains_share_a_scale_and_wide_axes_have_powers_of_two():
    gain = Estimate(0.1, 0.0, 0.2)
    wide = [GainLine("a", (16, 128, 1024), [gain] * 3, point) for point in ("local", "received")]
    narrow = [GainLine("b", (3, 5, 20), [Estimate(-0.4)] * 3, "local")]
    every = [GainLine("a", range(1, 31), [gain] * 30, "local")]
    figure = gains_figure(
        [
            GainPanel("w", "m", "x", wide, base=128),
            GainPanel("n", "m", "x", narrow),
            GainPanel("e", "m", "x", every, every=True),
        ]
    )
    first, second, third = figure.axes
    assert [ax.get_xscale() for ax in figure.axes] == ["log", "linear", "linear"]
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["16", "128", "1024"]
    assert first.get_ylim() == second.get_ylim() == third.get_ylim()
    assert first.get_ylim()[0] < -0.4
    means = [line for line in first.lines if len(line.get_xdata()) == 3]
    assert [line.get_linestyle() for line in means] == ["-", "--"]
    assert [list(line.get_ydata()) for line in means] == [[0.1] * 3] * 2
    assert len(first.lines) == 2 + 2 * 3 + 2  # lines, their intervals, zero and the base
    assert len(third.collections) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "local", "received"]


@pytest.mark.parametrize(
    ("values", "gains"), [((1, 2), [Estimate(0.1)]), ((), []), ((1, float("nan")), [Estimate(0.1), Estimate(0.2)])]
)
def test_lines_of_gains_that_cannot_be_are_refused(values, gains):
    with pytest.raises(ValueError, match=r"one gain for every value|finite numbers"):
        GainLine("x", values, gains)


@pytest.mark.usefixtures("unsettled")
def test_figures_of_gains_share_the_colours_of_labels_that_one_of_them_lacks():
    line = GainLine("b", (1, 2, 3), [Estimate(0.1, 0.0, 0.2)] * 3)
    alone, shared = (gains_figure([GainPanel("w", "m", "x", [line])], labels) for labels in ((), ("a", "b")))
    colours = [next(one for one in of.axes[0].lines if len(one.get_xdata()) == 3).get_color() for of in (alone, shared)]
    assert colours[0] == figure_look.looks_of(["b"])["b"].colour
    assert colours[1] == figure_look.looks_of(["a", "b"])["b"].colour != colours[0]
    assert [text.get_text() for text in shared.legends[0].get_texts()] == ["b"]


def test_values_that_are_swept_have_a_tick_each_and_names_where_there_is_room(monkeypatch):
    monkeypatch.setattr(figure_layout, "LAYOUT_PASSES", 1)
    gain = Estimate(0.1, 0.0, 0.2)
    values = [2**i for i in range(4, 11)]
    lines = [GainLine("a", values, [gain] * 7)]
    figure = gains_figure([GainPanel("samples", "ROUGE-L", "n", lines, base=512)] * 3)
    assert_texts_are_apart_and_inside(figure)
    assert all([tick.get_loc() for tick in ax.xaxis.get_major_ticks()] == values for ax in figure.axes)
    named = {tick.get_text() for tick in figure.axes[0].get_xticklabels() if tick.get_text()}
    assert {"16", "512"} < named < set(map(str, values))
