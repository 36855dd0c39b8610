"""The paper's own tables and figures, filled with records that are made of its own numbers."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence

import pytest

from hand_made import make_record, score, with_identity
from mlecs_bench.doors.hookspecs import Control
from mlecs_bench.report.arrange import Cards, Order, arrange, control_key
from mlecs_bench.report.frame import BOTH_POINTS, build_rows
from mlecs_bench.report.latex import table_latex
from mlecs_bench.report.markdown import table_markdown
from mlecs_bench.report.scores import Asked
from mlecs_bench.report.study import StudyView
from mlecs_bench.report.table import Number, Table
from mlecs_plugins.paper import figures
from mlecs_plugins.paper.layout import BESIDE, companions, printed_table1, printed_table2
from mlecs_plugins.paper.printed import baselines, datasets, impossible_triples, printed, printed_in_table2
from study_records import five

METHODS = {
    "standalone": "Standalone",
    "multi-fedavg": "Multi-Fed-Avg",
    "fedmllm": "FedMMLM",
    "fedilora": "Fedilora",
    "co-plms": "Co-PLMs",
    "ml-ecs": "Ours",
}
RATES = ("0.5", "0.7", "0.8")
METRICS = {"vast": ("bertscore", "rouge_lsum"), "ur-fall": ("f1_macro",)}
COLUMNS = [
    *(("vast", metric, stat) for metric in METRICS["vast"] for stat in ("avg", "best", "worst")),
    *(("vast", metric, "server") for metric in METRICS["vast"]),
    *(("ur-fall", "f1_macro", stat) for stat in ("avg", "best", "worst", "server")),
]
HEADINGS = [
    *(("VAST", "Client Perf.", f"{stat} {name}") for name in ("BS", "RLS") for stat in ("Avg.", "B.", "W.")),
    *(("VAST", "Server Perf.", name) for name in ("BS", "RLS")),
    *(("UR-FALL", "Client Perf.", f"{stat} F1") for stat in ("Avg.", "B.", "W.")),
    ("UR-FALL", "Server Perf.", "F1"),
]
HALF = 0.00049
"""Just less than what rounding to three decimals hides."""
BESIDE_ARMS = {"standalone": {"use_public": True}, "ml-ecs": {"kt_weight": 0}}
DEFAULTS = {"standalone": {"tau": 1.0, "use_public": False}, "ml-ecs": {"tau": 1.0, "kt_weight": 1}}


def devices_of(avg: float, best: float, worst: float, n: int) -> list[float] | None:
    """Return scores of n devices that have these three numbers after rounding, None where there are none."""
    for a, b, w in itertools.product((0, -HALF, HALF), repeat=3):
        middle = (n * (avg + a) - (best + b) - (worst + w)) / (n - 2)
        if worst + w <= middle <= best + b:
            return [worst + w, *[middle] * (n - 2), best + b]
    return None


def record_of(algo, dataset, rho, n, numbers, **options):
    """Return a record with the printed numbers, and the triples of it that n devices cannot have."""
    scorers = dict.fromkeys(METRICS[dataset], "a scorer")
    has_server = numbers(METRICS[dataset][0], "server") is not None
    record = make_record(
        algo=algo,
        dataset=dataset,
        rho=float(rho),
        local=(0.0,) * n,
        server=0.0 if has_server else None,
        scorers=scorers,
    )
    impossible = []
    for metric in scorers:
        devices = devices_of(*(numbers(metric, stat).value for stat in ("avg", "best", "worst")), n)
        impossible += [] if devices else [(algo, rho, dataset, metric)]
        for point, plus in (("local", 0.0), ("received", 0.01)):
            found = {f"d{j:02d}": score(value + plus) for j, value in enumerate(devices or [0.0] * n)}
            record["metrics"]["client"][point][metric] = found
        if has_server:
            record["metrics"]["server"][metric] = score(numbers(metric, "server").value)
    return with_identity(record, algo={"options": {**DEFAULTS.get(algo, {}), **options}}), impossible


def table1_records():
    for rho, algo, dataset in itertools.product(RATES, METHODS, METRICS):
        yield record_of(algo, dataset, rho, 3, lambda *score_, at=(algo, dataset, rho, 3): printed(*at, *score_))


def table2_records():
    for n, dataset in itertools.product((3, 5, 10, 20), METRICS):
        yield record_of("ml-ecs", dataset, "0.8", n, lambda *score_, at=(dataset, n): printed_in_table2(*at, *score_))


def view_of(records, **asked) -> StudyView:
    controls = {
        control_key(r["identity"]): Control("floor", "standalone with public data", "nothing sent")
        for r in records
        if r["identity"]["algo"]["options"].get("use_public")
    }
    cards = Cards(DEFAULTS, controls)
    (setting,) = arrange(build_rows(records), "ml-ecs", cards, Order(baselines(), datasets()))
    return StudyView(setting, Asked(**{"eval_points": BOTH_POINTS, "candidate": "ml-ecs", "seeds": (27,)} | asked))


def beside(records: Sequence[dict]) -> Iterator[dict]:
    """Yield a control or a variant for every record of an algorithm that has one."""
    for record in records:
        more = BESIDE_ARMS.get(record["identity"]["algo"]["name"])
        if more:
            yield with_identity(record, algo={"options": {**record["identity"]["algo"]["options"], **more}})


def texts(table: Table) -> list[list[str]]:
    return [[content.text if isinstance(content, Number) else "-" for content in line.contents] for line in table.lines]


def test_records_of_the_papers_numbers_give_its_table_1_cell_by_cell():
    made = list(table1_records())
    impossible = {triple for _, triples in made for triple in triples}
    assert impossible >= set(impossible_triples())
    assert len(impossible) - len(impossible_triples()) == 1  # one is possible only where a half is rounded just so
    table = printed_table1(view_of([record for record, _ in made]))
    assert list(table.columns) == HEADINGS
    assert [line.labels for line in table.lines] == [(f"ρ = {rho}", name) for rho in RATES for name in METHODS.values()]
    compared = 0
    for (rho, algo), cells in zip(itertools.product(RATES, METHODS), texts(table), strict=True):
        for (dataset, metric, stat), cell in zip(COLUMNS, cells, strict=True):
            if stat == "server" or (algo, rho, dataset, metric) not in impossible:
                value = printed(algo, dataset, rho, 3, metric, stat)
                assert cell == ("-" if value is None else f"{value.value:.3f}"), (rho, algo, dataset, metric, stat)
                compared += 1
    assert compared == 18 * 12 - 3 * len(impossible)
    footnote = "“-”: Multi-Fed-Avg, FedMMLM and Fedilora are not applicable for evaluating server performance."
    assert [note for note in table.notes if "“-”" in note] == [footnote]


def test_the_best_of_every_column_and_rate_is_bold_and_nothing_else_is_marked():
    table = printed_table1(view_of([record for record, _ in table1_records()]))
    for rho, column in itertools.product(RATES, range(len(COLUMNS))):
        numbers = [line.contents[column] for line in table.lines if line.labels[0] == f"ρ = {rho}"]
        there = [number for number in numbers if number]
        best = max(number.value for number in there)
        assert all(number.best is (abs(number.value - best) < 1e-9) for number in there)
    assert not any(number.close or number.spread or number.lacking for number in table.numbers())


def test_records_of_the_papers_numbers_give_its_table_2_cell_by_cell():
    made = list(table2_records())
    impossible = {triple for _, triples in made for triple in triples}
    (table,) = printed_table2(view_of([record for record, _ in made]))
    assert table.columns == tuple(("Number of Edge Devices", str(n)) for n in (3, 5, 10, 20))
    assert [line.labels for line in table.lines] == HEADINGS
    for (dataset, metric, stat), cells in zip(COLUMNS, texts(table), strict=True):
        if stat == "server" or ("ml-ecs", "0.8", dataset, metric) not in impossible:
            assert cells == [f"{printed_in_table2(dataset, n, metric, stat).value:.3f}" for n in (3, 5, 10, 20)]


def test_controls_and_variants_stand_below_a_rule_and_leave_the_papers_rows_as_they_are():
    records = [record for record, _ in table1_records()]
    alone, table = (printed_table1(view_of(some)) for some in (records, [*records, *beside(records)]))
    assert table.lines[:18] == alone.lines
    assert table.columns == alone.columns
    labels = [
        label
        for rho in RATES
        for label in ((f"ρ = {rho}", "standalone with public data"), (f"ρ = {rho}", "ml-ecs (kt_weight=0)"))
    ]
    assert [line.labels for line in table.lines[18:]] == labels
    assert [line.opens for line in table.lines] == [*[""] * 18, BESIDE, *[""] * 5]
    assert re.search(rf"\n\| \*{BESIDE}\* +\|", table_markdown(table))
    assert rf"\midrule{chr(10)}\multicolumn{{14}}{{@{{}}l}}{{\textit{{{BESIDE}}}}} \\" in table_latex(table)


def test_other_algorithms_of_table_2_stand_below_a_rule_with_averages_and_the_server():
    records = [record for record, _ in table2_records()]
    (table,) = printed_table2(view_of([*records, *beside(records)]))
    below = [line for line in table.lines if "kt_weight" in line.labels[0]]
    assert [line.labels[2] for line in below] == ["Avg. BS", "Avg. RLS", "BS", "RLS", "Avg. F1", "F1"]
    assert below[0].opens == BESIDE
    assert [n.value for n in below[0].contents] == [n.value for n in table.lines[0].contents]


def test_companions_hold_the_spread_and_the_second_point_of_all_that_the_tables_show():
    records = [*five(), *five("standalone"), *five("ml-ecs/no-mma"), *five(dataset="mine")]
    tables = {table.name: table for table in companions(view_of(records, seeds=(27, 34, 46, 52, 93)))}
    names = [f"table1-spread-{data}-{point}" for point in BOTH_POINTS for data in ("vast", "mine")]
    assert [name for name in tables if name.startswith("table1")] == names
    assert {"figure4-spread-vast-local", "figure4-spread-vast-received"} <= tables.keys()
    first, second = (tables[f"table1-spread-vast-{point}"].lines[0].contents[0] for point in BOTH_POINTS)
    assert second.value == pytest.approx(first.value + 0.05)
    assert first.sd > 0


def test_a_dash_is_explained_by_its_own_reason():
    scorers = {"rouge_lsum": "a scorer", "bertscore": None}
    records = [make_record(algo="ml-ecs", scorers=scorers), make_record(algo="fedilora", server=None, scorers=scorers)]
    records.append(make_record(algo="ml-ecs", dataset="ur-fall", scorers={"f1_macro": "a scorer"}))
    notes = [note for note in printed_table1(view_of(records)).notes if "“-”" in note]
    assert notes == [
        "“-”: Fedilora is not applicable for evaluating server performance.",
        "“-” under BS: no record holds this score.",
        "“-” elsewhere: there is no such record.",
    ]


def test_records_of_other_studies_have_no_table_of_the_papers():
    view = view_of(five("mine", dataset="theirs"))
    assert printed_table1(view) is None
    assert printed_table2(view) == []
    assert printed_table1(view_of(five("mine"))).lines[0].labels == ("ρ = 0.5", "mine")


def test_figures_hold_the_papers_methods_and_variants(monkeypatch):
    drawn = []
    for name in ("draw_shares", "draw_bars"):
        monkeypatch.setattr(figures, name, lambda *parts: drawn.append(parts) or "drawn")
    records = [r for r, _ in table1_records() if r["identity"]["rho"]["audio"] == 0.8]
    records += [
        with_identity(r, algo={"name": f"ml-ecs/{part}"})
        for r in records
        if r["identity"]["algo"]["name"] == "ml-ecs"
        for part in ("no-mma", "no-se-ccl", "no-kt")
    ]
    view = view_of(records)
    assert figures.figure3(view) == "drawn"
    assert figures.figure4(view) == ["drawn", "drawn"]
    (_, _, _, bars, _), (vast, _, _, panels, _), (fall, _, _, others, _) = drawn
    assert [bar.label for bar in bars] == list(METHODS.values())
    assert {bar.share for bar in bars} == {0.065}
    assert (vast, fall) == ("figure4a-vast", "figure4b-ur-fall")
    assert [panel.metric for panel in panels] == ["Avg. BS", "Avg. RLS", "BS", "RLS"]
    assert [panel.metric for panel in others] == ["Avg. F1", "F1"]
    assert all([bar.label for bar in panel.bars] == ["Ours", "w/o MAA", "w/o SE-CCL"] for panel in [*panels, *others])
    assert panels[0].bars[0].height.mean == pytest.approx(0.309, abs=HALF)


DOCUMENT = r"""\documentclass[twocolumn,a4paper,10pt]{article}
\usepackage[T1]{fontenc}
\usepackage[margin=20mm]{geometry}
\usepackage{booktabs,graphicx}
\newsavebox{\tabled}
\begin{document}
%s
\end{document}
"""
MEASURED = r"""\sbox{\tabled}{\footnotesize %s}
\typeout{WIDTH \the\wd\tabled\space OF \the\textwidth\space COLUMN \the\columnwidth}"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_the_papers_tables_fit_a_two_column_page_at_a_readable_size(tmp_path):
    """The text has 8 points; what has to be scaled down keeps at least 6.5 of them."""
    records = [r for r, _ in [*table1_records(), *table2_records()]]
    records = list({r["key"]: r for r in records}.values())
    many = [with_identity(r, seed=seed) for r in [*records, *beside(records)] for seed in (27, 34)]
    view = view_of(many, seeds=(27, 34, 46))
    tables = [printed_table1(view), *printed_table2(view), *companions(view)]
    latex = [table_latex(table) for table in tables]
    inner = [re.search(r"\\setlength\{\\tabcolsep\}.*\\end\{tabular\}", text, re.DOTALL)[0] for text in latex]
    body = "\n".join([*(MEASURED % one for one in inner), *latex])
    (tmp_path / "page.tex").write_text(DOCUMENT % body)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "page.log").read_text(errors="replace")
    assert "Overfull" not in log
    widths = re.findall(r"WIDTH ([\d.]+)pt OF ([\d.]+)pt COLUMN ([\d.]+)pt", log.replace("\n", ""))
    assert len(widths) == len(tables)
    for table, text, (width, page, column) in zip(tables, latex, widths, strict=True):
        room = float(page) if "table*" in text else float(column)
        assert float(width) * 6.5 / 8 <= room, table.name
