"""Classes of devices and who took part, counted again by hand."""

from __future__ import annotations

import pytest

from hand_made import make_record
from mlecs_bench.report import drawings
from mlecs_bench.report.arrange import arrange
from mlecs_bench.report.attendance import MOST_DEVICES, classes_table, participation_table
from mlecs_bench.report.build import build_report
from mlecs_bench.report.frame import build_rows
from study_records import number_at

COUNTS = {
    27: {"d00": {"fall": 3}, "d01": {"adl": 4, "fall": 1}, "server": {"adl": 9, "fall": 9}},
    34: {"d00": {"adl": 2}, "d01": {"adl": 1}, "server": {"adl": 9}},
}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Figures of reports have no drawing, which takes a second each."""
    for name in ("communication_figure", "ablation_figure", "curves_figure", "spending_figure"):
        monkeypatch.setattr(drawings, name, lambda *_: None)
    monkeypatch.setattr(drawings, "figure_bytes", lambda _: {"svg": b"<svg/>", "png": b"", "pdf": b""})


def setting_of(records):
    (setting,) = arrange(build_rows(records), "ml-ecs")
    return setting


def classed(algo, seed, rho=0.5):
    record = make_record(algo=algo, seed=seed, rho=rho)
    record["realised"]["classes"] = COUNTS[seed]
    return record


def test_a_line_per_party_has_its_classes_by_seed_in_one_order():
    table = classes_table(setting_of([classed(a, s, rho) for a in "ab" for s in (27, 34) for rho in (0.5, 0.8)]))
    assert [line.labels for line in table.lines] == [("vast", "3", party) for party in ("d00", "d01", "server")]
    assert [line.contents for line in table.lines] == [("0 / 3", "2 / 0"), ("4 / 1", "1 / 0"), ("9 / 9", "9 / 0")]
    assert "vast: adl / fall" in table.caption


def test_many_devices_are_cut_and_said_to_be():
    record = make_record(local=[0.1] * 25)
    record["realised"]["classes"] = {f"d{j:02d}": {"x": j} for j in range(25)}
    table = classes_table(setting_of([record]))
    assert len(table.lines) == MOST_DEVICES
    assert table.notes == ("5 more devices stand in the records (realised.classes)",)


def round_(t, reported, lost, attempts=1, skipped=False):
    asked = sorted([*reported, *lost])
    return {"round": t, "asked": asked, "reported": reported, "lost": lost, "attempts": attempts, "skipped": skipped}


def attended(algo, seed, rounds):
    record = make_record(algo=algo, seed=seed)
    record["realised"]["rounds"] = rounds
    return record


ROUNDS = {
    27: [round_(1, ["d00", "d01"], {"d02": "late"}), round_(2, ["d00"], {"d01": "late", "d02": "before"}, 3, True)],
    34: [round_(1, ["d00"], {}), round_(2, ["d00"], {})],
}


def test_turns_are_added_up_over_rounds_and_averaged_over_seeds():
    table = participation_table(setting_of([attended(a, s, ROUNDS[s]) for a in ("a", "b") for s in (27, 34)]))
    assert [line.labels for line in table.lines] == [("vast", "0.5", "3", "all")]
    wanted = {("asked",): 4.0, ("reported",): 2.5, ("lost", "before"): 0.5, ("lost", "late"): 1.0, ("repeated",): 1.0}
    for path, value in {**wanted, ("skipped",): 0.5}.items():
        assert number_at(table, ("all",), path).value == pytest.approx(value)
    assert number_at(table, ("all",), ("asked",)).sd == pytest.approx(8**0.5)


def test_algorithms_whose_rounds_differ_have_lines_of_their_own():
    table = participation_table(setting_of([attended("a", 27, ROUNDS[27]), attended("b", 27, ROUNDS[34])]))
    assert [line.labels[-1] for line in table.lines] == ["a", "b"]
    assert number_at(table, ("b",), ("lost", "late")).value == 0


def test_a_report_shows_both_beside_the_modalities_and_neither_where_no_record_has_any():
    record = attended("a", 27, ROUNDS[27])
    record["realised"]["classes"] = COUNTS[27]
    by_title = {section.title: section for section in build_report([record], "x").sections}
    names = [table.name for table in by_title["Who holds what, who takes part"].tables]
    assert names == ["modalities", "classes", "participation"]
    assert "Modalities" in {section.title for section in build_report([make_record()], "x").sections}
    assert classes_table(setting_of([make_record()])) is participation_table(setting_of([make_record()])) is None
