"""Tables against hand values and the statistics module; hand-made records only."""

from __future__ import annotations

import itertools
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import mlecs_bench
from hand_made import SCORERS, make_record, with_identity
from mlecs_bench.cli.report import report
from mlecs_bench.errors import RecordError
from mlecs_bench.records.results import write_record
from mlecs_bench.report import build_table, row_summary
from mlecs_bench.report.frame import build_rows, expected_seeds, long_frame, over_seeds, per_seed
from mlecs_bench.seeds import PROTOCOL_SEEDS

SCORES = {
    27: (0.31, 0.35, 0.42),
    34: (0.30, 0.28, 0.45),
    46: (0.25, 0.33, 0.35),
    52: (0.41, 0.36, 0.29),
    93: (0.38, 0.31, 0.33),
}
SERVER = {27: 0.5, 34: 0.52, 46: 0.49, 52: 0.55, 93: 0.51}


def five(algo: str = "ml-ecs", seeds=PROTOCOL_SEEDS, **changes):
    return [make_record(algo=algo, seed=s, local=SCORES[s], server=SERVER[s], **changes) for s in seeds]


def table_rows(markdown: str) -> list[dict[str, str]]:
    """Read the tables of a Markdown text back: header to cell."""
    rows = []
    for block in re.findall(r"(?:^\|.*\n?)+", markdown, flags=re.MULTILINE):
        header, _, *lines = ([c.strip() for c in line.strip("|").split("|")] for line in block.strip().splitlines())
        rows += [dict(zip(header, cells, strict=True)) for cells in lines]
    return rows


def one_row(records, **kwargs) -> dict[str, str]:
    (row,) = table_rows(build_table(records, **kwargs))
    return row


def text_of(values) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def test_devices_come_first_then_seeds():
    row = one_row(five())
    assert row["rouge_lsum avg"] == text_of([statistics.mean(v) for v in SCORES.values()])
    assert row["rouge_lsum best"] == text_of([max(v) for v in SCORES.values()])
    assert row["rouge_lsum worst"] == text_of([min(v) for v in SCORES.values()])
    assert row["rouge_lsum server"] == text_of(SERVER.values())
    assert row["seeds"] == "5"
    assert (row["rho"], row["devices"], row["algorithm"]) == ("0.5", "3", "ml-ecs")


def test_a_table_by_hand():
    # Devices 0.1 0.2 0.3 and 0.3 0.4 0.5: averages 0.2 and 0.4, sd = sqrt(0.02) = 0.141; without ddof it is 0.1.
    row = one_row([make_record(seed=27), make_record(seed=34, local=(0.3, 0.4, 0.5))])
    assert row["rouge_lsum avg"] == "0.300 ± 0.141"
    assert row["rouge_lsum best"] == "0.400 ± 0.141"
    assert row["rouge_lsum worst"] == "0.200 ± 0.141"
    assert row["rouge_lsum server"] == "0.400 ± 0.000"


def test_best_is_the_smallest_when_lower_is_better():
    records = five()
    for record in records:
        client = record["metrics"]["client"]
        for scores in (record["metrics"]["server"], *(by[m] for by in client.values() for m in by)):
            for score in scores.values():
                score["higher_is_better"] = False
    row = one_row(records)
    assert row["rouge_lsum (lower is better) best"] == text_of([min(v) for v in SCORES.values()])
    assert row["rouge_lsum (lower is better) worst"] == text_of([max(v) for v in SCORES.values()])
    assert row["rouge_lsum (lower is better) avg"] == text_of([statistics.mean(v) for v in SCORES.values()])


def test_negative_scores_are_neither_clipped_nor_turned():
    row = one_row([make_record(local=(-0.5, -0.2, 0.1), server=-0.1)])
    assert [row[f"rouge_lsum {s}"] for s in ("avg", "best", "worst", "server")] == [
        "-0.200",
        "0.100",
        "-0.500",
        "-0.100",
    ]


def test_the_order_of_records_and_devices_changes_nothing():
    expected = build_table(five())
    for records in itertools.islice(itertools.permutations(five()), 0, 120, 17):
        assert build_table(records) == expected
    turned = five()
    for record in turned:
        devices = record["metrics"]["client"]["local"]["rouge_lsum"]
        record["metrics"]["client"]["local"]["rouge_lsum"] = dict(reversed(devices.items()))
    assert build_table(turned) == expected


def test_missing_seeds_are_counted_and_named():
    markdown = build_table(five(seeds=PROTOCOL_SEEDS[:4]))
    assert table_rows(markdown)[0]["seeds"] == "n=4/5"
    assert "- ml-ecs at rho 0.5, 3 devices: no record of seed 93" in markdown
    assert "no record of seed" not in build_table(five())


def test_seeds_of_the_users_own_are_complete_when_every_row_has_them():
    ours = [make_record(algo=a, seed=s) for a in ("a", "b") for s in (1, 2, 3)]
    assert [row["seeds"] for row in table_rows(build_table(ours))] == ["3", "3"]
    assert [row["seeds"] for row in table_rows(build_table(ours[:-1]))] == ["3", "n=2/3"]
    assert expected_seeds(build_rows(ours[:-1])) == (1, 2, 3)


def test_one_seed_has_no_spread():
    assert one_row([make_record()])["rouge_lsum avg"] == "0.200"


def test_a_score_that_some_seeds_lack_says_so():
    records = five()
    records[0]["metrics"]["server"] = None
    row = one_row(records)
    assert row["rouge_lsum server"] == text_of([SERVER[s] for s in PROTOCOL_SEEDS[1:]]) + " (n=4/5)"
    assert "n=" not in row["rouge_lsum avg"]


def test_what_does_not_apply_is_a_dash():
    row = one_row([make_record(server=None)])
    assert row["rouge_lsum server"] == "-"
    assert [row[f"bertscore {s}"] for s in ("avg", "best", "worst", "server")] == ["-"] * 4
    assert "bertscore: scorer not installed" in build_table([make_record()])


def test_the_moment_chooses_the_devices_scores_and_is_named():
    local, received = build_table(five()), build_table(five(), moment="received")
    shifted = [statistics.mean(v) + 0.05 for v in SCORES.values()]
    assert table_rows(received)[0]["rouge_lsum avg"] == text_of(shifted)
    assert table_rows(received)[0]["rouge_lsum server"] == table_rows(local)[0]["rouge_lsum server"]
    assert "scores after local_update of the last round (moment local)" in local
    assert "scores after the broadcast that follows the last round (moment received)" in received


def test_traffic_is_per_device_and_round_with_its_definitions():
    # 3 broadcasts of 30 and 2 uploads of 20 numbers over 2 rounds: 65 of a device's 1,000 parameters.
    markdown = build_table(five())
    row = table_rows(markdown)[0]
    assert (row["sent"], row["share (full)"], row["share (paper)"]) == ("65", "6.5 %", "6.5 %")
    assert "- share (paper): LoRA one way and fused" in markdown
    assert "- share (full): everything" in markdown
    assert "- sent: parameters in both directions, the broadcast after the last round included" in markdown


def test_rows_are_ordered_by_rate_devices_and_algorithm():
    four = make_record(algo="a", local=(0.1, 0.2, 0.3, 0.4))
    records = [make_record(algo="b", rho=0.7), four, *(make_record(algo=a) for a in "ba"), make_record(rho=1.0)]
    rows = [(r["rho"], r["devices"], r["algorithm"]) for r in table_rows(build_table(records))]
    assert rows == [("0.5", "3", "a"), ("0.5", "3", "b"), ("0.5", "4", "a"), ("0.7", "3", "b"), ("1", "3", "ml-ecs")]


def test_rates_by_modality_are_spelled_out():
    assert one_row([make_record(rho={"audio": 0.5, "vision": 0.8})])["rho"] == "audio=0.5,vision=0.8"


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"training": {"rounds": 9}}, "training.rounds = 9 (other rows: 2)"),
        ({"training": {"lr": {"lora": 0.1}}}, "training.lr.lora = 0.1 (other rows: 0.002)"),
        ({"dataset": {"digest": "e" * 64}}, "dataset.digest = eeeeeeee (other rows: aaaaaaaa)"),
        ({"dataset": {"options": {"labels": "digits"}}}, "dataset.options.labels = digits (other rows: absent)"),
        ({"dataset": {"split": "sequence"}}, "dataset.split = sequence (other rows: frame)"),
        ({"numerics": {"threads": 2}}, "numerics.threads = 2 (other rows: 1)"),
        ({"algo": {"options": {"tau": 0.07}}}, "algo.options.tau = 0.07 (other rows: 1.0)"),
    ],
)
def test_records_that_differ_in_more_than_the_seed_are_never_averaged(change, difference):
    records = [*five(seeds=PROTOCOL_SEEDS[:4]), with_identity(five()[4], **change), make_record(algo="zz")]
    markdown = build_table(records)
    rows = sorted((r["algorithm"], r["seeds"]) for r in table_rows(markdown))
    assert rows == [("ml-ecs", "n=4/5"), ("ml-ecs [1]", "n=1/5"), ("zz", "n=1/5")]
    assert [line for line in markdown.splitlines() if line.startswith("- [")] == [f"- [1] {difference}"]
    assert "- ml-ecs [1] at rho 0.5, 3 devices: no record of seed 27, 34, 46, 52" in markdown
    assert "- ml-ecs at rho 0.5, 3 devices: no record of seed 93" in markdown


def test_the_unusual_row_carries_the_footnote():
    records = [make_record(algo=a) for a in "abc"]
    records[2] = with_identity(records[2], training={"steps": 7, "budget": "equal"})
    markdown = build_table(records)
    assert [r["algorithm"] for r in table_rows(markdown)] == ["a", "b", "c [1]"]
    assert "- [1] training.budget = equal (other rows: paper); training.steps = 7 (other rows: 20)" in markdown
    assert "budget paper or equal (see notes), 2 rounds x 20 steps or 2 rounds x 7 steps (see notes)" in markdown


def test_options_of_different_algorithms_are_not_compared():
    records = [make_record(algo="a"), with_identity(make_record(algo="b"), algo={"options": {"rank": 3}})]
    assert "[1]" not in build_table(records)


def test_scores_of_different_scorers_or_data_never_share_a_table():
    base = make_record(algo="a")
    others = [
        with_identity(make_record(algo="b"), scorers={"rouge_lsum": "rouge-score==9"}),
        with_identity(make_record(algo="c"), dataset={"view": "real", "synthetic": False}),
        with_identity(make_record(algo="d"), profile={"name": "full"}),
        make_record(algo="e", dataset="ur-fall", scorers={"f1_macro": "f1"}),
    ]
    markdown = build_table([base, *others])
    assert len(re.findall(r"^### ", markdown, flags=re.MULTILINE)) == 5
    assert "f1_macro avg" in markdown
    assert len(table_rows(build_table([base, make_record(algo="b")]))) == 2


@pytest.mark.parametrize(
    ("synthetic", "profile", "line"),
    [
        (True, {"name": "mini"}, "**Synthetic stand-in on tiny backbones: not comparable with the paper.**"),
        (True, {"name": "mini", "tiny": False}, "**Synthetic stand-in: not comparable with the paper.**"),
        (True, {"name": "full"}, "**Synthetic stand-in: not comparable with the paper.**"),
        (False, {"name": "mini"}, "**Tiny backbones: not comparable with the paper.**"),
        (False, {"name": "own", "tiny": True}, "**Tiny backbones: not comparable with the paper.**"),
        (False, {"name": "full"}, None),
    ],
)
def test_the_caption_says_what_cannot_be_compared_with_the_paper(synthetic, profile, line):
    markdown = build_table([with_identity(make_record(), dataset={"synthetic": synthetic}, profile=profile)])
    assert (line or "### vast") in markdown
    assert markdown.count("not comparable") == (line is not None)


def test_the_caption_names_the_settings():
    markdown = build_table(five())
    assert (
        "Profile mini, data: synthetic, split frame, budget paper, 2 rounds x 20 steps; scores after local_update of "
        "the last round (moment local)."
    ) in markdown
    assert f"rouge_lsum: {SCORERS['rouge_lsum']}; bertscore: scorer not installed." in markdown


def test_a_pipe_in_a_name_does_not_break_the_table():
    assert "ml\\|ecs" in build_table([make_record(algo="ml|ecs")])


def test_a_seed_that_occurs_twice_is_refused():
    with pytest.raises(RecordError, match="two records of the same cell with seed 27"):
        build_table([make_record(), make_record()])


def test_the_long_frame_has_every_score_of_the_last_round_once():
    frame = long_frame(five())
    assert len(frame) == 5 * (2 * 3 + 1)
    row = frame[(frame.seed == 46) & (frame.moment == "received") & (frame.device == "d01")]
    assert row.value.tolist() == [pytest.approx(0.38)]
    assert row.n.tolist() == [10]


def test_frames_agree_with_the_statistics_module():
    seeds = per_seed(long_frame(five()))
    best = seeds[(seeds.moment == "local") & (seeds.stat == "best")].set_index("seed").value
    assert best.to_dict() == {s: max(v) for s, v in SCORES.items()}
    assert set(seeds[seeds.moment == "server"].stat) == {"server"}
    total = over_seeds(seeds).set_index(["moment", "stat"])
    worst = [min(v) for v in SCORES.values()]
    assert total.loc[("local", "worst"), "mean"] == pytest.approx(statistics.mean(worst), abs=1e-15)
    assert total.loc[("local", "worst"), "sd"] == pytest.approx(statistics.stdev(worst), abs=1e-15)
    assert total.loc[("local", "worst"), "n"] == 5


def test_the_summary_holds_both_moments_and_the_values_by_seed():
    records = five()
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


def invoke(*arguments: object):
    return CliRunner().invoke(report, [str(a) for a in arguments])


@pytest.fixture
def folder(tmp_path) -> Path:
    for record in five():
        write_record(tmp_path / "records", record)
    return tmp_path / "records"


def test_the_command_prints_the_table_and_names_bad_files_on_stderr(folder):
    wrote = f"wrote 12 files to {folder}/report; open {folder}/report/index.html\n"
    assert invoke(folder).stdout == build_table(five())
    assert invoke(folder).stderr == wrote
    (folder / "bad.json").write_text("{")
    done = invoke(folder, "--moment", "received")
    assert done.exit_code == 0
    assert done.stdout == build_table(five(), moment="received")
    assert done.stderr == f"warning: {folder}/bad.json is cut off; delete it and run its cell again\n{wrote}"


def test_the_command_prints_json(folder):
    values = json.loads(invoke(folder, "--json").stdout)
    expected = json.loads(json.dumps(row_summary(five())))
    assert {name: values[name] for name in expected} == expected


def test_the_command_says_what_to_run_when_there_is_no_record(tmp_path):
    name = "empty"
    (tmp_path / "empty").mkdir()
    error = invoke(tmp_path / name).exception
    assert isinstance(error, RecordError)
    assert error.exit_code == 1
    assert re.fullmatch(rf"no valid record in {tmp_path}/{name}; run 'mlecs-bench run .*' first, .*", str(error))


def test_the_command_reads_scratch_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_record(Path("results/scratch"), make_record())
    assert invoke().stdout == build_table([make_record()])


def test_importing_the_command_imports_no_heavy_package(tmp_path):
    code = (
        "import sys, mlecs_bench.cli.report, mlecs_bench.report; "
        "sys.exit(', '.join({'pandas', 'numpy', 'torch', 'scipy', 'jsonschema', 'tabulate'} & set(sys.modules)) or 0)"
    )
    root = Path(mlecs_bench.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_structure_that_all_rows_share_is_in_the_caption():
    plain, mixed = make_record(algo="a"), with_identity(make_record(algo="a"), structure={"rank": {"d00": 2}})
    other = with_identity(make_record(algo="b"), structure={"rank": {"d00": 2}})
    assert "LoRA rank of d00: 2" in build_table([mixed, other])
    assert "LoRA rank of" not in build_table([plain])
