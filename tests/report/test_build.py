"""Whole reports: sections, files, the command, and what must not be averaged in; hand-made records only."""

from __future__ import annotations

import csv
import json
import re
from urllib.parse import unquote

import pytest
from click.testing import CliRunner
from test_paper_tables import five

from hand_made import SCORERS, make_record, with_identity
from mlecs_bench.cli.report import report
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import RecordError, UsageError
from mlecs_bench.execution import protocol
from mlecs_bench.records.failures import write_failure
from mlecs_bench.records.results import identity_key, record_name, write_record
from mlecs_bench.report import Wanted, build_report, report_json, write_report

STUDY = [
    *five(gain=0.02),
    *five("standalone"),
    *five("ml-ecs/no-kt"),
    *five(rho=0.8),
    *(with_identity(r, training={"budget": "equal"}) for r in [*five(), *five("standalone")]),
]


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "study"
    for record in STUDY:
        write_record(out, record)
    return out


def run(*arguments):
    return CliRunner().invoke(report, list(map(str, arguments)))


def test_a_setting_has_sections_and_all_but_the_first_say_which_it_is():
    built = build_report(STUDY, "title")
    first = ["Scores (budget paper)", "Communication (budget paper)", "Statistics (budget paper)"]
    titles = [section.title for section in built.sections]
    assert [title for title in titles if "paper)" in title and "claims" not in title] == first
    names = [table.name for section in built.sections for table in section.tables]
    assert {"table1", "ablation", "statistics", "ablation-statistics", "communication"} <= set(names)
    assert {"table1-budget-equal", "statistics-budget-equal"} <= set(names)
    assert len(names) == len(set(names))
    assert built.honest == "Synthetic stand-in on tiny backbones: not comparable with the paper."


def test_a_section_without_content_is_left_out():
    built = build_report(five("standalone"), "title")
    assert not any(section.title.startswith(("Learning curves", "Statistics")) for section in built.sections)


def test_the_candidate_is_ml_ecs_or_the_last_algorithm_unless_named():
    mine = [*five("standalone"), *five("zeta", gain=0.1)]
    tables = [t for s in build_report(mine, "t").sections for t in s.tables if t.name == "statistics"]
    assert tables[0].title == "zeta against baselines"
    tables = [t for s in build_report(mine, "t", Wanted(candidate="standalone")).sections for t in s.tables]
    assert "standalone against baselines" in [table.title for table in tables]


def test_a_report_says_what_made_its_records_and_warns_of_changes_that_no_commit_holds():
    records = [dict(record) for record in five()]
    for i, record in enumerate(records):
        git = {"commit": "0123456789abcdef", "dirty": i == 0}
        record["provenance"] = {"packages": {"torch": "2.13.0", "mlecs-bench": "0.1.0"}, "git": git}
    built = build_report(records, "t", warnings=["left out: x"])
    assert (
        built.about
        == "5 records, seeds 27, 34, 46, 52, 93; made with mlecs-bench 0.1.0, torch 2.13.0, commit 0123456789ab."
    )
    assert built.warnings == ("left out: x", "1 of 5 records were made from a checkout with uncommitted changes")


def test_every_table_and_figure_has_its_files_and_they_are_the_same_every_time(folder, tmp_path):
    built = build_report(STUDY, "study")
    files = write_report(built, STUDY, tmp_path / "a", tmp_path)
    again = write_report(build_report(list(reversed(STUDY)), "study"), STUDY, tmp_path / "b", tmp_path)
    assert [path.name for path in files] == [path.name for path in again]
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {path.name for path in files}
    for table in ("table1", "table1-budget-equal", "ablation", "statistics", "communication"):
        assert {f"{table}.md", f"{table}.tex", f"{table}.csv"} <= names
    for figure in ("figure3-communication", "figure4-ablation"):
        assert {f"{figure}.svg", f"{figure}.png"} <= names
    for path in files:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_numbers_of_all_formats_agree(folder, tmp_path):
    write_report(build_report(STUDY, "study"), STUDY, tmp_path, tmp_path)
    with (tmp_path / "table1.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    whole = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    (table,) = [table for table in whole["tables"] if table["name"] == "table1"]
    assert len(rows) == len(table["numbers"]) == 3 * 4
    for row, number in zip(rows, table["numbers"], strict=True):
        assert (float(row["value"]), float(row["sd"])) == (number["value"], number["sd"])
        text = f"{number['value']:.3f} ± {number['sd']:.3f}"
        assert text in (tmp_path / "table1.md").read_text(encoding="utf-8")
        assert f"{number['value']:.3f}" in (tmp_path / "table1.tex").read_text(encoding="utf-8")
        assert repr(number["value"]) in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_files_that_a_report_no_longer_has_go_and_those_of_others_stay(tmp_path):
    write_report(build_report(STUDY, "study"), STUDY, tmp_path, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "table9.md").write_text("mine too")
    few = five()
    write_report(build_report(few, "study"), few, tmp_path, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert "table1-budget-equal.md" not in names
    assert {"notes.txt", "table9.md", "table1.md"} <= names


@pytest.mark.parametrize("index", ['{"files": ["../kept", 7, "/kept"]}', "[]", "{", '{"files": 3}'])
def test_an_index_that_is_not_ours_is_neither_obeyed_nor_overwritten(tmp_path, index):
    (tmp_path / "report").mkdir()
    (tmp_path / "kept").write_text("mine")
    (tmp_path / "report" / "report.json").write_text(index)
    with pytest.raises(UsageError, match=r"report.json was not written by a report; give another folder"):
        write_report(build_report(five(), "study"), five(), tmp_path / "report", tmp_path)
    assert (tmp_path / "kept").read_text() == "mine"
    assert (tmp_path / "report" / "report.json").read_text() == index


def test_a_file_that_no_report_wrote_is_not_overwritten(folder):
    (folder / "report").mkdir()
    (folder / "report" / "table1.md").write_text("my notes")
    with pytest.raises(UsageError, match=r"table1.md was not written by a report; give another folder with --output"):
        report.main([str(folder)], standalone_mode=False)
    assert [path.read_text() for path in (folder / "report").iterdir()] == ["my notes"]


def test_links_lead_to_the_records_wherever_the_report_is(folder, tmp_path):
    for place in (folder / "report", tmp_path / "elsewhere" / "deep"):
        assert run(folder, "--output", place).exit_code == 0
        links = re.findall(r'href="([^"#]+json)"', (place / "index.html").read_text(encoding="utf-8"))
        assert {(place / unquote(link)).resolve() for link in links} == {p.resolve() for p in folder.glob("*.json")}


def test_the_papers_claims_are_about_its_own_algorithm(folder):
    assert any(section.claims for section in build_report(STUDY, "t").sections)
    assert not any(section.claims for section in build_report(STUDY, "t", Wanted(candidate="standalone")).sections)


def test_a_folder_that_is_not_there_and_one_above_the_records_are_named(folder):
    with pytest.raises(UsageError, match="is no folder"):
        report.main([str(folder / "absent")], standalone_mode=False)
    with pytest.raises(RecordError, match=r"name one of the folders below it: study"):
        report.main([str(folder.parent)], standalone_mode=False)


def test_the_command_prints_all_scores_and_writes_the_rest_beside_the_records(folder):
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert "| 0.5" in result.stdout
    assert f"to {folder / 'report'}; open {folder / 'report' / 'index.html'}" in result.stderr
    assert (folder / "report" / "index.html").is_file()
    assert len(list(folder.glob("*.json"))) == len(STUDY)
    assert run(folder).exit_code == 0  # the report's own files are no records


def test_the_command_writes_where_it_is_told_and_puts_the_papers_values_in(folder, tmp_path):
    assert run(folder, "--output", tmp_path / "elsewhere", "--with-paper").exit_code == 0
    assert not (folder / "report").exists()
    assert "paper 0.244" in (tmp_path / "elsewhere" / "table1.md").read_text(encoding="utf-8")


def test_json_prints_everything_unrounded_and_writes_nothing(folder):
    result = run(folder, "--json")
    values = json.loads(result.stdout)
    assert {"rows", "references", "tables", "claims", "warnings"} <= values.keys()
    assert not (folder / "report").exists()
    assert values == json.loads(json.dumps(report_json(build_report(STUDY, "study"), STUDY)))


def test_what_is_no_record_is_named_and_left_out(folder):
    (folder / "cut.json").write_text('{"schema": "mlecs-bench/record/1", "key"')
    (folder / "old.json").write_text('{"schema": "mlecs-bench/record/0"}')
    (folder / "other.json").write_text('{"results": {"acc": 0.9}}')
    result = run(folder)
    assert result.exit_code == 0
    for name in ("cut.json", "old.json", "other.json"):
        assert name in result.stderr
        assert f"left out: {name}" in (folder / "report" / "report.md").read_text(encoding="utf-8")


def test_cells_that_failed_are_named_in_the_report(folder):
    identity = make_record(algo="fedmllm", seed=34)["identity"]
    write_failure(folder, identity, "Traceback ...\nKeyError: 'd00'")
    result = run(folder)
    line = f"failed: {record_name(identity).removesuffix('.json')}: KeyError: 'd00'"
    assert line in result.stderr
    assert "KeyError" in (folder / "report" / "report.md").read_text(encoding="utf-8")


def test_mixed_scorers_and_mixed_splits_stand_apart(tmp_path):
    other = {**SCORERS, "rouge_lsum": "rouge-score==9"}
    records = [*five(), *five(scorers=other), *(with_identity(r, dataset={"split": "sequence"}) for r in five())]
    (table,) = [t for s in build_report(records, "t").sections for t in s.tables if t.name == "table1"]
    assert len({path[0] for path in table.columns}) == 3
    numbers = [n for line in table.lines for n in line.contents if n is not None]
    assert all(n.n == 5 for n in numbers)


def test_a_folder_of_another_tool_is_refused_in_one_line(tmp_path):
    (tmp_path / "results.json").write_text('{"results": {"acc": 0.9}}')
    with pytest.raises(RecordError, match="no valid record in"):
        report.main([str(tmp_path)], standalone_mode=False)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_an_unknown_candidate_is_refused(folder):
    with pytest.raises(UsageError, match=r"no record of algorithm 'ml-esc'.*ml-ecs"):
        report.main([str(folder), "--candidate", "ml-esc"], standalone_mode=False)


def test_a_place_that_cannot_be_written_is_named(folder):
    (folder / "taken").write_text("a file")
    with pytest.raises(UsageError, match=r"cannot write .*taken.*--output"):
        report.main([str(folder), "--output", str(folder / "taken")], standalone_mode=False)


def test_the_command_knows_the_defaults_of_installed_algorithms_and_does_without_those_of_others(tmp_path):
    usual = protocol.default_options("ml-ecs", Registry.installed())
    other = usual | {"amt_trains": ["encoder", "lora", "connector"]}
    records = [make_record(algo=algo, seed=seed) for algo in ("ml-ecs", "gone") for seed in (27, 34)]
    for record, options in zip(records, (other, other, other, usual), strict=True):
        identity = {**record["identity"], "algo": {**record["identity"]["algo"], "options": options}}
        write_record(tmp_path, {**record, "identity": identity, "key": identity_key(identity)})
    assert run(tmp_path).exit_code == 0
    table = (tmp_path / "report" / "table1.csv").read_text(encoding="utf-8")
    labels = {row["method"] for row in csv.DictReader(table.splitlines())}
    assert "ml-ecs (amt_trains=encoder,lora,connector)" in labels
    assert "ml-ecs" not in labels
    assert len([label for label in labels if label.startswith("gone")]) == 2
