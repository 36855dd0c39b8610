"""Whole runs and sweeps through the command line, on toys: what records hold, skip, fail, kill, interrupt, resume.

The toy dataset enters as a stranger's plugin would, by an entry point of a distribution on the path. Cells are run in
this process where nothing depends on there being another.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fabricated import write_metadata
from mlecs_bench.cli.main import main
from mlecs_bench.records.failures import read_failures
from mlecs_bench.records.results import read_records, record_files
from mlecs_bench.testing import toy as made
from mlecs_bench.testing.installed import DATASET, installed

DYING = """
import os, signal
from mlecs_baselines.standalone import Standalone, StandaloneOptions
from mlecs_bench.api import AlgorithmInfo, hookimpl

class Dying(Standalone):
    def local_update(self, device, t):
        if device.seed == 34:
            os.kill(os.getpid(), signal.SIGKILL)
        if device.seed == 46:
            raise RuntimeError("a defect of the plugin")
        return super().local_update(device, t)

@hookimpl
def mlecs_algorithm():
    return AlgorithmInfo("Dying", "dies", lambda options: Dying(StandaloneOptions()))
"""


@pytest.fixture(scope="module", autouse=True)
def _site(tmp_path_factory):
    """A broken algorithm and the toy dataset are installed, in this process and in those that it starts."""
    root = tmp_path_factory.mktemp("site")
    (root / "dying_plugin.py").write_text(DYING)
    write_metadata(root, "dying", "1.0", {"mlecs_bench.algorithms": {"dying": "dying_plugin"}})
    with installed(), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(root), os.environ["PYTHONPATH"]]))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def command(out: Path, algo: str = "ml-ecs", verb: str = "run", **flags: object) -> list[str]:
    values = {"rho": 0.6, "rounds": 3, "steps": 2, "seeds": "27", "workers": 1} | flags
    profile = made.profile()
    args = [verb, "--algo", algo, "--dataset", DATASET, "--slm", profile.slm, "--llm", profile.llm]
    args += ["--out", str(out), "--cache-dir", str(made.process_folder() / "protocol")]
    return args + [str(part) for name, value in values.items() for part in (f"--{name}", value)]


def records(out: Path) -> dict[tuple[str, int], dict[str, object]]:
    """Return what must not depend on how a run was carried out: everything but times and provenance."""
    found = {}
    for record in read_records(out)[0]:
        own = {key: value for key, value in record.items() if key != "provenance"}
        own["cost"] = {key: value for key, value in record["cost"].items() if key != "seconds"}
        found[record["identity"]["algo"]["name"], record["identity"]["seed"]] = own
    return found


def failed(out: Path) -> dict[tuple[str, int], tuple[str, int]]:
    """Return the error and the attempts of the cells that failed."""
    found = read_failures(out)[0]
    return {(f.identity["algo"]["name"], f.identity["seed"]): (f.error, f.attempts) for f in found}


def files(out: Path) -> dict[Path, bytes]:
    """Return the bytes of all records."""
    return {path: path.read_bytes() for path in record_files(out)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two seeds run in this process without a stop."""
    out = tmp_path_factory.mktemp("whole")
    assert main([*command(out, seeds="27,34"), "--quiet"]) == 0
    return records(out)


# In this process


def test_what_a_run_was_asked_for_is_in_its_record_and_the_second_time_it_is_skipped(tmp_path, capsys):
    flags = {"rounds": 1, "split": "sequence", "rho": "audio=0.5,text=1,video=0.5"}
    assert main(command(tmp_path, "multi-fedavg", **flags)) == 0
    (record,) = records(tmp_path).values()
    assert record["identity"]["rho"] == {"audio": 0.5, "text": 1.0, "video": 0.5}
    assert record["identity"]["dataset"]["split"] == "sequence"
    assert all("text" in held for held in record["realised"]["modalities"].values())
    assert "round 1/1 done" in capsys.readouterr().err
    before = files(tmp_path)
    assert main(command(tmp_path, "multi-fedavg", **flags)) == 0
    assert "round 1/1" not in capsys.readouterr().err
    assert files(tmp_path) == before


def test_a_defect_in_a_plugin_costs_its_own_cells_only_and_is_retried_when_asked(tmp_path, capsys):
    settings = {"verb": "sweep", "seeds": "46,52", "rounds": 1, "workers": "in-process"}
    assert main(command(tmp_path, "dying,standalone", **settings)) == 1
    out = capsys.readouterr().out
    assert records(tmp_path).keys() == {("dying", 52), ("standalone", 46), ("standalone", 52)}
    ((error, attempts),) = failed(tmp_path).values()
    assert error.splitlines()[-1] == "RuntimeError: a defect of the plugin"
    assert attempts == 1
    assert "3 of 4 cells have records" in out
    assert "--retry failed" in out
    before = files(tmp_path)
    assert main(command(tmp_path, "dying,standalone", **settings)) == 1
    assert "RuntimeError: a defect of the plugin" in capsys.readouterr().out
    assert files(tmp_path) == before
    assert failed(tmp_path) == {("dying", 46): (error, 1)}
    assert main([*command(tmp_path, "dying,standalone", **settings), "--retry", "failed"]) == 1
    assert failed(tmp_path) == {("dying", 46): (error, 2)}
    assert len(records(tmp_path)) == 3


# In processes of their own


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mlecs_bench.cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that run in the background ignore SIGINT, and the child would inherit that; at a terminal it would not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # no other thread runs here
    )


def ended(arguments: list[str]) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a command."""
    with start(arguments) as process:
        out, err = process.communicate(timeout=250)
        return process.returncode, out, err


def stop_after(arguments: list[str], text: str, with_signal: int) -> tuple[int, str]:
    """Start a command, signal its process group when `text` appears on stderr; return exit code and the rest."""
    with start(arguments) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if text in line:
                os.killpg(process.pid, with_signal)
                break
        else:
            raise AssertionError(f"'{text}' never appeared")
        rest = process.stderr.read()
        return process.wait(timeout=60), rest


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_round_to_the_same_records_with_any_number_of_workers(tmp_path, whole):
    code, _ = stop_after(command(tmp_path), "round 2/3 done", signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert records(tmp_path) == {}
    code, _, err = ended(command(tmp_path, seeds="27,34", workers=2))
    assert code == 0, err
    assert re.search(r"seed 27 \(.*\): 3 rounds, 3 devices, resumed after round 2\n", err)
    assert not re.search(r"seed 27 \(.*\): round 2/3", err)
    assert records(tmp_path) == whole
    assert not list((tmp_path / ".checkpoints").glob("*"))


@pytest.mark.slow
@pytest.mark.nightly
def test_ctrl_c_says_how_to_go_on_and_loses_no_finished_round(tmp_path, whole):
    code, rest = stop_after(command(tmp_path, seeds="27,34"), "round 1/3 done", signal.SIGINT)
    assert code == 130
    assert "run the same command again" in rest
    assert "Traceback" not in rest
    assert records(tmp_path).keys() < whole.keys()
    # A sweep, with workers, goes on where the run was stopped, and is stopped in its turn when its first cell is done.
    arguments = command(tmp_path, "ml-ecs,standalone", "sweep", seeds="27,34", workers=2)
    code, rest = stop_after(arguments, "done: ", signal.SIGINT)
    assert code == 130
    assert "run the same command again" in rest
    assert "Traceback" not in rest
    assert 0 < len(records(tmp_path)) < 4
    assert main([*arguments, "--quiet"]) == 0
    found = records(tmp_path)
    assert found.keys() == {(algo, seed) for algo in ("ml-ecs", "standalone") for seed in (27, 34)}
    assert {cell: record for cell, record in found.items() if cell[0] == "ml-ecs"} == whole
    assert any(r["provenance"]["resumed_from_round"] for r in read_records(tmp_path)[0])


@pytest.mark.nightly
def test_a_sweep_outlives_killed_workers_and_two_sweeps_of_one_folder_share_the_work(tmp_path):
    arguments = command(tmp_path, "dying,standalone", "sweep", seeds="34,46,52", rounds=1, workers=2)
    with start(arguments) as first, start(arguments) as second:
        said = [process.communicate(timeout=250) for process in (first, second)]
    assert (first.returncode, second.returncode) == (1, 1), said
    done = {("dying", 52), ("standalone", 34), ("standalone", 46), ("standalone", 52)}
    assert records(tmp_path).keys() == done
    ended_badly = failed(tmp_path)
    assert ended_badly.keys() == {("dying", 34), ("dying", 46)}
    death = "the worker process was killed by SIGKILL, perhaps because memory ran out; every finished round is kept"
    assert ended_badly["dying", 34] == (death, 1)
    assert "a defect of the plugin" in ended_badly["dying", 46][0]
    for out, err in said:
        assert "4 of 6 cells have records" in out
        assert death.partition(";")[0] in out
        assert "Traceback" not in out + err
    lines = [line.split(" (")[0] for _, err in said for line in err.splitlines() if line.startswith("done: ")]
    assert len(lines) == len(set(lines)) == len(done)
    before = files(tmp_path)
    code, _, _ = ended([*arguments, "--retry", "failed"])
    assert code == 1
    assert {attempts for _, attempts in failed(tmp_path).values()} == {2}
    assert files(tmp_path) == before
