"""What a report consists of, as its formats share it: numbers with their spread and marks, text only at the edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["score", "difference", "percent", "signed percent", "count", "p"]
ABSENT = "-"


@dataclass(frozen=True)
class Number:
    """One number of a table; a mean has its sd (ddof = 1) and says over how many of `expected` seeds it is.

    `best` is the best of its column in its block, `close` cannot be told from it. `paper` is what the paper prints in
    its place, and `misprint` the letters of footnotes on that. `records` are the names of the files behind the number.
    """

    value: float
    sd: float | None = None
    n: int = 0
    expected: int = 0
    best: bool = False
    close: bool = False
    paper: float | None = None
    misprint: str = ""
    kind: Kind = "score"
    records: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The number in characters: the mean, its sd, and how many seeds where some are missing."""
        lacking = f" (n={self.n}/{self.expected})" if self.n < self.expected else ""
        return plain_number(self.value, self.kind) + self.spread + lacking

    @property
    def spread(self) -> str:
        """The sd as a table shows it, "" for none."""
        return "" if self.sd is None else f" ± {self.sd:.3f}"

    @property
    def printed(self) -> str:
        """What the paper prints in its place, "" where it prints nothing."""
        return "" if self.paper is None else plain_number(self.paper, self.kind)

    @property
    def difference(self) -> str:
        """The number less the paper's, "" where the paper prints nothing."""
        if self.paper is None:
            return ""
        sign = "-" if self.value < self.paper else "+"
        return sign + plain_number(abs(self.value - self.paper), self.kind)

    @property
    def marks(self) -> str:
        """The marks of misprints as notes have them, such as "[a][b]"."""
        return "".join(f"[{letter}]" for letter in self.misprint)


Content = Number | str
"""What a table holds at a place: a number, or words such as a verdict."""


def plain_number(value: float, kind: Kind = "score") -> str:
    """Return a number with the digits of its kind."""
    if kind == "difference":
        return f"{value:+.3f}"
    if kind == "percent":
        return f"{value:.2f} %"
    if kind == "signed percent":
        return f"{value:+.1f} %"
    if kind == "count":
        return f"{value:,.0f}"
    if kind == "p":
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    return f"{value:.3f}"


@dataclass(frozen=True)
class Line:
    """One line of a table: its labels on the left and a content, or nothing, under each column.

    `group` names the lines that stand together; `reference` marks a line of trivial answers.
    """

    labels: tuple[str, ...]
    contents: tuple[Content | None, ...]
    group: str = ""
    reference: bool = False


@dataclass(frozen=True)
class Table:
    """A table: its name in files, title, caption, the names of the labels, the path of headings of each column.

    Columns whose paths begin alike stand under one heading. `honest` is the sentence that keeps the numbers from
    being taken for the paper's, "" where there is no reason.
    """

    name: str
    title: str
    caption: str
    left: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    honest: str = ""
    setting: str = ""

    @property
    def depth(self) -> int:
        """How many levels of headings there are."""
        return max((len(path) for path in self.columns), default=1)


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, what was measured in its place, and whether that bears it out."""

    where: str
    claim: str
    paper: str
    measured: str
    verdict: Literal["reproduced", "not reproduced", "undecided"]
    reason: str


@dataclass(frozen=True)
class Figure:
    """One figure: its name in files, title, caption, and its bytes by format."""

    name: str
    title: str
    caption: str
    files: dict[str, bytes] = field(repr=False)


@dataclass(frozen=True)
class Section:
    """A part of a report: a heading and what stands below it."""

    title: str
    about: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    claims: Sequence[Claim] = ()


@dataclass(frozen=True)
class Report:
    """A whole report. `warnings` say what was left out; `honest` keeps its numbers from being taken for the paper's."""

    title: str
    about: str
    honest: str
    sections: Sequence[Section]
    warnings: Sequence[str] = ()


def number_json(number: Number) -> dict[str, Any]:
    """Return a number as JSON values, with nothing rounded."""
    values: dict[str, Any] = {"value": number.value, "sd": number.sd, "n": number.n, "expected": number.expected}
    marks = {"best": number.best, "not_distinguishable_from_best": number.close}
    paper: dict[str, Any] = {}
    if number.paper is not None:
        paper = {"paper": number.paper, "difference": number.value - number.paper, "misprint": number.misprint}
    return {**values, **marks, **paper, "kind": number.kind, "records": list(number.records)}


def table_json(table: Table) -> dict[str, Any]:
    """Return a table as JSON values: one object per number, by its labels and its headings."""
    rows = [
        {
            **dict(zip(table.left, line.labels, strict=True)),
            "column": list(path),
            **(number_json(content) if isinstance(content, Number) else {"text": content}),
        }
        for line in table.lines
        for path, content in zip(table.columns, line.contents, strict=True)
        if content is not None
    ]
    return {
        "name": table.name,
        "title": table.title,
        "setting": table.setting,
        "caption": table.caption,
        "honest": table.honest,
        "notes": list(table.notes),
        "numbers": rows,
    }
