"""Curves: one number a row, every loss and every score of every round."""

from __future__ import annotations

import copy
import csv

from hand_made import make_record, score
from mlecs_bench.records.results import identity_key
from mlecs_bench.report import build_report
from mlecs_bench.report.build import Wanted
from mlecs_bench.report.curves import COLUMNS
from mlecs_bench.report.write import report_files


def recorded(algo: str, seed: int, options: dict[str, float]) -> dict:
    """A record of two rounds with losses and, of its devices, scores in both."""
    record = copy.deepcopy(make_record(algo=algo, seed=seed))
    record["identity"]["algo"]["options"] = options
    record["key"] = identity_key(record["identity"])
    devices = list(record["realised"]["modalities"])
    for entry in record["metrics"]["rounds"]:
        t = entry["round"]
        entry["losses"] = {d: {"amt": t + j / 10, "amt/pull": 0.5} for j, d in enumerate(devices)} | {
            "server": {"s": 9.0}
        }
        entry["client"] = {"rouge_lsum": {d: score(t / 10 + j / 100) for j, d in enumerate(devices)}}
        entry["server"] = {"rouge_lsum": score(t / 5)}
    return record


def test_every_loss_and_score_is_a_row_of_its_record_and_nothing_is_left_out():
    records = [recorded("ml-ecs", 27, {"tau": 1.0}), recorded("ml-ecs", 34, {"tau": 1.0})]
    records += [recorded("ml-ecs", 27, {"tau": 2.0})]
    variants = {record["key"]: "" if r < 2 else "tau=2.0" for r, record in enumerate(records)}
    files = report_files(build_report(records, "study", Wanted(variants=variants)), "..")
    header, *lines = csv.reader(files["curves.csv"].splitlines())
    assert tuple(header) == COLUMNS
    by_key = {record["key"]: record for record in records}
    seen = 0
    for line in lines:
        row = dict(zip(COLUMNS, line, strict=True))
        row |= {"seed": int(row["seed"]), "round": int(row["round"]), "value": float(row["value"])}
        record = by_key[row["key"]]
        assert (row["algo"], row["seed"]) == ("ml-ecs", record["identity"]["seed"])
        assert row["variant"] == ("tau=2.0" if record["identity"]["algo"]["options"]["tau"] == 2.0 else "")
        entry = record["metrics"]["rounds"][row["round"] - 1]
        if row["eval_point"] == "training":
            assert (row["n"], row["value"]) == ("", entry["losses"][row["device"]][row["metric"].removeprefix("loss/")])
        elif row["eval_point"] == "local":
            assert row["value"] == entry["client"][row["metric"]][row["device"]]["value"]
        elif row["eval_point"] == "server":
            assert (row["device"], row["value"]) == ("server", entry["server"][row["metric"]]["value"])
        else:
            assert (row["eval_point"], row["round"]) == ("received", 2)
            assert row["value"] == record["metrics"]["client"]["received"][row["metric"]][row["device"]]["value"]
        seen += 1
    assert seen == 3 * (2 * (3 * 2 + 1) + 2 * 3 + 2 + 3)


def test_losses_are_drawn_per_stage_for_devices_and_server_without_their_terms():
    report = build_report([recorded("ml-ecs", seed, {"tau": 1.0}) for seed in (27, 34)], "study")
    (figure,) = [f for section in report.sections for f in section.figures if f.name == "losses"]
    assert figure.files["svg"]
    assert "curves.csv" in report_files(report, "..")
