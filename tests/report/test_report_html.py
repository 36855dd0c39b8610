"""The page of a report, read back with html.parser and compared with the report it was made from."""

from __future__ import annotations

import base64
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from mlecs_bench.report.html import report_html
from mlecs_bench.report.table import Claim, Figure, Line, Number, Published, Report, Section, Table

GOLDEN = Path(__file__).parent / "golden" / "report.html"
VOID = {"meta", "img", "br", "hr", "input", "link", "wbr"}
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="8pt" height="8pt"><path id="a" d="M0 0h8v8z"/></svg>'
HOSTILE = """<script>alert("1")</script> & 'quoted' </script></style><!-- {{ 7 * 7 }} ]]>"""
FOUR = ("key-a27", "key-a28", "key-bc27", "key-de30")
FILES = dict(
    zip(
        FOUR, ("a--seed27.json", "records/a--seed28.json", "b+c--seed27.json", "d, e=f & <g>--seed30.json"), strict=True
    )
)


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    @property
    def classes(self) -> set[str]:
        return set(self.attributes.get("class", "").split())

    def all(self, tag: str | None = None) -> Iterator[Element]:
        for child in self.children:
            if isinstance(child, Element):
                if tag in (None, child.tag):
                    yield child
                yield from child.all(tag)

    def one(self, tag: str) -> Element:
        (found,) = self.all(tag)
        return found


class Reader(HTMLParser):
    """Builds the tree of a page and refuses a tag that is not closed, or closed twice, or an attribute given twice."""

    def __init__(self, text: str):
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert self.open == [self.root], [element.tag for element in self.open]

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), attrs
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, (tag, [element.tag for element in self.open])
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].children.append(data)


def read(report: Report) -> Element:
    return Reader(report_html(report)).root


def words(element: Element) -> str:
    return " ".join(element.text.split())


def table_of(columns, contents, **other) -> Table:
    line = Line(("x",), tuple(contents))
    return Table(
        **{"name": "t", "title": "T", "caption": "", "left": ("label",), "lines": (line,)} | other, columns=columns
    )


def report_of(*tables: Table) -> Report:
    return Report("R", "", "", (Section("S", tables=tables),))


def body_of(*contents, **other) -> list[Element]:
    """Return the cells under columns of a table with one line."""
    page = read(report_of(table_of(tuple((f"c{n}",) for n in range(len(contents))), contents, **other)))
    return list(page.one("tbody").all("td"))


def small_report() -> Report:
    scores = Table(
        "scores",
        "Scores",
        "Mean over the devices.",
        ("rho", "algorithm"),
        (("VAST", "client", "Avg"), ("VAST", "client", "W."), ("VAST", "server"), ("verdict",)),
        (
            Line(("0.5", "echo"), (Number(0.25, records=FOUR[:2]), None, None, ""), "0.5", reference=True),
            Line(("0.5", "a"), (Number(1 / 3, 0.0125, 5, 5, close=True), Number(0.3), Number(2.0), "tied"), "0.5"),
            Line(
                ("0.8", "a"),
                (
                    Number(2 / 3, 0.01, 4, 5, best=True, published=Published(0.7, "paper", "a"), records=FOUR),
                    Number(0.123456789, kind="percent", published=Published(0.2, "paper"), records=FOUR[:2]),
                    Number(1234567.0, kind="count", records=FOUR[2:]),
                    "better",
                ),
                "0.8",
            ),
        ),
        notes=("a: printed twice.",),
        honest="Tiny models.",
        setting="budget 1.0",
    )
    p_values = Table(
        "p", "Tests", "", ("test",), (("p",),), (Line(("t",), (Number(0.00012, kind="p", records=FOUR),)),)
    )
    claims = (
        Claim("Table 1", "a is best", "+5 %", "+4 %", "reproduced", "better"),
        Claim("Table 2", "b is worst", "-1 %", "+1 %", "not reproduced", "worse"),
        Claim("Figure 3", "c is small", "1 %", "1 %", "undecided", "one seed"),
    )
    figure = Figure("f", "Shares", "What is sent.", {"svg": SVG, "png": b""})
    sections = (
        Section("Results", "What was measured.", tables=(scores, p_values), figures=(figure,)),
        Section("Claims", claims=claims),
    )
    return Report("A study", "About it.", "Not the paper's numbers.", sections, ("One file is no record.",), FILES)


def numbers_of(report: Report) -> list[Number]:
    return [
        content
        for section in report.sections
        for table in section.tables
        for line in table.lines
        for content in line.contents
        if isinstance(content, Number)
    ]


def number_cells(page: Element) -> list[Element]:
    return [cell for cell in page.all("td") if "number" in cell.classes]


def test_the_page_is_one_document_with_every_tag_closed():
    text = report_html(small_report())
    page = Reader(text).root
    assert text.startswith("<!DOCTYPE html>")
    assert [child.tag for child in page.children if isinstance(child, Element)] == ["html"]
    assert page.one("title").text == page.one("h1").text == "A study"


def test_the_page_loads_nothing_from_elsewhere():
    text = report_html(small_report())
    page = Reader(text).root
    addresses = [
        e.attributes[name] for e in page.all() for name in ("src", "href", "srcset", "data") if name in e.attributes
    ]
    assert addresses
    assert all(address.startswith(("#", "../", "data:image/svg+xml;base64,")) for address in addresses)
    assert not set(Counter(e.tag for e in page.all())) & {"link", "iframe", "object", "embed", "base"}
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?://", text)


def test_the_same_report_gives_the_same_page():
    assert report_html(small_report()) == report_html(small_report())


def test_ids_are_unique_and_every_link_into_the_page_leads_somewhere():
    page = read(small_report())
    ids = Counter(e.attributes["id"] for e in page.all() if "id" in e.attributes)
    assert set(ids.values()) == {1}
    targets = {e.attributes["href"][1:] for e in page.all("a") if e.attributes["href"].startswith("#")}
    named = {e.attributes["aria-labelledby"] for e in page.all() if "aria-labelledby" in e.attributes}
    assert targets
    assert named
    assert targets | named <= set(ids)


def test_the_contents_name_every_section_table_and_figure():
    links = [link.text for link in read(small_report()).one("nav").all("a")]
    assert links == ["Results", "Scores", "Tests", "Shares", "Claims", "Records"]


def test_what_a_report_says_first_stands_first():
    header = words(read(small_report()).one("header"))
    assert header.startswith("A study Not the paper's numbers. About it. Warnings One file is no record. Contents")


def test_a_number_links_to_an_entry_of_exactly_its_files():
    report = small_report()
    page = read(report)
    entries = {e.attributes["id"]: e for e in page.all("details")}
    for number, cell in zip(numbers_of(report), number_cells(page), strict=True):
        links = list(cell.all("a"))
        assert len(links) == bool(number.records)
        for link in links:
            files = list(entries[link.attributes["href"][1:]].all("a"))
            names = [FILES[key] for key in number.records]
            assert [file.text for file in files] == names
            assert [unquote(file.attributes["href"]) for file in files] == [f"../{name}" for name in names]
            assert all(re.fullmatch(r"\.\./[A-Za-z0-9%._~/-]+", file.attributes["href"]) for file in files)


def test_equal_records_share_an_entry():
    report = small_report()
    assert len(list(read(report).all("details"))) == len({number.records for number in numbers_of(report)} - {()})


def test_a_page_without_records_has_no_part_for_them():
    page = read(report_of(table_of((("c",),), (Number(0.5),))))
    assert not list(page.all("details"))
    assert [link.text for link in page.one("nav").all("a")] == ["S", "T"]


def test_a_report_of_nothing_is_a_page():
    for report in (
        Report("R", "", "", ()),
        report_of(table_of((), ())),
        report_of(table_of(((),), ("x",), left=(), lines=())),
    ):
        assert read(report).one("h1").text == "R"


def test_a_cell_shows_the_mean_the_sd_missing_seeds_and_what_is_published():
    number = Number(2 / 3, 0.0123, 4, 5, published=Published(0.7, "paper"), records=FOUR)
    (cell,) = body_of(number)
    assert words(cell) == "0.667 ± 0.012 n=4/5 paper 0.700, -0.033"
    assert words(cell.one("a")) == "0.667 ± 0.012"
    assert [e.text for e in cell.all("span") if "sd" in e.classes] == [" ± 0.012"]
    assert float(cell.attributes["data-value"]) == number.value


def test_a_cell_carries_its_value_in_full():
    for value in (1 / 3, 1e-17, 123456789.125, -0.0, 5e-324):
        (cell,) = body_of(Number(value))
        assert cell.attributes["data-value"] == repr(value)


def test_a_value_of_numpy_is_carried_as_a_plain_number():
    np = pytest.importorskip("numpy")
    (cell,) = body_of(Number(np.float64(0.1)))
    assert cell.attributes["data-value"] == "0.1"


def test_the_marks_of_footnotes_stand_raised_behind_what_is_published():
    printed, count = body_of(
        Number(0.5, published=Published(0.4, "paper", "ab")),
        Number(1e6, kind="count", published=Published(2e6, "paper", "c")),
    )
    assert words(printed) == "0.500 paper 0.400[a][b], +0.100"
    assert words(count) == "1,000,000 paper 2,000,000[c], -1,000,000"
    assert [cell.one("sup").text for cell in (printed, count)] == ["[a][b]", "[c]"]


def test_best_and_close_are_marked_and_explained_where_they_occur():
    table = table_of((("a",), ("b",), ("c",)), (Number(0.1, best=True), Number(0.1, close=True), Number(0.1)))
    page = read(report_of(table))
    assert [cell.classes & {"best", "close"} for cell in page.all("td")] == [{"best"}, {"close"}, set()]
    (legend,) = [e for e in page.all("ul") if "legend" in e.classes]
    assert [words(item).split(":")[0] for item in legend.all("li")] == ["bold", "underlined"]
    plain = read(report_of(table_of((("a",),), (Number(0.1),))))
    assert not [e for e in plain.all("ul") if "legend" in e.classes]


def test_words_stand_as_text_and_nothing_as_a_dash():
    word, nothing = body_of("undecided", None)
    assert (word.text, nothing.text) == ("undecided", "–")
    assert "data-value" not in word.attributes | nothing.attributes


def test_references_and_first_lines_of_groups_are_told_apart():
    lines = (
        Line(("0.3", "echo"), (), "g", reference=True),
        Line(("0.3", "a"), (), "g"),
        Line(("0.3", "a"), (), "h"),
    )
    page = read(report_of(table_of((), (), left=("rho", "algorithm"), lines=lines)))
    rows = list(page.one("tbody").all("tr"))
    assert [row.classes for row in rows] == [{"reference"}, set(), {"first"}]
    dimmed = [[span.text for span in row.all("span") if "repeated" in span.classes] for row in rows]
    assert dimmed == [[], ["0.3"], []]


PATHS = [
    [("a",), ("b",)],
    [("a", "x"), ("a", "y"), ("b", "x")],
    [("a", "x", "1"), ("a", "x", "2"), ("a", "y"), ("b",), ("a", "x", "1")],
    [("a", "x"), ("b", "x"), ("b", "x")],
    [("a",), ("a",), ("a", "x")],
    [(), ("a", "x")],
]


def occupied(rows: list[Element]) -> list[list[Element | None]]:
    """Lay headings out on a grid as the HTML standard does: each takes the first free place of its row."""
    width = max(sum(int(cell.attributes.get("colspan", 1)) for cell in row.all("th")) for row in rows[:1])
    grid: list[list[Element | None]] = [[None] * width for _ in rows]
    for y, row in enumerate(rows):
        for cell in row.all("th"):
            x = grid[y].index(None)
            for down in range(int(cell.attributes.get("rowspan", 1))):
                for right in range(int(cell.attributes.get("colspan", 1))):
                    assert grid[y + down][x + right] is None
                    grid[y + down][x + right] = cell
    return grid


def test_headings_fill_their_rows_and_spell_the_path_of_each_column():
    for paths in PATHS:
        left = ("one", "two")
        page = read(report_of(table_of(tuple(paths), ("w",) * len(paths), left=left, lines=())))
        grid = occupied(list(page.one("thead").all("tr")))
        assert all(len(row) == len(left) + len(paths) and None not in row for row in grid)
        for place, path in enumerate([*((name,) for name in left), *paths]):
            spelled = list(dict.fromkeys(id(row[place]) for row in grid))
            by_id = {id(row[place]): row[place] for row in grid}
            assert tuple(by_id[key].text for key in spelled) == (path or ("",))
            assert by_id[spelled[-1]].attributes["data-column"] == str(place)


def test_columns_that_begin_alike_share_headings():
    table = table_of((("a", "x"), ("a", "y"), ("b", "z"), ("a", "x")), (None,) * 4)
    first = next(read(report_of(table)).one("thead").all("tr"))
    assert [(th.text, th.attributes.get("colspan", "1")) for th in first.all("th")] == [
        ("label", "1"),
        ("a", "2"),
        ("b", "1"),
        ("a", "1"),
    ]


def test_every_single_column_has_a_button_to_sort_by_and_no_heading_over_several_has_one():
    page = read(small_report())
    tables = [table for section in small_report().sections for table in section.tables]
    for table, element in zip(tables, page.all("table"), strict=True):
        sortable = [th for th in element.all("th") if "aria-sort" in th.attributes]
        assert sorted(int(th.attributes["data-column"]) for th in sortable) == list(
            range(len(table.left) + len(table.columns))
        )
        assert all(th.one("button").attributes["type"] == "button" for th in sortable)
        assert len(list(element.all("button"))) == len(sortable)
        rows = list(element.one("tbody").all("tr"))
        assert {len([e for e in row.children if isinstance(e, Element)]) for row in rows} == {len(sortable)}


def test_a_claim_shows_its_verdict_in_words_and_all_that_it_rests_on():
    report = small_report()
    items = [item for item in read(report).all("li") if "claim" in item.classes]
    for claim, item in zip(report.sections[1].claims, items, strict=True):
        (badge,) = [span for span in item.all("span") if "badge" in span.classes]
        assert badge.text == claim.verdict
        assert claim.verdict.replace(" ", "-") in badge.classes
        assert all(text in words(item) for text in (claim.where, claim.claim))
        assert [dd.text for dd in item.all("dd")] == [claim.printed, claim.measured, claim.reason]


def test_claims_are_counted_by_verdict():
    claim = small_report().sections[1].claims[1]
    page = read(Report("R", "", "", (Section("S", claims=(claim, replace(claim, verdict="undecided"), claim)),)))
    (tally,) = [p for p in page.all("p") if "tally" in p.classes]
    assert [span.text for span in tally.all("span")] == ["2 not reproduced", "1 undecided"]


def test_a_line_sets_groups_of_columns_apart():
    columns = (("a",), ("b", "x"), ("b", "y"), ("c",), ("d",), ("e", "x"))
    page = read(report_of(table_of(columns, ("w",) * 6)))
    assert ["edge" in cell.classes for cell in page.all("td")] == [False, True, False, True, False, True]
    leaves = {
        th.attributes["data-column"]: th.classes for th in page.one("thead").all("th") if "data-column" in th.attributes
    }
    assert [column for column, classes in leaves.items() if "edge" in classes] == ["4", "2", "6"]


def test_two_label_columns_stay_in_view_where_the_first_is_short():
    for first, left, staying, edge in [
        ("0.5", ("rho", "algorithm"), 2, False),
        ("0.5", ("rho", "algorithm", "x"), 2, True),
        ("a long label", ("rho", "algorithm"), 2, False),
        ("a longer label", ("rho", "algorithm"), 1, True),
        ("a longer label", ("rho",), 1, False),
    ]:
        lines = (Line((first, "a", "b")[: len(left)], ("w",)),)
        page = read(report_of(table_of((("c",),), (), left=left, lines=lines)))
        row = page.one("tbody").one("tr")
        assert ["stays" in th.classes for th in row.all("th")] == [n < staying for n in range(len(left))]
        assert page.one("table").classes == {f"staying-{staying}"}
        assert ("edge" in row.one("td").classes) == edge


def test_a_figure_is_its_svg_as_an_image_of_its_own():
    page = read(small_report())
    image = page.one("figure").one("img")
    assert base64.b64decode(image.attributes["src"].partition(",")[2]) == SVG
    assert image.attributes["alt"] == "Shares"
    assert page.one("figcaption").text == "What is sent."
    assert not list(page.all("svg"))


def test_hostile_texts_stay_texts():
    line = Line((HOSTILE,), (Number(0.5, published=Published(0.4, HOSTILE), records=(HOSTILE,)), HOSTILE), HOSTILE)
    table = Table(
        "t", HOSTILE, HOSTILE, (HOSTILE,), ((HOSTILE, "x"), (HOSTILE, HOSTILE)), (line,), (HOSTILE,), HOSTILE, HOSTILE
    )
    claim = Claim(HOSTILE, HOSTILE, HOSTILE, HOSTILE, "undecided", HOSTILE)
    figure = Figure("f", HOSTILE, HOSTILE, {"svg": SVG})
    section = Section(HOSTILE, HOSTILE, (table,), (figure,), (claim,))
    page = read(Report(HOSTILE, HOSTILE, HOSTILE, (section,), (HOSTILE,), {HOSTILE: HOSTILE}))
    plain = read(small_report())
    assert [e.tag for e in page.all("script")] == [e.tag for e in plain.all("script")]
    assert page.one("script").text == plain.one("script").text
    assert page.one("style").text == plain.one("style").text
    texts = [page.one(tag).text for tag in ("title", "h1", "figcaption")]
    texts += [page.one("figure").one("img").attributes["alt"], next(page.one("tbody").all("th")).text]
    assert set(texts) == {HOSTILE}
    record = page.one("details").one("a")
    assert (record.text, unquote(record.attributes["href"])) == (f"{HOSTILE}.json", f"../{HOSTILE}.json")


def test_equal_titles_do_not_meet():
    report = small_report()
    page = read(replace(report, sections=(*report.sections, *report.sections)))
    ids = Counter(e.attributes["id"] for e in page.all() if "id" in e.attributes)
    assert set(ids.values()) == {1}


def test_the_page_of_a_small_report_is_the_golden_one():
    text = report_html(small_report())
    if os.environ.get("MLECS_BENCH_GOLDEN") == "write":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_bytes(text.encode())
        pytest.fail(f"wrote {GOLDEN}; run again without MLECS_BENCH_GOLDEN")
    assert text.encode() == GOLDEN.read_bytes()
