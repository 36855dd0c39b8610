"""What a run, a sweep or a folder of records comes to in Python: records, failures, a data frame, tables, a report."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import MlecsError, RecordError, UsageError
from mlecs_bench.records.failures import read_failures, reason_of
from mlecs_bench.records.results import record_name
from mlecs_bench.report.frame import honest_line

if TYPE_CHECKING:
    import pandas as pd

    from mlecs_bench.plan.plan import Plan
    from mlecs_bench.report.folder import WrittenReport
    from mlecs_bench.session.carry_out import Cells

SHOWN = 10
"""How many failures and problems are shown, each."""


@dataclass(frozen=True)
class FailedCell:
    """A cell that has no record: its name, seed and error, which is one line, or the traceback of a defect."""

    cell: str
    seed: int
    error: str

    @property
    def reason(self) -> str:
        """The error in one line."""
        return reason_of(self.error)


class FailedCellsError(MlecsError):
    """Cells of a run have failed; the others are done, and `result` holds them.

    A traceback of a defect is a note of the exception, which Python shows below it.
    """

    def __init__(self, result: Results) -> None:
        failures = result.failures
        first = failures[0]
        of = len(failures) + len(result.records)
        more = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
        super().__init__(f"{len(failures)} of {of} cells failed: {first.cell}: {first.reason}{more}")
        self.result = result
        for error in dict.fromkeys(one.error for one in failures if "\n" in one.error.strip()):
            self.add_note(error)


@dataclass(frozen=True)
class Results:
    """Records and failures. In a notebook or a console it shows itself as tables of scores.

    `records` are the records as `docs/records.md` explains them, `failures` the cells that have none, `problems` what
    could not be read, a line each. `folder` is where the records are.
    """

    records: Sequence[Mapping[str, Any]]
    failures: Sequence[FailedCell]
    folder: Path
    problems: Sequence[str] = ()
    registry: Registry = field(default_factory=Registry.installed, repr=False)

    def to_dataframe(self) -> pd.DataFrame:
        """Return every score as a row of a tidy data frame, with the columns `mlecs_bench.report.tidy.COLUMNS`.

        `eval_point` is "local" (after the devices' own training), "received" (after the last broadcast) or "server".
        Rows that agree in algo, variant, dataset, rho and n_devices differ in nothing but the seed. `key` is that of
        the record.
        """
        from mlecs_bench.report.tidy import tidy_frame

        return tidy_frame(self.records, self.registry)

    def report(self, **shown: Any) -> WrittenReport:
        """Write the report on all records in `folder`, those that were there before among them; see `report`."""
        from mlecs_bench.report.folder import report

        return report(self.folder, **shown)

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        from mlecs_bench.report.markdown import table_text

        return "\n\n".join([*self._words(), *(table_text(table).strip() for table in self._tables())])

    def _repr_html_(self) -> str:
        from mlecs_bench.report.markdown import table_html

        words = "".join(f"<p>{escape(text)}</p>" for text in self._words())
        return words + "".join(table_html(table) for table in self._tables())

    def _tables(self) -> list[Any]:
        from mlecs_bench.report.build import tables_of_scores
        from mlecs_bench.report.installed import known_cards

        return tables_of_scores(self.records, cards=known_cards(self.records, self.registry)) if self.records else []

    def _words(self) -> list[str]:
        """Return how many records there are, what failed, and what the numbers may not be taken for."""
        n = len(self.records)
        words = [f"{n} record{'s' * (n != 1)} in {self.folder}"]
        words += _first([f"failed: {one.cell}: {one.reason}" for one in self.failures])
        words += _first([f"left out: {problem}" for problem in self.problems])
        return [text for text in (*words, honest_line(self.records)) if text]


@dataclass(frozen=True, repr=False)
class Run(Results):
    """The results of one run, and the plan that it followed."""

    plan: Plan | None = None


def _first(lines: Sequence[str]) -> list[str]:
    more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [*lines[:SHOWN], *more]


def failed_cells(cells: Cells) -> list[FailedCell]:
    """Return the cells that have failed."""
    from mlecs_bench.session.progress import cell_name

    return [FailedCell(cell_name(ref), result.seed, result.error) for ref, result in cells if result.error]


def load_records(folder: str | PathLike[str]) -> Results:
    """Return the records of a folder and of all folders below it.

    A file that is no valid record is a Python warning and is left out, as is a second record of a cell; failures are
    those kept beside the records. Raises UsageError for what is no folder, RecordError where there is no record at all.
    """
    from mlecs_bench.records.results import read_below

    place = Path(folder).expanduser()
    if not place.is_dir():
        what = "a file" if place.is_file() else "no folder"
        raise UsageError(f"{place} is {what}; give the folder that holds the records")
    found, folders = read_below(place)
    problems = [*found.problems]
    failures: list[FailedCell] = []
    for one in folders:
        kept, damaged = read_failures(one)
        problems += damaged
        failures += [
            FailedCell(record_name(failure.identity).removesuffix(".json"), failure.identity["seed"], failure.error)
            for failure in kept
        ]
    for problem in problems:
        warnings.warn(problem, stacklevel=2)
    if not found.records:
        raise RecordError(f"no valid record in {place} or below it; name another folder")
    return Results(found.records, failures, place, problems)
