"""benchmarks/gpu.py in small on a CPU: sections measure, report, and end however they end at their own cost."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

from gpu_sections import agreement, fleet_processes, machine, pocket, rounds
from gpu_sections.random_models import GPT2_TOKENS, filled_tokenizer
from gpu_sections.runner import NotRunError, Options, Section, run_sections, tidy
from mlecs_plugins.profiles.mini import MINI

ROOT = Path(__file__).parents[2]
TEXTS = ("a red fox runs", "a blue fox sleeps")


def options(folder: Path, **changes: object) -> Options:
    return Options(**({"device": "cpu", "tiny": True, "folder": folder} | changes))


def measured(measure, folder: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    measure(options(folder), found.__setitem__)
    return json.loads(json.dumps(tidy(found), allow_nan=False))


# Sections and their file


def test_a_number_has_six_digits_and_none_stands_for_what_is_no_number():
    assert tidy({"a": [1 / 3, math.inf], "b": (2, "x", None, True)}) == {
        "a": [0.333333, None],
        "b": [2, "x", None, True],
    }


def test_without_time_a_section_is_not_begun_and_what_was_measured_before_stays(tmp_path):
    out = tmp_path / "gpu.json"
    before = {"status": "done", "why": "", "results": {"x": 1}}
    out.write_text(
        json.dumps({"schema": 1, "device": "cpu", "tiny": True, "sections": {"kept": before, "new": before}})
    )
    document = run_sections([Section("new", "fake_sections:done", 60)], options(tmp_path), out, seconds=1)
    assert json.loads(out.read_text()) == document
    assert document["sections"] == {
        "kept": before,
        "new": {"status": "not run", "why": "no time was left", "results": {}},
    }


def test_measurements_of_another_device_are_not_mixed_in(tmp_path):
    out = tmp_path / "gpu.json"
    out.write_text(json.dumps({"schema": 1, "device": "cuda", "tiny": False, "sections": {"old": {}}}))
    document = run_sections([Section("new", "fake_sections:done", 60)], options(tmp_path), out, seconds=1)
    assert list(document["sections"]) == ["new"]
    assert document["device"] == "cpu"


@pytest.mark.nightly
def test_however_a_section_ends_it_costs_no_other_and_what_it_reported_stays(tmp_path):
    out = tmp_path / "gpu.json"
    names = ("fails", "dies", "cannot", "done")
    sections = [Section(name, f"fake_sections:{name}", 120) for name in names]
    run_sections([*sections, Section("slow", "fake_sections:never_ends", 30)], options(tmp_path), out, seconds=600)
    found = json.loads(out.read_text())["sections"]
    assert {name: entry["status"] for name, entry in found.items()} == {
        "fails": "failed", "dies": "failed", "cannot": "not run", "done": "done", "slow": "out of time"
    }  # fmt: skip
    assert found["fails"]["why"] == "RuntimeError: CUDA error: no kernel"
    assert found["dies"]["why"] == "the process ended with exit code 3"
    assert found["slow"]["why"] == "more than 30 s"
    assert [found[name]["results"] for name in ("fails", "dies", "slow")] == [{"before": 1}] * 3
    assert found["done"]["results"] == {"device": "cpu", "values": {"third": 0.333333, "nan": None, "list": [1, 2.0]}}
    assert found["done"]["provenance"]["packages"]["torch"]


@pytest.mark.nightly
def test_a_kill_leaves_what_was_measured_and_no_process(tmp_path):
    out = tmp_path / "gpu.json"
    code = (
        "from pathlib import Path; from gpu_sections.runner import *\n"
        f"if __name__ == '__main__': run_sections([Section('s', 'fake_sections:never_ends', 300)], "
        f"Options('cpu', True, Path({str(tmp_path)!r})), Path({str(out)!r}), 300)"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    paths = [str(ROOT / "benchmarks"), str(Path(__file__).parent), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen([sys.executable, script], env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (out.is_file() and results(out)):
            time.sleep(0.1)
        assert results(out) == {"before": 1}
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and members(process.pid):
        time.sleep(0.1)
    assert not members(process.pid)
    assert json.loads(out.read_text())["sections"]["s"]["status"] == "stopped"


def results(out: Path) -> dict[str, int]:
    return json.loads(out.read_text())["sections"]["s"]["results"]


def members(session: int) -> list[str]:
    """Return the processes of a session that are still at work, but for Python's own tracker, which ends with them."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, own = (path / "stat").read_text().rpartition(") ")[2].split()[:4]
            command = (path / "cmdline").read_text()
            if int(own) == session and state != "Z" and "resource_tracker" not in command:
                found.append(command)
    return found


@pytest.mark.nightly
def test_the_command_writes_the_file_and_refuses_a_section_that_there_is_not(tmp_path):
    command = [
        sys.executable,
        ROOT / "benchmarks" / "gpu.py",
        "--tiny",
        "--device",
        "cpu",
        "--out",
        tmp_path / "gpu.json",
    ]
    subprocess.run([*command, "--sections", "machine"], check=True, capture_output=True)
    (entry,) = json.loads((tmp_path / "gpu.json").read_text())["sections"].values()
    assert entry["status"] == "done"
    refused = subprocess.run([*command, "--sections", "machines"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.endswith("'machines' is none of machine, agreement, rounds, memory, processes, pocket\n")


# What sections measure


@pytest.mark.slow
def test_the_filled_tokenizer_has_gpt2s_tokens_and_uses_only_those_it_has_learnt():
    tokenizer = filled_tokenizer(TEXTS)
    assert len(tokenizer) == GPT2_TOKENS
    for text in (*TEXTS, "unused1999 and Ünïcode\n"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert max(ids) < 2000
    assert len(tokenizer(TEXTS[0])["input_ids"]) < 2 * len(TEXTS[0].split())


def test_answers_are_lengthened_to_the_words_asked_for():
    assert rounds.lengthened("one two three", 7) == "one two three one two three one"
    assert rounds.lengthened("one two three", 2) == "one two"


def test_differences_are_those_of_the_farthest_numbers():
    import torch

    one = agreement.Seen({"d": 2.0}, [torch.tensor([3.0, 4.0])], {"a": 1.0, "b": 0.0}, {"s": 0.5}, ["x", "y"])
    other = agreement.Seen({"d": 2.5}, [torch.tensor([3.0, 4.5])], {"a": 1.1, "b": 0.0}, {"s": 0.4}, ["x", "z"])
    found = tidy(agreement.differences(one, other))
    assert found["losses_before"] == {"absolute": 0.5, "relative": 0.25}
    assert found["losses"] == {"absolute": 0.1, "relative": 0.1}
    assert found["gradients"] == {"stages": 1, "relative": 0.1, "absolute": 0.5}
    assert found["scores"]["absolute"] == 0.1
    assert found["equal_answers"] == 0.5


def test_without_models_pocket_is_not_run_and_a_folder_may_hold_one_or_two(tmp_path):
    for folder in (None, tmp_path):
        with pytest.raises(NotRunError):
            pocket.language_models(folder)
    for name in ("slm", "llm"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    assert pocket.language_models(tmp_path) == (str(tmp_path / "slm"), str(tmp_path / "llm"))
    (tmp_path / "config.json").touch()
    assert pocket.language_models(tmp_path) == (str(tmp_path), str(tmp_path))


@pytest.mark.slow
def test_a_cpu_agrees_with_itself_in_every_bit(tmp_path):
    found = measured(agreement.measure, tmp_path)
    assert set(found) == {"ml-ecs", "ml-ecs, twice"}
    for cell in found.values():
        assert cell["gradients"] == {"stages": 7, "relative": 0, "absolute": 0}  # 3 x (CCL, AMT) and SE-CCL
        for what in ("losses_before", "losses", "scores"):
            assert cell[what] == {"absolute": 0, "relative": 0}
        assert cell["equal_answers"] == 1


@pytest.mark.slow
def test_the_true_architectures_play_their_rounds_in_small_one_at_a_time(tmp_path, monkeypatch, caplog):
    # pytest keeps what is logged, and with it the frames of an error that bitsandbytes logs when it is first imported.
    caplog.set_level(logging.ERROR, logger="bitsandbytes")
    alive = weakref.WeakSet()
    build = rounds.build_federation

    def built(*args, **settings):
        assert not alive, "two federations would share the card"
        federation = build(*args, **settings)
        alive.add(federation.server.model.backbone)
        return federation

    monkeypatch.setattr(rounds, "build_federation", built)
    monkeypatch.setattr(rounds, "TINY", dataclasses.replace(rounds.TINY, devices={2: 1, 1: 1}))
    found = measured(rounds.measure, tmp_path)
    assert set(found) == {"N=2", "loop/slm", "answers/slm", "loop/llm", "answers/llm", "N=1"}
    stages = found["N=2"]["stages"]
    assert {name: took["steps"] for name, took in stages.items()} == {
        "anchors": 0, "ccl": 2, "amt": 2, "se-ccl": 1, "mma": 0
    }  # fmt: skip
    # Two devices read a batch in each of two stages, the server reads one with two models.
    assert stages["ccl"]["positions"] == stages["amt"]["positions"] == stages["se-ccl"]["positions"] > 0
    assert found["loop/llm"]["positions"] * 2 == stages["se-ccl"]["positions"]
    assert found["N=2"]["memory"]["estimate"]["total"] > found["N=2"]["memory"]["estimate"]["weights"]
    assert all(took["seconds"] > 0 for took in stages.values())


@pytest.mark.slow
def test_variants_that_need_less_memory_play_their_rounds_or_say_why_not(tmp_path):
    found = measured(rounds.measure_memory, tmp_path)
    assert set(found) == {"gradient checkpointing True", "base bits 4, gradient checkpointing True"}
    plain, four = found.values()
    assert plain["stages"]["amt"]["seconds"] > 0
    assert "error" in four or four["memory"]["estimate"]["weights"] < plain["memory"]["estimate"]["weights"]


@pytest.mark.slow
def test_pocket_tells_what_a_cell_took_and_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(pocket, "PROFILE", MINI.name)
    found: dict[str, dict[str, object]] = {}
    pocket.measure(options(tmp_path, models=Path(MINI.slm)), found.__setitem__)
    (cell,) = found.values()
    assert cell["cost"]["steps"] == {"server": 1, "public": 2, "private": 2}  # one of the server, one per stage of two
    assert set(cell["scores"]) == {"local", "received"}
    assert all(0 <= scores["rouge_lsum"] <= 1 for scores in cell["scores"].values())
    assert cell["slm"] == cell["llm"] == Path(MINI.slm).name


@pytest.mark.nightly
def test_two_processes_send_the_bits_of_one(tmp_path):
    (found,) = measured(fleet_processes.measure, tmp_path).values()
    assert found["equal_uploads"]
    assert found["largest_difference"] == 0
    assert all(seconds > 0 for seconds in found["round_seconds"].values())


def test_the_ceilings_are_positive(tmp_path):
    found = measured(machine.measure, tmp_path)
    assert all(found[name] > 0 for name in ("matmul_tflops", "copy_gb_s"))
