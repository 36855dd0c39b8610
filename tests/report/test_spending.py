"""Scores against costs: what was spent is added up over rounds, and rows without the numbers are left out."""

from __future__ import annotations

import pytest

import mlecs_bench.report.spending as module
from hand_made import make_record, score
from mlecs_bench.report.arrange import arrange
from mlecs_bench.report.figure_parts import Estimate, Spending
from mlecs_bench.report.frame import build_rows
from mlecs_bench.report.robustness import families
from mlecs_bench.report.spending import draw_costs, draw_costs_by_condition
from study_records import with_all

INT8 = {"compression": {"law": "int8"}}


def costed(algo="ml-ecs", seed=27, cheap=1.0, every=True, network=True, dataset="vast"):
    """Return a record of three rounds that send 100, 300, 500 bytes, and take 2, 1, 4 seconds."""
    record = make_record(algo=algo, seed=seed, dataset=dataset)
    record["comm"]["by_round"] = [
        {"round": t, "up_params": 1, "down_params": 1, "up_bytes": int(cheap * 40), "down_bytes": int(cheap * size)}
        for t, size in ((1, 60), (2, 260), (3, 460), (4, 999))
    ]
    client = {"rouge_lsum": {"d00": score(0.1), "d01": score(0.3)}}
    record["metrics"]["rounds"] = [
        {"round": t, "losses": {}}
        | ({"client": client, "server": None} if every or t == 3 else {})
        | ({"time": seconds, "flops": 10.0 * t} if network else {})
        for t, seconds in ((1, 2.0), (2, 1.0), (3, 4.0))
    ]
    return record


@pytest.fixture
def panels(monkeypatch):
    """The panels that are drawn, without drawing them."""
    drawn = []
    monkeypatch.setattr(module, "draw_spending", lambda *parts: drawn.extend(parts[3]) or parts[:3])
    return drawn


def setting_of(records):
    (setting,) = arrange(build_rows(records), "ml-ecs")
    return setting


def test_rounds_that_were_scored_are_a_line_over_what_was_spent_up_to_them(panels):
    records = with_all([costed(seed=seed, cheap=cheap) for seed, cheap in ((27, 1.0), (34, 3.0))], evaluate="all")
    draw_costs(setting_of(records))
    assert [panel.what.split(" so far")[0] for panel in panels] == [
        "bytes sent", "simulated seconds", "floating-point operations",
    ]  # fmt: skip  # in order
    (line,) = panels[0].lines
    assert list(line.spent) == [200.0, 800.0, 1800.0]
    assert [one.mean for one in line.scores] == pytest.approx([0.2] * 3)
    assert [list(panel.lines[0].spent) for panel in panels[1:]] == [[2.0, 3.0, 7.0], [10.0, 30.0, 60.0]]


def test_rows_that_were_scored_once_are_points(panels):
    records = with_all([costed(every=False, network=False)], conditions=INT8)
    draw_costs(setting_of(records))
    (panel,) = panels
    assert list(panel.lines[0].spent) == [900.0]


def test_who_sends_nothing_stands_at_zero(panels):
    silent = costed("standalone", network=False)
    silent["comm"] |= {"by_round": [], "entries": []}
    draw_costs(setting_of(with_all([silent, costed()], evaluate="all")))
    assert {line.label: list(line.spent) for line in panels[0].lines}["standalone"] == [0.0, 0.0, 0.0]
    assert [line.label for line in panels[1].lines] == ["ml-ecs"]


def test_usual_rows_that_were_scored_once_have_no_such_figure():
    assert draw_costs(setting_of([costed(every=False)])) is None
    assert draw_costs(setting_of(with_all([make_record()], conditions=INT8))) is None


def test_conditions_are_lines_of_one_panel_per_algorithm(panels):
    usual = [costed(algo, network=False) for algo in ("ml-ecs", "multi-fedavg")]
    cheap = with_all([costed(algo, cheap=0.5, network=False) for algo in ("ml-ecs", "multi-fedavg")], conditions=INT8)
    (family,) = families(arrange(build_rows([*usual, *cheap]), "ml-ecs"))
    draw_costs_by_condition(family)
    assert [panel.title for panel in panels] == ["multi-fedavg, vast, rho 0.5", "ml-ecs, vast, rho 0.5"]
    for panel in panels:
        assert {line.label: line.spent[-1] for line in panel.lines} == {"static": 900.0, "int8 messages": 450.0}


def test_figures_are_drawn_in_all_formats():
    figure = draw_costs(setting_of(with_all([costed("standalone"), costed()], evaluate="all")))
    assert figure.files.keys() == {"svg", "png", "pdf"}
    assert figure.caption.startswith("Average device after local training, against all that was spent up to then")


@pytest.mark.parametrize("spent", [[1.0], [2.0, 1.0], [-1.0, 0.0], [0.0, float("inf")]])
def test_amounts_that_cannot_be_are_refused(spent):
    with pytest.raises(ValueError, match=r"needs one score|never falls|finite number"):
        Spending("x", spent, [Estimate(0.1), Estimate(0.2)])
