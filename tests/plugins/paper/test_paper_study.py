"""The paper as a guest: a study plugin with its sections, presets and words on volumes."""

from __future__ import annotations

import ast
import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import mlecs_bench
from hand_made import make_comm
from mlecs_bench.cli.report import report
from mlecs_bench.doors.hookspecs import Control
from mlecs_bench.doors.registry import PluginEntry, Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.plan.study import keep_study, preset, presets, read_study
from mlecs_bench.records.results import write_record
from mlecs_bench.report import Wanted, build_report, drawings
from mlecs_bench.report.arrange import Cards, control_key
from mlecs_bench.report.transmission import Counted, transmission_text
from mlecs_plugins.paper.printed import PAPER_NOTES
from mlecs_plugins.paper.study import mlecs_study
from study_records import five, study_records

REPOSITORY = Path(__file__).parent.parent.parent.parent
REGISTRY = Registry.installed()
METHODS = ["standalone", "multi-fedavg", "fedmllm", "fedilora", "co-plms", "ml-ecs"]
ABLATIONS = ["ml-ecs", *(f"ml-ecs/no-{part}" for part in ("mma", "se-ccl", "ccl", "amt", "kt"))]
PROTOCOL = (27, 34, 46, 52, 93)


@pytest.fixture
def undrawn(monkeypatch):
    for name in ("communication_figure", "ablation_figure"):
        monkeypatch.setattr(drawings, name, lambda *_: None)
    monkeypatch.setattr(drawings, "figure_bytes", lambda _: {"svg": b"<svg/>", "png": b""})


def built(records, **wanted):
    return build_report(records, "t", Wanted(studies=[mlecs_study()], **wanted))


# The guest


def test_the_harness_names_neither_the_papers_study_nor_its_algorithm_in_code():
    """But for the flag --with-paper of 0.1.0, which stands for the study."""
    found = {}
    for path in Path(mlecs_bench.__file__).parent.joinpath("report").rglob("*.py"):
        strings = [n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)]
        named = [s for s in strings if s in ("paper", "ml-ecs", "MER", "vast", "ur-fall") or "mlecs_plugins" in str(s)]
        found |= {path.name: named} if named else {}
    assert found == {"folder.py": ["paper"]}


def test_the_entry_point_is_the_study():
    info = REGISTRY.study("paper").info
    assert (info.candidate, info.replaces) == ("ml-ecs", ("scores", "communication"))


# Its sections


@pytest.mark.usefixtures("undrawn")
def test_its_tables_figures_and_claims_come_first_and_take_the_place_of_scores_and_communication():
    report_ = built(study_records())
    own = ["Tables 1 and 2", "Communication", "The paper's claims", "Modalities", "Statistics"]
    assert [s.title for s in report_.sections] == [f"{t} (budget {b})" for b in ("paper", "equal") for t in own]
    names = {table.name for table in report_.tables()}
    assert {"table1-vast", "ablation-vast", "communication", "statistics", "table1-vast-budget-equal"} <= names
    assert not any(name.startswith("scores") for name in names)
    figures = {figure.name: figure.title for section in report_.sections for figure in section.figures}
    assert figures["figure3-communication"] == "Figure 3: communication"
    assert figures["figure4-ablation"] == "Figure 4: ablations"
    assert figures.keys() > {"figure3-communication-budget-equal"}


@pytest.mark.usefixtures("undrawn")
def test_its_claims_are_about_its_own_algorithm():
    assert any(section.claims for section in built(five()).sections)
    assert not any(section.claims for section in built(five(), candidate="standalone").sections)


@pytest.mark.usefixtures("undrawn")
def test_claims_without_a_control_say_what_a_gain_may_be():
    control = Control("floor", "alone with public data", "nothing sent")
    for name, expected in (("standalone", True), ("alone", False)):
        records = [*five(), *five(name)]
        controls = {} if expected else {control_key(records[-1]["identity"]): control}
        report_ = build_report(records, "t", Wanted(studies=[mlecs_study()]), Cards(controls=controls))
        (section,) = [section for section in report_.sections if section.claims]
        assert ("no control row" in section.about) is expected


def test_figures_speak_the_papers_words(monkeypatch):
    seen = {}

    def keep(name):
        return lambda *panels: seen.setdefault(name, panels)

    for name in ("communication_figure", "ablation_figure"):
        monkeypatch.setattr(drawings, name, keep(name))
    monkeypatch.setattr(drawings, "figure_bytes", lambda _: {})
    built([*five(), *five("ml-ecs/no-kt")])
    _, (points, _) = seen["communication_figure"]
    ((client, _, server),) = seen["ablation_figure"]
    assert points.title == client.title == "vast, MER 0.5, local"
    assert server.title == "vast, MER 0.5"
    assert (points.metric, client.metric, server.metric) == ("client avg. RLS", "client avg. RLS", "server RLS")


@pytest.mark.usefixtures("undrawn")
def test_with_paper_shows_the_study_and_its_values_and_the_study_alone_no_values(tmp_path):
    for record in five(seeds=(27, 34)):
        write_record(tmp_path, record)

    def tables(*flags):
        values = json.loads(CliRunner().invoke(report, [str(tmp_path), "--json", *flags]).stdout)
        return {table["name"]: table for table in values["tables"]}, values["claims"]

    plain, none = tables()
    study, claims = tables("--study", "paper")
    beside, same = tables("--with-paper")
    assert "table1-vast" not in plain
    assert none == []
    assert claims == same != []
    assert not any("published" in number for number in study["table1-vast"]["numbers"])
    assert beside["table1-vast"]["numbers"][0]["published"]["value"] == 0.244
    (tmp_path / "study.yaml").write_text("report: paper\nblocks: {b: {algo: a, dataset: x, rho: 0.5, n_seeds: 2}}\n")
    assert tables() == (study, claims)


# Its words on volumes


def counted(algo: str, share: float) -> Counted:
    comm = make_comm(3)
    ratios = {**comm["ratios"], "one_way": {"value": share, "definition": "one way"}}
    return Counted(algo, {**comm, "ranks": {"d00": 8}, "ratios": ratios})


def test_what_it_says_of_volumes_stands_beside_what_was_counted_only_when_asked():
    rows = [counted("ml-ecs", 0.01), counted("fedilora", 0.025), counted("mine", 0.04)]
    plain, beside = transmission_text(rows), transmission_text(rows, mlecs_study())
    assert "paper" not in plain
    assert "| share (one way) " in plain
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in beside.splitlines() if line[:2] == "| "]
    assert [line[-2:] for line in lines[5:8]] == [["1.00", "0.65 %"], ["2.50", "about 7x"], ["4.00", "-"]]
    assert all(f"- {note}" in beside for note in PAPER_NOTES)


# Its presets


RATES = (0.5, 0.7, 0.8)
BESIDE = (
    ("standalone", {"use_public": True}),
    ("centralised", {}),
    ("ml-ecs", {"kt_reduction": "sum"}),
    ("ml-ecs", {"kt_weight": 0}),
)
"""What stands beside the methods in every study: two controls, and two other readings of knowledge transfer."""


def grid(algos, rhos=RATES, n_devices=(3,), evaluate="last", options=None) -> list[tuple[object, ...]]:
    """Return the runs of a preset's block on both datasets, as a loop."""
    return [
        (algo, str(options or {}), dataset, rho, n, evaluate)
        for rho in rhos
        for n in n_devices
        for dataset in ("vast", "ur-fall")
        for algo in algos
    ]


def beside(**places) -> list[tuple[object, ...]]:
    return [run for algo, options in BESIDE for run in grid([algo], options=options, **places)]


MANY = {"rhos": (0.8,), "n_devices": (3, 5, 10, 20)}
TABLE1, TABLE2, ABLATION = grid(METHODS), grid(["ml-ecs"], **MANY), grid(ABLATIONS)
CURVES = grid(METHODS, rhos=(0.5,), evaluate="all")
RUNS = {
    "table1": ([*TABLE1, *beside()], 300),  # 6 methods and 4 rows, 2 datasets, 3 rates, 5 seeds
    "table2": ([*TABLE2, *beside(**MANY)], 200),  # 5 rows, 2 datasets, 4 numbers of devices, 5 seeds
    "ablation": ([*ABLATION, *beside()], 300),  # 6 variants and 4 rows, 2 datasets, 3 rates, 5 seeds
    # Table 2 shares its rows with three devices at 0.8 on both datasets; the ablations share all 6 of ML-ECS.
    "all": (
        [*TABLE1, *TABLE2, *beside(), *beside(**MANY), *ABLATION, *CURVES],
        300 + 5 * 30 + 150 + 60,
    ),
}


def test_a_preset_is_the_runs_of_its_table_reported_with_the_paper():
    assert presets(REGISTRY).keys() == RUNS.keys()
    for name, (runs, n_cells) in RUNS.items():
        specs = preset(name, REGISTRY).specs()
        found = [(s.algo, str(dict(s.options)), s.dataset, s.rho, s.n_devices, s.evaluate) for s in specs]
        assert found == list(dict.fromkeys(runs))
        assert {spec.seeds for spec in specs} == {PROTOCOL}
        assert {(spec.profile, spec.budget, spec.split) for spec in specs} == {("mini", "paper", None)}
        assert sum(len(spec.seeds) for spec in specs) == n_cells
        assert preset(name, REGISTRY).report == ("paper",)


def test_a_preset_names_only_plugins_that_come_with_the_package():
    points = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    for name in RUNS:
        specs = preset(name, REGISTRY).specs()
        assert {spec.algo for spec in specs} <= points["mlecs_bench.algorithms"].keys()
        assert {spec.dataset for spec in specs} <= points["mlecs_bench.datasets"].keys()


def test_a_preset_can_be_kept_and_run_again_from_its_copy(tmp_path):
    for name in RUNS:
        keep_study(preset(name, REGISTRY), tmp_path / name)
        assert read_study(tmp_path / name / "study.yaml") == preset(name, REGISTRY)


def test_an_unknown_preset_is_met_with_the_nearest_and_one_of_two_studies_with_their_files():
    with pytest.raises(UsageError, match=r"^no preset 'tabel1'\. Did you mean 'table1'\?"):
        preset("tabel1", REGISTRY)
    target = "mlecs_plugins.paper.study"
    twice = Registry([PluginEntry(name, "study", "mlecs-bench", "1", target) for name in ("one", "two")])
    with pytest.raises(UsageError, match=r"^preset 'table1' is offered by 2 studies; give --study FILE: .*table1.yaml"):
        preset("table1", twice)


def test_a_broken_study_costs_its_own_presets_only():
    broken = PluginEntry("broken", "study", "acme", "1", "no_such_module")
    assert presets(Registry([broken, *REGISTRY.entries("study")])).keys() == RUNS.keys()
