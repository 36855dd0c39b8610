"""`mlecs-bench check`: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import importlib.metadata
import json
import re
from functools import partial

import pytest

from cli_fakes import call_main, install
from contract_plugins import BUILT_WITH, ENTRIES
from mlecs_bench.doors.registry import PluginEntry
from mlecs_bench.testing.installed import ALGORITHM, ALGORITHM_INFO, DATASET, DATASET_INFO, DISTRIBUTION


@pytest.fixture
def call(monkeypatch, capsys):
    install(monkeypatch, ENTRIES)
    return partial(call_main, capsys, "check")


def test_every_check_has_a_line_and_the_last_is_the_verdict(call):
    code, out, err = call("average", "--only", "four-steps", "--only", "card")
    assert (code, err) == (0, "")
    first, second, last = out.splitlines()
    assert re.fullmatch(r"ok    card         +\d+\.\d s", first)
    assert re.fullmatch(r"ok    four-steps   +\d+\.\d s", second)
    assert re.fullmatch(r"average: all 2 checks passed in \d+\.\d s", last)


def test_a_failed_check_has_its_reason_below_and_ends_with_1(call):
    code, out, err = call("broken", "--only", "card", "--only", "options", "--only", "no-modality")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines[:1] + lines[2:4]] == [
        ["FAIL", "card"], ["ok", "options"], ["FAIL", "no-modality"],
    ]  # fmt: skip  # marks and names
    assert (
        lines[1] == """      the card needs its 'paper' in one line, but it is ''; write "none" if there is no paper"""
    )
    assert re.search(r"IndexError: tuple index out of range; .* \(contract_toys\.py:\d+\)$", lines[4])
    assert re.fullmatch(r"broken: 2 of 3 checks failed in \d+\.\d s", lines[5])
    assert len(lines) == 6


def test_quiet_shows_failures_and_the_verdict_only(call):
    _, out, _ = call("broken", "--only", "card", "--only", "options", "--quiet")
    assert [line.split()[0] for line in out.splitlines()] == ["FAIL", "the", "broken:"]
    _, out, _ = call("average", "--only", "card", "--quiet")
    assert re.fullmatch(r"average: all 1 checks passed in \d+\.\d s\n", out)


def test_json_holds_every_verdict(call):
    code, out, _ = call("broken", "--only", "card", "--only", "options", "--json")
    found = json.loads(out)
    assert (code, found["name"], found["passed"]) == (1, "broken", False)
    assert [(row["name"], row["passed"]) for row in found["checks"]] == [("card", False), ("options", True)]
    assert found["checks"][0]["reason"].startswith("the card needs its 'paper'")
    assert found["checks"][1]["reason"] is None
    assert set(found["checks"][0]) == {"name", "summary", "passed", "reason", "repeats", "seconds"}
    assert call("average", "--only", "card", "--json")[0] == 0


def test_list_names_the_checks_without_running_them(call):
    BUILT_WITH.clear()
    code, out, _ = call("average", "--list")
    assert (code, BUILT_WITH) == (0, [])
    rows = [line.split(maxsplit=1) for line in out.splitlines()]
    assert rows[0] == ["loads", "The plugin can be imported and its hook returns its card."]
    assert [
        "stateless",
        "The algorithm object holds options only: rebuilt before every step it gives the same bits.",
    ] in rows
    assert [row["name"] for row in json.loads(call("average", "--list", "--json")[1])] == [name for name, _ in rows]


def test_options_reach_the_plugin(call):
    BUILT_WITH.clear()
    assert call("average", "-o", "pull=0.25", "--only", "four-steps")[0] == 0
    assert [options.pull for options in BUILT_WITH] == [0.25]
    assert call("toy", "-o", "gaps=no", "--only", "options")[0] == 0


def test_a_wrong_request_is_refused_in_one_line(call):
    for arguments, expected in (
        (["averag"], "error: no plugin 'averag'. Did you mean 'average'? Known: accuracy, average, bertscore, bleu,"),
        (["average", "--only", "cart"], "error: no check 'cart'. Did you mean 'card'?"),
        (["average", "-o", "push=1"], "error: 'average' has no option 'push'. Did you mean 'pull'?"),
        (["average", "-o", "pull"], "error: --option must be written name=value, got 'pull'"),
        ([], "error: Missing argument 'NAME'"),
    ):
        code, out, err = call(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(expected)


def test_toys_prints_where_processes_that_run_already_find_the_plugins_of_the_checks(call):
    code, out, err = call("--toys")
    (info,) = importlib.metadata.distributions(path=[out.strip()])
    assert (code, err, info.name) == (0, "", DISTRIBUTION)
    points = {point.name: point.load() for point in info.entry_points}
    assert points == {ALGORITHM: ALGORITHM_INFO, DATASET: DATASET_INFO}


def test_a_plugin_that_cannot_be_imported_is_a_failed_check(call):
    for only in ((), ("--only", "card")):
        code, out, err = call("gone", *only)
        assert (code, err) == (1, "")
        lines = out.splitlines()
        assert re.fullmatch(r"FAIL  loads  +\d+\.\d s", lines[0])
        reason = "      plugin 'gone' of distribution 'acme' 1.2 failed to import: ModuleNotFoundError"
        assert lines[1].startswith(reason)
        assert len(lines) == 3


def test_a_kind_chooses_where_several_share_a_name(monkeypatch, capsys):
    shared = [PluginEntry("toy", "algorithm", "acme", "1.2", "contract_plugins:average"), *ENTRIES]
    install(monkeypatch, shared)
    names = {}
    for kind in (None, "algorithm", "dataset"):
        flags = [] if kind is None else ["--kind", kind]
        code, out, _ = call_main(capsys, "check", "toy", "--list", "--json", *flags)
        assert code == 0
        names[kind] = [row["name"] for row in json.loads(out)]
    assert names[None] == names["algorithm"] + names["dataset"]
    assert "four-steps" in names["algorithm"]
    assert "four-steps" not in names["dataset"]
    code, _, err = call_main(capsys, "check", "toy", "--kind", "metric")
    assert (code, err.count("\n")) == (2, 1)
    assert "no metric 'toy', which is the name of: algorithm and dataset." in err
