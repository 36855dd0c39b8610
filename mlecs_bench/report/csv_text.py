"""Tables as CSV for other programs: one row per number or words, nothing rounded."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from mlecs_bench.report.table import Content, Line, Published, RecordSets, Report, Table

NUMBER_FIELDS = (
    "value", "sd", "n", "expected", "best", "close", "published", "source", "difference", "footnotes", "kind", "records"
)  # fmt: skip  # one row
FIELDS = ("group", "reference", "column", *NUMBER_FIELDS, "text")
FORMULA_STARTS = ("=", "+", "-", "@")


def table_csv(table: Table, sets: RecordSets) -> str:
    """Return a table in long form, its whole: its labels, then FIELDS. A field that does not apply is empty.

    `records` holds the number of a set, whose files `records_csv` lists.
    """
    whole = table.whole or table
    rows = (row for line in whole.lines for row in _rows(line, whole.columns, sets))
    return _text([*map(words, table.left), *FIELDS], rows)


def records_csv(report: Report) -> str:
    """Return the record files of every set that the tables of a report refer to, a row each."""
    sets = report.record_sets()
    rows = ([str(number), words(name)] for keys, number in sets.items() for name in report.file_names(keys))
    return _text(["records", "file"], rows)


def _text(header: list[str], rows: Iterable[list[str]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()


def _rows(line: Line, columns: tuple[tuple[str, ...], ...], sets: RecordSets) -> Iterator[list[str]]:
    start = [*map(words, line.labels), words(line.group), _truth(line.reference)]
    for path, content in zip(columns, line.contents, strict=True):
        if content is not None:
            yield [*start, words(" / ".join(filter(None, path))), *_fields(content, sets)]


def _fields(content: Content, sets: RecordSets) -> list[str]:
    if isinstance(content, str):
        return ["" for _ in NUMBER_FIELDS] + [words(content)]
    return [
        repr(float(content.value)),
        "" if content.sd is None else repr(float(content.sd)),
        str(content.n),
        str(content.expected),
        _truth(content.best),
        _truth(content.close),
        *_beside(content.value, content.published),
        content.kind,
        str(sets.get(content.records, "")),
        "",
    ]


def _beside(value: float, published: Published | None) -> list[str]:
    if published is None:
        return [""] * 4
    difference = repr(float(value - published.value)) if published.comparable else ""
    return [repr(float(published.value)), published.source, difference, published.footnotes]


def _truth(value: bool) -> str:
    return "true" if value else "false"


def words(text: str) -> str:
    """Return words as one line that no spreadsheet takes for a formula."""
    line = " ".join(text.split())
    return f"'{line}" if line.startswith(FORMULA_STARTS) else line
