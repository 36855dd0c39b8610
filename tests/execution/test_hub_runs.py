"""Runs with models of a hub: everything comes before the first cell, nothing later, and offline nothing at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub_server import Repository, reached, served
from mlecs_bench.cli.main import main
from mlecs_bench.models.outline import _whole_shape
from mlecs_bench.records.results import read_records
from mlecs_bench.testing import toy as made
from mlecs_bench.testing.installed import DATASET, installed

SMALL, LARGE = "somebody/small", "somebody/large"


@pytest.fixture(scope="module", autouse=True)
def _toys():
    with installed():
        yield


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with the toy profile's models, and an empty cache."""
    profile = made.profile()
    models = {"somebody__small": Repository.of(profile.slm), "somebody__large": Repository.of(profile.llm)}
    with served(**models) as hub:
        reached(monkeypatch, hub, tmp_path / "hub")
        _whole_shape.cache_clear()
        yield hub
        _whole_shape.cache_clear()


def command(out: Path, slm: str = SMALL, llm: str = LARGE, verb: str = "run", *more: str) -> list[str]:
    args = [verb, "--algo", "standalone", "--dataset", DATASET, "--slm", slm, "--llm", llm, "--rho", "0.6"]
    args += ["--cache-dir", str(made.process_folder() / "hub-runs"), "--rounds", "1"]
    if verb != "comm":
        args += ["--out", str(out), "--seeds", "27", "--steps", "1", "--bertscore-model", "none", "--workers", "1"]
    return [*args, *more]


def record_of(out: Path) -> dict:
    (record,) = read_records(out)[0]
    return record


def test_models_are_named_and_fetched_before_the_first_cell_and_compute_what_their_folders_do(hub, tmp_path, capsys):
    assert main(command(tmp_path / "online")) == 0
    said = capsys.readouterr().err.splitlines()
    fetching = [n for n, line in enumerate(said) if line.startswith("fetching somebody/")]
    (began,) = [n for n, line in enumerate(said) if "1 rounds, 3 devices" in line]
    assert len(fetching) >= 4
    assert max(fetching) < began
    record = record_of(tmp_path / "online")
    commit = hub.repositories[SMALL].commit
    assert record["provenance"]["hub"] == {SMALL: commit, LARGE: commit}
    assert record["identity"]["profile"]["slm"] == {"name": "small", "digest": f"{SMALL}@{commit}"}
    hub.asked.clear()
    assert main(command(tmp_path / "again", f"{SMALL}@main", LARGE, "run", "--offline")) == 0
    assert hub.asked == [], "not even the hub's name was looked up"
    profile = made.profile()
    assert main(command(tmp_path / "folders", profile.slm, profile.llm)) == 0
    folders = record_of(tmp_path / "folders")
    assert "hub" not in folders["provenance"]
    assert record["metrics"] == folders["metrics"] == record_of(tmp_path / "again")["metrics"]


def test_offline_is_one_line_and_no_request(hub, tmp_path, capsys):
    for verb in ("run", "sweep", "comm"):
        assert main([*command(tmp_path / "out", verb=verb), "--offline"]) == 2
        *_, line = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"error: '{SMALL}' is not in the hub's cache, and --offline or HF_HUB_OFFLINE=1 forbids")
        assert "models import" in line
    assert hub.asked == []


def test_what_is_only_looked_at_needs_no_weights(hub, tmp_path, capsys):
    assert main(command(tmp_path, verb="comm")) == 0
    assert hub.given == ["config.json"] * 2
    assert "fetching somebody/large" in capsys.readouterr().err
    assert main(command(tmp_path / "out", SMALL, LARGE, "sweep", "--dry-run")) == 0
    assert "1 to do" in capsys.readouterr().out
    assert "tokenizer.json" in hub.given
    assert "model.safetensors" not in hub.given


def test_models_are_fetched_ahead_of_a_run(hub, tmp_path, capsys):
    ahead = [
        "models",
        "fetch",
        "--slm",
        SMALL,
        "--llm",
        LARGE,
        "--bertscore-model",
        "none",
        "--cache-dir",
        str(tmp_path),
    ]
    assert main([*ahead, "--offline"]) == 2
    capsys.readouterr()
    reached_again = pytest.MonkeyPatch()
    reached(reached_again, hub, tmp_path / "hub")
    try:
        assert main(ahead) == 0
    finally:
        reached_again.undo()
    assert capsys.readouterr().out.splitlines()[-1] == "a run finds its models on this machine"
    assert hub.given.count("model.safetensors") == 2
    assert main([*ahead, "--offline"]) == 0
