"""The report as text: what Markdown, LaTeX and CSV show of a small report that has everything a report can have.

The files in tests/golden are compared to the byte. MLECS_BENCH_GOLDEN=write writes them anew, and then every test of
them fails, so that nobody takes that for a pass.
"""

from __future__ import annotations

import base64
import csv
import io
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from matplotlib.figure import Figure as Drawing

from mlecs_bench.report.csv_text import records_csv, table_csv
from mlecs_bench.report.latex import report_latex, table_latex
from mlecs_bench.report.markdown import report_markdown, table_markdown, table_text
from mlecs_bench.report.table import Claim, Figure, Line, Number, Published, Report, Section, Table

GOLDEN = Path(__file__).parent / "golden"
SPECIAL = r"100% of R&D: a_b #1 $5 {x} ~y ^z \n |p| <i> `q` *s* [t] “ρ” ± × ≤ – … Zoë 'it''s' --no -- @w"
ONE_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgABc3UBGAAAAABJRU5ErkJggg=="
)


def score(value: float, **more) -> Number:
    return Number(value, **{"sd": 0.0123, "n": 5, "expected": 5, "records": ("a27", "b28"), **more})


TABLE = Table(
    name="table1",
    title="Table 1: methods at 3 devices",
    caption="Profile mini, 2 rounds × 20 steps. Mean ± sd (ddof = 1) over seeds, ρ ≤ 1.",
    left=("MER", "method"),
    columns=(
        ("vast", "client", "Avg. RLS"),
        ("vast", "client", "W. RLS"),
        ("vast", "server", "RLS"),
        ("ur-fall", "client", "Avg. F1"),
        ("sent", "parameters"),
        ("verdict",),
    ),
    lines=(
        Line(
            ("0.5", "standalone"),
            (
                score(0.1 + 0.2, close=True),
                score(0.2, n=4),
                None,
                score(-0.5, sd=None),
                Number(1234.0, kind="count"),
                "-",
            ),
            "MER 0.5",
        ),
        Line(
            ("0.5", "ml-ecs (kd_weight=0.5|1)"),
            (
                score(1 / 3, best=True, published=Published(0.345, "paper")),
                score(0.25, best=True, published=Published(0.2, "paper", "a")),
                score(0.4, best=True),
                score(0.625, n=3, published=Published(0.7, "paper", "bc")),
                Number(0.5, kind="percent"),
                "reproduced",
            ),
            "MER 0.5",
        ),
        Line(("0.5", "most_frequent"), (score(0.05), score(0.04), None, None, None, None), "MER 0.5", reference=True),
        Line(
            ("0.8", "own_method 100% <ρ> & ᚠ|ë"),
            (score(0.9, best=True), None, None, None, Number(0.0004, kind="p"), "a|b"),
            "MER 0.8",
        ),
        Line(("0.8", "-x"), (score(1e-17), score(123456.789), None, None, None, "=1+1"), "MER 0.8"),
    ),
    notes=("MER: the rate at which a device holds a modality.", "[a] a misprint: the average is lower.", "[b] b & c."),
    honest="Synthetic data (vast), tiny language models: these scores say nothing of real ones.",
    setting="rank 4",
)
EMPTY = Table("table2", "Table 2: number of devices", "Nothing yet.", ("method",), (("F1",),), ())
CLAIMS = (
    Claim(
        "Section 5.2", "ML-ECS is best at every rate", "+5.44 % to +12.1 %", "3 of 4 scores", "undecided", "p = 0.07"
    ),
    Claim("Table 3", "It sends < 0.65 % | of w/o CCL", "0.65 %", "0.71 %", "not reproduced", "d_model & rank_8 differ"),
)
DRAWN = {"png": ONE_PIXEL, "pdf": ONE_PIXEL}
REPORT = Report(
    title="Main results of mini_study",
    about="4 records, seeds 27, 28; made with mlecs-bench 0.1.0.\n\n# no heading\n\n1. no list",
    honest="Synthetic data (vast), tiny language models: these scores say nothing of real ones.",
    sections=(
        Section(
            "Scores & more",
            "What devices score.",
            tables=(TABLE, EMPTY),
            figures=(
                Figure(
                    "curves", "Scores [t] by round", "Mean of 3 devices, ± sd.", {"png": ONE_PIXEL, "pdf": ONE_PIXEL}
                ),
            ),
        ),
        Section("The paper's claims", claims=CLAIMS),
    ),
    warnings=("1 record_file is of another schema", "2 of 4 records were made from a changed checkout"),
    files={"a27": "records/a--seed27.json"},
)
RENDERED = {
    "table.md": lambda: table_markdown(TABLE),
    "table.tex": lambda: table_latex(TABLE),
    "table.csv": lambda: table_csv(TABLE, REPORT.record_sets()),
    "records.csv": lambda: records_csv(REPORT),
    "table.txt": lambda: table_text(TABLE),
    "report.md": lambda: report_markdown(REPORT),
    "report.tex": lambda: report_latex(REPORT),
}


@pytest.mark.parametrize("name", RENDERED)
def test_text_is_that_of_the_golden_file(name):
    text = RENDERED[name]()
    path = GOLDEN / name
    if os.environ.get("MLECS_BENCH_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8", newline="\n")
        pytest.fail(f"{path.name} is written anew: look at what changed, then run without MLECS_BENCH_GOLDEN")
    assert text == path.read_bytes().decode("utf-8")


def one_label(label: str, word: str = "same") -> Table:
    """A table with one line, whose label and words are given."""
    return Table("t", "T", "", ("method",), (("verdict",),), (Line((label,), (word,)),))


class Cells(HTMLParser):
    """The rows of the tables of an HTML text, as the plain text of their cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True
        elif tag == "br":
            self.rows[-1][-1] += "\n"

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def html_of(markdown: str) -> str:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown)


def cells_of(markdown: str) -> list[list[str]]:
    return Cells(html_of(markdown)).rows


def test_rows_of_a_markdown_table_have_the_same_number_of_pipes():
    for text in (table_markdown(TABLE), report_markdown(REPORT), table_markdown(one_label(SPECIAL))):
        blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
        assert blocks
        for rows in blocks:
            assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows}) == 1


def test_markdown_shows_words_as_they_are():
    for label in (
        SPECIAL,
        "__init__",
        "a\\|b",
        "&lt;",
        "_x_",
        "a_b_c",
        "**",
        "~~a~~",
        "<!-- a",
        "[a](b)",
        "![a](b)",
        "`",
    ):
        assert cells_of(table_markdown(one_label(label, label)))[1] == [label, label]


def test_a_line_of_words_is_a_paragraph_in_markdown():
    for words in ("# a", "- a", "+ a", "> a", "1. a", "2) a", "=", "---", "[a]: b", "    a"):
        html = html_of(report_markdown(Report("T", words, "", ())))
        assert html == f"<h1>T</h1>\n<p>{words.strip().replace('>', '&gt;')}</p>\n"


def test_markdown_marks_best_close_reference_and_missing():
    rows = html_of(table_markdown(TABLE)).partition("<tbody>")[2].split("</tr>")
    assert "<u>0.300 ± 0.012</u>" in rows[0]
    assert "0.200 ± 0.012 (n=4/5)<" in rows[0]
    assert rows[0].count(">-<") == 2
    assert "<strong>0.250 ± 0.012</strong><br>paper 0.200 [a], +0.050<" in rows[1]
    assert "0.625 ± 0.012 (n=3/5)<br>paper 0.700 [b][c], -0.075<" in rows[1]
    assert "<em>0.5</em>" not in rows[2]
    assert "<em>most_frequent</em> (reference)<" in rows[2]


def test_markdown_aligns_numbers_right_and_words_left():
    rule = next(row for row in table_markdown(TABLE).splitlines() if row.startswith("|:"))
    sides = ["right" if cell.endswith(":") else "left" for cell in rule.strip("|").split("|")]
    assert sides == ["left", "left", "right", "right", "right", "right", "right", "left"]


def test_a_table_without_lines_is_a_sentence():
    for render in (table_markdown, table_latex):
        text = render(EMPTY)
        assert "This table has no lines." in text
        assert "|" not in text
        assert "tabular" not in text


def unescaped(latex: str) -> str:
    """LaTeX without its escaped characters and without comments."""
    return re.sub(r"%.*", "", re.sub(r"\\[&%{}#$_]", "", latex))


def test_braces_and_environments_of_latex_are_balanced():
    for text in (table_latex(TABLE), report_latex(REPORT), table_latex(one_label(SPECIAL * 2, "}{"))):
        depth = 0
        for brace in re.findall(r"[{}]", unescaped(text)):
            depth += 1 if brace == "{" else -1
            assert depth >= 0
        assert depth == 0
        open_ones: list[str] = []
        for what, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", text):
            if what == "begin":
                open_ones.append(name)
            else:
                assert open_ones.pop() == name
        assert open_ones == []


def test_every_row_of_a_latex_table_fills_every_column():
    for table in (TABLE, one_label(SPECIAL, "a & b"), one_label(r"\\", "&&")):
        body = unescaped(table_latex(table).partition(r"\toprule")[2].partition(r"\bottomrule")[0])
        rows = re.split(r"\\\\(?:\[.*?\])?\n", body)[:-1]
        assert len(rows) >= 1 + len(table.lines)
        for row in rows:
            spanned = sum(int(width) - 1 for width in re.findall(r"\\multicolumn\{(\d+)\}", row))
            assert row.count("&") + 1 + spanned == len(table.left) + len(table.columns)


def test_headings_that_columns_share_span_them_in_latex():
    text = table_latex(TABLE)
    assert r" &  & \multicolumn{3}{c}{vast} & \multicolumn{1}{c}{ur-fall} & \multicolumn{1}{c}{sent} &  \\" in text
    assert r"\cmidrule(lr){3-5} \cmidrule(lr){6-6} \cmidrule(lr){7-7}" in text
    assert r"\multicolumn{2}{c}{client} & \multicolumn{1}{c}{server} & \multicolumn{1}{c}{client} &  &  \\" in text


def test_groups_stand_apart_in_latex_and_repeat_no_label():
    groups = table_latex(TABLE).partition(r"\bottomrule")[0].split("\\midrule\n")[1:]
    assert [[row.partition(" & ")[0] for row in group.splitlines()] for group in groups] == [
        ["0.5", "", "", ""],
        ["0.8", ""],
    ]


def test_latex_prints_words_as_they_are():
    for words, latex in (
        ("_ & % # $ { }", r"\_ \& \% \# \$ \{ \}"),
        ("~^\\", r"\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ("ρτ ± × ≤", r"$\rho$$\tau$ $\pm$ $\times$ $\le$"),
        ("– … “a”", r"-- \ldots{} ``a''"),
        ("[a] *", r"{[}a{]} {*}"),
        ("--no", r"-{}-no"),
        ("Zoë café", r"Zo\"{e} caf\'{e}"),
        ("漢", r"{[}U+6F22{]}"),
        ("a\u0000b", r"a{[}U+0000{]}b"),
    ):
        row = table_latex(one_label(words)).partition("\\midrule\n")[2].partition("\n")[0]
        assert row == rf"{latex} & same \\"


def test_latex_is_ascii_whatever_the_words():
    assert table_latex(one_label("".join(map(chr, range(0x20, 0xD800))))).isascii()


def test_a_title_gives_a_number_of_its_own_up_to_latex():
    assert r"\caption{\textbf{Methods at 3 devices (rank 4; Table 1).} Profile" in table_latex(TABLE)
    assert r"\caption{\textbf{T.}}" in table_latex(one_label("a"))


@pytest.mark.skipif(not (shutil.which("pdflatex") or shutil.which("lualatex")), reason="needs pdflatex or lualatex")
def test_the_latex_of_a_report_compiles(tmp_path):
    alphabets = "".join(map(chr, [*range(0x21, 0x250), *range(0x370, 0x400), *range(0x2010, 0x2300)]))
    strange = Table("odd", SPECIAL, alphabets, ("[a]",), (("*b",),), (Line(("[c]",), ("*d",)), Line(("*",), ("[",))))
    sections = (*REPORT.sections, Section(SPECIAL, " ".join(alphabets), tables=(strange,)))
    report = Report(SPECIAL, SPECIAL, SPECIAL, sections, (SPECIAL,))
    (tmp_path / "report.tex").write_text(report_latex(report), encoding="utf-8")
    for table in (TABLE, EMPTY, strange):
        (tmp_path / f"{table.name}.tex").write_text(table_latex(table), encoding="utf-8")
    Drawing(figsize=(1, 1)).savefig(tmp_path / "curves.pdf")
    engine = shutil.which("pdflatex") or shutil.which("lualatex")
    command = [engine, "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_csv_read_back_gives_the_numbers_to_the_bit():
    rows = list(csv.DictReader(io.StringIO(table_csv(TABLE, REPORT.record_sets()), newline="")))
    expected = [
        (line, " / ".join(path), content)
        for line in TABLE.lines
        for path, content in zip(TABLE.columns, line.contents, strict=True)
        if content is not None
    ]
    assert len(rows) == len(expected)
    for row, (line, column, content) in zip(rows, expected, strict=True):
        assert (row["MER"], row["group"], row["column"]) == (line.labels[0], line.group, column)
        assert row["reference"] == str(line.reference).lower()
        if isinstance(content, Number):
            assert float(row["value"]).hex() == content.value.hex()
            assert (float(row["sd"]) if row["sd"] else None) == content.sd
            assert (int(row["n"]), int(row["expected"])) == (content.n, content.expected)
            assert (row["best"], row["close"]) == (str(content.best).lower(), str(content.close).lower())
            beside = (row["published"], row["source"], row["difference"], row["footnotes"])
            if content.published is None:
                assert beside == ("", "", "", "")
            else:
                found = content.published
                expected = (found.value, found.source, content.value - found.value, found.footnotes)
                assert (float(beside[0]), beside[1], float(beside[2]), beside[3]) == expected
            assert (int(row["records"]) if row["records"] else None) == REPORT.record_sets().get(content.records)
            assert row["text"] == ""
        else:
            assert row["value"] == ""


def test_the_records_of_a_set_are_listed_once_however_many_numbers_rest_on_them():
    rows = list(csv.reader(io.StringIO(records_csv(REPORT), newline="")))
    assert rows == [["records", "file"], ["1", "records/a--seed27.json"], ["1", "b28"]]
    numbers = {
        row["records"] for row in csv.DictReader(io.StringIO(table_csv(TABLE, REPORT.record_sets()), newline=""))
    }
    assert numbers == {"", "1"}


def test_the_terminal_shows_the_same_numbers_without_marks():
    text = table_text(TABLE)
    assert "**0.250" not in text
    assert "<u>" not in text
    assert "Bold:" not in text
    assert "| *most_frequent* (reference) " in text
    assert "vast client Avg. RLS" in text
    assert "0.625 ± 0.012 (n=3/5)" in text


def test_words_in_csv_are_no_formula():
    for words, cell in (
        ("=1+1", "'=1+1"),
        ("+x", "'+x"),
        ("-x", "'-x"),
        ("@x", "'@x"),
        ("\t=x", "'=x"),
        ("a=b", "a=b"),
        ('"a", b', '"a", b'),
    ):
        row = next(csv.DictReader(io.StringIO(table_csv(one_label(words, words), {}), newline="")))
        assert (row["method"], row["text"]) == (cell, cell)


def test_csv_leaves_negative_numbers_as_they_are():
    assert ",-0.5,," in table_csv(TABLE, {})
    assert "'-0" not in table_csv(TABLE, {})


def test_text_ends_in_one_line_feed_and_has_no_other_line_end():
    for render in RENDERED.values():
        text = render()
        assert text.endswith("\n")
        assert not text.endswith("\n\n")
        assert "\r" not in text


def test_a_repeated_number_is_an_equals_sign_to_read_and_a_number_to_compute_with():
    pair = (score(0.25), score(0.25, n=4, repeats=True))
    table = Table("t", "T", "", ("method",), (("F1", "local"), ("F1", "received")), (Line(("a",), pair),))
    assert re.search(r"\| 0.250 ± 0.012 \| += \|", re.sub(" +", " ", table_markdown(table)))
    assert re.search(r"\| 0.250 ± 0.012 \| = \|", re.sub(" +", " ", table_text(table)))
    assert "& = \\\\" in table_latex(table)
    for text in (table_markdown(table), table_text(table), table_latex(table)):
        assert "on every seed the number before it" in text
    rows = list(csv.DictReader(io.StringIO(table_csv(table, {}))))
    assert [row["value"] for row in rows] == ["0.25", "0.25"]


def test_a_wide_table_of_few_lines_stands_upright_in_a_terminal_with_every_number_of_it():
    columns = tuple((f"score{i}", point) for i in range(5) for point in ("local", "received"))
    numbers = [[Number(100 * line + i) for i in range(10)] for line in range(2)]
    lines = tuple(Line(("0.5", f"algo{i}"), tuple(row)) for i, row in enumerate(numbers))
    table = replace(TABLE, left=("rho", "algorithm"), columns=columns, lines=lines)
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table_text(table).splitlines() if row[:1] == "|"]
    assert rows[0] == ["algorithm", "algo0", "algo1"]
    assert rows[2] == ["rho", "0.5", "0.5"]
    assert rows[3:] == [[" ".join(columns[i]), f"{i}.000", f"{100 + i}.000"] for i in range(10)]
    narrow = replace(
        table, columns=columns[:2], lines=tuple(replace(line, contents=line.contents[:2]) for line in lines)
    )
    assert "| rho" in table_text(narrow)
    assert "score0 local" in table_text(narrow).partition("\n|-")[0]
