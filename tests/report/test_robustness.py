"""Scores under conditions beside those under the usual ones: paired by seed, counted again by hand."""

from __future__ import annotations

import statistics

import pytest

from hand_made import make_record, score
from mlecs_bench.doors.hookspecs import Control
from mlecs_bench.errors import RecordError
from mlecs_bench.report import drawings
from mlecs_bench.report.arrange import Cards, arrange, control_key
from mlecs_bench.report.build import build_report, tables_of_scores
from mlecs_bench.report.frame import build_rows
from mlecs_bench.report.pairing import pair_algorithms
from mlecs_bench.report.robustness import CONTROLS, families, robustness_tables, without_table
from mlecs_bench.report.scores import Asked
from study_records import BASE, five, lower_is_better, number_at, with_all

INT8 = {"compression": {"law": "int8", "direction": "up"}}
EXACT = {"modalities": {"law": "exact"}}
SEEDS = (27, 34, 46, 52, 93)
ASKED = Asked(("local", "received"), "ml-ecs", SEEDS)
FLOOR = Cards(
    controls={
        control_key(make_record(algo="standalone")["identity"]): Control("floor", "no collaboration", "sends nothing")
    }
)


def under(records, conditions):
    return with_all(records, conditions=conditions)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Figures of reports have no drawing, which takes a second each."""
    for name in ("communication_figure", "ablation_figure", "curves_figure", "spending_figure"):
        monkeypatch.setattr(drawings, name, lambda *_: None)
    monkeypatch.setattr(drawings, "figure_bytes", lambda _: {"svg": b"<svg/>", "png": b"", "pdf": b""})


def study(noise=1.0):
    """Return records of two algorithms and a floor, as usual and under two conditions."""
    usual = [*five(), *five("multi-fedavg"), *five("standalone")]
    return [
        *usual,
        *under([*five(gain=-0.04, noise=noise), *five("multi-fedavg", gain=-0.1)], INT8),
        *under(five(gain=-0.01, seeds=SEEDS[:3]), EXACT),
    ]


def tables(records, cards=FLOOR):
    settings = arrange(build_rows(records), "ml-ecs", cards)
    (family,) = families(settings)
    return {table.name: table for table in robustness_tables(family, ASKED)}


def test_every_score_has_a_table_with_a_line_per_algorithm_and_a_column_per_condition():
    found = tables(study())
    assert list(found) == [f"robustness-vast-{one}" for one in ("avg-local", "avg-received", "server")]
    for table in found.values():
        assert table.columns[0] == ("static",)
        assert set(table.columns[1:]) == {("int8 messages up",), ("exact rates",)}
        assert [line.labels[-1] for line in table.lines] == ["multi-fedavg", "ml-ecs", "no collaboration"]


def test_differences_are_paired_by_seed_over_the_seeds_that_both_have():
    table = tables(study(noise=3.0))["robustness-vast-avg-local"]
    ours, theirs = five(gain=-0.04, noise=3.0), five()
    by_hand = [_average(one) - _average(other) for one, other in zip(ours, theirs, strict=True)]
    found = number_at(table, ("ml-ecs",), ("int8 messages up",))
    assert found.value == pytest.approx(statistics.mean(by_hand))
    assert found.sd == pytest.approx(statistics.stdev(by_hand))
    assert (found.n, found.expected, found.kind, len(found.records)) == (5, 5, "difference", 10)
    few = number_at(table, ("ml-ecs",), ("exact rates",))
    assert (few.value, few.n, few.expected) == (pytest.approx(-0.01), 3, 5)
    assert number_at(table, ("multi-fedavg",), ("exact rates",)) is None
    assert number_at(table, ("ml-ecs",), ("static",)).value == pytest.approx(
        statistics.mean(_average(one) for one in theirs)
    )


def _average(record) -> float:
    return statistics.mean(one["value"] for one in record["metrics"]["client"]["local"]["rouge_lsum"].values())


def test_above_zero_is_better_whatever_the_direction_of_the_metric():
    table = tables(lower_is_better(study()))["robustness-vast-avg-local"]
    assert number_at(table, ("ml-ecs",), ("int8 messages up",)).value == pytest.approx(0.04)
    assert "above zero is better" in table.caption


def test_controls_stand_below_a_rule():
    lines = tables(study())["robustness-vast-server"].lines
    assert [line.opens for line in lines] == ["", "", CONTROLS]
    assert all(not line.opens for line in tables(study(), Cards())["robustness-vast-server"].lines)


def test_settings_that_differ_in_more_than_conditions_are_families_of_their_own():
    other = with_all(study(), training={"steps": 99})
    settings = arrange(build_rows([*study(), *other]), "ml-ecs")
    found = families(settings)
    assert [len(family.settings) for family in found] == [3, 3]
    assert len({family.name for family in found}) == 2
    assert families(arrange(build_rows(under(five(), INT8)), "ml-ecs")) == []


def test_what_all_settings_share_is_no_condition_among_them():
    shared = {"network": {"up": 5}}
    records = [*under(five(), shared), *under(five(gain=-0.1), {**shared, **INT8})]
    (family,) = families(arrange(build_rows(records), "ml-ecs"))
    assert [family.label(setting) for setting in family.settings] == ["static", "int8 messages up"]
    assert [setting.label for setting in family.settings] == ["static", "int8 messages up"]
    assert all("network" in setting.about for setting in family.settings)
    both = [*under(five(), EXACT), *under(five(gain=-0.1), INT8)]
    assert families(arrange(build_rows(both), "ml-ecs")) == []


def test_a_report_begins_with_robustness_and_names_conditions_everywhere():
    report = build_report(study(), "x")
    assert report.sections[0].title == "Robustness"
    assert len(report.sections[0].tables) == 3
    titles = [section.title for section in report.sections if section.title.startswith("Scores")]
    assert titles == ["Scores (static)", "Scores (int8 messages up)", "Scores (exact rates)"]
    captions = [table.caption for table in tables_of_scores(study())]
    assert ["int8 messages up" in text for text in captions] == [False, True, False]
    assert "static" not in captions[0]
    assert len({table.name for table in report.tables()}) == len(report.tables())


def test_records_of_one_condition_alone_are_no_table_of_robustness():
    for records in (five(), under(five(), INT8)):
        assert build_report(records, "x").sections[0].title.startswith("Scores")


def test_paired_statistics_never_mix_conditions():
    records = [*five(), *under(five("multi-fedavg", gain=-0.1), INT8)]
    with pytest.raises(RecordError, match=r"nothing to pair in .* at least in .*conditions\.compression"):
        pair_algorithms(records, "ml-ecs", "multi-fedavg", "here")
    pairing = pair_algorithms([*records, *five("multi-fedavg")], "ml-ecs", "multi-fedavg", "here")
    (pair,) = pairing.pairs
    assert all("conditions" not in row.identity for row in pair.rows)
    for table in tables_of_scores(study()):
        assert {len(number.records) for number in table.numbers() if number.records} <= {3, 5}


def test_a_condition_may_be_compared_with_the_usual_one_when_it_is_named():
    records = [*five(), *under(five(gain=-0.1), INT8)]
    variants = {record["key"]: "int8 messages up" for record in records[5:]}
    pairing = pair_algorithms(records, "ml-ecs (int8 messages up)", "ml-ecs", "here", variants=variants)
    assert any("conditions.compression.law int8 / absent" in note for note in pairing.notes)


# ------------------------------------------------------------------------------------------------- without modalities


def without(record, audio, server=None):
    """Return a record that was scored without audio: the devices' scores and the server's."""
    client = {f"d{j:02d}": score(value) for j, value in enumerate(audio)}
    scores = {"client": {"rouge_lsum": client}, "server": None if server is None else {"rouge_lsum": score(server)}}
    record["metrics"]["without"] = {"audio": scores}
    return record


def test_what_is_lost_without_a_modality_is_paired_with_the_scores_after_the_last_broadcast():
    records = [without(make_record(seed=seed), (0.1, BASE[seed], 0.2), 0.1) for seed in SEEDS]
    records += with_all(five("standalone"))
    (setting,) = arrange(build_rows(records), "ml-ecs", FLOOR)
    table = without_table(setting, setting.data[0], ASKED)
    assert table.columns == (
        ("avg", "with all"),
        ("avg", "without audio"),
        ("server", "with all"),
        ("server", "without audio"),
    )
    (line,) = table.lines
    by_hand = [(0.1 + BASE[seed] + 0.2) / 3 - (0.15 + 0.25 + 0.35) / 3 for seed in SEEDS]
    assert line.contents[0].value == pytest.approx(0.25)
    assert line.contents[1].value == pytest.approx(statistics.mean(by_hand))
    assert line.contents[1].sd == pytest.approx(statistics.stdev(by_hand))
    assert line.contents[3].value == pytest.approx(-0.3)
    assert "audio" in build_report(records, "x").sections[0].tables[-1].columns[1][1]


def test_a_server_that_was_not_scored_without_a_modality_has_a_gap_and_records_that_lack_it_no_table():
    (setting,) = arrange(build_rows([without(make_record(), (0.1, 0.1, 0.1))]), "ml-ecs")
    table = without_table(setting, setting.data[0], ASKED)
    assert table.lines[0].contents[3] is None
    (setting,) = arrange(build_rows(five()), "ml-ecs")
    assert without_table(setting, setting.data[0], ASKED) is None
