"""Answers side by side: the worst first, the same sample of the same seed for both algorithms."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from hand_made import make_record
from mlecs_bench.cli.main import cli
from mlecs_bench.cli.report import report
from mlecs_bench.errors import MlecsError
from mlecs_bench.records.predictions import metrics_digest, predictions_path, write_predictions
from mlecs_bench.records.results import write_record

DEVICES = ("d00", "d01", "d02")
SAMPLES = 4


def score_of(algo: str, seed: int, device: str, i: int, point: str) -> float:
    """A score by hand: different for every answer, in another order for every algorithm."""
    place = DEVICES.index(device) * SAMPLES + i + (100 if seed == 34 else 0)
    return ((place * (7 if algo == "ml-ecs" else 5) + (3 if point == "local" else 0)) % 211) / 211


def keep(path, record) -> None:
    """Write answers beside a record, in an order of their own."""
    algo, seed = record["identity"]["algo"]["name"], record["identity"]["seed"]
    rows = [
        {
            "key": record["key"], "metrics": metrics_digest(record), "eval_point": point, "device": device,
            "sample": f"s{i}", "prompt": "Say it.", "answer": f"{algo} {seed} {device} {i} {point} <b>",
            "target": f"target {i}", "held": ["audio"],
            "score/rouge_lsum": score_of(algo, seed, device, i, point), "score/exact_match": 0.0,
        }
        for point in ("local", "received") for device in DEVICES for i in range(SAMPLES)
    ]  # fmt: skip  # a table
    rows = rows[::-1] if algo == "ml-ecs" else rows
    write_predictions(predictions_path(path), {name: [row[name] for row in rows] for name in rows[0]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Records of two algorithms over two seeds with answers, and of a third without any."""
    out = tmp_path_factory.mktemp("answers")
    for algo in ("ml-ecs", "standalone", "fedilora"):
        for seed in (27, 34):
            record = make_record(algo=algo, seed=seed)
            path = write_record(out, record)
            if algo != "fedilora":
                keep(path, record)
    return out


def shown(*arguments: str) -> dict:
    result = CliRunner().invoke(cli, ["samples", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    (place,) = json.loads(result.stdout)["places"]
    return place


def test_the_worst_come_first_with_what_the_other_said_to_the_same_sample_of_the_same_seed(folder):
    for first, second in (("ml-ecs", "standalone"), ("standalone", "ml-ecs")):
        for point in ("local", "received"):
            place = shown(str(folder), "--algo", f"{first},{second}", "--worst", "7", "--point", point)
            every = [
                (score_of(first, s, d, i, point), s, d, i) for s in (27, 34) for d in DEVICES for i in range(SAMPLES)
            ]
            assert place["total"] == len(every)
            expected = sorted(every)[:7]
            assert [(r["scores"][0], r["seed"], r["device"], r["sample"]) for r in place["rows"]] == [
                (score, seed, device, f"s{i}") for score, seed, device, i in expected
            ]
            for row, (_, seed, device, i) in zip(place["rows"], expected, strict=True):
                assert row["answers"] == [f"{a} {seed} {device} {i} {point} <b>" for a in (first, second)]
                assert row["scores"][1] == score_of(second, seed, device, i, point)
                assert (row["target"], row["held"]) == (f"target {i}", ["audio"])


def test_text_names_seed_party_sample_and_both_answers_and_says_which_records_have_none(folder):
    result = CliRunner().invoke(cli, ["samples", str(folder), "--worst", "1", "--party", "d01", "--algo", "standalone"])
    assert result.exit_code == 0
    assert "vast, rho 0.5, 3 devices: 1 worst of 8 answers by rouge_lsum of standalone\n" in result.stdout
    assert "seed 27, d01 received, s0 (audio)" in result.stdout
    assert "standalone  0.095  standalone 27 d01 0 received <b>" in result.stdout
    assert "2 records have no answers; run the same with --save-predictions into another --out" in result.stderr


def test_what_is_not_there_is_refused_in_one_line(folder, tmp_path):
    lone = tmp_path / "lone"
    write_record(lone, make_record())
    for arguments, expected in (
        ([str(folder), "--algo", "standalon"], "Did you mean 'standalone'"),
        ([str(folder), "--algo", "a,b,c"], "names one algorithm or two, got 3"),
        ([str(folder), "--metric", "bleu"], "no score 'bleu' of single samples; there are rouge_lsum, exact_match"),
        ([str(folder), "--party", "d09"], "no answers of party 'd09'; there are d00, d01, d02"),
        ([str(lone)], "none of the 1 records in"),
        ([str(tmp_path / "nowhere")], "is no folder"),
    ):
        result = CliRunner().invoke(cli, ["samples", *arguments])
        assert isinstance(result.exception, MlecsError), arguments
        assert expected in str(result.exception), arguments
        assert "\n" not in str(result.exception)


def test_a_report_shows_ten_answers_of_every_row_folded_and_the_same_samples_for_all(folder, tmp_path):
    result = CliRunner().invoke(report, [str(folder), "--output", str(tmp_path / "r")])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "r" / "index.html").read_text(encoding="utf-8")
    blocks = page.split('<details class="answers">')[1:]
    assert len(blocks) == 2
    assert all(block.split("</details>")[0].count("<dt>") == 10 for block in blocks)
    named = [[line for line in block.split("</details>")[0].splitlines() if "<dt>" in line] for block in blocks]
    assert [n.partition(":")[0] for n in named[0]] == [n.partition(":")[0] for n in named[1]]
    assert "<b>" not in "".join(line for line in page.splitlines() if "received" in line and "answer</span>" in line)
