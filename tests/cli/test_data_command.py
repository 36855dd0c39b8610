"""`mlecs-bench data`: what is in the cache, whether files are whole, and preparing them."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from functools import partial

import pytest

from cli_fakes import call_main
from contract_data import CARD
from mlecs_bench.api import Prepared, Verification, hookimpl
from mlecs_bench.cli import main as cli_main
from mlecs_bench.cli.main import LazyCommand
from mlecs_bench.doors.registry import PluginEntry, Registry
from mlecs_bench.errors import DataError
from ur_fall_files import make_folder
from vast_files import record, truncate, write_records

WHOLE = Verification("sound", 100, "a" * 64, {"audio": (), "text": ("s1", "s2")}, notes=("two clips are short",))
DAMAGED = Verification(
    "sound", 7, None, {"audio": [f"s{i}" for i in range(7)], "text": []}, [f"f{i}.mp4: is damaged" for i in range(25)]
)


@pytest.fixture
def found():
    """What the toy's verify will return, or raise."""
    return types.SimpleNamespace(result=WHOLE, requests=[])


@pytest.fixture
def call(monkeypatch, capsys, tmp_path, found):
    """Run `mlecs-bench data` with the toy dataset, whose files are verified, and the plugins of mlecs-bench."""

    class Toy:
        @hookimpl
        def mlecs_dataset(self):
            return dataclasses.replace(CARD, verify=verify)

    class Mute:
        @hookimpl
        def mlecs_dataset(self):
            return CARD

    def verify(request):
        found.requests.append(request)
        request.progress(1, 2, "reading files")
        if isinstance(found.result, Exception):
            raise found.result
        return found.result

    module = types.ModuleType("acme_data")
    module.toy, module.mute = Toy(), Mute()
    monkeypatch.setitem(sys.modules, "acme_data", module)
    own = [e for e in Registry.installed().entries("dataset") if e.distribution == "mlecs-bench"]
    entries = [*own, *(PluginEntry(n, "dataset", "acme", "1", f"acme_data:{n}") for n in ("toy", "mute"))]
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls: cls(entries)))
    monkeypatch.setitem(cli_main.COMMANDS, "data", LazyCommand("mlecs_bench.cli.data:data", "List and prepare data."))
    monkeypatch.setenv("MLECS_BENCH_CACHE", str(tmp_path / "cache"))
    return partial(call_main, capsys, "data")


# list


def test_an_empty_cache_lists_nothing(call, tmp_path):
    code, out, _ = call("list")
    assert (code, out) == (0, f"nothing is prepared in {tmp_path / 'cache'}\n")
    assert json.loads(call("list", "--json")[1])["prepared"] == []
    assert not (tmp_path / "cache").exists()


def test_prepared_data_is_listed_with_view_samples_digest_and_size(call, tmp_path):
    assert call("prepare", "toy")[0] == 0
    folder = write_records(tmp_path / "mine" / "a.json", [record("a"), record("b")]).parent
    assert call("prepare", "vast", "--data-dir", str(folder))[0] == 0
    (toy, vast) = json.loads(call("list", "--json")[1])["prepared"]
    assert (toy["name"], toy["view"], toy["synthetic"], toy["samples"]) == ("toy", "synthetic", True, 64)
    assert (vast["name"], vast["samples"], vast["synthetic"]) == ("vast", 2, False)
    assert vast["view"].startswith("captions: ")
    for row in (toy, vast):
        path = tmp_path / "cache" / row["folder"]
        assert row["bytes"] == sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) > 1000
    lines = call("list")[1].splitlines()
    assert lines[0].split() == ["name", "samples", "digest", "size", "view"]
    assert lines[1].split() == ["toy", "64", "0" * 16, f"{toy['bytes'] / 2**20:.1f}", "MiB", "synthetic"]
    assert lines[2].startswith(f"vast  2        {vast['digest'][:16]}  ")


def test_damaged_and_unfinished_data_is_no_row(call, tmp_path):
    call("prepare", "toy")
    for name, text in {"broken": "{", ".half-done": "{}"}.items():
        (tmp_path / "cache" / name).mkdir()
        (tmp_path / "cache" / name / "manifest.json").write_text(text)
    code, out, err = call("list")
    assert (code, len(out.splitlines())) == (0, 2)
    assert err.startswith(f"warning: {tmp_path / 'cache' / 'broken' / 'manifest.json'} is not a manifest")
    assert len(json.loads(call("list", "--json")[1])["damaged"]) == 1


def test_another_cache_can_be_listed(call, tmp_path):
    call("prepare", "toy", "--cache-dir", str(tmp_path / "other"))
    assert "nothing" in call("list")[1]
    assert "toy" in call("list", "--cache-dir", str(tmp_path / "other"))[1]


# verify


def test_whole_files_pass_and_missing_samples_are_counted(call, tmp_path, found):
    code, out, err = call("verify", "toy", "--data-dir", str(tmp_path))
    assert code == 0
    assert out.splitlines() == [
        f"toy in {tmp_path}: sound",
        "100 samples",
        "  audio  100 of 100",
        "  text   98 of 100; missing in s1, s2",
        f"digest {'a' * 64}",
        "- two clips are short",
        "No problem found.",
    ]
    assert err == "reading files: 1/2\n"
    assert call("verify", "toy", "--data-dir", str(tmp_path), "--quiet")[2] == ""


def test_damage_is_named_and_ends_with_1(call, tmp_path, found):
    found.result = DAMAGED
    code, out, _ = call("verify", "toy", "--data-dir", str(tmp_path))
    lines = out.splitlines()
    assert code == 1
    assert lines[2] == "  audio  0 of 7; missing in s0, s1, s2, s3, s4, ..."
    assert lines[4] == "digest none: prepare would refuse these files"
    assert lines[5:8] == ["25 problems:", "  f0.mp4: is damaged", "  f1.mp4: is damaged"]
    assert lines[-1] == "  and 5 more; --json lists all"
    assert len(lines) == 5 + 1 + 20 + 1


def test_json_holds_everything(call, tmp_path, found):
    found.result = DAMAGED
    code, out, _ = call("verify", "toy", "--data-dir", str(tmp_path), "--json")
    assert code == 1
    assert json.loads(out) == json.loads(json.dumps(dataclasses.asdict(DAMAGED)))


def test_options_and_folders_reach_the_plugin(call, tmp_path, found):
    call(
        "verify", "toy", "--data-dir", str(tmp_path), "--data-option", "gaps=false", "--cache-dir", str(tmp_path / "c")
    )
    (request,) = found.requests
    assert (request.data_dir, request.cache_dir, request.options.gaps) == (tmp_path, tmp_path / "c", False)


def test_a_wrong_request_is_one_line_and_2(call):
    for arguments, reason in (
        (("verify", "toy"), "Missing option '--data-dir'"),
        (("verify", "toi", "--data-dir", "."), "Did you mean 'toy'?"),
        (("verify", "mute", "--data-dir", "."), "dataset 'mute' cannot verify files"),
        (("verify", "toy", "--data-dir", ".", "-o", "gap=1"), "has no option 'gap'. Did you mean 'gaps'?"),
        (("verify", "toy", "--data-dir", ".", "-o", "gaps"), "must be written name=value"),
        (("prepare", "toi"), "Did you mean 'toy'?"),
        (("prepare", "toy", "-o", "gaps=perhaps"), "must be true or false"),
        (("prepare", "toy", "--cache-dir", "/dev/null/cache"), "choose another folder with --cache-dir"),
        (("prepare", "vast", "-o", "view=captions"), "give --data-dir, or leave them out"),
        (("lost",), "No such command 'lost'"),
    ):
        code, out, err = call(*arguments)
        assert (code, out) == (2, "")
        assert reason in err
        assert len(err.splitlines()) == 1


def test_a_folder_that_cannot_be_looked_at_is_an_error(call, tmp_path, found):
    found.result = DataError("toy: no labels")
    code, out, err = call("verify", "toy", "--data-dir", str(tmp_path), "--quiet")
    assert (code, out, err) == (1, "", "error: toy: no labels\n")


# prepare


def test_prepare_tells_what_it_made_and_runs_find_it(call, tmp_path):
    code, out, _ = call("prepare", "toy", "--quiet")
    (folder,) = [p.parent for p in (tmp_path / "cache").rglob("manifest.json")]
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "toy: synthetic"
    assert lines[1].startswith("64 samples, ")
    assert lines[1].endswith(f" in {folder}")
    assert lines[2:5] == ["  audio  57 of 64", "  text   64 of 64", "  video  64 of 64"]
    assert lines[5] == f"digest {'0' * 64}"


def test_prepare_as_json_has_the_row_of_list_with_presence_and_notes(call, tmp_path):
    folder = write_records(tmp_path / "mine" / "a.json", [record("a", subtitle=""), record("b")]).parent
    made = json.loads(call("prepare", "vast", "--data-dir", str(folder), "-o", "limit=none", "--json", "--quiet")[1])
    (listed,) = json.loads(call("list", "--json")[1])["prepared"]
    assert made == listed | {
        "present": {"audio": 2, "subtitle": 1, "vision": 2},
        "notes": ["1 of 2 clips have no subtitle"],
    }


def test_prepare_makes_the_same_as_a_run_would(call, tmp_path):
    from mlecs_plugins.datasets import vast
    from vast_files import request

    folder = write_records(tmp_path / "mine" / "a.json", [record("a"), record("b")]).parent
    call("prepare", "vast", "--data-dir", str(folder))
    again = vast.prepare(request(folder, tmp_path / "cache"))
    assert isinstance(again, Prepared)
    assert [row["folder"] for row in json.loads(call("list", "--json")[1])["prepared"]] == [str(again.folder)]


# UR-FALL


def test_ur_fall_is_verified_like_vast(call, tmp_path):
    folder = make_folder(tmp_path / "ur-fall")
    code, out, _ = call("verify", "ur-fall", "--data-dir", str(folder), "--json", "--quiet")
    found = json.loads(out)
    made = json.loads(call("prepare", "ur-fall", "--data-dir", str(folder), "--json", "--quiet")[1])
    assert (code, found["problems"]) == (0, [])
    assert (found["digest"], found["n_samples"], found["view"]) == (made["digest"], made["samples"], made["view"])
    assert found["missing"] == {"acce": [], "depth": [], "rgb": []}
    assert found["notes"] == made["notes"]


def test_ur_fall_names_missing_samples_and_damaged_files(call, tmp_path):
    folder = make_folder(tmp_path / "ur-fall")
    acc = folder / "acc" / "fall-01-acc.csv"
    acc.write_text("\n".join(line for line in acc.read_text().splitlines() if float(line.split(",")[0]) <= 100))
    found = json.loads(call("verify", "ur-fall", "--data-dir", str(folder), "--json")[1])
    assert found["missing"]["acce"] == ["fall-01/0005", "fall-01/0006"]
    truncate(folder / "video" / "fall-01-cam0.mp4", 0.5)
    (folder / "acc" / "adl-07-acc.csv").unlink()
    code, out, _ = call("verify", "ur-fall", "--data-dir", str(folder), "--json")
    found = json.loads(out)
    assert (code, found["digest"], found["n_samples"]) == (1, None, 0)
    assert [line.partition(": ")[0] for line in found["problems"]] == ["adl-07-acc.csv", "video/fall-01-cam0.mp4"]


def test_ur_fall_without_depth_images_is_a_problem_only_when_they_are_asked_for(call, tmp_path):
    folder = make_folder(tmp_path / "ur-fall")
    code, out, _ = call("verify", "ur-fall", "--data-dir", str(folder), "-o", "depth=image", "--json")
    (line,) = json.loads(out)["problems"]
    assert code == 1
    assert "depth=image, but no labelled frame has a depth image" in line
