"""Which device holds which modality, counted again by hand; hand-made records only."""

from __future__ import annotations

import pytest

from hand_made import make_record
from mlecs_bench.report.arrange import arrange
from mlecs_bench.report.frame import build_rows
from mlecs_bench.report.modalities import modalities_table, rounds_table
from study_records import number_at

HELD = {27: {"d00": ["audio"], "d01": ["audio", "vision"], "d02": []}, 34: {"d02": ["audio"], "d00": [], "d01": []}}


def table_of(records):
    (setting,) = arrange(build_rows(records), "ml-ecs")
    return modalities_table(setting)


def drawn(algo: str, seed: int, rho: float = 0.5):
    record = make_record(algo=algo, seed=seed, rho=rho)
    record["realised"]["modalities"] = HELD[seed]
    return record


def test_a_line_per_modality_has_the_devices_by_seed_and_both_rates():
    table = table_of([drawn(algo, seed) for algo in ("a", "b") for seed in (27, 34)])
    assert [line.labels for line in table.lines] == [("vast", "0.5", "3", name) for name in ("audio", "vision")]
    for name, held, marks in (("audio", 3, ["xx.", "..x"]), ("vision", 1, [".x.", "..."])):
        assert number_at(table, (name,), ("nominal",)).value == 0.5
        assert number_at(table, (name,), ("realised",)).value == pytest.approx(held / 6)
        assert [number_at(table, (name,), (f"seed {seed}",)) for seed in (27, 34)] == marks


def test_a_rate_that_has_other_seeds_leaves_a_gap():
    table = table_of([drawn("a", 27), drawn("a", 34, rho=0.8)])
    assert [line.contents[2:] for line in table.lines if line.labels[3] == "audio"] == [("xx.", None), (None, "..x")]


def test_records_that_do_not_say_it_have_no_table():
    record = make_record()
    record["realised"]["modalities"] = {}
    assert table_of([record]) is None


def test_where_modalities_come_and_go_there_is_a_mark_for_every_round_and_rates_are_over_them():
    records = [drawn(algo, seed) for algo in ("a", "b") for seed in (27, 34)]
    by_round = {
        27: {"d00": [["audio"], []], "d01": [["audio"], ["vision"]], "d02": [[], []]},
        34: {"d00": [[], []], "d01": [[], []], "d02": [["audio"], ["audio"]]},
    }
    for record in records:
        record["realised"]["modalities_by_round"] = by_round[record["identity"]["seed"]]
    table, (setting,) = table_of(records), arrange(build_rows(records), "ml-ecs")
    assert number_at(table, ("audio",), ("realised",)).value == pytest.approx(4 / 12)
    assert number_at(table, ("vision",), ("realised",)).value == pytest.approx(1 / 12)
    assert number_at(table, ("audio",), ("seed 27",)) == "xx."
    assert "in any round" in table.caption
    rounds = rounds_table(setting)
    marks = {line.labels[2:]: line.contents[1:] for line in rounds.lines}
    assert marks["d01", "vision"] == (".x", "..")
    assert marks["d00", "audio"] == ("x.", "..")
    assert number_at(rounds, ("d02", "audio"), ("realised",)).value == 0.5
    assert rounds_table(arrange(build_rows([drawn("a", 27)]), "ml-ecs")[0]) is None
