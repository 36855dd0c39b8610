"""The page of a report: one HTML file that loads nothing else, with every number linked to the records behind it."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from typing import TYPE_CHECKING
from urllib.parse import quote

from mlecs_bench.report.table import Figure, Line, Report, Table

if TYPE_CHECKING:
    from jinja2 import Template

RECORDS_FOLDER = ".."
"""Where the record files lie, as seen from the page."""
ARROW = 3
"""Characters that a heading leaves for the arrow beside it."""
SHORT = 12
"""Characters of a label column that leaves room for a second one to stay in view while a table scrolls sideways."""


@dataclass(frozen=True)
class Heading:
    """One heading of a table and the columns and levels it spans.

    `column` is the place of its column in a line, labels included, and None where it names no single column; `edge`
    sets its first column apart from the one before.
    """

    text: str
    colspan: int
    rowspan: int
    column: int | None
    edge: bool = False


@dataclass(frozen=True)
class HtmlRow:
    """A line with how it follows the one before: as the `first` of a group, or with `repeated` labels the same."""

    line: Line
    first: bool
    repeated: int


def report_html(report: Report, records_at: str = RECORDS_FOLDER) -> str:
    """Return a report as the page ``index.html`` of a folder in that of its records.

    The page needs no other file and no connection; without JavaScript its tables cannot be sorted. The same report
    gives the same text.
    """
    places = report.record_sets()
    entries = {place: report.file_names(keys) for keys, place in places.items()}
    return _template(records_at).render(report=report, entries=entries, places=places)


def _template(records_at: str) -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mlecs_bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "exact": _exact,
        "svg_uri": _svg_uri,
        "record_file": _record_file,
        "record_url": partial(_record_url, records_at),
    }
    environment.globals |= {
        "headings": _headings,
        "edges": _edges,
        "staying_columns": _staying,
        "rows": _rows,
        "classes": _classes,
    }
    return environment.get_template("report.html.j2")


def _record_file(name: str) -> str:
    return name.removesuffix(".json") + ".json"


def _record_url(folder: str, name: str) -> str:
    return f"{quote(folder)}/{quote(_record_file(name))}"


def _exact(value: float) -> str:
    return repr(float(value))  # numpy's floats are floats of another repr


def _svg_uri(figure: Figure) -> str:
    """Return a figure as a data URI, which keeps the ids of one SVG from meeting those of another."""
    return f"data:image/svg+xml;base64,{b64encode(figure.files['svg']).decode('ascii')}"


def _headings(table: Table) -> list[list[Heading]]:
    """Return the rows of headings; columns whose paths begin alike share them, and a short path ends in a tall one."""
    depth = max(table.depth, 1)
    paths = [path or ("",) for path in table.columns]
    edges = _edges(table)
    rows = [_level(paths, edges, level, depth, before=len(table.left)) for level in range(depth)]
    rows[0][:0] = [Heading(name, 1, depth, place) for place, name in enumerate(table.left)]
    return rows


def _level(paths: list[tuple[str, ...]], edges: list[bool], level: int, depth: int, before: int) -> list[Heading]:
    def heading_over(place: int) -> tuple[tuple[str, ...], int | None]:
        ends_here = len(paths[place]) == level + 1
        return paths[place][: level + 1], place if ends_here else None

    found = []
    for (path, leaf), run in groupby(range(len(paths)), key=heading_over):
        places = list(run)
        if len(path) <= level:
            continue
        rowspan, column = (1, None) if leaf is None else (depth - level, before + leaf)
        found.append(Heading(path[level], len(places), rowspan, column, edges[places[0]]))
    return found


def _edges(table: Table) -> list[bool]:
    """Say of each column whether a line sets it apart: where a heading over several columns starts or has ended.

    The first column needs one after labels that do not stay in view, for those that do have a line of their own.
    """
    first = len(table.left) > len(_staying(table))
    others = (a[:1] != b[:1] and max(len(a), len(b)) > 1 for a, b in pairwise(table.columns))
    return [first, *others][: len(table.columns)]


def _staying(table: Table) -> list[int]:
    """Return the longest text, in characters, of each label column that stays in view: the first, or two."""
    longest = [
        max(len(name) + ARROW, *(len(line.labels[place]) for line in table.lines), 0)
        for place, name in enumerate(table.left[:2])
    ]
    return longest if longest and longest[0] <= SHORT else longest[:1]


def _rows(table: Table) -> list[HtmlRow]:
    rows: list[HtmlRow] = []
    for line in table.lines:
        before = rows[-1].line if rows else None
        first = before is not None and before.group != line.group
        repeated = 0 if before is None or first else _shared_start(before.labels, line.labels)
        rows.append(HtmlRow(line, first, repeated))
    return rows


def _shared_start(before: tuple[str, ...], labels: tuple[str, ...]) -> int:
    """Return how many labels repeat those of the line before; the last one names the line and never counts."""
    pairs = list(zip(before, labels, strict=True))[:-1]
    return next((place for place, (a, b) in enumerate(pairs) if a != b), len(pairs))


def _classes(**applies: bool) -> str | None:
    """Return the names of the classes that apply, None for none."""
    return " ".join(name for name, does in applies.items() if does) or None
