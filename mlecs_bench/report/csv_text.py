"""Tables as CSV for other programs: one row per number or words, nothing rounded."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from mlecs_bench.report.table import Content, Line, Table

NUMBER_FIELDS = ("value", "sd", "n", "expected", "best", "close", "paper", "difference", "misprint", "kind", "records")
FIELDS = ("group", "reference", "column", *NUMBER_FIELDS, "text")
FORMULA_STARTS = ("=", "+", "-", "@")


def table_csv(table: Table) -> str:
    """Return a table in long form: its labels, then FIELDS. A field that does not apply is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*map(_words, table.left), *FIELDS])
    for line in table.lines:
        writer.writerows(_rows(line, table.columns))
    return stream.getvalue()


def _rows(line: Line, columns: tuple[tuple[str, ...], ...]) -> Iterator[list[str]]:
    start = [*map(_words, line.labels), _words(line.group), _truth(line.reference)]
    for path, content in zip(columns, line.contents, strict=True):
        if content is not None:
            yield [*start, _words(" / ".join(filter(None, path))), *_fields(content)]


def _fields(content: Content) -> list[str]:
    if isinstance(content, str):
        return ["" for _ in NUMBER_FIELDS] + [_words(content)]
    paper = content.paper
    return [
        repr(float(content.value)),
        "" if content.sd is None else repr(float(content.sd)),
        str(content.n),
        str(content.expected),
        _truth(content.best),
        _truth(content.close),
        "" if paper is None else repr(float(paper)),
        "" if paper is None else repr(float(content.value - paper)),
        content.misprint,
        content.kind,
        _words(";".join(content.records)),
        "",
    ]


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _words(text: str) -> str:
    """Return words as one line that no spreadsheet takes for a formula."""
    line = " ".join(text.split())
    return f"'{line}" if line.startswith(FORMULA_STARTS) else line
