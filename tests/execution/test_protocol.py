"""Whole runs and sweeps through the command line in processes of their own: kill, interrupt, resume, workers.

The toy dataset enters as a stranger's plugin would, by an entry point of a distribution on the path.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import toy

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parent.parent
PLUGIN = """
from pathlib import Path
import toy
from mlecs_bench.api import DatasetInfo, hookimpl, open_prepared

def prepare(request):
    folder = request.cache_dir / "toy"
    return open_prepared(folder) or toy.make_prepared(folder)

@hookimpl
def mlecs_dataset():
    return DatasetInfo("Toy", "words", "generation", ("audio", "text", "video"), prepare, ("rouge_lsum",),
                       splits=("frame", "sequence"))
"""
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


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder for the path: a distribution with a dataset and a broken algorithm, and two toy models beside it."""
    root = tmp_path_factory.mktemp("site")
    (root / "toy_plugin.py").write_text(PLUGIN)
    (root / "dying_plugin.py").write_text(DYING)
    info = root / "toy_plugins-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-plugins\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[mlecs_bench.datasets]\ntoy = toy_plugin\n[mlecs_bench.algorithms]\ndying = dying_plugin\n"
    )
    toy.make_gpt2(root / "slm")
    toy.make_gptj(root / "llm")
    return root


def command(
    site: Path, out: Path, algo: str = "ml-ecs", verb: str = "run", **flags: object
) -> tuple[list[str], dict[str, str]]:
    values = {"rounds": 3, "steps": 2, "seeds": "27", "workers": 1} | flags
    args = [sys.executable, "-m", "mlecs_bench.cli.main", verb, "--algo", algo, "--dataset", "toy", "--rho", "0.6"]
    args += ["--slm", str(site / "slm"), "--llm", str(site / "llm"), "--out", str(out), "--cache-dir", str(out / "c")]
    args += [str(part) for name, value in values.items() for part in (f"--{name}", value)]
    path = os.pathsep.join([str(site), str(TESTS), *(p for p in sys.path if p)])
    return args, os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def run(site: Path, out: Path, algo: str = "ml-ecs", **flags: object) -> subprocess.CompletedProcess[str]:
    args, env = command(site, out, algo, **flags)
    return subprocess.run(args, env=env, capture_output=True, text=True, check=False, timeout=250)


def stop_after(site: Path, out: Path, text: str, with_signal: int, **flags: object) -> tuple[int, str]:
    """Start a run, signal its process group when `text` appears on stderr, and return exit code and the rest."""
    args, env = command(site, out, **flags)
    with subprocess.Popen(
        args,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that run in the background ignore SIGINT, and the child would inherit that; at a terminal it would not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # no other thread runs here
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if text in line:
                os.killpg(process.pid, with_signal)
                break
        else:
            raise AssertionError(f"'{text}' never appeared")
        rest = process.stderr.read()
        return process.wait(timeout=60), rest


def records(out: Path) -> dict[int, dict[str, object]]:
    """Return what must not depend on how a run was carried out: everything but times and provenance."""
    found = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    for record in found:
        del record["provenance"]
        del record["cost"]["seconds"]
    return {record["identity"]["seed"]: record for record in found}


@pytest.fixture(scope="module")
def whole(site, tmp_path_factory):
    """Two seeds run in one process without a stop."""
    out = tmp_path_factory.mktemp("whole")
    result = run(site, out, seeds="27,34")
    assert result.returncode == 0, result.stderr
    return records(out)


def test_two_workers_give_the_records_of_one(site, tmp_path, whole):
    assert run(site, tmp_path, seeds="27,34", workers=2).returncode == 0
    assert records(tmp_path) == whole


def test_a_killed_run_goes_on_from_its_last_round(site, tmp_path, whole):
    code, _ = stop_after(site, tmp_path, "round 2/3 done", signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert records(tmp_path) == {}
    result = run(site, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "round 1/3" not in result.stderr
    assert "round 2/3" not in result.stderr
    assert records(tmp_path) == {27: whole[27]}
    assert not list((tmp_path / ".checkpoints").glob("*"))


def test_ctrl_c_says_how_to_go_on_and_loses_no_finished_round(site, tmp_path, whole):
    code, rest = stop_after(site, tmp_path, "round 1/3 done", signal.SIGINT, seeds="27,34", workers=2)
    assert code == 130
    assert "run the same command again" in rest
    assert "Traceback" not in rest
    assert run(site, tmp_path, seeds="27,34", workers=2).returncode == 0
    assert records(tmp_path) == whole


def test_a_finished_seed_is_skipped(site, tmp_path):
    assert run(site, tmp_path, rounds=1).returncode == 0
    path = next(tmp_path.glob("*.json"))
    before = path.read_bytes()
    again = run(site, tmp_path, rounds=1)
    assert again.returncode == 0
    assert "round 1/1" not in again.stderr
    assert path.read_bytes() == before


def test_a_worker_that_dies_is_one_line_and_costs_its_own_seed_only(site, tmp_path):
    result = run(site, tmp_path, "dying", seeds="34,52", workers=2)
    assert result.returncode == 1
    assert "the worker process was killed by SIGKILL, perhaps because memory ran out" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(records(tmp_path)) == [52]


def test_a_defect_in_a_plugin_costs_its_own_seed_only(site, tmp_path):
    result = run(site, tmp_path, "dying", seeds="46,52")
    assert result.returncode == 1
    assert "a defect of the plugin" in result.stderr
    assert list(records(tmp_path)) == [52]


def test_sequence_split_and_modality_rates_reach_the_record(site, tmp_path):
    args = {"rounds": 1, "split": "sequence", "rho": "audio=0.5,text=1,video=0.5"}
    assert run(site, tmp_path, "multi-fedavg", **args).returncode == 0
    (record,) = records(tmp_path).values()
    assert record["identity"]["rho"] == {"audio": 0.5, "text": 1.0, "video": 0.5}
    assert record["identity"]["dataset"]["split"] == "sequence"
    assert all("text" in held for held in record["realised"]["modalities"].values())


# Sweeps


def outcomes(out: Path) -> dict[tuple[str, int], str]:
    """Return how the cells of a folder ended: algorithm and seed to "done" or the error."""
    found = {}
    for path in out.glob("*.json"):
        identity = json.loads(path.read_text())["identity"]
        found[identity["algo"]["name"], identity["seed"]] = "done"
    for path in (out / "failures").glob("*.json"):
        failure = json.loads(path.read_text())
        found[failure["identity"]["algo"]["name"], failure["identity"]["seed"]] = failure["error"]
    return found


def test_a_sweep_outlives_killed_workers_and_defects_and_retries_only_what_failed(site, tmp_path):
    settings = {"verb": "sweep", "seeds": "34,46,52", "rounds": 1, "workers": 2}
    result = run(site, tmp_path, "dying,standalone", **settings)
    assert result.returncode == 1
    ended = outcomes(tmp_path)
    assert {cell for cell, how in ended.items() if how == "done"} == {
        ("dying", 52), ("standalone", 34), ("standalone", 46), ("standalone", 52)
    }  # fmt: skip  # one line of cells
    assert "killed by SIGKILL" in ended["dying", 34]
    assert "a defect of the plugin" in ended["dying", 46]
    assert "4 of 6 cells have records" in result.stdout
    assert "--retry failed" in result.stdout
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
    unasked = run(site, tmp_path, "dying,standalone", **settings)
    assert (unasked.returncode, "killed by SIGKILL" in unasked.stdout) == (1, True)
    attempts = {json.loads(path.read_text())["attempts"] for path in (tmp_path / "failures").glob("*.json")}
    assert attempts == {1}
    run(site, tmp_path, "dying,standalone", **settings, retry="failed")
    attempts = {json.loads(path.read_text())["attempts"] for path in (tmp_path / "failures").glob("*.json")}
    assert attempts == {2}
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.json")} == before


def test_a_sweep_that_was_interrupted_goes_on_to_the_same_records(site, tmp_path, whole):
    stop = {"verb": "sweep", "seeds": "27,34", "workers": 2, "algo": "ml-ecs,standalone"}
    code, rest = stop_after(site, tmp_path, "done: ", signal.SIGINT, **stop)
    assert code == 130
    assert "run the same command again" in rest
    assert "Traceback" not in rest
    assert 0 < len(outcomes(tmp_path)) < 4
    result = run(site, tmp_path, "ml-ecs,standalone", verb="sweep", seeds="27,34", workers=2)
    assert result.returncode == 0, result.stderr
    assert outcomes(tmp_path) == dict.fromkeys(((a, s) for a in ("ml-ecs", "standalone") for s in (27, 34)), "done")
    for path in tmp_path.glob("standalone*.json"):
        path.unlink()
    assert records(tmp_path) == whole


def test_two_sweeps_of_one_folder_share_the_work(site, tmp_path):
    args, env = command(site, tmp_path, "standalone,multi-fedavg", "sweep", seeds="27,34,46", rounds=1)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(args, env=env, **pipes) as first, subprocess.Popen(args, env=env, **pipes) as second:
        said = [process.communicate(timeout=250)[1] for process in (first, second)]
        assert (first.returncode, second.returncode) == (0, 0), said
    assert len(outcomes(tmp_path)) == 6
    finished = [line.split(" (")[0] for text in said for line in text.splitlines() if line.startswith("done: ")]
    assert len(finished) == len(set(finished)) == 6
