"""`run`: from flags and files to a plan, and from results to what is printed."""

from __future__ import annotations

import contextlib
import json
import types
from functools import partial

import pytest

import mlecs_bench
from cli_fakes import FakeProtocol, call_main, install
from mlecs_bench.cli import run as run_module
from mlecs_bench.data.cache import default_cache_dir
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.execution import jobs, protocol, sweep
from mlecs_bench.plan.plan import plan_from_json
from mlecs_bench.plan.spec import LIMITS
from mlecs_bench.session.request import build_request, read_file
from mlecs_plugins.profiles.mini import MINI
from study_records import table_rows

RUN = ["run", "--algo", "alpha", "--dataset", "toy", "--rho", "0.5"]


@pytest.fixture
def call(monkeypatch, capsys):
    install(monkeypatch)
    return partial(call_main, capsys)


@pytest.fixture
def fake_run(monkeypatch, tmp_path):
    fake = FakeProtocol(tmp_path)
    monkeypatch.setattr(protocol, "run", fake)
    return fake


def dry(call, *arguments) -> dict:
    code, out, err = call(*arguments, "--dry-run")
    assert (code, err) == (0, "")
    return json.loads(out)["plan"]


def test_a_dry_run_prints_the_plan(call):
    values = dry(call, *RUN)
    plan = plan_from_json(json.dumps(values), Registry.installed())
    assert plan.to_values() == values
    assert (plan.algorithm.name, plan.dataset.name, plan.rho, plan.profile.name) == ("alpha", "toy", 0.5, "mini")
    assert values["options"] == {"rank": 8, "mode": "mean"}
    assert values["algorithm"] == {"name": "alpha", "distribution": "acme", "version": "1.2", "code": None}
    assert (plan.split, plan.metrics) == ("frame", ("rouge_lsum", "bertscore"))
    assert plan.rounds == plan.profile.rounds == values["training"]["rounds"]


def test_every_flag_reaches_the_plan(call):
    values = dry(
        call, "run", "--algo", "alpha", "--dataset", "toy", "--rho", "audio=0.25,vision=1", "-o", "rank=4",
        "-o", "mode=max", "--rounds", "2", "--steps", "3", "--n-devices", "4", "--seeds", "5,6", "--split", "sequence",
        "--budget", "equal", "--evaluate", "all", "--min-modalities", "0", "--slm", "a", "--llm", "b",
        "--data-dir", "d", "--device", "cpu", "--threads", "2", "--profile", "mini", "--device-slm", "d1=e,3=f",
        "--device-rank", "d0=2", "--device-encoder-width", "d02=16", "--batch-size", "6", "--dtype", "bfloat16",
        "--base-bits", "8", "--gradient-checkpointing", "--bertscore-model", "none", "--private-limit", "64",
        "--public-limit", "all", "--metrics", "rouge_l, bertscore", "--answer", "generate",
    )  # fmt: skip  # a command line
    expected = {
        "rho": {"audio": 0.25, "vision": 1.0}, "rates": {"audio": 0.25, "vision": 1.0}, "min_modalities": 0,
        "options": {"rank": 4, "mode": "max"}, "data_options": {}, "seeds": [5, 6], "split": "sequence",
        "rule": "equal", "evaluate": "all", "data_dir": "d", "torch_device": "cpu", "threads": 2, "proxy": None,
        "metrics": ["rouge_lsum", "bertscore", "rouge_l"], "answer": "generate",
    }  # fmt: skip  # the same settings
    assert {name: values[name] for name in expected} == expected
    own = {
        "slm": "a", "llm": "b", "batch_size": 6, "dtype": "bfloat16", "base_bits": 8, "rounds": 2, "steps": 3,
        "gradient_checkpointing": True, "bertscore": "none", "name": "mini", "tiny": False,
        "private_limit": 64, "public_limit": None,
    }  # fmt: skip  # of the profile
    assert {name: values["profile"][name] for name in own} == own
    assert [tuple(d.values()) for d in values["structures"].values()] == [
        ("a", 2, 64), ("e", 8, 64), ("a", 8, 16), ("f", 8, 64),
    ]  # fmt: skip  # model, rank and width of each device


def test_n_seeds_takes_the_first_of_the_protocol(call):
    assert dry(call, *RUN, "--n-seeds", "2")["seeds"] == [27, 34]
    assert dry(call, *RUN)["seeds"] == [27, 34, 46, 52, 93]


WRONG = (
    (["run", "--dataset", "toy", "--rho", "1"], "setting 'algo' is missing; give --algo"),
    (["run", "--algo", "alpha", "--dataset", "toy"], "setting 'rho' is missing; give --rho"),
    ([*RUN[:-1], "1.2"], "rho must be in (0, 1], got 1.2"),
    ([*RUN[:-1], "half"], "rho must be a rate such as 0.5, or name=rate,name=rate, got 'half'"),
    ([*RUN[:-1], "audio=0.5"], "rho"),
    ([*RUN[:-1], "audio=0.5,0.2"], "rho must be written name=value, got '0.2'"),
    ([*RUN[:-1], "audio=0.5,audio=1"], "rho gives 'audio' twice"),
    ([*RUN, "-o", "rank"], "--option must be written name=value, got 'rank'"),
    ([*RUN, "-o", "rank=1", "-o", "rank=2"], "--option gives 'rank' twice"),
    ([*RUN, "-o", "rnak=4"], "algorithm 'alpha' has no option 'rnak'. Did you mean 'rank'?"),
    ([*RUN, "-o", "rank=four"], "option 'rank' of algorithm 'alpha' must be an integer, got 'four'"),
    ([*RUN, "--data-option", "x=1"], "dataset 'toy' has no option 'x'"),
    ([*RUN, "--seeds", "1", "--n-seeds", "2"], "seeds and n-seeds exclude each other"),
    ([*RUN, "--seeds", "1,x"], "seeds must be whole numbers with commas, such as 27,34, got '1,x'"),
    ([*RUN, "--seeds", "1,1"], "seeds must be different whole numbers, got [1, 1]"),
    ([*RUN, "--n-seeds", "6"], "n-seeds must be from 1 to 5, got 6"),
    ([*RUN, "--split", "random"], "dataset 'toy' has no split 'random'; use frame or sequence"),
    ([*RUN, "--device-rank", "d3=4"], "device-rank names device 'd3'; devices of this run are d0 to d2"),
    ([*RUN, "--device-rank", "d1=4,1=8"], "device-rank names device 'd01' twice"),
    ([*RUN, "--device-rank", "d1=x"], "device-rank of d1 must be a whole number, got 'x'"),
    ([*RUN, "--device-rank", "d1=0"], "device-rank of d1 must be a whole number of at least 1, got 0"),
    ([*RUN, "--device-slm", "d1"], "--device-slm must be written name=value, got 'd1'"),
    ([*RUN, "--private-limit", "0"], "private-limit must be a whole number of at least 1, or all, got 0"),
    ([*RUN, "--private-limit", "-4"], "private-limit must be a whole number of at least 1, or all, got -4"),
    ([*RUN, "--private-limit", "none"], "private-limit must be a whole number of at least 1, or all, got none"),
    ([*RUN, "--public-limit", "1.5"], "public-limit must be a whole number of at least 1, or all, got 1.5"),
    ([*RUN, "--public-limit", "many"], "public-limit must be a whole number of at least 1, or all, got many"),
    ([*RUN, "--proxy", "folder"], "algorithm 'alpha' uses no proxy model, got proxy folder; leave it out"),
    ([*RUN, "--profile", "maxi"], "no profile 'maxi'. Did you mean 'mini'?"),
    ([*RUN, "--algo", "alfa"], "no algorithm 'alfa'. Did you mean 'alpha'?"),
    ([*RUN, "--config", "no-such-file.yaml"], "cannot read the file no-such-file.yaml: No such file"),
)


def test_a_wrong_request_is_refused_in_one_line(call):
    for arguments, expected in WRONG:
        code, out, err = call(*arguments, "--dry-run")
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        assert expected in err


@pytest.mark.usefixtures("fake_run")
def test_a_run_prints_the_row_the_traffic_the_place_and_the_caveat(call, tmp_path):
    code, out, _ = call(*RUN, "--n-seeds", "2")
    assert code == 0
    (table,) = table_rows(out)
    assert (table["algorithm"], table["rho"], table["devices"]) == ("alpha", "0.5", "3")
    assert "fused  down              45 parameters             180 bytes" in out
    assert "lora   up                20 parameters              80 bytes" in out
    assert "  one way: 6.500 %\n" in out
    assert "  full: 6.500 %\n" in out
    assert "LoRA one way and fused" in out
    assert f"2 records of this run in {tmp_path}" in out
    assert out.splitlines()[-1] == "Synthetic data (toy), tiny language models: these scores say nothing of real ones."


@pytest.mark.usefixtures("fake_run")
def test_json_is_one_object_on_stdout_and_progress_goes_to_stderr(call, tmp_path):
    code, out, err = call(*RUN, "--seeds", "27", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["plan"]["options"] == {"rank": 8, "mode": "mean"}
    (cell,) = result["cells"]
    assert (cell["seed"], cell["skipped"], cell["error"]) == (27, False, None)
    assert cell["path"].startswith(str(tmp_path))
    assert result["metrics"]["27"]["server"]["rouge_lsum"]["value"] == 0.4
    assert result["transmitted"]["ratios"]["one_way"]["definition"] == "LoRA one way and fused"
    assert err.splitlines()[0] == "alpha on toy, rho 0.5, seeds 27; packages are being loaded"


@pytest.mark.usefixtures("fake_run")
def test_json_has_the_rows_of_the_data_frame_under_the_same_names(call):
    rows = json.loads(call(*RUN, "--n-seeds", "2", "--json", "--quiet")[1])["scores"]
    frame = mlecs_bench.run(algo="alpha", dataset="toy", rho=0.5, n_seeds=2, quiet=True).to_dataframe()
    assert list(rows[0]) == list(frame.columns)
    assert rows == frame.to_dict("records")


@pytest.mark.usefixtures("fake_run")
def test_quiet_leaves_stderr_empty(call):
    code, out, err = call(*RUN, "--n-seeds", "1", "--quiet")
    assert (code, err) == (0, "")
    assert "alpha" in out


def test_places_and_workers_reach_the_protocol(call, fake_run, tmp_path, monkeypatch):
    monkeypatch.setenv("MLECS_BENCH_CACHE", str(tmp_path / "env"))
    call(*RUN, "--n-seeds", "1", "--out", str(tmp_path / "o"), "--workers", "2")
    assert fake_run.execution == jobs.Execution(out=tmp_path / "o", cache_dir=tmp_path / "env", workers=2)
    call(*RUN, "--n-seeds", "1", "--cache-dir", str(tmp_path / "flag"), "--fleet", "processes:2")
    assert fake_run.execution.cache_dir == tmp_path / "flag"
    assert (str(fake_run.execution.out), fake_run.execution.workers) == ("results/scratch", None)
    assert (fake_run.execution.engine, fake_run.execution.fleet) == (None, "processes:2")


def test_workers_are_a_number_a_name_or_both():
    def workers(value):
        places = build_request({"algo": "a", "dataset": "d", "rho": 1, "workers": value}).places
        return places.engine, places.argument, places.workers

    for value, expected in (
        (None, (None, "", None)), ("4", (None, "", 4)), (4, (None, "", 4)), ("mine", ("mine", "", None)),
        ("mine:12", ("mine", "12", 12)), ("ray:10.0.0.1:6379", ("ray", "10.0.0.1:6379", None)),
        ("slurm:partition=cpu,gpus=1", ("slurm", "partition=cpu,gpus=1", None)),
    ):  # fmt: skip  # what a user writes and what it means
        assert workers(value) == expected
    for wrong in (0, "0", -1, True, "mine:", ":4", ":", "", 1.5):
        with pytest.raises(UsageError) as caught:
            workers(wrong)
        expected = f"workers must be a whole number of at least 1, NAME or NAME:ARGUMENT, got {wrong}"
        assert str(caught.value) == expected


def test_wrong_workers_and_fleets_are_refused_before_anything_is_prepared(call, tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "prepare", lambda *_: pytest.fail("data was prepared"))
    for flag, value, expected in (
        ("--workers", "proceses", "no workers 'proceses'. Did you mean 'processes'? Known: in-process, processes"),
        ("--workers", "0", "workers must be a whole number of at least 1, NAME or NAME:ARGUMENT, got 0"),
        ("--workers", "in-process:2", "--workers in-process takes no number, got 2; leave it out"),
        ("--fleet", "in-proces", "no fleet 'in-proces'. Did you mean 'in-process'? Known: in-process, nvflare, proc"),
        ("--workers", "processes:x", "--workers processes takes a number from 1 on, such as processes:2, got 'x'"),
        ("--fleet", "processes:0", "--fleet processes takes a number from 1 on, such as processes:2, got '0'"),
        ("--fleet", "processes:", "--fleet takes NAME or NAME:ARGUMENT, such as processes:2, got 'processes:'"),
        ("--fleet", "processes:two", "--fleet processes takes a number from 1 on, such as processes:2, got 'two'"),
        ("--fleet", "in-process:3", "--fleet in-process takes no number, got 3; leave it out"),
    ):
        places = ("--out", str(tmp_path / "o"), "--cache-dir", str(tmp_path / "c"))
        code, out, err = call(*RUN, flag, value, *places, "--quiet")
        assert (code, out, err.count("\n")) == (2, "", 1), value
        assert err.startswith(f"error: {expected}")


def test_a_failed_cell_ends_the_command_with_one_and_spares_the_others(call, fake_run):
    fake_run.errors = {34: "training has diverged"}
    code, out, err = call(*RUN, "--n-seeds", "2", "--quiet")
    assert code == 1
    assert "1 record of this run in" in out
    assert "error: alpha toy rho 0.5 seed 34: training has diverged" in err
    assert err.endswith("error: 1 of 2 cells failed\n")


def test_a_defect_in_a_cell_shows_its_traceback_once(call, fake_run):
    fake_run.errors = {27: "Traceback (most recent call last):\n  File x\nKeyError: 'd00'\n"}
    code, out, err = call(*RUN, "--n-seeds", "1", "--quiet")
    assert (code, out) == (1, "")
    assert err.count("Traceback") == 1
    assert "error: alpha toy rho 0.5 seed 27: KeyError: 'd00'" in err


def test_json_of_a_run_that_failed_altogether(call, fake_run):
    fake_run.errors = {27: "no"}
    code, out, _ = call(*RUN, "--seeds", "27", "--json", "--quiet")
    result = json.loads(out)
    assert code == 1
    assert result["cells"] == [{"seed": 27, "path": None, "skipped": False, "error": "no"}]
    assert result["summary"] is None


def test_an_interrupted_run_says_how_to_go_on(call, fake_run):
    fake_run.raises = sweep.Interrupted(1, 2, "Run the same command again.")
    code, out, err = call(*RUN, "--n-seeds", "2", "--quiet")
    assert (code, out, err) == (130, "", "interrupted: 1 of 2 cells are done. Run the same command again.\n")


def test_the_view_is_closed_however_a_run_ends(monkeypatch, call, fake_run):
    for error in (None, sweep.Interrupted(0, 1, ""), KeyError("defect")):
        events = []
        view = types.SimpleNamespace(
            say=lambda text, events=events: events.append("say"), close=lambda events=events: events.append("close")
        )
        monkeypatch.setattr(run_module, "make_view", lambda n_cells, stream, quiet, view=view: view)
        fake_run.raises = error
        with contextlib.suppress(KeyError):
            call(*RUN, "--n-seeds", "1")
        assert (events[0], events[-1]) == ("say", "close")


def test_one_limit_is_that_of_both_kinds_of_training_samples_unless_these_have_their_own(call):
    both = ("private_limit", "public_limit")
    for flags, expected in (
        (["--limit", "5"], {"private_limit": 5, "public_limit": 5}),
        (["--limit", "5", "--public-limit", "9"], {"private_limit": 5, "public_limit": 9}),
        (["--limit-test", "3"], {"test_limit": 3}),
        (["--limit", "all"], dict.fromkeys(both, None)),
        ([], {}),
    ):
        plan = dry(call, *RUN, *flags)
        own = {name: limit for name, limit in expected.items() if limit != getattr(MINI, name)}
        assert {name: plan["own_settings"][name] for name in LIMITS if name in plan["own_settings"]} == own, flags
        assert {name: plan["profile"][name] for name in expected} == expected
        assert all(name.replace("_", " ") in plan["variant"] for name in own)
    code, _, err = call(*RUN, "--limit", "0", "--dry-run")
    assert (code, err.count("\n")) == (2, 1)


def test_what_is_kept_is_asked_for_by_flags_or_a_file(call, tmp_path, fake_run):
    for text, flags, expected in (
        ("threads: 1", [], (None, False)),
        ("save_predictions: false\nsave-models: true", [], (False, True)),
        ("save_predictions: false", ["--save-predictions", "--save-models"], (True, True)),
        ("save_models: true", ["--no-save-predictions"], (False, True)),
    ):
        assert call(*write(tmp_path / "keep.yaml", text), *RUN[1:], *flags, "--seeds", "27", "--quiet")[0] == 0
        assert (fake_run.execution.save_predictions, fake_run.execution.save_models) == expected, text
    code, _, err = call(*write(tmp_path / "c.yaml", "save_models: 3"), *RUN[1:], "--dry-run")
    assert (code, err) == (2, "error: save-models must be true or false, got 3\n")


def test_a_limit_reaches_the_plan_as_a_number_and_all_lifts_it(call, tmp_path):
    for text, limit in (("7", 7), ("'7'", 7), ("all", None), ("null", MINI.private_limit)):
        values = dry(call, *write(tmp_path / "c.yaml", f"private_limit: {text}\n"), *RUN[1:])
        assert values["profile"]["private_limit"] == limit, text
    command = write(tmp_path / "c.yaml", "private_limit: 7\n")
    assert dry(call, *command, *RUN[1:], "--private-limit", "all")["profile"]["private_limit"] is None


# run --config


def write(path, text: str) -> list[str]:
    path.write_text(text)
    return ["run", "--config", str(path)]


YAML = """
algo: alpha
dataset: toy
rho: {audio: 0.25, vision: 1}
n-devices: 4
n_seeds: 3
options: {rank: 4, mode: max}
out: from-file
"""


def test_a_config_file_is_as_good_as_flags(call, tmp_path):
    values = dry(call, *write(tmp_path / "c.yaml", YAML))
    assert values["rho"] == {"audio": 0.25, "vision": 1.0}
    assert (len(values["structures"]), values["seeds"]) == (4, [27, 34, 46])
    assert values["options"] == {"rank": 4, "mode": "max"}


def test_the_command_line_wins_over_the_file(call, tmp_path, fake_run):
    command = write(tmp_path / "c.yaml", YAML)
    values = dry(call, *command, "--rho", "1", "-o", "rank=2", "--seeds", "8", "--n-devices", "2")
    assert (values["rho"], values["seeds"], len(values["structures"])) == (1.0, [8], 2)
    assert values["options"] == {"rank": 2, "mode": "max"}
    call(*command, "--out", str(tmp_path), "--quiet")
    assert fake_run.execution.out == tmp_path
    call(*command, "--quiet")
    assert str(fake_run.execution.out) == "from-file"


@pytest.mark.usefixtures("fake_run")
def test_what_a_run_and_a_dry_run_print_is_a_config_of_the_same_run(call, tmp_path):
    flags = [*RUN, "-o", "rank=3", "--seeds", "4,5", "--split", "sequence"]
    printed = call(*flags, "--json", "--quiet")[1]
    for text in (printed, json.dumps(json.loads(printed)["spec"]), call(*flags, "--dry-run")[1]):
        assert dry(call, *write(tmp_path / "again.json", text)) == dry(call, *flags)


def test_seeds_of_a_file(call, tmp_path):
    for text, seeds in (
        ("seeds: 27,34", [27, 34]), ("seeds: [27, 34]", [27, 34]), ("n-seeds: 2", [27, 34]), ("seeds: 7", [7]),
    ):  # fmt: skip  # what a file says and what it means
        assert dry(call, *write(tmp_path / "c.yml", f"{text}\n"), *RUN[1:])["seeds"] == seeds


WRONG_FILES = (
    ("c.yaml", "n_device: 3", "has an unknown setting 'n_device'. Did you mean 'n_devices'?"),
    ("c.yaml", "json: true", "has an unknown setting 'json'"),
    ("c.yaml", "- algo", "must hold settings as 'name: value', got list"),
    ("c.yaml", "", "must hold settings as 'name: value', got NoneType"),
    ("c.yaml", "a: [1", "is neither YAML nor JSON"),
    ("c.json", "{", "is neither YAML nor JSON"),
    ("c.yaml", "options: rank=4", "'options' in"),
    ("c.yaml", "rounds: 0", "rounds must be a whole number of at least 1, got 0"),
    ("c.yaml", "rounds: many", "rounds must be a whole number of at least 1, got many"),
    ("c.yaml", "workers: 0", "workers must be a whole number of at least 1, NAME or NAME:ARGUMENT, got 0"),
    ("c.yaml", "workers: 'two:'", "workers must be a whole number of at least 1, NAME or NAME:ARGUMENT, got two:"),
    ("c.yaml", "n_seeds: 9", "n-seeds must be from 1 to 5, got 9"),
    ("c.yaml", "seeds: [a]", "seeds must be whole numbers with commas"),
    ("c.yaml", "private_limit: 0", "private-limit must be a whole number of at least 1, or all, got 0"),
    ("c.yaml", "private-limit: 2.5", "private-limit must be a whole number of at least 1, or all, got 2.5"),
    ("c.yaml", "public_limit: true", "public-limit must be a whole number of at least 1, or all, got True"),
    (
        "c.yaml",
        "public_limit: [4, 8]",
        "c.yaml stands for 2 runs, and run takes one; for all of them: mlecs-bench sweep --study ",
    ),
    ("c.yaml", "budget: half", "budget must be paper or equal, got half"),
)


def test_a_wrong_config_file_is_refused_in_one_line(call, tmp_path):
    for name, text, expected in WRONG_FILES:
        code, out, err = call(*write(tmp_path / name, text), *RUN[1:], "--dry-run")
        assert (code, out, err.count("\n")) == (2, "", 1), text
        assert expected in err


def test_a_file_that_is_no_text_is_refused(call, tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00algo")
    code, _, err = call(*RUN, "--config", str(tmp_path / "c.yaml"), "--dry-run")
    assert (code, err.count("\n")) == (2, 1)
    assert "is neither YAML nor JSON" in err


def test_the_cache_folder_follows_the_environment(monkeypatch):
    for environment, expected in (
        ({"MLECS_BENCH_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/mlecs-bench"),
        ({"HOME": "/home/me"}, "/home/me/.cache/mlecs-bench"),
        ({"MLECS_BENCH_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/mlecs-bench"),
    ):
        for name in ("MLECS_BENCH_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert str(default_cache_dir()) == expected


def test_trackers_come_from_the_file_unless_a_flag_names_others(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("algo: alpha\ndataset: toy\nrho: 0.5\ntrack: [mlflow, wandb, mlflow]\n")
    for flag, names in ((None, ("mlflow", "wandb")), ("a, b", ("a", "b")), ("none", ())):
        assert build_request({"track": flag}, read_file(path)).places.track == names


def test_a_tracker_that_is_not_there_is_refused_before_anything_starts(call, tmp_path):
    command = ("run", "--algo", "alpha", "--dataset", "toy", "--rho", "0.5", "--track", "tensorbord", "--dry-run")
    code, out, err = call(*command)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: no tracker 'tensorbord'.")
