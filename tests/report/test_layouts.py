"""A layout is another way to show a study's part: asked for by a flag, or by the study file of a folder."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from mlecs_bench.cli.report import report as command
from mlecs_bench.doors.hookspecs import StudyInfo
from mlecs_bench.doors.registry import PluginEntry, Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.plan.study import keep_study, read_study, study_of
from mlecs_bench.report import drawings
from mlecs_bench.report.folder import report
from mlecs_bench.report.installed import laid_out
from mlecs_bench.report.table import Section
from study_records import five, write_records

BLOCKS = {"blocks": {"b": {"algo": "a", "dataset": "x", "rho": 0.5}}}
OWN = StudyInfo("own", "s", sections=lambda _: (Section("usual"),), layouts={"mine": lambda _: (Section("mine"),)})
OTHER = StudyInfo("other", "s", layouts={"mine": lambda _: ()})


def titles(shown) -> list[str]:
    return [section.title for study in shown for section in study.sections(None)]


def test_the_flag_wins_over_the_file_and_plain_is_none():
    none, with_file = study_of(BLOCKS, "f"), study_of({**BLOCKS, "layout": "mine"}, "f")
    registry = Registry([])
    assert [titles(laid_out([OWN], asked, file, registry)[0]) for asked, file in (
        (None, None), (None, none), (None, with_file), ("mine", None), ("mine", none), ("plain", with_file),
    )] == [["usual"], ["usual"], ["mine"], ["mine"], ["mine"], ["usual"]]  # fmt: skip


def test_a_layout_brings_its_study_along_and_leaves_the_others_as_they_are():
    entry = PluginEntry("paper", "study", "mlecs-bench", "1", "mlecs_plugins.paper.study")
    shown, problems = laid_out([OWN], "paper", None, Registry([entry]))
    assert ([study.title for study in shown], problems) == (["the paper", "own"], [])


def test_a_layout_that_nobody_offers_is_an_error_of_the_flag_and_a_warning_of_the_file():
    with pytest.raises(UsageError, match=r"^no layout 'min'\. Did you mean 'mine'\?"):
        laid_out([OWN], "min", None, Registry([]))
    shown, problems = laid_out([OWN], None, study_of({**BLOCKS, "layout": "0123"}, "f"), Registry([]))
    assert titles(shown) == ["usual"]
    assert problems == ["no layout '0123'. Known: mine, plain"]
    with pytest.raises(UsageError, match=r"^layout 'mine' is offered by 'own' and 'other'; name one"):
        laid_out([OWN, OTHER], "mine", None, Registry([]))


def test_a_layout_changes_no_run_and_is_kept_with_the_study(tmp_path):
    keep_study(study_of({**BLOCKS, "layout": "mine"}, "f"), tmp_path)
    assert read_study(tmp_path / "study.yaml").layout == "mine"
    keep_study(study_of(BLOCKS, "f"), tmp_path)


def test_the_command_and_the_function_write_the_layout_that_is_asked_for(tmp_path, monkeypatch):
    for name in ("shares_figure", "curves_figure"):
        monkeypatch.setattr(drawings, name, lambda *_: None)
    monkeypatch.setattr(drawings, "figure_bytes", lambda _: {"svg": b"<svg/>", "png": b""})
    folder = write_records(tmp_path / "study", [*five(seeds=(27, 34)), *five("standalone", seeds=(27, 34))])
    found = report(folder, layout="paper")
    assert {"table1", "table1-spread-vast-local", "table1-spread-vast-received"} <= found.frames.keys()
    assert "| ρ = 0.5 | Ours | - |" in " ".join(found.markdown.split())
    done = CliRunner().invoke(command, [str(folder), "--layout", "paper", "--json"])
    assert "table1-spread-vast-local" in {table["name"] for table in json.loads(done.stdout)["tables"]}
