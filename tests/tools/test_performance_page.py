"""The page on performance shows what a GPU has measured, or says that none has."""

from __future__ import annotations

import copy
import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "performance_page.py"))
page = TOOL["page"]

PLACE = {
    "packages": {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2", "bitsandbytes": None},
    "git": {"commit": "0123456789abcdef", "dirty": False},
    "hardware": {"gpu": "Card", "gpu_bytes": 80 * 2**30, "cuda": "13.0"},
    "started": "2027-01-02T03:04:05Z",
}
STAGES = {
    "ccl": {"seconds": 6.0, "steps": 15, "positions": 12_000},
    "mma": {"seconds": 0.25, "steps": 0, "positions": 0},
}
MEMORY = {"at_rest": 13 * 2**30, "peak": 15 * 2**30, "estimate": {"total": 20 * 2**30}}
ROUND = {"build_seconds": 4.0, "round_seconds": 9.0, "stages": STAGES, "memory": MEMORY}
APART = {"absolute": 0.002, "relative": 0.001}
RESULTS = {
    "machine": {"matmul_tflops": 700.4, "copy_gb_s": 2900.0},
    "agreement": {
        "ml-ecs": {
            "losses_before": {"absolute": 1e-6, "relative": 2e-7},
            "losses": APART,
            "gradients": {"stages": 7, "relative": 3e-5, "absolute": 4e-4},
            "scores": APART,
            "equal_answers": 0.96875,
        }
    },
    "rounds": {
        "N=3": ROUND,
        "loop/llm": {
            "parameters": 6_000_000_000,
            "harness_seconds": 0.25,
            "bare_seconds": 0.2,
            "harness_tokens_s": 1500.0,
            "share": 0.8,
        },
        "answers/llm": {"answers": 32, "new_tokens": 64, "seconds": 2.0, "tokens_s": 1024.0},
    },
    "memory": {"base bits 4": ROUND, "base bits 8": {"error": "ImportError: bitsandbytes"}},
    "processes": {
        "mini": {
            "n_devices": 4,
            "steps": 8,
            "round_seconds": {"in-process": 2.0, "processes:2": 1.6},
            "ratio": 1.25,
            "equal_uploads": False,
            "largest_difference": 0.01,
        }
    },
    "pocket": {
        "ml-ecs": {
            "cost": {"seconds": {"training": 60.0, "evaluation": 7.0}},
            "scores": {"local": {"rouge_lsum": 0.25}},
            "slm": "small",
            "llm": "large",
        }
    },
}


def document(**changes: object) -> dict[str, object]:
    entries = {
        name: {"status": "done", "why": "", "results": results, "provenance": copy.deepcopy(PLACE)}
        for name, results in RESULTS.items()
    }
    return {"schema": 1, "device": "cuda", "tiny": False, "sections": entries} | changes


def rows(text: str) -> list[list[str]]:
    """Return the cells of every row of every table."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]


def test_the_committed_page_is_what_was_measured():
    """To renew it: python -m tools.performance_page."""
    assert TOOL["PAGE"].read_text() == page(TOOL["measured"]())
    assert TOOL["main"](["--check"]) == 0


def test_without_measurements_the_page_says_so_and_claims_nothing():
    text = page(None)
    assert "Not yet run on a GPU." in text
    assert rows(text) == []


def test_every_number_stands_in_a_row_of_its_section():
    found = rows(page(document()))
    for row in (
        ["product of bfloat16 matrices, TFLOP/s", "700"],
        ["copy, GB/s read and written", "2,900"],
        ["ml-ecs", "2e-07", "0.001", "3e-05", "0.0004", "0.002", "0.969"],
        ["N=3", "ccl", "6", "15", "0.4", "2,000"],
        ["N=3", "mma", "0.25", "-", "-", "-"],
        ["N=3", "4", "9", "13", "15", "20", "0.75"],
        ["llm", "0.25", "0.2", "1,500", "36", "0.8"],  # 4 x 6e9 x 1500 / 1e12
        ["llm", "32", "64", "2", "1,024"],
        ["base bits 4", "4", "9", "13", "15", "20", "0.75"],
        ["base bits 4", "ccl", "0.4"],
        ["mini", "4", "8", "2", "1.6", "1.25", "no", "0.01"],
        ["ml-ecs (small, large)", "60", "7", "local", "rouge_lsum", "0.25"],
    ):
        assert row in found
    assert "- base bits 8: ImportError: bitsandbytes\n" in page(document())


def test_every_row_has_as_many_cells_as_its_head():
    for block in re.findall(r"(?:^\|.*\n)+", page(document()), flags=re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_the_page_names_card_versions_commit_and_day_and_who_was_measured_elsewhere():
    assert "Card (80 GiB), CUDA 13.0, torch 2.13.0" in page(document())
    assert "commit 0123456789, 2027-01-02." in page(document())
    two = document()
    two["sections"]["memory"]["provenance"]["hardware"]["gpu"] = "Other"
    text = page(two)
    assert "machine, agreement, rounds, processes, pocket: Card (80 GiB)" in text
    assert "memory: Other (80 GiB)" in text


def test_a_section_that_was_not_done_says_why_beside_what_it_has():
    part = document()
    part["sections"]["rounds"] |= {"status": "out of time", "why": "more than 150 s", "results": {"N=3": ROUND}}
    part["sections"]["pocket"] = {"status": "not run", "why": "no folder of a model was given", "results": {}}
    del part["sections"]["machine"]
    text = page(part)
    assert "Out of time (more than 150 s). What follows was measured before.\n" in text
    assert "Not run (no folder of a model was given).\n" in text
    assert "Not run.\n" in text
    assert "share of the bare loop" not in text


@pytest.mark.parametrize("changes", [{"tiny": True}, {"device": "cpu"}])
def test_what_no_gpu_measured_in_full_makes_no_page(changes, tmp_path, monkeypatch, capsys):
    with pytest.raises(TOOL["UnfitError"]):
        page(document(**changes))
    main = TOOL["main"]
    monkeypatch.setitem(main.__globals__, "MEASURED", tmp_path / "performance.json")
    monkeypatch.setitem(main.__globals__, "PAGE", tmp_path / "performance.md")
    (tmp_path / "performance.json").write_text(json.dumps(document(**changes)))
    assert main([]) == 2
    assert "measure again with --device cuda" in capsys.readouterr().err
    assert not (tmp_path / "performance.md").exists()


def test_check_finds_a_page_that_is_not_what_was_measured(tmp_path, monkeypatch):
    main = TOOL["main"]
    for name in ("MEASURED", "PAGE"):
        monkeypatch.setitem(main.__globals__, name, tmp_path / TOOL[name].name)
    (tmp_path / "performance.json").write_text(json.dumps(document()))
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0
    (tmp_path / "performance.json").unlink()
    assert main(["--check"]) == 1
