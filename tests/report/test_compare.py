"""The command compare: what it pairs, what it prints, and what it refuses."""

from __future__ import annotations

import copy
import importlib
import itertools
import json
import re
import shutil
import statistics
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from scipy import stats

from mlecs_bench.cli.compare import compare
from mlecs_bench.cli.main import main
from mlecs_bench.doors.hookspecs import Control
from mlecs_bench.errors import MlecsError
from mlecs_bench.records.results import read_records, record_name
from mlecs_bench.report.arrange import Cards, control_key
from mlecs_bench.report.statistics import sign_flip
from mlecs_bench.seeds import PROTOCOL_SEEDS
from study_records import lower_is_better, runs, with_all, write_records

compare_command = importlib.import_module("mlecs_bench.cli.compare")
OURS = (0.40, 0.42, 0.39, 0.45, 0.44)
THEIRS = (0.35, 0.40, 0.36, 0.37, 0.42)
TWO_SCORERS = {"rouge_lsum": "rouge-score==0.1.2 rougeLsum F1 stemmer", "bertscore": "bert-score==0.3.13 layer=6"}


def write(folder: Path, *records: Sequence[dict[str, Any]]) -> Path:
    return write_records(folder, chain.from_iterable(records))


def invoke(*arguments: object):
    return CliRunner().invoke(compare, [str(a) for a in arguments])


def printed(*arguments: object, point: str | None = "local") -> str:
    """Return what the command prints of one point of evaluation, or of both."""
    done = invoke(*arguments, *(["--eval-point", point] if point else []))
    assert done.exit_code == 0, done.exception
    assert done.stderr == ""
    return done.stdout


def values(*arguments: object, point: str | None = "local") -> dict[str, Any]:
    return json.loads(printed(*arguments, "--json", point=point))


def refused(code: int, *arguments: object) -> str:
    """Return the error of a command, which is one line and has this exit code."""
    error = invoke(*arguments).exception
    assert isinstance(error, MlecsError)
    assert error.exit_code == code
    assert "\n" not in str(error)
    return str(error)


def tables(markdown: str) -> dict[str, list[dict[str, str]]]:
    """Read the tables of a Markdown text back: lines by title, each heading to cell."""
    found = {}
    for part in markdown.split("\n### ")[1:]:
        lines = [[c.strip() for c in re.split(r"(?<!\\)\|", one)[1:-1]] for one in part.splitlines() if one[:1] == "|"]
        found[part.partition("\n")[0]] = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    return {title: rows for title, rows in found.items() if rows}


def where(found: dict[str, Any]) -> list[tuple[str, ...]]:
    return [(c["dataset"], c["rho"], c["metric"], c["stat"]) for c in found["comparisons"]]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("compared") / "study", runs("ml-ecs", OURS), runs("standalone", THEIRS))


# Two algorithms


def test_two_algorithms_by_hand(study):
    found = tables(printed("ml-ecs", "standalone", study))
    assert list(found) == ["vast: rouge_lsum avg", "vast: rouge_lsum server"]
    low, high = stats.ttest_rel(OURS, THEIRS).confidence_interval(0.95)
    p = stats.ttest_rel(OURS, THEIRS).pvalue
    # Differences 0.05, 0.02, 0.03, 0.08 and 0.02 have mean 0.04 and sd 0.0255, of which 1.68 are detectable.
    assert found["vast: rouge_lsum avg"] == [
        {
            "rho": "0.5",
            "devices": "3",
            "A": "ml-ecs",
            "B": "standalone",
            "score A": f"0.420 ± {statistics.stdev(OURS):.3f}",
            "score B": f"0.380 ± {statistics.stdev(THEIRS):.3f}",
            "difference": "+0.040 ± 0.025",
            "95 % interval / low": f"{low:+.3f}",
            "95 % interval / high": f"{high:+.3f}",
            "in %": "+10.5 %",
            "n": "5",
            "p": f"{p:.3f}",
            "corrected p": f"{p:.3f}",
            "verdict": "better",
            "detectable": "0.043",
        }
    ]
    assert found["vast: rouge_lsum server"][0]["score A"].startswith("0.520 ± ")


def test_the_text_says_what_it_is_of_and_what_positive_means(study):
    text = printed("ml-ecs", "standalone", study)
    assert text.startswith("# ml-ecs against standalone\n")
    assert "A is the algorithm ml-ecs, B the algorithm standalone. Positive differences: A is better." in text
    assert text.count("**Synthetic data (vast), tiny language models: these scores say nothing of real ones.**") == 2
    assert (
        "Profile mini, budget paper, 2 rounds x 20 steps; data: synthetic, split frame; scores after "
        "local_update of the last round (local)." in text
    )
    assert "scores of the server." in text
    assert "Bit-identical" not in text


def test_swapping_the_two_turns_the_result_round(study):
    forth, back = values("ml-ecs", "standalone", study), values("standalone", "ml-ecs", study)
    assert forth["comparisons"][0]["difference"]["mean"] == pytest.approx(0.04)
    assert back["comparisons"][0]["difference"]["mean"] == pytest.approx(-0.04)
    assert [c["verdict"] for c in back["comparisons"]] == ["worse", "worse"]
    assert back["overall"]["local"]["statistic"] == pytest.approx(-forth["overall"]["local"]["statistic"])


def test_json_has_unrounded_numbers(study):
    found = values("ml-ecs", "standalone", study)
    assert (found["schema"], found["compared"], found["a"], found["b"]) == (
        "mlecs-bench/compare/2", "algorithms", "ml-ecs", "standalone",
    )  # fmt: skip  # one row
    one = found["comparisons"][0]
    assert one["a"]["mean"] == pytest.approx(statistics.mean(OURS), abs=1e-15)
    assert one["b"]["sd"] == pytest.approx(statistics.stdev(THEIRS), abs=1e-15)
    assert one["a"]["values"] == pytest.approx(dict(zip(map(str, PROTOCOL_SEEDS), OURS, strict=True)))
    assert one["difference"]["p"] == pytest.approx(stats.ttest_rel(OURS, THEIRS).pvalue, rel=1e-9)
    assert one["relative_percent"] == pytest.approx(100 * 0.04 / 0.38)
    assert len(one["records"]) == 10
    assert all(list(study.glob(f"records/*--{key[:8]}.json")) for key in one["records"])
    assert found["identical"] is None
    assert found["honest"] == "Synthetic data (vast), tiny language models: these scores say nothing of real ones."


def test_the_point_metric_and_statistics_can_be_chosen(tmp_path):
    records = [runs(algo, s, scorers=TWO_SCORERS) for algo, s in (("ml-ecs", OURS), ("standalone", THEIRS))]
    for record in records[1]:
        for score in record["metrics"]["client"]["received"]["bertscore"].values():
            score["value"] += 0.2
    folder = write(tmp_path / "study", *records)
    assert where(values("ml-ecs", "standalone", folder)) == [
        ("vast", "0.5", "rouge_lsum", "avg"),
        ("vast", "0.5", "rouge_lsum", "server"),
    ]
    every = values("ml-ecs", "standalone", folder, "--metric", "all", "--stat", "best", "--stat", "worst")
    assert [w[2:] for w in where(every)] == [
        (metric, stat) for metric in ("rouge_lsum", "bertscore") for stat in ("best", "worst")
    ]
    assert every["comparisons"][0]["a"]["mean"] == pytest.approx(0.52)
    asked = ("ml-ecs", "standalone", folder, "--metric", "bertscore", "--stat", "avg")
    (one,) = values(*asked, point="received")["comparisons"]
    assert one["difference"]["mean"] == pytest.approx(-0.16)


def test_where_lower_is_better_the_title_says_so_and_positive_still_means_better(tmp_path):
    records = lower_is_better([*runs("ml-ecs", THEIRS, server=False), *runs("standalone", OURS, server=False)])
    (title,) = found = tables(printed("ml-ecs", "standalone", write(tmp_path / "study", records)))
    assert title == "vast: rouge_lsum avg, lower is better"
    assert [(row["difference"], row["verdict"]) for row in found[title]] == [("+0.040 ± 0.025", "better")]


def test_holm_counts_the_rates_of_one_dataset_and_not_the_other_dataset(tmp_path):
    pairs = [(0.5, "vast"), (0.7, "vast"), (0.5, "ur-fall")]
    folder = write(
        tmp_path / "study",
        *(runs(a, s, rho=rho, dataset=d) for rho, d in pairs for a, s in (("ml-ecs", OURS), ("standalone", THEIRS))),
    )
    p = stats.ttest_rel(OURS, THEIRS).pvalue
    found = values("ml-ecs", "standalone", folder, "--stat", "avg")
    assert [(c["dataset"], c["rho"], pytest.approx(c["adjusted_p"])) for c in found["comparisons"]] == [
        ("ur-fall", "0.5", p), ("vast", "0.5", 2 * p), ("vast", "0.7", 2 * p),
    ]  # fmt: skip  # one row


def test_the_overall_test_is_over_the_first_metric_of_every_block_whatever_is_shown(tmp_path):
    folder = write(
        tmp_path / "study",
        *(runs(a, s, dataset=d) for d in ("vast", "ur-fall") for a, s in (("ml-ecs", OURS), ("standalone", THEIRS))),
    )
    gains = {seed: a - b for seed, a, b in zip(PROTOCOL_SEEDS, OURS, THEIRS, strict=True)}
    oracle = sign_flip({"vast": gains, "ur-fall": gains})
    found = values("ml-ecs", "standalone", folder, "--stat", "server")["overall"]["local"]
    assert (found["blocks"], found["units"], found["p"]) == (2, 5, oracle.p)
    assert found["statistic"] == pytest.approx(oracle.statistic)
    assert "(sign-flip test by seed, 5 seeds, all 32 flips, p = 0.0625; " in printed("ml-ecs", "standalone", folder)


def test_only_common_seeds_count_and_the_others_are_named(tmp_path):
    folder = write(
        tmp_path / "study", runs("ml-ecs", OURS), runs("standalone", (*THEIRS[:3], 0.9), (*PROTOCOL_SEEDS[:3], 7))
    )
    text = printed("ml-ecs", "standalone", folder, "--stat", "avg")
    ((line,),) = tables(text).values()
    assert line["n"] == "3"
    assert line["score A"] == f"{statistics.mean(OURS[:3]):.3f} ± {statistics.stdev(OURS[:3]):.3f}"
    assert line["score B"] == f"{statistics.mean(THEIRS[:3]):.3f} ± {statistics.stdev(THEIRS[:3]):.3f}"
    assert "- rho 0.5, 3 devices: only ml-ecs has seed 52, 93\n- rho 0.5, 3 devices: only standalone has seed 7" in text


def test_what_only_one_of_them_has_is_named(tmp_path):
    folder = write(
        tmp_path / "study",
        runs("ml-ecs", OURS),
        runs("standalone", THEIRS, server=False),
        *(runs("ml-ecs", OURS, rho=rho) for rho in (0.7, 0.8)),
    )
    text = printed("ml-ecs", "standalone", folder)
    assert list(tables(text)) == ["vast: rouge_lsum avg"]
    assert "\nvast: not both have a rouge_lsum server score\n" in text
    assert "\nonly ml-ecs has: vast at rho 0.7, 0.8, 3 devices\n" in text


def test_records_that_differ_in_more_than_the_algorithm_stay_apart(tmp_path):
    short, long = {"rounds": 2}, {"rounds": 9}
    folder = write(
        tmp_path / "study",
        *(with_all(runs("ml-ecs", OURS), training=t) for t in (short, long)),
        with_all(runs("standalone", THEIRS), training=short),
        with_all(runs("standalone", OURS), training=long),
        with_all(runs("standalone", THEIRS), training={"rounds": 5}),
    )
    found = values("ml-ecs", "standalone", folder, "--stat", "avg")
    assert {(c["setting"]["label"], c["verdict"]) for c in found["comparisons"]} == {
        ("rounds 2", "better"), ("rounds 9", "tied"),
    }  # fmt: skip  # one row
    assert found["notes"][0] == "only standalone has: vast at rho 0.5, 3 devices (rounds 5)"
    text = printed("ml-ecs", "standalone", folder, "--stat", "avg")
    assert sorted(tables(text)) == ["vast: rouge_lsum avg (rounds 2)", "vast: rouge_lsum avg (rounds 9)"]


@pytest.fixture(scope="module")
def variants(tmp_path_factory) -> Path:
    other = with_all(runs("ml-ecs", THEIRS)[:4], algo={"options": {"tau": 2.0}})
    return write(tmp_path_factory.mktemp("variants") / "study", runs("ml-ecs", OURS), other, runs("standalone", THEIRS))


def test_a_name_stands_for_all_variants_and_a_label_for_one(variants):
    def arms(*arguments):
        return [(c["a"]["algorithm"], c["b"]["algorithm"]) for c in values(*arguments, "--stat", "avg")["comparisons"]]

    assert arms("ml-ecs", "standalone", variants) == [
        ("ml-ecs", "standalone"), ("ml-ecs (tau=2.0)", "standalone"),
    ]  # fmt: skip  # one row
    assert arms("ml-ecs (tau=2.0)", "standalone", variants) == [("ml-ecs (tau=2.0)", "standalone")]
    assert arms("ml-ecs (tau=2.0)", "ml-ecs", variants) == [("ml-ecs (tau=2.0)", "ml-ecs")]


def test_every_label_that_is_printed_of_a_variant_names_it(variants):
    records = [record for record in read_records(variants)[0] if record["identity"]["algo"]["options"] == {"tau": 2.0}]
    name = record_name(records[0]["identity"])
    for label in (
        "ml-ecs (tau=2.0)",
        "ml-ecs vast rho 0.5 (tau=2.0)",
        f"ml-ecs vast rho 0.5 seed {records[0]['identity']['seed']} (tau=2.0)",
        name,
        name.removesuffix(".json"),
    ):
        found = values(label, "standalone", variants, "--stat", "avg")["comparisons"]
        assert {(c["a"]["algorithm"], c["b"]["algorithm"]) for c in found} == {("ml-ecs (tau=2.0)", "standalone")}, (
            label
        )


def test_a_label_of_a_setting_compares_it_with_another_and_says_what_differs(tmp_path):
    other = with_all(runs("ml-ecs", THEIRS), training={"budget": "equal"})
    folder = write(tmp_path / "study", runs("ml-ecs", OURS), other)
    found = values("ml-ecs (budget=equal)", "ml-ecs", folder, "--stat", "avg")
    assert {(c["a"]["algorithm"], c["b"]["algorithm"]) for c in found["comparisons"]} == {("ml-ecs", "ml-ecs")}
    assert any("training.budget equal / paper" in note for note in found["notes"])


def test_a_condition_is_held_against_the_usual_one_and_both_are_named(tmp_path):
    int8 = {"compression": {"law": "int8"}}
    conditions = [int8, {"partition": {"law": "dirichlet", "number": 0.3}}, {"dropout": {"during": 0.2}, **int8}]
    others = [record for one in conditions for record in with_all(runs("ml-ecs", THEIRS), conditions=one)]
    folder = write(tmp_path / "study", runs("ml-ecs", OURS), others)
    for usual in ("ml-ecs", "ml-ecs (static)"):
        found = values("ml-ecs (int8 messages)", usual, folder, "--stat", "avg")
        sides = {(c["a"]["mean"], c["b"]["mean"]) for c in found["comparisons"]}
        assert sides == {(statistics.fmean(THEIRS), statistics.fmean(OURS))}, usual
        assert not any("only ml-ecs has" in note and "static" in note for note in found["notes"])
        text = printed("ml-ecs (int8 messages)", usual, folder, "--stat", "avg")
        assert "| ml-ecs (int8 messages) | ml-ecs (static) |" in " ".join(text.split())
    words = refused(2, "ml-ecs (int8 mesages)", "ml-ecs", folder)
    assert "Did you mean 'ml-ecs (int8 messages)'?" in words
    assert values("ml-ecs (dropout 0.2,int8 messages)", "ml-ecs (static)", folder, "--stat", "avg")["comparisons"]


def test_two_seeds_decide_nothing(tmp_path):
    far = [0.9 + 0.0001 * i for i in range(5)]
    for n, expected in ((2, "undecided"), (3, "better")):
        folder = write(tmp_path / str(n), runs("ml-ecs", far)[:n], runs("standalone", [v / 3 for v in far])[:n])
        verdicts = {c["verdict"] for c in values("ml-ecs", "standalone", folder)["comparisons"]}
        assert verdicts == {expected}
    assert "2 seeds are too few to test it" in printed("ml-ecs", "standalone", tmp_path / "2")


def test_a_pipe_in_a_name_does_not_break_the_table(tmp_path):
    folder = write(tmp_path / "study", runs("a|b", OURS), runs("standalone", THEIRS))
    (line, *_), *_ = tables(printed("a|b", "standalone", folder)).values()
    assert (line["A"], line["verdict"]) == ("a\\|b", "better")


# Both points of evaluation


def shifted(records, by: float):
    """Return copies whose devices have `by` more after the last broadcast."""
    records = copy.deepcopy(records)
    for record in records:
        for score in record["metrics"]["client"]["received"]["rouge_lsum"].values():
            score["value"] += by
    return records


def test_both_points_stand_side_by_side_and_what_holds_at_both_is_said(tmp_path):
    for gain, after, both in ((0.0, "better", "better"), (-0.2, "worse", "undecided")):
        folder = write(tmp_path / f"{gain}", shifted(runs("ml-ecs", OURS), gain), runs("standalone", THEIRS))
        found = tables(printed("ml-ecs", "standalone", folder, point=None))
        lines = found["vast: rouge_lsum avg"]
        assert [(line["scored"], line["verdict"]) for line in lines] == [("local", "better"), ("received", after)]
        assert [line["holds at both"] for line in lines] == [both] * 2
        (server,) = found["vast: rouge_lsum server"]
        assert "scored" not in server
        as_json = values("ml-ecs", "standalone", folder, point=None)
        assert as_json["eval_points"] == ["local", "received"]
        assert [(c["scored"], c["holds_at_all_points"]) for c in as_json["comparisons"]] == [
            ("local", both), ("received", both), ("server", "better"),
        ]  # fmt: skip  # one row
        assert as_json["overall"].keys() == {"local", "received"}


def test_a_comparison_that_is_the_same_at_both_points_is_printed_once(tmp_path):
    still = [shifted(runs(algo, scores), -0.05) for algo, scores in (("a", OURS), ("b", THEIRS))]
    for record in itertools.chain(*still):  # bits: what is sent nothing is scored alike
        client = record["metrics"]["client"]
        client["received"] = copy.deepcopy(client["local"])
    (line,) = tables(printed("a", "b", write(tmp_path / "study", *still), point=None))["vast: rouge_lsum avg"]
    assert (line["scored"], line["verdict"], line["holds at both"]) == ("both", "better", "better")


# Controls


def test_what_else_to_compare_with_is_named(tmp_path, monkeypatch):
    control = Control("floor", "alone with public data", "the same data and steps, nothing sent")
    monkeypatch.setattr(compare_command, "known_cards", lambda records, _: cards_of(records, control))
    public = with_all(runs("standalone", THEIRS), algo={"options": {"public": True}})
    without = write(tmp_path / "without", runs("ml-ecs", OURS), runs("fedavg", THEIRS))
    there = write(tmp_path / "there", runs("ml-ecs", OURS), runs("fedavg", THEIRS), public)
    assert f"{without}: no control row (the same data and steps, nothing sent)" in printed("ml-ecs", "fedavg", without)
    assert "compare with 'alone with public data', too: the same data" in printed("ml-ecs", "fedavg", there)
    found = printed("ml-ecs", "alone with public data", there)
    assert "compare with" not in found
    assert "no control row" not in found


def cards_of(records, control: Control) -> Cards:
    public = [r["identity"] for r in records if r["identity"]["algo"]["options"].get("public")]
    return Cards(controls={control_key(identity): control for identity in public})


# Two folders


@pytest.fixture(scope="module")
def rerun(tmp_path_factory) -> Path:
    """The study again with another version of torch, in which one score of one device differs."""
    records = with_all([*runs("ml-ecs", OURS), *runs("standalone", THEIRS)], numerics={"torch": "2.14.0"})
    records[0]["metrics"]["client"]["local"]["rouge_lsum"]["d00"]["value"] += 0.003
    for record in records:
        record["provenance"]["packages"] = {"torch": "2.14.0"}
    return write(tmp_path_factory.mktemp("again") / "rerun", records)


def test_two_folders_pair_the_same_cells_and_say_what_differs(study, rerun):
    text = printed(study, rerun, "--stat", "avg")
    # Ten records with two points of evaluation of three devices and a server each.
    assert (
        "Bit-identical: 69 of 70 scores of the last round, and all scores of 9 of 10 pairs of records. Largest " in text
    )
    assert "Largest difference: 0.003.\n" in text
    assert f"A is the folder {study}, B the folder {rerun}. Positive differences: A is better." in text
    assert "\ndiffers: numerics.torch 2.13.0 / 2.14.0\n" in text
    assert "\ndiffers: packages.torch 2.13.0 / 2.14.0\n" in text
    (lines,) = tables(text).values()
    assert [(line["algorithm"], line["difference"], line["n"], line["verdict"]) for line in lines] == [
        ("ml-ecs", "-0.000 ± 0.000", "5", "tied"), ("standalone", "+0.000 ± 0.000", "5", "tied"),
    ]  # fmt: skip  # one row
    assert "A" not in lines[0]


def test_two_folders_as_json(study, rerun):
    found = values(study, rerun)
    assert (found["compared"], found["a"], found["b"]) == ("folders", str(study), str(rerun))
    assert found["identical"] == {
        "scores": 69, "of_scores": 70, "records": 9, "of_records": 10, "largest": pytest.approx(0.003),
    }  # fmt: skip  # one row
    changed = next(c for c in found["comparisons"] if c["a"]["algorithm"] == "ml-ecs" and c["stat"] == "avg")
    assert changed["difference"]["by_seed"] == pytest.approx({"27": -0.001, "34": 0, "46": 0, "52": 0, "93": 0})


def test_a_copy_is_identical_in_everything(study, tmp_path):
    copied = write(tmp_path / "copy", runs("ml-ecs", OURS), runs("standalone", THEIRS))
    text = printed(study, copied)
    assert "Bit-identical: 70 of 70 scores of the last round, and all scores of 10 of 10 pairs of records.\n" in text
    assert "\nthe records name the same versions, revision and machine\n" in text
    assert "2 blocks of dataset and rate: the mean scaled difference is zero.\n" in text
    assert values(study, copied)["overall"]["local"]["p"] == 1


def test_a_difference_of_some_records_says_of_how_many(study, tmp_path):
    records = copy.deepcopy(runs("ml-ecs", OURS))
    records[0]["provenance"]["git"] = {"commit": "abc", "dirty": False}
    notes = values(study, write(tmp_path / "other", records))["notes"]
    assert "differs: git.commit absent / abc (1 of 5 pairs of records)" in notes
    assert not any("started" in note for note in notes)


def test_cells_of_one_folder_alone_are_named_with_what_keeps_them_apart(study, tmp_path):
    other = write(
        tmp_path / "other",
        runs("ml-ecs", OURS),
        with_all(runs("standalone", THEIRS), training={"rounds": 9}),
        runs("fedilora", THEIRS),
    )
    found = values(study, other, "--stat", "avg")
    assert [c["a"]["algorithm"] for c in found["comparisons"]] == ["ml-ecs"]
    apart = "(the nearest differs in training.rounds"
    assert found["notes"][:3] == [
        f"left out of {study}: standalone on vast at rho 0.5, 3 devices {apart} 2 / 9)",
        f"left out of {other}: fedilora on vast at rho 0.5, 3 devices",
        f"left out of {other}: standalone on vast at rho 0.5, 3 devices {apart} 9 / 2)",
    ]


def test_of_two_versions_in_one_folder_that_which_is_alike_is_compared(study, tmp_path):
    newer = with_all(runs("ml-ecs", THEIRS), numerics={"torch": "2.14.0"})
    other = write(tmp_path / "other", newer, runs("ml-ecs", OURS))
    found = values(study, other, "--stat", "avg")
    assert found["identical"]["scores"] == found["identical"]["of_scores"] == 35
    apart = "(the nearest differs in numerics.torch 2.14.0 / 2.13.0)"
    assert f"left out of {other}: ml-ecs on vast at rho 0.5, 3 devices {apart}" in found["notes"]


def test_scoring_every_round_changes_no_number_of_the_last_one(study, tmp_path):
    other = write(tmp_path / "other", with_all(runs("ml-ecs", OURS), evaluate="all"))
    found = values(study, other)
    assert found["identical"]["scores"] == found["identical"]["of_scores"] == 35
    assert "differs: evaluate last / all" in found["notes"]


def test_scores_of_different_scorers_are_not_compared(tmp_path):
    a = write(tmp_path / "a", runs("ml-ecs", OURS, scorers=TWO_SCORERS))
    for number, (scorer, compared) in enumerate(
        (
            ("bert-score==0.3.13 layer=6", True),
            ("bert-score==0.4.0 layer=6", True),
            ("bert-score==0.3.13 layer=6 device=cuda", True),
            ("bert-score==0.3.13 layer=9", False),
            (None, False),
        )
    ):
        b = write(tmp_path / str(number), runs("ml-ecs", OURS, scorers={**TWO_SCORERS, "bertscore": scorer}))
        found = values(a, b, "--metric", "all", "--stat", "avg")
        assert [c["metric"] for c in found["comparisons"]] == ["rouge_lsum", "bertscore"][: 1 + compared]
        assert found["identical"]["of_scores"] == (70 if compared else 35)
        apart = f"bertscore on vast: the scorers differ ({TWO_SCORERS['bertscore']} / {scorer or 'none'})"
        assert (apart in found["notes"]) is not compared


# What is refused


def test_an_unknown_algorithm_is_met_with_the_nearest(variants):
    assert refused(2, "ml-esc", "standalone", variants) == (
        f"no algorithm 'ml-esc' in {variants}. Did you mean 'ml-ecs'? Known: ml-ecs, ml-ecs (tau=2.0), standalone"
    )
    assert refused(2, "ml-ecs", "alone", variants).startswith(
        f"no algorithm 'alone' in {variants}. Did you mean 'standalo"
    )


def test_an_unknown_metric_is_met_with_the_nearest(study):
    assert refused(2, "ml-ecs", "standalone", study, "--metric", "rouge") == (
        "no metric 'rouge' in these records. Did you mean 'rouge_lsum'? Known: all, rouge_lsum"
    )


def test_an_algorithm_is_not_compared_with_itself(study, variants):
    assert refused(2, "ml-ecs (tau=2.0)", "ml-ecs (tau=2.0)", variants).startswith(
        "'ml-ecs (tau=2.0)' and 'ml-ecs (tau=2.0)' are the same; name two of: ml-ecs; ml-ecs (tau=2.0); standalone"
    )
    assert refused(2, "ml-ecs", "ml-ecs", variants).endswith("name two of: ml-ecs; ml-ecs (tau=2.0)")


def test_a_folder_that_is_none_or_a_file(study, tmp_path):
    absent, record = tmp_path / "absent", next((study / "records").iterdir())
    hint = "give the folder that holds the records"
    assert refused(2, "ml-ecs", "standalone", absent) == f"{absent} is no folder; {hint}"
    assert refused(2, "ml-ecs", "standalone", record) == f"{record} is a file; {hint}"
    assert refused(2, study, record) == f"{record} is a file; {hint}"


def test_one_folder_and_something_else(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hint = "name two folders of records, or two algorithms and the folder of their records"
    assert refused(2, study, tmp_path / "absent") == f"{tmp_path / 'absent'} is no folder; {hint}"
    assert refused(2, "ml-ecs", study) == f"ml-ecs is no folder; {hint}"
    assert refused(2, study, study / ".." / "study").endswith(f"are the same folder; {hint}")


def test_a_folder_that_bears_the_name_of_an_algorithm_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ml-ecs").mkdir()
    write(Path("results/scratch"), runs("ml-ecs", OURS), runs("standalone", THEIRS))
    assert values("ml-ecs", "standalone")["comparisons"][0]["verdict"] == "better"


def test_without_records_there_is_nothing_to_compare(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert refused(1, "ml-ecs", "standalone").startswith("no valid record in results/scratch; run 'mlecs-bench run")
    assert refused(1, "a", "b", "empty").startswith("no valid record in empty; run 'mlecs-bench run --algo")
    assert refused(1, study, "empty").startswith("no valid record in empty; name two folders of records")


def test_algorithms_that_differ_in_more_cannot_be_paired(tmp_path):
    folder = write(
        tmp_path / "study",
        runs("ml-ecs", OURS),
        with_all(runs("standalone", THEIRS), training={"rounds": 9, "budget": "equal"}),
    )
    assert refused(1, "ml-ecs", "standalone", folder) == (
        f"nothing to pair in {folder}: ml-ecs and standalone differ in more than the algorithm, at least in "
        "training.budget paper / equal, training.rounds 2 / 9; run both with the same settings"
    )


def test_folders_that_computed_something_else_cannot_be_paired(study, tmp_path):
    other = write(tmp_path / "other", with_all(runs("ml-ecs", OURS), dataset={"digest": "e" * 64}))
    assert refused(1, study, other) == (
        f"nothing to pair: no cell of {study} is one of {other}, they differ at least in dataset.digest aaaaaaaa / "
        "eeeeeeee; run both with the same settings"
    )


def test_folders_without_a_common_scorer_cannot_be_paired(study, tmp_path):
    scorers = {"rouge_lsum": "rouge-score==0.1.2 rouge1"}
    assert refused(1, study, write(tmp_path / "other", runs("ml-ecs", OURS, scorers=scorers))).startswith(
        "nothing to pair: rouge_lsum on vast: the scorers differ (rouge-score==0.1.2 rougeLsum F1 stemmer / rouge-score"
    )


def test_without_a_common_seed_nothing_can_be_paired(tmp_path):
    folder = write(tmp_path / "study", runs("ml-ecs", OURS[:2], (1, 2)), runs("standalone", THEIRS[:1], (3,)))
    assert refused(1, "ml-ecs", "standalone", folder) == (
        "nothing to pair, no common seed: ml-ecs on vast at rho 0.5, 3 devices (ml-ecs has 1, 2; standalone has 3); "
        "run the same --seeds of both"
    )


def test_a_score_that_no_pair_has_is_an_error(tmp_path):
    folder = write(tmp_path / "study", runs("ml-ecs", OURS), runs("standalone", THEIRS, server=False))
    assert refused(1, "ml-ecs", "standalone", folder, "--stat", "server") == (
        "no score to compare: ml-ecs and standalone have no server score of the first metric in common; leave out "
        "--metric and --stat"
    )


def test_damaged_records_are_named_and_left_out(study, tmp_path):
    shutil.copytree(study, tmp_path / "study")
    (tmp_path / "study" / "bad.json").write_text("{")
    done = invoke("ml-ecs", "standalone", tmp_path / "study")
    assert done.exit_code == 0
    assert done.stderr == f"warning: {tmp_path}/study/bad.json is cut off; delete it and run its cell again\n"
    assert "| ml-ecs | standalone |" in re.sub(" +", " ", done.stdout)


def test_the_command_ends_in_one_line_on_stderr(study, capsys):
    assert main(["compare", "ml-ecs", "standalone", str(study)]) == 0
    assert capsys.readouterr().out.startswith("# ml-ecs against standalone\n")
    assert main(["compare", "ml-ecs", "nobody", str(study)]) == 2
    assert capsys.readouterr().err.startswith("error: no algorithm 'nobody' in ")
    assert main(["compare", "ml-ecs"]) == 2
    assert capsys.readouterr().err == "error: Missing argument 'B'. Try 'mlecs-bench compare --help'.\n"
