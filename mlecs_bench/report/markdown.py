"""Tables and whole reports as Markdown, the way GitHub shows it, and tables for the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape

from mlecs_bench.report.table import ABSENT, Claim, Content, Figure, Line, Number, Report, Section, Table

CLAIM_HEADERS = ("where", "claim", "printed", "measured", "verdict", "reason")
REFERENCE = "(reference)"
EMPTY = "This table has no lines."
MANY_COLUMNS, FEW_LINES = 8, 6
"""A table of more columns and at most so many lines stands upright in a terminal, which is never wide enough."""
WIDTH = 100
"""Characters of a line of a terminal's table; columns that do not fit follow below, beside the same labels."""

_INLINE = (
    (r"([\\`*\[|~$])", r"\\\1"),
    (r"(?<![^\W_])_|_(?![^\W_])", r"\_"),  # one between letters starts no emphasis
    (r"&(?=#?\w+;)", "&amp;"),
    (r"<", "&lt;"),
)
_AT_START = ((r"^([-+#=>])", r"\\\1"), (r"^(\d+)([.)])(?= |$)", r"\1\\\2"))


def table_markdown(table: Table) -> str:
    """Return a table under its heading: the honest sentence, the caption, the grid and the notes."""
    return _document(_table_parts(table))


def table_text(table: Table) -> str:
    """Return a table for the terminal: as Markdown whose columns are aligned, without marks of best and close."""
    return _document(_table_parts(table, plain=True))


def table_html(table: Table) -> str:
    """Return a table for the output of a notebook's cell: as `table_text`, in HTML."""
    headers = [*table.left, *(" ".join(filter(None, path)) for path in table.columns)]
    align = ["left"] * len(table.left) + ["right"] * len(table.columns)
    rows = [row for line in table.lines for row in _rows(line, _plain, _plain_content)]
    setting = f" ({table.setting})" if table.setting else ""
    notes = "".join(f"<li>{escape(note)}</li>" for note in (*table.legend(plain=True), *table.notes))
    parts = [
        f"<h4>{escape(table.title + setting)}</h4>",
        f"<p><b>{escape(table.honest)}</b></p>" if table.honest else "",
        f"<p>{escape(table.caption)}</p>",
        _tabulated(rows, headers, align, "html"),
        f"<ul>{notes}</ul>" if notes else "",
    ]
    return "\n".join(filter(None, parts))


def report_markdown(report: Report) -> str:
    """Return a whole report; its figures are the files NAME.png beside it."""
    parts = _head_parts(report)
    parts.append(_bullets(f"warning: {warning}" for warning in report.warnings))
    for section in report.sections:
        parts += _section_parts(section)
    return _document(parts)


def report_head(report: Report) -> str:
    """Return what stands above all of a report: its title, what it is about, and what its numbers are not."""
    return _document(_head_parts(report))


def _head_parts(report: Report) -> list[str]:
    return [f"# {_inline(report.title)}", *_paragraphs(report.about), _bold(report.honest)]


def _document(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _section_parts(section: Section) -> Iterator[str]:
    yield f"## {_inline(section.title)}"
    yield from _paragraphs(section.about)
    for table in section.tables:
        yield from _table_parts(table)
    for figure in section.figures:
        yield from _figure_parts(figure)
    if section.claims:
        yield _claims(section.claims)


def _table_parts(table: Table, plain: bool = False) -> list[str]:
    setting = f" ({table.setting})" if table.setting else ""
    heading = f"### {_inline(table.title + setting)}"
    notes = (*table.legend(plain), *table.notes)
    return [heading, _bold(table.honest), *_paragraphs(table.caption), _grid(table, plain), _bullets(notes)]


def _figure_parts(figure: Figure) -> list[str]:
    title = _inline(figure.title.rstrip("."))
    alternative = title.replace("]", r"\]")
    return [f"![{alternative}]({figure.name}.png)", f"**{title}.** {_inline(figure.caption)}".rstrip()]


def _grid(table: Table, plain: bool) -> str:
    if not table.lines:
        return EMPTY
    if plain:
        return _upright(table) if len(table.columns) > MANY_COLUMNS and len(table.lines) <= FEW_LINES else _lying(table)
    headers = [*map(_inline, table.left), *(_inline(" / ".join(filter(None, path))) for path in table.columns)]
    rows = [row for line in table.lines for row in _rows(line, _inline, _content)]
    return _tabulated(rows, headers, _alignment(table), "pipe")


def _alignment(table: Table) -> list[str]:
    columns = zip(*(line.contents for line in table.lines), strict=True)
    return ["left"] * len(table.left) + ["left" if _is_words(column) else "right" for column in columns]


def _lying(table: Table) -> str:
    """Return a table for the terminal with its lines as lines."""
    headers = [*map(_plain, table.left), *(_plain(" ".join(filter(None, path))) for path in table.columns)]
    rows = [row for line in table.lines for row in _rows(line, _plain, _plain_content)]
    return _narrow(rows, headers, _alignment(table), len(table.left))


def _rows(line: Line, shown: Callable[[str], str], content: Callable[[Content | None], str]) -> Iterator[list[str]]:
    """Yield the row of a line, and before it one that stands for the rule and the words above it, if there are any."""
    if line.opens:
        yield [f"*{shown(line.opens)}*", *[""] * (len(line.labels) + len(line.contents) - 1)]
    yield [*_labels(line, shown), *map(content, line.contents)]


def _upright(table: Table) -> str:
    """Return a table for the terminal with a column for each of its lines, under the last label, and a row for each
    of its columns.
    """
    labels = [[_plain(label) for label in line.labels] for line in table.lines]
    rows = [["", *(REFERENCE if line.reference else "" for line in table.lines)]]
    rows = rows if any(line.reference for line in table.lines) else []
    rows += [[_plain(name), *(label[i] for label in labels)] for i, name in enumerate(table.left[:-1])]
    for i, path in enumerate(table.columns):
        heading = _plain(" ".join(filter(None, path)))
        rows.append([heading, *(_plain_content(line.contents[i]) for line in table.lines)])
    names = [f"*{label[-1]}*" if line.reference else label[-1] for line, label in zip(table.lines, labels, strict=True)]
    return _narrow(rows, [_plain(table.left[-1]), *names], ["left", *["right"] * len(names)], 1)


MIN_PADDING = 2
"""What tabulate adds to the width of a heading."""


def _narrow(rows: Sequence[Sequence[str]], headers: Sequence[str], align: Sequence[str], n_labels: int) -> str:
    """Return a grid in as many parts, one below the other, as `WIDTH` asks for, the first `n_labels` columns in all."""
    between = 3
    widths = [
        max(len(header) + MIN_PADDING, *map(len, column)) + between
        for header, column in zip(headers, zip(*rows, strict=True), strict=True)
    ]
    parts: list[list[int]] = []
    labels, room = list(range(n_labels)), 0
    for i in range(n_labels, len(headers)):
        if not parts or widths[i] > room:
            parts.append([*labels])
            room = WIDTH - 1 - sum(widths[:n_labels])
        parts[-1].append(i)
        room -= widths[i]
    grids = [
        _tabulated(
            [[row[i] for i in part] for row in rows], [headers[i] for i in part], [align[i] for i in part], "github"
        )
        for part in parts
    ]
    return "\n\n".join(grids)


def _is_words(column: Iterable[Content | None]) -> bool:
    """Does a column hold words and no number?"""
    there = [content for content in column if content is not None]
    return bool(there) and all(isinstance(content, str) for content in there)


def _labels(line: Line, shown: Callable[[str], str]) -> list[str]:
    labels = [shown(label) for label in line.labels]
    if line.reference:
        labels[-1] = f"*{labels[-1]}* {REFERENCE}"
    return labels


def _plain_content(content: Content | None) -> str:
    return _plain(content.text if isinstance(content, Number) else content or ABSENT)


def _plain(text: str) -> str:
    """Return words as they are, but for what would end a cell."""
    return " ".join(text.split()).replace("|", r"\|")


def _content(content: Content | None) -> str:
    if content is None:
        return ABSENT
    return _number(content) if isinstance(content, Number) else _inline(content)


def _number(number: Number) -> str:
    text = _inline(number.text)
    if number.best:
        text = f"**{text}**"
    elif number.close:
        text = f"<u>{text}</u>"
    return f"{text}<br>{_inline(_beside(number))}" if number.printed else text


def _beside(number: Number) -> str:
    """Return what is published, with the marks of its footnotes, and the difference to it if there is one."""
    source, marks = (number.published.source, number.published.marks) if number.published else ("", "")
    return f"{source} {number.printed} {marks}".rstrip() + (f", {number.difference}" if number.difference else "")


def _claims(claims: Sequence[Claim]) -> str:
    rows = [[_inline(getattr(claim, header)) for header in CLAIM_HEADERS] for claim in claims]
    return _tabulated(rows, CLAIM_HEADERS, ["left"] * len(CLAIM_HEADERS), "pipe")


def _tabulated(rows: Sequence[Sequence[str]], headers: Sequence[str], align: Sequence[str], style: str) -> str:
    from tabulate import tabulate

    return tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True, colalign=align)


def _paragraphs(text: str) -> list[str]:
    return [_block(paragraph) for paragraph in re.split(r"\n\s*\n", text)]


def _bullets(texts: Iterable[str]) -> str:
    return "\n".join(f"- {_block(text)}" for text in texts)


def _bold(text: str) -> str:
    return f"**{_inline(text)}**" if text else ""


def _block(text: str) -> str:
    """Return plain words as the start of a line, where they begin no list and no heading either."""
    return _escaped(_inline(text), _AT_START)


def _inline(text: str) -> str:
    """Return plain words as one line of Markdown that shows them as they are."""
    return _escaped(" ".join(text.split()), _INLINE)


def _escaped(text: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text
