"""What a report consists of, as its formats share it: numbers with their spread and marks, text only at the edges.

A section adds a table by listing a `Table`; every format, the terminal too, shows it from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from mlecs_bench.errors import check_choice
from mlecs_bench.report.statistics import ALPHA

NumberKind = Literal["score", "difference", "percent", "signed percent", "count", "p", "quantity"]
"""What a number of a table is, which decides its digits; a quantity is of any size."""
ClaimVerdict = Literal["reproduced", "not reproduced", "undecided"]
"""Whether what was measured bears a claim out."""
ABSENT = "-"
REPEATED = "="
Mark = Literal["best", "close", "sd", "missing", "published", "footnotes", "reference", "absent", "records", "repeats"]


@dataclass(frozen=True)
class Published:
    """A value from elsewhere that stands beside a number: where it is from, such as "paper", and its footnotes.

    Where the two are not `comparable`, as where ours is of synthetic data, no difference is shown.
    """

    value: float
    source: str
    footnotes: str = ""
    comparable: bool = True

    @property
    def marks(self) -> str:
        """The letters of its footnotes as notes have them, such as "[a][b]"."""
        return "".join(f"[{letter}]" for letter in self.footnotes)


@dataclass(frozen=True)
class Number:
    """One number of a table; a mean has its sd (ddof = 1) and says over how many of `expected` seeds it is.

    `best` is the best of its column in its block, `close` cannot be told from it. `published` is what stands beside
    it. `records` are the keys of the records behind the number. One that `repeats` is, on every seed, the number to its
    left, and is shown as such. Raises ValueError for an unknown kind.
    """

    value: float
    sd: float | None = None
    n: int = 0
    expected: int = 0
    best: bool = False
    close: bool = False
    published: Published | None = None
    kind: NumberKind = "score"
    records: tuple[str, ...] = ()
    repeats: bool = False

    def __post_init__(self) -> None:
        check_choice(self.kind, NumberKind, "the kind of a number")

    @property
    def text(self) -> str:
        """The number in characters: the mean, its sd, and how many seeds where some are missing."""
        return self.mean + self.spread + (f" ({self.lacking})" if self.lacking else "")

    @property
    def mean(self) -> str:
        """The mean alone."""
        return REPEATED if self.repeats else plain_number(self.value, self.kind)

    @property
    def spread(self) -> str:
        """The sd as a table shows it, "" for none."""
        return "" if self.sd is None or self.repeats else f" ± {self.sd:.3f}"

    @property
    def lacking(self) -> str:
        """How many of the expected seeds there are, "" where none is missing."""
        return f"n={self.n}/{self.expected}" if self.n < self.expected and not self.repeats else ""

    @property
    def printed(self) -> str:
        """What is published in its place, "" for nothing."""
        return "" if self.published is None else plain_number(self.published.value, self.kind)

    @property
    def difference(self) -> str:
        """The number less what is published, "" for nothing and where the two are not comparable."""
        if self.published is None or not self.published.comparable:
            return ""
        sign = "-" if self.value < self.published.value else "+"
        return sign + plain_number(abs(self.value - self.published.value), self.kind)


Content = Number | str
"""What a table holds at a place: a number, or words such as a verdict."""


FORMATS: Mapping[NumberKind, str] = MappingProxyType(
    {
        "score": "{:.3f}",
        "difference": "{:+.3f}",
        "percent": "{:.2f} %",
        "signed percent": "{:+.1f} %",
        "count": "{:,.0f}",
        "p": "{:.3f}",
        "quantity": "{:.3g}",  # of any size, so it keeps digits instead of places
    }
)


def plain_number(value: float, kind: NumberKind = "score") -> str:
    """Return a number with the digits of its kind."""
    if kind == "p" and value < 0.001:
        return "< 0.001"
    return FORMATS[kind].format(value)


@dataclass(frozen=True)
class Line:
    """One line of a table: its labels on the left and a content, or nothing, under each column.

    `group` names the lines that stand together; `reference` marks a line of trivial answers. `opens` are words that
    stand above it, below a rule, where a part of the table begins.
    """

    labels: tuple[str, ...]
    contents: tuple[Content | None, ...]
    group: str = ""
    reference: bool = False
    opens: str = ""


@dataclass(frozen=True)
class Table:
    """A table: its name in files, title, caption, the names of the labels, the path of headings of each column.

    Columns whose paths begin alike stand under one heading. `honest` is the sentence that keeps the numbers from being
    taken for published ones, "" where there is no reason. `whole` is the same table with columns that are shown in CSV
    alone, None where it has none.
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
    whole: Table | None = None

    @property
    def depth(self) -> int:
        """How many levels of headings there are."""
        return max((len(path) for path in self.columns), default=1)

    def numbers(self) -> Iterator[Number]:
        """Yield its numbers, line by line."""
        yield from (content for line in self.lines for content in line.contents if isinstance(content, Number))

    def sources(self) -> str:
        """Return where its published values are from."""
        return ", ".join(dict.fromkeys(n.published.source for n in self.numbers() if n.published))

    def marks(self) -> set[Mark]:
        """Return which marks occur and have to be explained."""
        found: set[Mark] = set()
        for number in self.numbers():
            occurs: dict[Mark, bool] = {
                "best": number.best,
                "close": number.close,
                "sd": number.sd is not None,
                "missing": number.n < number.expected,
                "published": number.published is not None,
                "footnotes": bool(number.published and number.published.footnotes),
                "records": bool(number.records),
                "repeats": number.repeats,
            }
            found |= {mark for mark, does in occurs.items() if does}
        found |= {"reference"} if any(line.reference for line in self.lines) else set()
        return found | ({"absent"} if any(None in line.contents for line in self.lines) else set())

    def legend(self, plain: bool = False) -> list[str]:
        """Return the sentences that explain its marks; `plain` text has none of best and close."""
        marks = self.marks() - ({"best", "close"} if plain else set())
        return [text for mark, text in LEGEND.items() if mark in marks]


LEGEND: Mapping[Mark, str] = MappingProxyType(
    {
        "best": "Bold: best of its column in its block, of the rows with most seeds.",
        "close": "Underlined: not distinguishable from the best by a paired t-test at level "
        f"{ALPHA:g}, corrected (Holm) for the rows of the block.",
        "repeats": f"Equals sign ({REPEATED}): on every seed the number before it, as where nothing is received.",
    }
)


@dataclass(frozen=True)
class Claim:
    """One claim that is printed somewhere, what was measured in its place, and whether that bears it out.

    Raises ValueError for an unknown verdict.
    """

    where: str
    claim: str
    printed: str
    measured: str
    verdict: ClaimVerdict
    reason: str

    def __post_init__(self) -> None:
        check_choice(self.verdict, ClaimVerdict, "the verdict on a claim")


@dataclass(frozen=True)
class Figure:
    """One figure: its name in files, title, caption, and its bytes by format."""

    name: str
    title: str
    caption: str
    files: dict[str, bytes] = field(repr=False)


@dataclass(frozen=True)
class Answered:
    """What a device answered to one sample, beside the target, and the score of it."""

    device: str
    sample: str
    target: str
    answer: str
    score: float | None


@dataclass(frozen=True)
class AnswerBlock:
    """Some answers of one row: what they are of, the metric of their scores, and what there is to mind."""

    title: str
    metric: str
    note: str
    answers: tuple[Answered, ...]


@dataclass(frozen=True)
class Section:
    """A part of a report: a heading and what stands below it; answers are on the HTML page alone."""

    title: str
    about: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    claims: Sequence[Claim] = ()
    answers: Sequence[AnswerBlock] = ()


@dataclass(frozen=True)
class Report:
    """A whole report.

    `warnings` say what was left out; `honest` keeps its numbers from being taken for published ones; `files` are the
    names of the record files by key; `curves` are all losses and scores by round, as CSV.
    """

    title: str
    about: str
    honest: str
    sections: Sequence[Section]
    warnings: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    curves: str = field(default="", repr=False)

    def tables(self) -> list[Table]:
        """Return all its tables."""
        return [table for section in self.sections for table in section.tables]

    def record_sets(self) -> RecordSets:
        """Return the distinct sets of records behind its numbers, counted from 1 in the order of their first use."""
        behind = dict.fromkeys(
            n.records for table in self.tables() for n in (table.whole or table).numbers() if n.records
        )
        return {records: i for i, records in enumerate(behind, start=1)}

    def file_names(self, records: Sequence[str]) -> list[str]:
        """Return the names of record files by key, or the start of the key where it has no file."""
        return [self.files.get(key, key[:8]) for key in records]


RecordSets = dict[tuple[str, ...], int]
"""Numbers of sets of records, by which files refer to them."""


def number_json(number: Number, sets: RecordSets) -> dict[str, Any]:
    """Return a number as JSON values, with nothing rounded; its records are the number of their set."""
    values: dict[str, Any] = {"value": number.value, "sd": number.sd, "n": number.n, "expected": number.expected}
    marks = {"best": number.best, "not_distinguishable_from_best": number.close}
    beside: dict[str, Any] = {}
    if (published := number.published) is not None:
        difference = number.value - published.value if published.comparable else None
        beside = {"published": asdict(published) | {"difference": difference}}
    return {**values, **marks, **beside, "kind": number.kind, "records": sets.get(number.records)}


def table_json(table: Table, sets: RecordSets) -> dict[str, Any]:
    """Return a table as JSON values: one object per number, by its labels and its headings."""
    rows = [
        {
            **dict(zip(table.left, line.labels, strict=True)),
            "column": list(path),
            **(number_json(content, sets) if isinstance(content, Number) else {"text": content}),
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
        "notes": [*table.legend(), *table.notes],
        "numbers": rows,
    }
