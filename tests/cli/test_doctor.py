"""`doctor`: what is missing is named with its cure, and only what the default run needs decides the exit code."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import shutil
import sys
import types
from functools import partial
from pathlib import Path

import pytest

from cli_fakes import ENTRIES, OWN, call_main, install
from hub_server import Repository, reached, served
from mlecs_bench.cli import doctor
from mlecs_bench.doors.registry import PluginEntry, Registry

SOUND = [entry for entry in ENTRIES if entry.name != "gone"]
MINI = Registry.installed().profile("mini").info
PROFILES = tuple(
    PluginEntry(name, "profile", "mlecs-bench", "0.1.0", f"acme_profiles:{name}") for name in ("mini", "big")
)
"""Of these only the first is installed, but where a test says otherwise."""


class Distribution:
    """Stands in for the metadata of the installed mlecs-bench."""

    def __init__(self, origin: dict | None) -> None:
        self._origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self._origin is None else json.dumps(self._origin)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A profile `mini` whose files are all there."""
    for side in ("slm", "llm"):
        (tmp_path / side).mkdir()
        for name in doctor.CHECKPOINT_FILES:
            (tmp_path / side / name).write_text("{}")
    (tmp_path / "encoders.safetensors").write_text("")
    paths = {"slm": str(tmp_path / "slm"), "llm": str(tmp_path / "llm"), "encoders": tmp_path / "encoders.safetensors"}
    module = types.ModuleType("acme_profiles")
    module.mini = dataclasses.replace(MINI, **paths)
    module.big = dataclasses.replace(MINI, name="big", slm="nobody/no-such", llm="nobody/no-such", encoders=None)
    monkeypatch.setitem(sys.modules, "acme_profiles", module)
    return tmp_path


def put(monkeypatch: pytest.MonkeyPatch, entries=SOUND, profiles=PROFILES[:1]) -> None:
    """Let only `entries` and `profiles` be installed, beside the package's own plugins of other kinds."""
    install(monkeypatch, [*entries, *profiles], [entry for entry in OWN if entry.kind != "profile"])


@pytest.fixture
def call(monkeypatch, capsys, tmp_path, weights):
    """Run the command line where nothing is missing."""
    put(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLECS_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLECS_BENCH_PLUGINS", raising=False)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["torch>=2.6", 'ruff; extra == "dev"'])
    return partial(call_main, capsys, "doctor")


def checks(call, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Return the exit code and the checks by name."""
    code, out, _ = call("--json", *arguments)
    result = json.loads(out)
    assert result["ok"] is (code == 0)
    return code, {check["name"]: check for check in result["checks"]}


def test_a_sound_machine_passes(call):
    code, out, err = call()
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "The default run has all it needs."
    assert "MISSING" not in out


def test_looking_creates_nothing(call, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    call()
    assert sorted(tmp_path.rglob("*")) == before


def test_everything_asked_for_is_looked_at(call):
    _, found = checks(call)
    assert {"python", "mlecs-bench", "torch", "cpu", "threads", "algorithm alpha", "dataset toy"} <= set(found)
    assert {"profile mini", "workers processes", "fleet in-process", "metric rouge_lsum"} <= set(found)
    assert {"slm", "llm", "encoders", "cache", "output", "--data-dir", "toy"} <= set(found)
    assert any(name.startswith("gpu") for name in found)
    assert "ruff" not in found


def test_a_package_that_is_missing_or_old_is_named_with_its_command(call, monkeypatch):
    for requirement, status, found, code in (
        ("no-such-package-zz>=3", "missing", "not installed", 1),
        ("pluggy>=99", "missing", "but pluggy>=99 is required", 1),
        ('no-such-package-zz>=3; extra == "bertscore"', "warning", "not installed (optional: bertscore)", 0),
        ('no-such-package-zz; python_version < "3"', None, "", 0),
    ):
        monkeypatch.setattr(importlib.metadata, "requires", lambda name, requirement=requirement: [requirement])
        exit_code, by_name = checks(call)
        name = "pluggy" if requirement.startswith("pluggy") else "no-such-package-zz"
        assert exit_code == code
        assert by_name.get(name, {}).get("status") == status
        if status:
            assert found in by_name[name]["found"]
            assert by_name[name]["cure"] == f"pip install '{requirement.partition(';')[0]}'"


def test_a_package_that_is_not_installed_at_all_finds_no_plugins(call, monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    code, found = checks(call)
    assert (code, found["mlecs-bench"]["status"]) == (1, "missing")


def test_a_strangers_broken_plugin_is_a_note(call, monkeypatch):
    put(monkeypatch, ENTRIES)
    code, found = checks(call)
    assert (code, found["algorithm gone"]["status"]) == (0, "warning")
    assert "No module named 'acme_gone'" in found["algorithm gone"]["found"]
    assert "acme" in found["algorithm gone"]["cure"]


def test_a_broken_plugin_of_the_harness_is_missing(call, monkeypatch):
    put(monkeypatch, [*SOUND, PluginEntry("own", "dataset", "mlecs-bench", "0.1.0", "no_such_module")])
    code, found = checks(call)
    assert (code, found["dataset own"]["status"]) == (1, "missing")


def test_observers_are_loaded_and_broken_ones_are_notes(call, monkeypatch):
    targets = {"bad": "no_such_module", "deaf": "acme_plugins:alpha", "watch": "acme_plugins:watch"}
    put(
        monkeypatch,
        [*SOUND, *(PluginEntry(name, "observer", "acme", "1.2", target) for name, target in targets.items())],
    )
    code, found = checks(call)
    states = {name: found[f"observer {name}"]["status"] for name in targets}
    assert (code, states) == (0, {"bad": "warning", "deaf": "warning", "watch": "ok"})


def test_limited_plugins_are_pointed_out(call, monkeypatch):
    monkeypatch.setenv("MLECS_BENCH_PLUGINS", "")
    assert checks(call)[1]["MLECS_BENCH_PLUGINS"]["status"] == "warning"


def test_missing_weights_of_the_default_profile_are_needed(call, weights):
    (weights / "slm" / "model.safetensors").unlink()
    (weights / "encoders.safetensors").unlink()
    code, found = checks(call)
    assert code == 1
    assert found["slm"]["found"] == f"{weights / 'slm'} lacks model.safetensors"
    assert found["slm"]["cure"]
    assert (found["llm"]["status"], found["encoders"]["status"]) == ("ok", "missing")


def test_weights_of_another_profile_are_not_needed(call, monkeypatch):
    put(monkeypatch, profiles=PROFILES)
    code, out, _ = call("--json")
    found = [check for check in json.loads(out)["checks"] if check["topic"] == "weights of profile big"]
    assert (code, [check["status"] for check in found]) == (0, ["warning", "warning"])
    assert found[0]["cure"] == "mlecs-bench models fetch --slm nobody/no-such"


@pytest.fixture
def gpt2(checkpoints, tmp_path, monkeypatch):
    """A hub with one tiny model, and an empty cache of it."""
    with served(somebody__tiny=Repository.of(checkpoints["gpt2"])) as hub:
        reached(monkeypatch, hub, tmp_path / "hub-cache")
        yield hub


def of_topic(call, topic: str, *arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Return the exit code, and status and text of the checks of a topic by name."""
    code, out, _ = call("--json", *arguments)
    found = {check["name"]: check for check in json.loads(out)["checks"] if check["topic"] == topic}
    return code, {name: (check["status"], check["found"] + check["cure"]) for name, check in found.items()}


def test_a_model_that_is_asked_for_is_told_in_words(call, checkpoints, gpt2, tmp_path):
    """Of a folder, it is loaded; of a hub, the small files alone are fetched; what is wrong is named with its cure."""
    code, found = of_topic(call, f"--slm {checkpoints['gpt2']}", "--slm", checkpoints["gpt2"])
    assert code == 0
    assert found["weights"] == ("ok", "load")
    assert "million parameters, gpt2: 2 layers of width" in found["size"][1]
    assert "tokens; puts nothing before a text, answers end with <eos>" in found["tokenizer"][1]
    assert f"all in {checkpoints['gpt2']}, " in found["files"][1]
    code, there = of_topic(call, "--llm somebody/tiny", "--llm", "somebody/tiny")
    assert (code, there["size"], there["tokenizer"]) == (0, found["size"], found["tokenizer"])
    assert there["files"][1].startswith(f"at {gpt2.endpoint}; a run fetches ")
    assert there["weights"] == ("ok", "not looked at, as they are not here")
    assert "model.safetensors" not in gpt2.given
    code, gone = of_topic(call, "--slm no/such", "--slm", "no/such")
    assert (code, gone["model"][0]) == (1, "missing")
    assert "neither a folder nor a public model" in gone["model"][1]
    cut = Path(shutil.copytree(checkpoints["gpt2"], tmp_path / "cut"))
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-9])
    code, broken = of_topic(call, f"--slm {cut}", "--slm", str(cut))
    assert code == 1
    assert "cannot load a causal language model" in broken["model"][1]


def test_the_memory_is_that_of_the_models_asked_for(call, checkpoints):
    topic = "memory of profile mini with --slm and --llm"
    code, found = of_topic(call, topic, "--slm", checkpoints["gpt2"], "--llm", checkpoints["gptj"])
    assert code == 0
    assert "needs about " in found["a cell"][1]
    assert set(found) >= {"a cell", "cpu"}


def test_lost_files_come_back_from_where_the_package_came_from(monkeypatch):
    for origin, cure in (
        ({"url": "file:///home/me/bench", "dir_info": {"editable": True}}, "git -C '/home/me/bench' restore '/a/b'"),
        ({"url": "https://example.org/bench.whl"}, "pip install --force-reinstall --no-deps 'https://example.org/bench.whl'"),
        (None, "install mlecs-bench again from where you got it"),
    ):  # fmt: skip  # one origin a line
        found = [Distribution(None), Distribution(origin)]
        monkeypatch.setattr(importlib.metadata, "distributions", lambda name, found=found: found)
        assert doctor._reinstall([Path("/a/b")]) == cure


def test_a_folder_that_cannot_be_written_is_missing(call, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLECS_BENCH_CACHE", str(tmp_path / "file" / "cache"))
    code, found = checks(call)
    assert (code, found["cache"]["status"], found["output"]["status"]) == (1, "missing", "ok")
    assert "MLECS_BENCH_CACHE" in found["cache"]["cure"]


def test_little_space_is_a_note(call, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=2**20))
    code, found = checks(call)
    assert (code, found["cache"]["status"]) == (0, "warning")


def test_the_users_data_folder_is_looked_into(call, tmp_path):
    (tmp_path / "mine").mkdir()
    assert checks(call, "--data-dir", str(tmp_path / "mine"))[1][str(tmp_path / "mine")]["found"] == "0 entries: empty"
    (tmp_path / "mine" / "adl-01.zip").write_text("")
    code, found = checks(call, "--data-dir", str(tmp_path / "mine"))
    assert (code, found[str(tmp_path / "mine")]["found"]) == (0, "1 entries: adl-01.zip")
    code, found = checks(call, "--data-dir", str(tmp_path / "none"))
    assert (code, found[str(tmp_path / "none")]["status"]) == (1, "missing")


def test_the_text_marks_what_is_missing_and_says_how_to_get_it(call, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["no-such-package-zz>=3"])
    code, out, _ = call()
    assert code == 1
    assert "  MISSING  no-such-package-zz: not installed -> pip install 'no-such-package-zz>=3'" in out
    assert out.splitlines()[-1] == "The default run lacks what is marked MISSING: 1."
