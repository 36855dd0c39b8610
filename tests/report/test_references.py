"""Rows of trivial references in tables: hand-made records only."""

from __future__ import annotations

import copy
import itertools
import json
import statistics

import pytest

from hand_made import make_record, score, with_identity
from mlecs_bench.errors import RecordError
from mlecs_bench.records.results import check_record, read_record, write_record
from mlecs_bench.report import build_table as table_of_points
from mlecs_bench.report import row_summary
from mlecs_bench.report.frame import STATS
from mlecs_bench.seeds import PROTOCOL_SEEDS
from study_records import (
    COPY,
    COPY_SERVER,
    lower_is_better,
    reference,
    referenced,
    scored,
    table_rows,
    text_of,
    with_references,
)


def build_table(records, eval_points=("local",)) -> str:
    """Return the table at one point of evaluation with all statistics, unless told otherwise."""
    return table_of_points(records, eval_points, stats=STATS)


def reference_row(markdown):
    (row,) = [row for row in table_rows(markdown) if "(reference" in row["algorithm"]]
    return row


def changed(record, device, value):
    record = copy.deepcopy(record)
    record["metrics"]["references"]["copy-subtitle"]["client"]["rouge_lsum"][device]["value"] = value
    return record


def test_a_reference_is_averaged_over_devices_then_seeds_and_sends_nothing():
    row = reference_row(build_table(referenced()))
    assert row["algorithm"] == "*copy-subtitle* (reference)"
    assert (row["rho"], row["devices"], row["seeds"]) == ("0.5", "3", "5")
    assert row["rouge_lsum avg"] == text_of([statistics.mean(v) for v in COPY.values()])
    assert row["rouge_lsum best"] == text_of([max(v) for v in COPY.values()])
    assert row["rouge_lsum worst"] == text_of([min(v) for v in COPY.values()])
    assert row["rouge_lsum server"] == text_of(COPY_SERVER.values())
    assert [row[name] for name in ("sent", "share (one way)", "share (full)")] == ["-"] * 3


def test_a_reference_counts_once_however_many_algorithms_hold_it():
    one, three = (
        build_table([record for algo in algos for record in referenced(algo)]) for algos in (["a"], ["a", "b", "c"])
    )
    assert reference_row(one) == reference_row(three)


def test_references_stand_below_the_algorithms_of_their_block_in_their_order():
    other = reference((0.1, 0.1, 0.1), 0.1)
    records = [
        with_references(make_record(algo=algo, rho=rho), **{"most-frequent": other})
        for algo in "ba"
        for rho in (0.5, 1.0)
    ]
    names = ["a", "b", "*copy-subtitle* (reference)", "*most-frequent* (reference)"]
    rows = [(row["rho"], row["algorithm"]) for row in table_rows(build_table(records))]
    assert rows == [(rho, name) for rho in ("0.5", "1") for name in names]


def test_a_note_says_what_references_are():
    note = (
        "- (reference): what answers without a model score on the same test samples, whatever a device holds; "
        "most-frequent: the most frequent target of the party's own training samples; "
        "copy-subtitle: a text of the sample itself"
    )
    records = [with_references(make_record(), **{"most-frequent": reference((0.1, 0.1, 0.1), 0.1)})]
    assert build_table(records).splitlines().count(note) == 1


def test_records_without_references_have_no_such_rows():
    for records in (scored(), [{**r, "metrics": {**r["metrics"], "references": {}}} for r in scored()]):
        assert "reference" not in build_table(records)
        assert row_summary(records)["references"] == []


def test_old_records_among_new_ones_cost_nothing_but_their_seeds():
    old = scored()[2:]
    row = reference_row(build_table([*referenced(seeds=PROTOCOL_SEEDS[:2]), *old]))
    assert row["seeds"] == "n=2/5"
    assert row["rouge_lsum server"] == text_of([COPY_SERVER[27], COPY_SERVER[34]])
    assert reference_row(build_table([*referenced("a"), *scored("b")]))["seeds"] == "5"


def test_the_point_of_evaluation_does_not_touch_a_reference():
    assert reference_row(build_table(referenced())) == reference_row(build_table(referenced(), ("received",)))
    both = reference_row(build_table(referenced(), ("local", "received")))
    assert both["rouge_lsum avg local"] == text_of([statistics.mean(v) for v in COPY.values()])
    assert [both[f"rouge_lsum {stat} received"] for stat in ("avg", "best", "worst")] == ["="] * 3


def test_the_best_is_the_smallest_when_lower_is_better():
    records = lower_is_better(referenced())
    row = reference_row(build_table(records))
    assert row["rouge_lsum (lower is better) best"] == text_of([min(v) for v in COPY.values()])


def test_settings_that_do_not_decide_a_reference_do_not_split_it():
    other = with_identity(with_references(make_record(seed=34)), training={"rounds": 9}, min_modalities=0)
    (found,) = row_summary([with_references(make_record(seed=27)), other])["references"]
    assert found["seeds"] == [27, 34]


def test_what_decides_a_reference_tells_its_rows_apart():
    for part, name, value, usual in (
        ("dataset", "split", "sequence", "frame"),
        ("dataset", "digest", "e" * 64, "a" * 64),
        ("training", "bertscore_samples", 64, "absent"),
        ("training", "test_limit", 64, "absent"),
    ):
        other = with_identity(with_references(make_record()), **{part: {name: value}})
        records = [with_references(make_record()), changed(other, "d00", 0.9)]
        text = build_table(records)
        rows = [row for row in table_rows(text) if "reference" in row["algorithm"]]
        assert sorted(row["rouge_lsum best"] for row in rows) == ["0.390", "0.900"]
        assert "warning" not in text
        found = [one["identity"]["decided_by"][f"{part}.{name}"] for one in row_summary(records)["references"]]
        assert sorted(found) == sorted([usual, str(value)])


def test_a_score_on_which_records_disagree_is_named_and_left_out():
    records = [*referenced("a"), changed(referenced("b")[0], "d01", 0.36), *referenced("b")[1:]]
    markdown = build_table(records)
    warning = (
        "- warning: the records disagree on copy-subtitle at rho 0.5, 3 devices, seed 27; these scores are left out"
    )
    assert warning in markdown.splitlines()
    row = reference_row(markdown)
    assert (row["seeds"], row["rouge_lsum server"]) == ("n=4/5", text_of([COPY_SERVER[s] for s in PROTOCOL_SEEDS[1:]]))
    (summary,) = row_summary(records)["references"]
    assert (summary["disputed_seeds"], summary["seeds"]) == ([27], list(PROTOCOL_SEEDS[1:]))
    only = reference_row(build_table([records[0], records[5]]))
    assert (only["seeds"], only["rouge_lsum avg"]) == ("n=0/1", "-")


def test_records_disagree_when_one_lacks_a_part_or_counts_other_samples():
    for part in ("device", "samples", "metric"):
        one, other = referenced("a")[0], copy.deepcopy(referenced("b")[0])
        scores = other["metrics"]["references"]["copy-subtitle"]
        if part == "device":
            del scores["client"]["rouge_lsum"]["d01"]
        elif part == "samples":
            scores["server"]["rouge_lsum"]["n"] = 9
        else:
            scores["server"]["more"] = score(0.5)
        assert "disagree on copy-subtitle" in build_table([one, other])


def test_the_last_digits_of_another_machine_are_no_disagreement():
    records = [*referenced("a"), changed(referenced("b")[0], "d00", COPY[27][0] + 1e-8)]
    assert "warning" not in build_table(records)


def test_the_order_of_records_changes_nothing():
    records = [*referenced("a")[:2], changed(referenced("b")[0], "d00", COPY[27][0] + 1e-8), *scored("c")[:1]]
    orders = [list(order) for order in itertools.islice(itertools.permutations(records), 0, 24, 5)]
    assert len({json.dumps(row_summary(order)["references"]) for order in orders}) == 1
    assert len({build_table(order) for order in orders}) == 1


def test_the_summary_holds_the_values_by_seed():
    (summary,) = json.loads(json.dumps(row_summary(referenced()), allow_nan=False))["references"]
    assert (summary["name"], summary["seeds"], summary["disputed_seeds"]) == ("copy-subtitle", list(PROTOCOL_SEEDS), [])
    identity = summary["identity"]
    assert (identity["dataset"]["name"], identity["profile"], identity["n_devices"]) == ("vast", "mini", 3)
    assert identity["decided_by"]["dataset.split"] == "frame"
    best = summary["scores"]["client"]["rouge_lsum"]["best"]
    assert best["values"] == {str(seed): max(values) for seed, values in COPY.items()}
    assert best["sd"] == pytest.approx(statistics.stdev(best["values"].values()))
    assert summary["scores"]["server"]["rouge_lsum"]["mean"] == pytest.approx(statistics.mean(COPY_SERVER.values()))


# In records


def test_a_record_keeps_its_references(tmp_path):
    record = with_references(make_record())
    assert read_record(write_record(tmp_path, record))["metrics"] == record["metrics"]


def test_a_record_whose_references_differ_is_another_record(tmp_path):
    write_record(tmp_path, with_references(make_record()))
    with pytest.raises(RecordError, match="already holds other numbers"):
        write_record(tmp_path, changed(with_references(make_record()), "d00", 0.9))


def test_a_record_with_incomplete_references_is_refused():
    for damage, message in (
        (lambda r: r.pop("server"), "'server' is a required property"),
        (lambda r: r.update(server=None), "is invalid at $.metrics.references"),
        (lambda r: r.update(other={}), "is invalid at $.metrics.references"),
        (lambda r: r["client"]["rouge_lsum"].pop("d01"), "r has rouge_lsum of 2 devices (copy-subtitle), expected 3"),
    ):
        record = copy.deepcopy(with_references(make_record()))
        damage(record["metrics"]["references"]["copy-subtitle"])
        with pytest.raises(RecordError) as error:
            check_record(record, "r")
        assert message in str(error.value)
