"""Tables of differences and of what was sent, and the figures' numbers: hand-made records only."""

from __future__ import annotations

import statistics

import pytest
from scipy import stats

from hand_made import make_record, with_identity
from mlecs_bench.report import drawings
from mlecs_bench.report.arrange import arrange
from mlecs_bench.report.comparisons import DIFFERENCE_COLUMNS
from mlecs_bench.report.evidence import (
    ablation_statistics,
    communication_table,
    overall_sentence,
    statistics_tables,
)
from mlecs_bench.report.frame import build_rows
from mlecs_bench.report.scores import Asked
from mlecs_bench.seeds import PROTOCOL_SEEDS
from study_records import BASE, NOISE, five

ASKED = Asked("local", "ml-ecs", PROTOCOL_SEEDS)


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
    sentence = overall_sentence(setting, setting.arms[-1], ASKED)
    assert "2 blocks" in sentence
    assert "10 units, all 1,024 flips" in sentence
    assert "above zero" in sentence
    assert overall_sentence(setting_of(five()), setting.arms[-1], ASKED) == ""


def test_what_is_sent_is_per_device_and_round():
    # tests/hand_made.py: 3 broadcasts of 30 and 2 uploads of 20 per device, over 2 rounds: 65 parameters of 1,000.
    table = communication_table(setting_of([*five(), *five("standalone"), *five("ml-ecs/no-kt")]))
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


def test_without_rows_there_are_no_figures():
    setting = setting_of([make_record()])
    assert drawings.draw_ablation(setting, ASKED) is None
    assert drawings.draw_curves(setting) is None
