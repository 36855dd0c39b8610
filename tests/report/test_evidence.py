"""Tables of differences and of what was sent, and the figures' numbers: hand-made records only."""

from __future__ import annotations

import re
import statistics
from dataclasses import replace

import pytest
from scipy import stats

from hand_made import make_record, with_identity
from mlecs_bench.doors.hookspecs import Control
from mlecs_bench.report import drawings
from mlecs_bench.report.arrange import Cards, arrange, control_key
from mlecs_bench.report.comparisons import DIFFERENCE_COLUMNS
from mlecs_bench.report.evidence import (
    ablation_statistics,
    communication_table,
    overall_sentences,
    statistics_tables,
)
from mlecs_bench.report.frame import BOTH_POINTS, build_rows
from mlecs_bench.report.scores import Asked
from mlecs_bench.seeds import PROTOCOL_SEEDS
from study_records import BASE, NOISE, five, number_at, with_all

ASKED = Asked(("local",), "ml-ecs", PROTOCOL_SEEDS)


def setting_of(records):
    (setting,) = arrange(build_rows(records), "ml-ecs")
    return setting


def line_of(table, score, rho, against):
    (line,) = [one for one in table.lines if one.labels[1:] == (score, rho, against)]
    return dict(zip((path[-1] for path in DIFFERENCE_COLUMNS), line.contents, strict=True))


def test_differences_are_those_of_scipy_and_corrected_over_baselines_and_rates_of_one_score():
    baselines = {"standalone": 0.0, "fedmllm": 0.02}
    records = [r for rho in (0.5, 0.8) for r in five(gain=0.03, noise=0, rho=rho)]
    records += [r for name, gain in baselines.items() for rho in (0.5, 0.8) for r in five(name, gain, rho=rho)]
    (table,) = statistics_tables(setting_of(records), ASKED)
    assert len(table.lines) == 2 * 2 * 2  # client and server, rates, baselines
    p_values = {}
    for name, gain in baselines.items():
        ours, theirs = ([BASE[s] + 0.03 for s in BASE], [BASE[s] + gain + NOISE[s] for s in BASE])
        found = line_of(table, "rouge_lsum avg", "0.5", name)
        test = stats.ttest_rel(ours, theirs)
        ends = test.confidence_interval(0.95)
        assert found["p"].value == pytest.approx(test.pvalue)
        assert found["difference"].value == pytest.approx(statistics.mean(ours) - statistics.mean(theirs))
        assert (found["low"].value, found["high"].value) == pytest.approx((ends.low, ends.high))
        relative = 100 * (statistics.mean(ours) / statistics.mean(theirs) - 1)
        assert found["in %"].value == pytest.approx(relative)
        assert found["n"].value == 5
        assert len(found["difference"].records) == 10
        p_values[name] = test.pvalue
    # Two rates with the same scores: of four p-values the smallest two are times 4, then at least that.
    small, large = sorted(p_values, key=lambda name: p_values[name])
    assert line_of(table, "rouge_lsum avg", "0.5", small)["corrected p"].value == pytest.approx(4 * p_values[small])
    expected = min(1, max(4 * p_values[small], 2 * p_values[large]))
    assert line_of(table, "rouge_lsum avg", "0.8", large)["corrected p"].value == pytest.approx(expected)


def test_verdicts_are_words_and_a_tie_is_told_from_not_knowing():
    records = [*five(gain=0.05), *five("standalone"), *five("fedmllm", gain=0.049), *five("fedilora", gain=0.1)]
    records += five("co-plms", gain=0.03, noise=-2)
    (table,) = statistics_tables(setting_of(records), ASKED)
    names = ("standalone", "fedmllm", "fedilora", "co-plms")
    found = [line_of(table, "rouge_lsum avg", "0.5", name)["verdict"] for name in names]
    assert found == ["better", "tied", "worse", "undecided"]


def test_other_options_of_the_candidate_have_a_table_of_their_own():
    other = [with_identity(r, algo={"options": {"tau": 3.0}}) for r in five()]
    tables = statistics_tables(setting_of([*five(), *other, *five("standalone")]), ASKED)
    assert [table.title for table in tables] == ["ml-ecs against baselines", "ml-ecs (tau=3.0) against baselines"]
    assert [table.name for table in tables] == ["statistics", "statistics-tau-3-0"]
    assert all({line.labels[-1] for line in table.lines} == {"standalone"} for table in tables)


BOTH = replace(ASKED, eval_points=BOTH_POINTS)


def worse_after(records, by=0.2):
    """Return records whose devices have `by` less after the last broadcast."""
    for record in records:
        for score in record["metrics"]["client"]["received"]["rouge_lsum"].values():
            score["value"] -= by
    return records


def test_a_comparison_has_a_line_for_each_point_and_says_what_holds_at_both():
    setting = setting_of([*worse_after(five(gain=0.05)), *five("standalone"), *five("fedmllm", gain=-0.3)])
    (table,) = statistics_tables(setting, BOTH)
    of_devices = [line for line in table.lines if line.labels[1] == "rouge_lsum avg"]
    assert [line.labels[-2:] for line in of_devices] == [
        (name, point) for name in ("fedmllm", "standalone") for point in BOTH_POINTS
    ]
    columns = [path[-1] for path in table.columns]
    found = [dict(zip(columns, line.contents, strict=True)) for line in of_devices]
    assert [(one["verdict"], one["holds at both"]) for one in found] == [
        ("better", "better"), ("better", "better"), ("better", "undecided"), ("worse", "undecided"),
    ]  # fmt: skip  # one row
    assert {line.labels[-1] for line in table.lines if line.labels[1] == "rouge_lsum server"} == {""}
    assert "Holds at both: the verdict of both" in table.caption


def test_the_overall_sentence_counts_what_holds_at_both_points_and_tests_each():
    setting = setting_of([*worse_after(five(gain=0.05)), *five("standalone"), *five("fedmllm", gain=-0.3)])
    (sentence,) = overall_sentences(setting, setting.arms[-1], BOTH)
    assert "against the baselines (fedmllm, standalone): better at both points in 1 of 2, worse in 0" in sentence
    assert re.search(r"local: the mean scaled difference lies above zero .*; received: the mean scaled", sentence)


def test_the_control_is_tested_apart_from_the_baselines():
    public = [with_identity(record, algo={"options": {"public": True}}) for record in five("standalone", gain=0.1)]
    floor = Control("floor", "alone with public data", "the same data, nothing sent")
    cards = Cards(controls={control_key(public[0]["identity"]): floor})
    records = [*five(gain=0.05), *five("fedmllm"), *public]
    (setting,) = arrange(build_rows(records), "ml-ecs", cards)
    (table,) = statistics_tables(setting, ASKED)
    assert table.title == "ml-ecs against baselines and controls"
    assert "control row alone with public data: the same data, nothing sent" in table.notes
    baselines, control = overall_sentences(setting, setting.arms[-1], ASKED)
    assert "against the baselines (fedmllm): better (local) in 1 of 1" in baselines
    assert "against the control alone with public data: better (local) in 0 of 1, worse in 1" in control


def test_no_baseline_no_table_and_one_seed_no_test():
    assert statistics_tables(setting_of(five()), ASKED) == []
    records = [*five(seeds=(27,)), *five("standalone", seeds=(27,))]
    (table,) = statistics_tables(setting_of(records), ASKED)
    found = line_of(table, "rouge_lsum avg", "0.5", "standalone")
    assert (found["p"], found["low"], found["verdict"]) == (None, None, "undecided")


def test_ablations_are_held_against_the_whole_in_a_family_of_their_own():
    records = [*five(gain=0.05), *five("ml-ecs/no-kt"), *five("standalone")]
    table = ablation_statistics(setting_of(records), ASKED)
    assert {line.labels[-1] for line in table.lines} == {"ml-ecs/no-kt"}
    assert line_of(table, "rouge_lsum avg", "0.5", "ml-ecs/no-kt")["difference"].value > 0
    assert ablation_statistics(setting_of([*five(), *five("standalone")]), ASKED) is None


def test_the_overall_test_speaks_of_the_headline_score_of_the_average_device():
    setting = setting_of([*five(gain=0.05), *five("standalone"), *five(dataset="b"), *five("standalone", dataset="b")])
    (sentence,) = overall_sentences(setting, setting.arms[-1], ASKED)
    assert "better (local) in 1 of 2, worse in 0, tied in 1. Overall test of 2 blocks" in sentence
    assert "5 seeds, all 32 flips, p = 0.0625; 5 seeds cannot show p below 0.0625" in sentence
    assert "above zero" in sentence
    assert overall_sentences(setting_of(five()), setting.arms[-1], ASKED) == []


def test_what_is_sent_is_per_device_and_round():
    # tests/hand_made.py: 3 broadcasts of 30 and 2 uploads of 20 per device, over 2 rounds: 65 parameters of 1,000.
    usual = [*five(), *five("standalone"), *five("ml-ecs/no-kt")]
    compressed = communication_table(setting_of(with_all(usual, conditions={"compression": {"law": "int8"}})))
    sent, size = (number_at(compressed, ("ml-ecs",), (name,)) for name in ("sent", "bytes"))
    assert size.value == 4 * sent.value
    assert "Bytes: the size on the way" in compressed.caption
    table = communication_table(setting_of(usual))
    assert [line.labels for line in table.lines] == [("standalone",), ("ml-ecs",)]
    sent, one_way, full = table.lines[1].contents
    assert (sent.text, one_way.text, full.text) == ("65", "6.50 %", "6.50 %")
    assert sent.records == tuple(r["key"] for r in five())
    assert all(
        name in table.caption for name in ("share (one way): LoRA one way and fused", "share (full): everything")
    )


def test_figures_hold_the_numbers_of_their_rows(monkeypatch):
    seen = {}

    def keep(name):
        return lambda *panels: seen.setdefault(name, panels)

    for name in ("communication_figure", "ablation_figure", "curves_figure"):
        monkeypatch.setattr(drawings, name, keep(name))
    monkeypatch.setattr(drawings, "figure_bytes", lambda _: {})
    often = [with_identity(r, evaluate="all") for r in five()]
    setting = setting_of([*often, *five("standalone"), *five("ml-ecs/no-kt"), *five("ml-ecs/no-kt", rho=0.8)])
    assert drawings.draw_communication(setting, ASKED).name == "communication"
    assert drawings.draw_ablation(setting, ASKED, "-x").name == "ablation-x"
    assert drawings.draw_curves(setting).name == "curves"
    values = [BASE[s] + NOISE[s] for s in PROTOCOL_SEEDS]
    low, high = stats.t.interval(0.95, 4, statistics.mean(values), stats.sem(values))
    bars, (points,) = seen["communication_figure"]
    assert [(bar.label, bar.share) for bar in bars] == [("standalone", 0.065), ("ml-ecs", 0.065)]
    assert points.title == "vast, rho 0.5"
    assert [(p.label, p.sent) for p in points.points] == [("standalone", 65), ("ml-ecs", 65)]
    score = points.points[1].score
    assert (score.mean, score.low, score.high) == pytest.approx((statistics.mean(values), low, high))
    ((client, server),) = seen["ablation_figure"]
    assert (client.metric, server.metric) == ("rouge_lsum avg", "rouge_lsum server")
    assert [bar.label for bar in client.bars] == ["ml-ecs", "ml-ecs/no-kt"]
    assert server.bars[0].height.mean == pytest.approx(statistics.mean(values) + 0.2)
    ((panel,),) = seen["curves_figure"]
    (curve,) = panel.curves
    assert (curve.label, curve.rounds) == ("ml-ecs", [2])
    assert curve.scores[0].mean == pytest.approx(statistics.mean(values))


def test_figures_have_a_panel_for_each_point_and_one_for_the_server(monkeypatch):
    seen = {}
    for name in ("communication_figure", "ablation_figure"):
        monkeypatch.setattr(drawings, name, lambda *panels, name=name: seen.setdefault(name, panels))
    monkeypatch.setattr(drawings, "figure_bytes", lambda _: {})
    setting = setting_of([*five(), *five("ml-ecs/no-kt")])
    drawings.draw_communication(setting, BOTH)
    drawings.draw_ablation(setting, BOTH)
    _, points = seen["communication_figure"]
    (bars,) = seen["ablation_figure"]
    both = ["vast, rho 0.5, local", "vast, rho 0.5, received"]
    assert [panel.title for panel in points] == both
    assert [panel.title for panel in bars] == [*both, "vast, rho 0.5"]
    assert points[1].points[0].score.mean == pytest.approx(points[0].points[0].score.mean + 0.05)


def test_without_rows_there_are_no_figures():
    setting = setting_of([make_record()])
    assert drawings.draw_ablation(setting, ASKED) is None
    assert drawings.draw_curves(setting) is None
