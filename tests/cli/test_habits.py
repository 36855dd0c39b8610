"""Habits of the command line: key=value, other names, lists in sweeps, one flag for files, completion."""

from __future__ import annotations

import json
import os
import runpy
import sys
from functools import partial
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from cli_fakes import FakeProtocol, call_main, install
from mlecs_bench.cli.key_value import spelled_out
from mlecs_bench.cli.main import ALIASES, COMMANDS, cli
from mlecs_bench.cli.run import run
from mlecs_bench.cli.verbose import VARIABLE
from mlecs_bench.errors import UsageError
from mlecs_bench.execution import protocol
from mlecs_bench.execution.jobs import Execution

RUN = ("run", "--algo", "alpha", "--dataset", "toy", "--rho", "0.5")


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return partial(call_main, capsys)


def plan(call, *arguments: str) -> dict:
    code, out, err = call(*arguments, "--dry-run")
    assert (code, err) == (0, "")
    return json.loads(out)["plan"]


# key=value


def test_key_value_is_the_flag_and_the_values_of_flags_stay(call):
    spelled = (
        "run", "algo=alpha", "dataset=toy", "rho=audio=0.25,vision=1", "n_devices=4", "-o", "rank=4",
        "set=lora.rank=16", "--set", "rounds=3", "option=mode=max", "--split=sequence", "gradient_checkpointing=true",
    )  # fmt: skip  # a command line
    plain = (
        "run", "--algo", "alpha", "--dataset", "toy", "--rho", "audio=0.25,vision=1", "--n-devices", "4", "-o",
        "rank=4", "--set", "lora.rank=16", "--set", "rounds=3", "-o", "mode=max", "--split", "sequence",
        "--gradient-checkpointing",
    )  # fmt: skip  # the same
    assert plan(call, *spelled) == plan(call, *plain)
    assert plan(call, *spelled)["profile"]["lora"]["rank"] == 16
    code, out, _ = call(*spelled, "dry_run=true")
    assert (code, json.loads(out)["plan"]) == (0, plan(call, *plain))


def test_what_stands_behind_two_dashes_or_names_a_folder_is_left_alone():
    command = click.Command("c", params=[click.Option(["--out"]), click.Argument(["folder"])])
    for args, expected in (
        (["a=b", "out=c"], ["a=b", "--out", "c"]),
        (["--", "out=c"], ["--", "out=c"]),
        (["--out", "out=c"], ["--out", "out=c"]),
        (["--out=x", "out=c"], ["--out=x", "--out", "c"]),
        (["--out"], ["--out"]),
    ):
        assert list(spelled_out(args, command)) == expected
    assert list(spelled_out(["-orank=4", "quiet=false", "json=True"], run)) == ["-orank=4", "--json"]


def test_a_key_that_is_no_flag_is_refused_with_what_is_meant(call):
    for argument, expected in (
        ("alog=alpha", "there is no setting 'alog'. Did you mean 'algo'?"),
        ("lora.rank=4", "'lora.rank' is a setting of the profile: write --set lora.rank=4"),
        ("quiet=maybe", "quiet is true or false, got 'maybe'"),
    ):
        code, out, err = call(*RUN, argument)
        assert (code, out, err) == (2, "", f"error: {err[7:]}")
        assert expected in err
        assert err.count("\n") == 1
    with pytest.raises(UsageError, match="no setting 'x'"):
        list(spelled_out(["x=1"], run))


# Other names


def test_n_clients_is_n_devices_in_flags_and_files(call, tmp_path):
    (tmp_path / "c.yaml").write_text("n-clients: 4")
    for more in (("--n-clients", "4"), ("n_clients=4",), ("--config", "c.yaml")):
        assert len(plan(call, *RUN, *more)["structures"]) == 4


def test_ls_is_list_and_is_not_shown_twice(call):
    assert call("ls") == call("list")
    assert ALIASES == {"ls": "list"}
    shown = call("--help")[1]
    assert "  list " in shown
    assert "  ls " not in shown
    assert list(COMMANDS) == cli.list_commands(click.Context(cli))


def test_the_package_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["python -m mlecs_bench", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("mlecs_bench", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("mlecs-bench, version ")


def test_v_lets_libraries_speak_before_or_behind_the_command(call, monkeypatch):
    for arguments in (("-v", "list"), ("--verbose", "ls"), (*RUN, "-v", "--dry-run")):
        monkeypatch.setenv(VARIABLE, "error")
        assert call(*arguments)[0] == 0
        assert os.environ[VARIABLE] == "warning"
    monkeypatch.setenv(VARIABLE, "debug")  # what the user says holds
    call("-v", "list")
    assert os.environ[VARIABLE] == "debug"


# One run and many


def test_run_with_lists_points_to_sweep(call):
    for flag, value in (("--algo", "alpha,beta"), ("--rho", "0.5,0.7"), ("--steps", "10,20"), ("--n-devices", "3,5")):
        code, out, err = call(*RUN, flag, value)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: run takes one value of {flag}, got '{value}'; for all of them: ")
        assert err.endswith(f": mlecs-bench sweep {flag} {value} ...\n")


@pytest.fixture
def swept(call, monkeypatch):
    """Return a function that gives the specs of a sweep, none of which is run."""
    specs: list = []

    def remember(given, execution: Execution, observers, registry=None):
        specs[:] = given
        return []

    monkeypatch.setattr(protocol, "sweep", remember)
    monkeypatch.setattr("mlecs_bench.cli.sweep.signal.signal", lambda *_: None)

    def sweep(*arguments: str) -> list:
        assert call("sweep", *arguments, "--quiet")[0] == 0
        return list(specs)

    return sweep


GRID = ("algo=alpha", "dataset=toy", "rho=0.5", "n_seeds=1")


def test_lists_of_flags_sweep_anything(swept):
    flags = ("-o", "rank=4,8", "--steps", "10,20", "--set", "learning_rates.lora=1e-3,2e-3", "base_bits=4,8")
    found = [(s.steps, s.base_bits, s.options["rank"], s.set["learning_rates.lora"]) for s in swept(*GRID, *flags)]
    assert found == [
        (steps, bits, rank, rate)
        for steps in (10, 20)
        for bits in (4, 8)
        for rank in ("4", "8")
        for rate in (1e-3, 2e-3)
    ]


def test_semicolons_part_values_that_are_lists(swept):
    for text, expected in (
        ("c_attn", [["c_attn"]]),
        ("c_attn,c_proj", [["c_attn", "c_proj"]]),
        ("c_attn;c_attn,c_proj", [["c_attn"], ["c_attn", "c_proj"]]),
        ("c_attn;c_proj", [["c_attn"], ["c_proj"]]),
    ):
        assert [spec.set["lora.targets"] for spec in swept(*GRID, "--set", f"lora.targets={text}")] == expected


def test_a_file_means_the_same_to_run_and_sweep_under_either_flag(call, swept, tmp_path):
    """A file of settings is one block; a study of one run is that run."""
    (tmp_path / "c.yaml").write_text("algo: alpha\ndataset: toy\nrho: 0.5\nout: there\nset: {lora: {rank: 4}}\n")
    (tmp_path / "s.yaml").write_text("blocks: {b: {algo: alpha, dataset: toy, rho: 0.5, set: {lora.rank: 4}}}")
    plans = [plan(call, "run", flag, file) for flag in ("--config", "--study") for file in ("c.yaml", "s.yaml")]
    assert plans[0]["profile"]["lora"]["rank"] == 4
    assert all(one == plans[0] for one in plans)
    specs = [swept(flag, file) for flag in ("--config", "--study") for file in ("c.yaml", "s.yaml")]
    assert len(specs[0]) == 1
    assert all(one == specs[0] for one in specs)
    assert (tmp_path / "there" / "study.yaml").exists()  # where the file says
    assert swept("--config", "there/study.yaml") == specs[0]  # and that copy says the same


def test_a_file_of_several_runs_is_for_sweep(call, swept, tmp_path):
    (tmp_path / "c.yaml").write_text("algo: alpha\ndataset: toy\nrho: [0.5, 0.7]\noptions: {rank: [4, 8]}\n")
    code, out, err = call("run", "--study", "c.yaml")
    assert (code, out) == (2, "")
    assert err == (
        "error: c.yaml stands for 4 runs, and run takes one; for all of them: mlecs-bench sweep --study c.yaml\n"
    )
    assert [(s.rho, s.options["rank"]) for s in swept("--study", "c.yaml")] == [
        (rho, rank) for rho in (0.5, 0.7) for rank in (4, 8)
    ]
    assert plan(call, "run", "--study", "c.yaml", "rho=0.7", "-o", "rank=8")["own_options"] == {}


def test_a_run_takes_its_learning_rate_from_a_profile_file(call, monkeypatch, tmp_path):
    fake = FakeProtocol(tmp_path)
    monkeypatch.setattr(protocol, "run", fake)
    (tmp_path / "mine.yaml").write_text("extends: mini\nlearning_rates: {lora: 5e-4}\n")
    assert call(*RUN, "--profile", "mine.yaml", "--n-seeds", "1", "--quiet")[0] == 0
    assert (fake.plan.profile.name, fake.plan.training.learning_rates.lora) == ("mine", 5e-4)
    shown = call("show", "mine.yaml")[1]
    assert "Use: --profile mine.yaml" in shown
    assert "learning_rates.lora       0.0005" in shown
    assert "[mine.yaml]" in shown


def test_mps_is_refused_before_anything_starts(call, tmp_path):
    for more in (("--device", "mps"), ("--set", "torch_device=mps")):
        code, out, err = call(*RUN, *more, "--quiet")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "mps" in err
    assert list(tmp_path.iterdir()) == []


# Completion


def completed(*args: str) -> set[str]:
    """Return what a shell would offer for the last of `args`."""
    *before, last = args
    found = ShellComplete(cli, {}, "mlecs-bench", "_MLECS_BENCH_COMPLETE").get_completions(before, last)
    return {item.value for item in found}


@pytest.mark.usefixtures("call")
def test_a_shell_completes_commands_flags_and_names():
    assert completed("r") == {"run", "report"}
    assert {"--algo", "--set", "--n-clients"} <= completed("run", "--")
    assert completed("run", "--algo", "al") == {"alpha"}
    assert completed("sweep", "--algo", "alpha,") == {"alpha,alpha", "alpha,gone"}
    assert completed("run", "--dataset", "") == {"toy"}
    assert {"mini", "paper"} <= completed("run", "--profile", "")
    assert completed("run", "--dtype", "b") == {"bfloat16"}


def test_the_script_of_every_shell_names_the_command(call, monkeypatch, capsys):
    for shell in ("bash_source", "zsh_source", "fish_source"):
        monkeypatch.setattr("click.shell_completion.BashComplete._check_version", lambda *_: None)
        monkeypatch.setenv("_MLECS_BENCH_COMPLETE", shell)
        with pytest.raises(SystemExit) as ended:
            call("run")
        assert ended.value.code == 0
        assert "_MLECS_BENCH_COMPLETE" in capsys.readouterr().out
    assert (
        'eval "$(_MLECS_BENCH_COMPLETE=bash_source mlecs-bench)"'
        in (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    )
