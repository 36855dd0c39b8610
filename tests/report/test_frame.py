"""From records to numbers: the frames against the statistics module, and the rows as JSON; hand-made records only."""

from __future__ import annotations

import json
import statistics

import pytest

from hand_made import make_record
from mlecs_bench.report import build_table, row_summary
from mlecs_bench.report.frame import build_rows, expected_seeds, long_frame, over_seeds, per_seed
from mlecs_bench.seeds import PROTOCOL_SEEDS
from study_records import SCORES, SERVER, scored


def test_the_long_frame_has_every_score_of_the_last_round_once():
    frame = long_frame(scored())
    assert len(frame) == 5 * (2 * 3 + 1)
    row = frame[(frame.seed == 46) & (frame.eval_point == "received") & (frame.device == "d01")]
    assert row.value.tolist() == [pytest.approx(0.38)]
    assert row.n.tolist() == [10]


def test_frames_agree_with_the_statistics_module():
    seeds = per_seed(long_frame(scored()))
    best = seeds[(seeds.eval_point == "local") & (seeds.stat == "best")].set_index("seed").value
    assert best.to_dict() == {s: max(v) for s, v in SCORES.items()}
    assert set(seeds[seeds.eval_point == "server"].stat) == {"server"}
    total = over_seeds(seeds).set_index(["eval_point", "stat"])
    worst = [min(v) for v in SCORES.values()]
    assert total.loc[("local", "worst"), "mean"] == pytest.approx(statistics.mean(worst), abs=1e-15)
    assert total.loc[("local", "worst"), "sd"] == pytest.approx(statistics.stdev(worst), abs=1e-15)
    assert total.loc[("local", "worst"), "n"] == 5


def test_the_expected_seeds_are_those_asked_for_or_all_that_occur():
    assert expected_seeds(build_rows(scored(seeds=PROTOCOL_SEEDS[:2])), PROTOCOL_SEEDS) == PROTOCOL_SEEDS
    assert expected_seeds(build_rows(scored(seeds=PROTOCOL_SEEDS[:2]))) == PROTOCOL_SEEDS[:2]
    ours = [make_record(algo=a, seed=s) for a in ("a", "b") for s in (1, 2, 3)]
    assert expected_seeds(build_rows(ours[:-1])) == (1, 2, 3)
    assert expected_seeds(build_rows(ours[:-1]), (1, 2), (3, 4)) == (1, 2, 3)  # 4 belongs to other blocks
    assert expected_seeds(build_rows(ours[:-1]), (1, 2)) == (1, 2)


def test_the_summary_holds_both_points_of_evaluation_and_the_values_by_seed():
    records = scored()
    summary = json.loads(json.dumps(row_summary(records), allow_nan=False))
    assert summary["schema"] == "mlecs-bench/report/1"
    (row,) = summary["rows"]
    assert row["seeds"] == list(PROTOCOL_SEEDS)
    assert row["identity"] == {k: v for k, v in records[0]["identity"].items() if k != "seed"}
    assert row["records"] == sorted(r["key"] for r in records)
    best = row["scores"]["client"]["local"]["rouge_lsum"]["best"]
    assert best["values"] == {str(s): max(v) for s, v in SCORES.items()}
    assert best["sd"] == pytest.approx(statistics.stdev(best["values"].values()))
    assert best["n"] == 5
    avg = row["scores"]["client"]["received"]["rouge_lsum"]["avg"]["mean"]
    assert avg == pytest.approx(statistics.mean(statistics.mean(v) for v in SCORES.values()) + 0.05)
    assert row["scores"]["server"]["rouge_lsum"]["mean"] == pytest.approx(statistics.mean(SERVER.values()))
    assert row["comm"]["params_per_device_and_round"] == 65
    assert row["comm"]["shares"]["full"] == {"value": pytest.approx(0.065), "definition": "everything"}
    assert row_summary([make_record(server=None)])["rows"][0]["scores"]["server"] is None


def test_diagnostic_scores_are_in_the_summary_but_not_in_the_table():
    record = make_record()
    record["metrics"]["client"]["local"]["slot_colour"] = {
        d: {"value": 0.5, "n": 10, "higher_is_better": True} for d in ("d00", "d01", "d02")
    }
    assert "slot_colour" not in build_table([record])
    assert row_summary([record])["rows"][0]["scores"]["client"]["local"]["slot_colour"]["avg"]["mean"] == 0.5
