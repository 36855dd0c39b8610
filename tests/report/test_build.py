"""Whole reports: sections, studies, files, the command, and what must not be averaged in; hand-made records only.

One report, of `study_folder`, is rendered for all tests that read files.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from click.testing import CliRunner

import mlecs_bench
from hand_made import SCORERS, make_record, with_identity
from mlecs_bench.cli.report import report
from mlecs_bench.doors.hookspecs import Control, StudyInfo
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import RecordError, UsageError
from mlecs_bench.plan.study import read_study
from mlecs_bench.records.failures import write_failure
from mlecs_bench.records.results import record_name, write_record
from mlecs_bench.report import Wanted, build_report, build_table, drawings, report_json, row_summary, write_report
from mlecs_bench.report import write as written
from mlecs_bench.report.arrange import Cards, control_key
from mlecs_bench.report.build import OWN_SECTIONS
from mlecs_bench.report.installed import known_cards
from mlecs_bench.report.table import Line, Section, Table
from study_records import five, study_records, with_all, write_records

STUDY = study_records()


def run(*arguments):
    return CliRunner().invoke(report, list(map(str, arguments)))


def printed_table(records, *points) -> str:
    """Return the tables that the command prints, which knows the cards of what is installed."""
    return build_table(records, *points, cards=known_cards(records, Registry.installed()))


def refused(*arguments) -> str:
    """Return the error of a command, which is one line."""
    error = run(*arguments).exception
    assert isinstance(error, UsageError | RecordError)
    assert "\n" not in str(error)
    return str(error)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Reports that a test builds itself have figures without a drawing; those of `study_folder` are drawn."""
    for name in ("communication_figure", "ablation_figure", "curves_figure", "spending_figure"):
        monkeypatch.setattr(drawings, name, lambda *_: None)
    monkeypatch.setattr(drawings, "figure_bytes", lambda _: {"svg": b"<svg/>", "png": b"", "pdf": b""})


def table_names(built) -> list[str]:
    return [table.name for table in built.tables()]


@pytest.fixture
def small(tmp_path) -> Path:
    """A folder with five records of one algorithm."""
    return write_records(tmp_path / "small", five())


# Sections


def test_a_setting_has_sections_and_all_but_the_first_say_which_it_is():
    built = build_report(STUDY, "title")
    titles = ["Scores", "Modalities", "Communication", "Statistics"]
    assert [s.title for s in built.sections] == [f"{t} (budget {b})" for b in ("paper", "equal") for t in titles]
    names = table_names(built)
    assert {"scores-vast", "statistics", "ablation-statistics", "communication"} <= set(names)
    assert {"scores-vast-budget-equal", "statistics-budget-equal"} <= set(names)
    assert len(names) == len(set(names))
    assert built.honest == "Synthetic data (vast), tiny language models: these scores say nothing of real ones."


def test_a_section_without_content_is_left_out():
    built = build_report(five("standalone"), "title")
    assert [section.title for section in built.sections] == ["Scores", "Modalities", "Communication"]


def test_the_candidate_is_named_or_a_studys_or_has_ablations_or_is_the_last():
    mine = [*five("standalone"), *five("zeta", gain=0.1)]
    ablated = [*mine, *five("standalone/no-x")]
    study = StudyInfo("t", "s", candidate="standalone")
    for records, wanted, expected in (
        (mine, Wanted(), "zeta"),
        (ablated, Wanted(), "standalone"),
        (ablated, Wanted(candidate="zeta"), "zeta"),
        (mine, Wanted(studies=[StudyInfo("t", "s", candidate="absent"), study]), "standalone"),
    ):
        titles = [table.title for table in build_report(records, "t", wanted).tables() if table.name == "statistics"]
        assert titles == [f"{expected} against baselines"]


def test_a_report_says_what_made_its_records_and_warns_of_changes_that_no_commit_holds():
    records = [dict(record) for record in five()]
    for i, record in enumerate(records):
        git = {"commit": "0123456789abcdef", "dirty": i == 0}
        record["provenance"] = {"packages": {"torch": "2.13.0", "mlecs-bench": "0.1.0"}, "git": git}
    built = build_report(records, "t", warnings=["left out: x"])
    made = "made with mlecs-bench 0.1.0, torch 2.13.0, commit 0123456789ab"
    assert built.about == f"5 records, seeds 27, 34, 46, 52, 93; {made}."
    assert built.warnings == ("left out: x", "1 of 5 records were made from a checkout with uncommitted changes")


def test_mixed_scorers_and_mixed_splits_stand_apart():
    other = {**SCORERS, "rouge_lsum": "rouge-score==9"}
    records = [*five(), *five(scorers=other), *with_all(five(), dataset={"split": "sequence"})]
    tables = [table for table in build_report(records, "t").tables() if table.name.startswith("scores")]
    assert len(tables) == len({table.name for table in tables}) == 3
    assert all(number.n in (0, 5) for table in tables for number in table.numbers())


# Studies


def own_study(**more) -> StudyInfo:
    def sections(view):
        line = Line((view.setting.label,), (view.asked.candidate,))
        table = Table(f"mine{view.suffix}", "Mine", "", ("setting",), (("candidate",),), (line,))
        return [Section(view.titled("My question"), tables=[table])]

    return StudyInfo("mine", "A question of mine.", sections=sections, **more)


def test_a_study_adds_its_sections_first_for_every_setting():
    built = build_report(STUDY, "t", Wanted(studies=[own_study()]))
    assert [section.title for section in built.sections[:2]] == ["My question (budget paper)", "Scores (budget paper)"]
    assert {"mine", "mine-budget-equal"} <= set(table_names(built))
    assert len(built.sections) == 2 * (1 + 4)


OWN_TITLES = {
    "scores": "Scores",
    "modalities": "Modalities",
    "communication": "Communication",
    "curves": "Learning curves",
    "statistics": "Statistics",
    "steps": "What the steps did",
}


def logging(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record whose first round has logged a loss."""
    rounds = [{"round": 1, "losses": {"d00": {"private": 2.0}}}, *record["metrics"]["rounds"][1:]]
    return {**record, "metrics": {**record["metrics"], "rounds": rounds}}


def test_a_study_may_take_the_place_of_any_section():
    for kind in OWN_SECTIONS:
        records = [logging(record) for record in [*with_all(five(), evaluate="all"), *five("standalone")]]
        built = build_report(records, "t", Wanted(studies=[own_study(replaces=(kind,))]))
        every = {"My question", *OWN_TITLES.values()}
        assert every - {section.title for section in built.sections} == {OWN_TITLES[kind]}


def test_a_study_orders_algorithms_and_datasets():
    records = [*five("a"), *five("b"), *five("c"), *five("b", dataset="aaa")]
    built = build_report(records, "t", Wanted(studies=[StudyInfo("t", "s", algorithms=("b",), datasets=("vast",))]))
    first, second = [table for table in built.tables() if table.name.startswith("scores")]
    assert (first.name, second.name) == ("scores-vast", "scores-aaa")
    assert [line.labels[-1] for line in first.lines] == ["b", "a", "c"]  # c, the last by name, is the candidate
    assert table_names(build_report(records, "t"))[0] == "scores-aaa"


def study_file(folder: Path, named: str) -> None:
    (folder / "study.yaml").write_text(f"report: {named}\nblocks: {{b: {{algo: a, dataset: x, rho: 0.5}}}}\n")


def test_the_studies_of_a_report_are_those_of_its_study_file_and_of_the_flag(small, monkeypatch):
    monkeypatch.setattr(Registry, "study", lambda self, name: type("L", (), {"info": own_study()}))
    assert "My question" not in run(small, "--json").stdout
    assert '"name": "mine"' in run(small, "--json", "--study", "mine").stdout
    study_file(small, "[mine]")
    assert '"name": "mine"' in run(small, "--json").stdout


def test_an_unknown_study_is_refused_by_the_flag_and_costs_its_sections_in_a_study_file(small):
    assert refused(small, "--study", "papre").startswith("no study 'papre'. Did you mean 'paper'?")
    study_file(small, "papre")
    result = run(small, "--json")
    assert result.exit_code == 0
    assert "warning: the sections of study 'papre' are left out: no study 'papre'" in result.stderr


def test_the_study_in_the_docs_is_one():
    page = (Path(__file__).parent.parent.parent / "docs" / "sweeps.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    found = {"__name__": "docs"}
    exec(compile(example, "sweeps.md", "exec", dont_inherit=True), found)  # noqa: S102  # our own page
    (table, *_) = build_report(STUDY, "t", Wanted(studies=[found["mlecs_study"]()])).tables()
    assert [(line.labels, line.contents) for line in table.lines] == [
        (("standalone",), ("1",)),
        (("ml-ecs",), ("2",)),
        (("ml-ecs/no-kt",), ("1",)),
    ]


def test_a_report_of_a_strangers_study_shows_nothing_of_the_paper(study_folder):
    texts = {
        p.name: p.read_text(encoding="utf-8")
        for p in (study_folder / "report").iterdir()
        if p.suffix not in (".png", ".pdf")
    }
    texts["stdout"] = (study_folder / "printed.txt").read_text(encoding="utf-8")
    for name, text in texts.items():
        found = re.sub(r"budget[^a-z]{1,6}paper", "", text)  # the name of a budget
        assert not re.search(r"\b(paper|MER|misprints?|ML-ECS|Table 1|Table 2|Figure \d)\b", found), name


# Files


def test_every_table_and_figure_has_its_files(study_folder):
    names = {path.name for path in (study_folder / "report").iterdir()}
    assert {"index.html", "report.md", "report.tex", "report.json", "records.csv", "files.txt"} <= names
    for table in ("scores-vast", "scores-vast-budget-equal", "statistics", "ablation-statistics", "communication"):
        assert {f"{table}.md", f"{table}.tex", f"{table}.csv"} <= names
    for figure in ("communication", "ablation"):
        assert {f"{figure}.svg", f"{figure}.png", f"{figure}.pdf"} <= names
    assert set((study_folder / "report" / "files.txt").read_text().split()) == names


def test_files_are_the_same_every_time_whatever_the_order_of_records(tmp_path):
    few = [*five(gain=0.02), *five("standalone")]
    for place, records in ((tmp_path / "a", few), (tmp_path / "b", few[::-1])):  # drawings have a test of their own
        write_report(build_report(records, "study"), records, place, tmp_path)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_numbers_of_all_formats_agree(study_folder):
    def text(name: str) -> str:
        return (study_folder / "report" / name).read_text(encoding="utf-8")

    whole = json.loads(text("report.json"))
    (table,) = [table for table in whole["tables"] if table["name"] == "scores-vast"]
    rows = list(csv.DictReader(text("scores-vast.csv").splitlines()))
    assert len(rows) == 4 * (1 + 7 + 3)  # of all statistics, of which tables show two
    shown = {" / ".join(number["column"]) for number in table["numbers"]}
    rows = [row for row in rows if row["column"] in shown]
    files = [(row["records"], row["file"]) for row in csv.DictReader(text("records.csv").splitlines())]
    assert len(rows) == len(table["numbers"]) == 4 * (1 + 3 + 3)
    scores = [(row, number) for row, number in zip(rows, table["numbers"], strict=True) if number.get("sd") is not None]
    assert len(scores) == 4 * 3
    for row, number in scores:
        assert (float(row["value"]), float(row["sd"])) == (number["value"], number["sd"])
        assert f"{number['value']:.3f} ± {number['sd']:.3f}" in text("scores-vast.md")
        assert f"{number['value']:.3f}" in text("scores-vast.tex")
        assert repr(number["value"]) in text("index.html")
        behind = [file for records, file in files if records == row["records"]]
        assert behind == whole["records"][str(number["records"])]
        assert all((study_folder / name).is_file() for name in behind)
        assert len(behind) == 5


def test_files_that_a_report_no_longer_has_go_and_those_of_others_stay(tmp_path):
    both = [*five(), *five("standalone")]
    write_report(build_report(both, "study"), both, tmp_path, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "table9.md").write_text("mine too")
    assert (tmp_path / "statistics.md").exists()
    write_report(build_report(five(), "study"), five(), tmp_path, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert "statistics.md" not in names
    assert {"notes.txt", "table9.md", "scores-vast.md"} <= names


def test_a_report_that_was_stopped_after_any_file_is_gone_on_with(tmp_path, monkeypatch):
    records = [make_record()]
    built = build_report(records, "study")
    monkeypatch.setattr(written, "report_files", lambda *_: {"index.html": "page", "report.md": "text"})
    monkeypatch.setattr(written, "report_json", lambda *_: {})
    whole = sorted(path.name for path in write_report(built, records, tmp_path / "whole", tmp_path))
    monkeypatch.setattr(written, "write_bytes", lambda path, content: (next(left), path.write_bytes(content)))
    for n in range(len(whole) + 1):  # the list of files is written twice
        folder = tmp_path / str(n)
        left = iter(range(n))
        with pytest.raises(StopIteration):
            write_report(built, records, folder, tmp_path)
        left = itertools.count()
        write_report(built, records, folder, tmp_path)
        assert sorted(path.name for path in folder.iterdir()) == whole


def test_a_report_of_0_1_0_is_replaced(tmp_path):
    (tmp_path / "table1.md").write_text("theirs")
    (tmp_path / "report.json").write_text('{"files": ["table1.md"]}')
    write_report(build_report(five(), "study"), five(), tmp_path, tmp_path)
    assert not (tmp_path / "table1.md").exists()
    assert (tmp_path / "files.txt").is_file()


def test_an_index_that_is_not_ours_is_neither_obeyed_nor_overwritten(tmp_path):
    (tmp_path / "kept").write_text("mine")
    built = build_report(five(), "study")
    for name, index in (
        ("report.json", "[]"),
        ("report.json", "{"),
        ("report.json", '{"files": 3}'),
        ("report.json", '{"files": []}'),
        ("files.txt", "../kept\n/kept\n"),
        ("files.txt", ""),
    ):
        place = tmp_path / "report"
        place.mkdir()
        (place / name).write_text(index)
        with pytest.raises(UsageError, match=f"{name} was not written by a report; give another folder"):
            write_report(built, five(), place, tmp_path)
        assert (place / name).read_text() == index
        shutil.rmtree(place)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "files.txt").write_text("../kept\nfiles.txt\n")
    write_report(built, five(), tmp_path / "report", tmp_path)
    assert (tmp_path / "kept").read_text() == "mine"


def test_a_file_that_no_report_wrote_is_not_overwritten(small):
    (small / "report").mkdir()
    (small / "report" / "scores-vast.md").write_text("my notes")
    assert "scores-vast.md was not written by a report; give another folder with --output" in refused(small)
    assert [path.read_text() for path in (small / "report").iterdir()] == ["my notes"]


def test_links_lead_to_the_records_wherever_the_report_is(study_folder, small, tmp_path):
    assert run(small, "--output", tmp_path / "elsewhere" / "deep").exit_code == 0
    for folder, place in ((study_folder, study_folder / "report"), (small, tmp_path / "elsewhere" / "deep")):
        links = re.findall(r'href="([^"#]+json)"', (place / "index.html").read_text(encoding="utf-8"))
        found = {(place / unquote(link)).resolve() for link in links}
        assert found == {path.resolve() for path in folder.glob("records/*.json")}
    assert not (small / "report").exists()


# The command


def test_the_command_prints_all_scores_and_writes_the_rest_beside_the_records(study_folder):
    printed = (study_folder / "printed.txt").read_text(encoding="utf-8")
    assert printed.startswith("# Report of study\n\n")
    assert printed.endswith(printed_table(STUDY))
    assert (study_folder / "report" / "index.html").is_file()
    assert len(list(study_folder.glob("records/*.json"))) == len(STUDY)


def test_the_command_names_bad_files_and_takes_both_names_of_the_point_of_evaluation(small):
    for again, flag in enumerate(("--eval-point", "--moment")):
        (small / "records" / "bad.json").write_text("{")
        done = run(small, flag, "received")
        assert done.exit_code == 0, again
        assert done.stdout.endswith(printed_table(five(), ("received",)))
        bad, wrote = done.stderr.splitlines()
        assert bad == f"warning: {small}/records/bad.json is cut off; delete it and run its cell again"
        assert re.fullmatch(rf"wrote 19 files to {small}/report; open {small}/report/index.html", wrote)
    assert "--moment" not in run("--help").stdout


def test_json_prints_everything_unrounded_and_writes_nothing(small):
    values = json.loads(run(small, "--json").stdout)
    expected = json.loads(json.dumps(row_summary(five())))
    assert {name: values[name] for name in expected} == expected
    assert values.keys() - expected.keys() == {"title", "about", "note", "tables", "claims", "warnings", "records"}
    assert not (small / "report").exists()
    built = json.loads(json.dumps(report_json(build_report(five(), "small"), five())))
    assert [table["numbers"] for table in values["tables"]] == [table["numbers"] for table in built["tables"]]


def test_what_is_no_record_and_cells_that_failed_are_named_and_left_out(small):
    (small / "cut.json").write_text('{"schema": "mlecs-bench/record/1", "key"')
    (small / "records" / "old.json").write_text('{"schema": "mlecs-bench/record/0"}')
    (small / "other.json").write_text('{"results": {"acc": 0.9}}')
    identity = make_record(algo="fedmllm", seed=34)["identity"]
    write_failure(small, identity, "Traceback ...\nKeyError: 'd00'")
    result = run(small)
    assert result.exit_code == 0
    text = (small / "report" / "report.md").read_text(encoding="utf-8")
    for name in ("cut.json", "old.json", "other.json"):
        assert name in result.stderr
        assert f"left out: {name}" in text
    assert f"failed: {record_name(identity).removesuffix('.json')}: KeyError: 'd00'" in result.stderr
    assert "KeyError" in text


def test_the_command_reads_scratch_by_default_and_says_what_to_run_without_a_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.fullmatch(r"no valid record in results/scratch; run 'mlecs-bench run .*' first, .*", refused())
    write_record(Path("results/scratch"), make_record())
    assert run().stdout.endswith(printed_table([make_record()]))


def test_a_folder_that_is_not_there_one_above_the_records_and_one_of_another_tool_are_named(small, tmp_path):
    assert "is no folder" in refused(small / "absent")
    assert "is a file" in refused(next(small.glob("records/*")))
    assert "name one of the folders below it: small" in refused(small.parent)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "results.json").write_text('{"results": {"acc": 0.9}}')
    assert "no valid record in" in refused(tmp_path / "theirs")
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["results.json"]


def test_an_unknown_candidate_and_a_place_that_cannot_be_written_are_refused(small):
    assert re.match(r"no record of algorithm 'ml-esc'.*ml-ecs", refused(small, "--candidate", "ml-esc"))
    (small / "taken").write_text("a file")
    assert re.match(r"cannot write .*taken.*--output", refused(small, "--output", small / "taken"))


def test_the_command_knows_the_defaults_of_installed_algorithms_and_does_without_those_of_others(tmp_path):
    usual = Registry.installed().default_options("ml-ecs")
    other = usual | {"amt_trains": ["encoder", "lora", "connector"]}
    records = [make_record(algo=algo, seed=seed) for algo in ("ml-ecs", "gone") for seed in (27, 34)]
    for record, options in zip(records, (other, other, other, usual), strict=True):
        identity = {**record["identity"], "algo": {**record["identity"]["algo"], "options": options}}
        write_record(tmp_path, with_identity({**record, "identity": identity}))
    tables = json.loads(run(tmp_path, "--json").stdout)["tables"]
    labels = {number["algorithm"] for number in tables[0]["numbers"]}
    assert "ml-ecs (amt_trains=encoder,lora,connector)" in labels
    assert "ml-ecs" not in labels
    assert len([label for label in labels if label.startswith("gone")]) == 2


def test_the_command_knows_controls_by_their_options_and_names_them_plainly(tmp_path):
    for public in (True, False):
        for record in five("standalone", seeds=(27, 34)):
            identity = {**record["identity"], "algo": {**record["identity"]["algo"], "options": {"use_public": public}}}
            write_record(tmp_path, with_identity({**record, "identity": identity}))
    other = make_record(algo="standalone", seed=46)  # options of another version
    write_record(tmp_path, other)
    report_ = run(tmp_path, "--json")
    tables = json.loads(report_.stdout)["tables"]
    labels = {number["algorithm"] for number in tables[0]["numbers"]}
    assert {"standalone", "standalone with public data"} <= labels
    assert any("control row standalone with public data: " in note for note in tables[0]["notes"])


def test_both_points_stand_in_every_table_unless_one_is_asked_for(small):
    def headings(*flags):
        tables = json.loads(run(small, "--json", *flags).stdout)["tables"]
        return {tuple(number["column"]) for table in tables for number in table["numbers"]}

    both = {("rouge_lsum", "avg", "local"), ("rouge_lsum", "avg", "received"), ("rouge_lsum", "server")}
    assert both <= headings()
    assert {("rouge_lsum", "avg"), ("rouge_lsum", "server")} <= headings("--eval-point", "received")
    assert run(small).stdout.endswith(printed_table(five()))


def test_a_control_is_no_candidate_by_itself():
    central = five("zeta")
    control = Control("ceiling", "all in one place", "all data")
    cards = Cards(controls={control_key(central[0]["identity"]): control})
    tables = build_report([*five("standalone"), *five("fedavg"), *central], "t", cards=cards).tables()
    titles = [table.title for table in tables if table.name == "statistics"]
    assert titles == ["standalone against baselines and controls"]


def test_without_a_name_the_candidate_is_the_algorithm_that_plugins_ablate(tmp_path):
    for record in (*five(seeds=(27, 34)), *five("standalone", seeds=(27, 34))):
        write_record(tmp_path, record)
    titles = [table["title"] for table in json.loads(run(tmp_path, "--json").stdout)["tables"]]
    assert "ml-ecs against baselines" in titles


def in_study(folder: Path, **words: Any) -> Path:
    """Give a folder of records a study file of two blocks with these words at its head."""
    blocks = {"one": {"algo": ["standalone", "zeta"], "n_seeds": 3}, "two": {"algo": "zeta", "n_seeds": 3}}
    study = {**words, "settings": {"dataset": "vast", "rho": 0.5}, "blocks": blocks}
    (folder / "study.yaml").write_text(json.dumps(study))
    return folder


def test_a_report_says_what_its_study_says_of_itself_in_every_format(tmp_path):
    folder = in_study(write_records(tmp_path / "mine", five()), title="Falls & fumbles", about="Who falls first.")
    printed = run(folder).stdout
    assert printed.startswith("# Falls & fumbles\n\nWho falls first.\n\n5 records")
    for name in ("index.html", "report.md", "report.tex", "report.json"):
        text = (folder / "report" / name).read_text(encoding="utf-8")
        assert "Falls" in text.partition("Who falls first.")[0], name


def test_the_candidate_is_the_studys_or_its_first_algorithm(tmp_path):
    records = [*five("standalone", seeds=(27, 34, 46)), *five("zeta", gain=0.1, seeds=(27, 34, 46))]
    for i, (words, expected) in enumerate((({"candidate": "zeta"}, "zeta"), ({}, "standalone"))):
        folder = in_study(write_records(tmp_path / str(i), records), **words)
        tables = json.loads(run(folder, "--json").stdout)["tables"]
        assert [t["title"] for t in tables if t["name"] == "statistics"] == [f"{expected} against baselines"]
        assert "zeta against baselines" in run(folder, "--candidate", "zeta", "--json").stdout
    with pytest.raises(UsageError, match=r"'candidate' in .* must name one algorithm"):
        read_study(in_study(tmp_path / "0", candidate=["a", "b"]) / "study.yaml")


def test_a_seed_is_missing_only_where_the_study_asked_for_it(tmp_path):
    few = write_records(tmp_path / "few", five("zeta", seeds=(27, 34)))
    assert "n=" not in run(few).stdout
    assert "n=2/3" in run(in_study(few)).stdout


def test_metrics_and_statistics_of_the_tables_can_be_chosen(small):
    def headings(*flags):
        (table,) = [t for t in json.loads(run(small, "--json", *flags).stdout)["tables"] if t["name"] == "scores-vast"]
        return {n["column"][1] for n in table["numbers"] if n["column"][0] == "rouge_lsum"}

    assert headings() == {"avg", "server"}
    assert headings("--stat", "worst", "--stat", "best", "--metric", "rouge_lsum") == {"worst", "best"}
    assert refused(small, "--metric", "rouge") == (
        "no record has the metric 'rouge'. Did you mean 'rouge_lsum'? Known: bertscore, rouge_lsum"
    )


def test_a_banner_compares_with_a_paper_only_where_its_study_is_asked_for(small):
    for flags, said in (((), False), (("--study", "paper"), True)):
        note = json.loads(run(small, "--json", *flags).stdout)["note"]
        assert ("not comparable with those of the paper" in note) is said


def test_importing_the_command_imports_no_heavy_package():
    code = (
        "import sys, mlecs_bench.cli.report, mlecs_bench.report; "
        "sys.exit(', '.join({'pandas', 'numpy', 'torch', 'scipy', 'jsonschema', 'tabulate'} & set(sys.modules)) or 0)"
    )
    root = Path(mlecs_bench.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
