"""`doctor`: what is missing is named with its cure, and only what the default run needs decides the exit code."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import sys
import types
from functools import partial
from pathlib import Path

import pytest

from cli_fakes import ENTRIES, OWN, call_main, install
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
    assert found[0]["cure"] == "hf download nobody/no-such"


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
