"""Checks of a study plugin: its presets can be run, and its sections can be shown of any records."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.hookspecs import StudyInfo
from mlecs_bench.errors import MlecsError
from mlecs_bench.plan.study import read_study
from mlecs_bench.records.results import identity_key
from mlecs_bench.testing.card_checks import check_sentences, check_texts
from mlecs_bench.testing.cells import Recorded, recorded_cell
from mlecs_bench.testing.material import new_folder
from mlecs_bench.testing.verdict import fail

if TYPE_CHECKING:
    from mlecs_bench.report.study import StudyView
    from mlecs_bench.report.table import Section, Table

    Layout = Callable[[StudyView], Sequence[Section]]

NAME = re.compile(r"[a-z0-9]+([-_.][a-z0-9]+)*")
ALGORITHMS = ("first", "second")
SEEDS = (27, 34, 46)


@dataclass(frozen=True)
class Question:
    """The study under test, and records of a toy cell from which others are made up."""

    name: str
    info: StudyInfo
    recorded: Recorded = field(default_factory=recorded_cell)

    def records(self, algorithms: Sequence[str], datasets: Sequence[str]) -> list[dict[str, Any]]:
        """Return made-up records: every algorithm on every dataset with three seeds, scores apart."""
        names = [(a, d, s) for d in datasets for a in algorithms for s in SEEDS]
        return [made_up(self.recorded.record, *name, shift=0.01 * number) for number, name in enumerate(names)]

    @cached_property
    def own(self) -> list[dict[str, Any]]:
        """Records of what the study names, and of others where it names nothing."""
        return self.records(self.info.algorithms or ALGORITHMS, self.info.datasets or ("words",))

    def sections(
        self, records: Sequence[dict[str, Any]], *, published: bool = False, layouts: bool = False
    ) -> list[Section]:
        """Return the sections that the study adds to a report on `records`; `layouts`: in every layout, too."""
        from mlecs_bench.report import Wanted, build_report, write_report  # pandas and matplotlib take a second

        given: list[Section] = []
        for layout in (self.info.sections, *(self.info.layouts.values() if layouts else ())):

            def noted(view: StudyView, layout: Layout = layout) -> Sequence[Section]:
                found = layout(view)
                _check_sections(found)
                given.extend(found)
                return found

            wanted = Wanted(published=published, studies=(dataclasses.replace(self.info, sections=noted),))
            write_report(build_report(records, "Made up", wanted), records, new_folder(), new_folder())
        return given


def made_up(record: dict[str, Any], algorithm: str, dataset: str, seed: int, shift: float) -> dict[str, Any]:
    """Return a record as another algorithm on another dataset might leave it, its scores shifted."""
    identity = record["identity"] | {"seed": seed}
    identity["algo"] = identity["algo"] | {"name": algorithm}
    identity["dataset"] = identity["dataset"] | {"name": dataset}
    metrics = _shifted(record["metrics"], shift)
    return {**record, "key": identity_key(identity), "identity": identity, "metrics": metrics}


def _shifted(values: Any, shift: float) -> Any:
    """Return metrics with `shift` added to every value of a score."""
    if isinstance(values, list):
        return [_shifted(value, shift) for value in values]
    if not isinstance(values, dict):
        return values
    return {k: v + shift if k == "value" and "n" in values else _shifted(v, shift) for k, v in values.items()}


def card(question: Question) -> None:
    """The card has title and summary, and names presets and layouts by words that fit on a command line."""
    info = question.info
    check_texts({"title": info.title, "summary": info.summary})
    check_sentences({name: getattr(info, name) for name in ("replaces", "algorithms", "datasets")}, "StudyInfo")
    for name in (*info.presets, *info.layouts):
        if not NAME.fullmatch(name):
            fail(
                "presets and layouts have names for a command line",
                f"'{name}' is none",
                "use lower-case letters and hyphens",
            )


def presets(question: Question) -> None:
    """Every preset is a study file that can be read and gives runs, and reports on them show the study."""
    for name, path in question.info.presets.items():
        wanted = f"the preset '{name}' is a study file"
        try:
            study = read_study(Path(path))
            specs = study.specs()
        except MlecsError as error:
            fail(wanted, str(error), "write it as docs/sweeps.md says, and ship it with the distribution")
        if not specs or not study.title:
            fail(wanted, f"it has {len(specs)} runs and the title {study.title!r}", "give it a title and blocks")


def sections(question: Question) -> None:
    """Sections are given for made-up records of what the study is about; their tables are whole."""
    question.sections(question.own, layouts=True)


def _check_sections(found: Sequence[Section]) -> None:
    """Raise CheckFailed unless the sections of one setting can be shown."""
    from mlecs_bench.report.table import Section

    for section in found:
        if not isinstance(section, Section):
            fail("sections are Sections", f"one is a {type(section).__name__}", "build them from mlecs_bench.api")
        if not section.title.strip():
            fail("a section has a title", f"one has {section.title!r}", "name it")
        for table in section.tables:
            _check_table(table)
    names = [table.name for section in found for table in section.tables]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        fail("tables have names of their own", f"two are called '{twice}'", "they are names of files; use view.suffix")


def _check_table(table: Table) -> None:
    for line in table.lines:
        if len(line.contents) != len(table.columns) or len(line.labels) != len(table.left):
            happened = f"'{table.name}' has a line of {len(line.contents)} contents under {len(table.columns)} columns"
            fail("lines have a content, or None, for every column", happened, "fill it up")
    for number in table.numbers():
        if not math.isfinite(number.value):
            fail("numbers are finite", f"'{table.name}' holds {number.value}", "leave out what is not there")


def strangers(question: Question) -> None:
    """Records of other algorithms and datasets, one alone too, and those with published values break nothing."""
    question.sections(question.records(("somebody",), ("elsewhere",)), layouts=True)
    question.sections(question.records(("somebody",), ("elsewhere",))[:1])
    question.sections(question.own, published=True)


def same_again(question: Question) -> None:
    """The same records give the same sections, in whatever order the records come."""
    first, again = question.sections(question.own), question.sections(question.own[::-1])
    if [section.title for section in first] != [section.title for section in again]:
        happened = "other sections came from the same records in another order"
        fail("sections depend on the records alone", happened, "keep nothing between calls")


STUDY_CHECKS = (card, presets, sections, strangers, same_again)
