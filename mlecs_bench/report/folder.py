"""The report on a folder of records, found, built and written: what the command and Python share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import RecordError, UsageError, did_you_mean
from mlecs_bench.records.failures import read_failures
from mlecs_bench.records.results import FOLDER, read_folder, record_name
from mlecs_bench.report.build import Wanted, build_report, tables_of_scores
from mlecs_bench.report.frame import BOTH_POINTS, EVAL_POINTS, STATS, all_scores
from mlecs_bench.report.installed import known_cards, laid_out, studies_of, study_in, with_ablations
from mlecs_bench.report.markdown import report_markdown
from mlecs_bench.report.scores import USUAL_STATS
from mlecs_bench.report.tidy import record_variants
from mlecs_bench.report.write import report_json, write_report

if TYPE_CHECKING:
    import pandas as pd

    from mlecs_bench.doors.hookspecs import StudyInfo
    from mlecs_bench.plan.study import Study
    from mlecs_bench.report.frame import EvalPoint, Stat
    from mlecs_bench.report.table import Report, Table

USUAL_FOLDER = Path("results/scratch")
"""Where records go, and are looked for, where no folder is named."""
REPORT_FOLDER = "report"
SHOWN_FAILURES = 10
PAPER = "paper"
"""The study that `with_paper` stands for."""


@dataclass(frozen=True)
class Choice:
    """What a report is to show: points of evaluation, the candidate, studies by name, printed values, diagnostics.

    `metrics` and `stats` are those of its tables of scores; no metrics: all of them. `layout` is that of one of the
    studies, None for the one that the folder's study file names.
    """

    eval_points: tuple[EvalPoint, ...] = BOTH_POINTS
    candidate: str | None = None
    studies: tuple[str, ...] = ()
    with_paper: bool = False
    diagnostics: bool = False
    metrics: tuple[str, ...] = ()
    stats: tuple[Stat, ...] = USUAL_STATS
    layout: str | None = None


@dataclass(frozen=True)
class Built:
    """A report on a folder that is built and not yet written; `studies` are the titles of those with a part in it.

    `tables` are its scores alone, whatever studies put in their place.
    """

    folder: Path
    report: Report
    records: Sequence[dict[str, Any]]
    tables: Sequence[Table]
    studies: Sequence[str]

    def write(self, place: Path) -> list[Path]:
        """Write the report into a folder and return its files; raises UsageError."""
        try:
            return write_report(self.report, self.records, place, self.folder)
        except OSError as error:
            raise UsageError(f"cannot write {place}: {error.strerror}; give another folder with --output") from error


def built_report(folder: Path, choice: Choice, warn: Callable[[str], None]) -> Built:
    """Return the report on the records of a folder; `warn` is told, in a line each, of what is left out.

    Raises UsageError for what is no folder, and RecordError for a folder without a valid record.
    """
    _check_folder(folder)
    found = read_folder(folder)
    for problem in found.problems:
        warn(problem)
    if not found.records:
        raise RecordError(f"no valid record in {folder}; {_instead(folder)}")
    if choice.candidate is not None:
        _check_candidate(choice.candidate, found.records)
    _check_metrics(choice.metrics, found.records)
    registry = Registry.installed()
    study, wrong = study_in(folder)
    shown, problems = studies_of(study, (*choice.studies, *([PAPER] if choice.with_paper else [])), registry)
    shown, missing = laid_out(shown, choice.layout, study, registry)
    candidate = choice.candidate or _candidate(study, shown, found.records, registry)
    lines = [*wrong, *problems, *missing, *_failed(folder)]
    for line in lines:
        warn(line)
    left_out = [f"left out: {Path(problem.split()[0]).name}" for problem in found.problems]
    texts = record_variants(found.records, registry)
    variants = {record["key"]: text for record, text in zip(found.records, texts, strict=True)}
    seeds, further_seeds = _seeds(study)
    wanted = Wanted(
        eval_points=choice.eval_points,
        candidate=candidate,
        published=choice.with_paper,
        studies=shown,
        diagnostics=choice.diagnostics,
        answers=found.paths,
        variants=variants,
        metrics=choice.metrics,
        stats=choice.stats,
        seeds=seeds,
        further_seeds=further_seeds,
        about=study.about if study else "",
    )
    cards = known_cards(found.records, registry)
    files = {key: path.relative_to(folder).as_posix() for key, path in found.paths.items()}
    title = study.title if study and study.title else f"Report of {folder.resolve().name}"
    report = build_report(found.records, title, wanted, cards, [*left_out, *lines], files)
    tables = tables_of_scores(found.records, wanted, cards)
    return Built(folder, report, found.records, tables, [one.title for one in shown])


def _candidate(
    study: Study | None, shown: Sequence[StudyInfo], records: Sequence[dict[str, Any]], registry: Registry
) -> str | None:
    """Return whom a study holds against the others: its file or a study plugin says it, or it is the file's first.

    Without a file it is the algorithm that plugins ablate. None: what `Wanted` says.
    """
    there = {record["identity"]["algo"]["name"] for record in records}
    named = [
        study.candidate if study else "",
        *(one.candidate for one in shown),
        study.first_algorithm if study else "",
    ]
    return next((name for name in named if name in there), None) or with_ablations(records, registry)


def _seeds(study: Study | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the seeds that a study asked for everywhere, and in some blocks alone; none where its file says none."""
    try:
        return (study.seeds, study.further_seeds) if study else ((), ())
    except UsageError:
        return (), ()


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise UsageError(f"{folder} is a file; give the folder that holds the records")
    if not folder.exists() and folder != USUAL_FOLDER:
        raise UsageError(f"{folder} is no folder; give the folder that holds the records")


def _instead(folder: Path) -> str:
    """Return what to do about a folder without records: those below it that may have some, or how to make one."""
    files = [*folder.glob("*/[!.]*--*.json"), *folder.glob(f"*/{FOLDER}/[!.]*--*.json")]
    below = sorted({path.relative_to(folder).parts[0] for path in files})
    if below:
        return f"name one of the folders below it: {', '.join(below)}"
    return f"run 'mlecs-bench run --algo NAME --dataset NAME --rho 0.5 --out {folder}' first, or name another folder"


def _check_candidate(candidate: str, records: Sequence[dict[str, Any]]) -> None:
    names = sorted({record["identity"]["algo"]["name"] for record in records})
    if candidate not in names:
        raise UsageError(f"no record of algorithm '{candidate}'. {did_you_mean(candidate, names)}")


def _check_metrics(metrics: Sequence[str], records: Sequence[dict[str, Any]]) -> None:
    known = {name for record in records for name in record["identity"]["scorers"]}
    known |= {metric for record in records for metric, _ in all_scores(record)}
    for name in metrics:
        if name not in known:
            raise UsageError(f"no record has the metric '{name}'. {did_you_mean(name, known)}")


def _failed(folder: Path) -> list[str]:
    """Return a line per cell that has failed, the first ones by name."""
    failures, problems = read_failures(folder)
    lines = [f"failed: {record_name(one.identity).removesuffix('.json')}: {one.reason}" for one in failures]
    more = [f"... and {len(lines) - SHOWN_FAILURES} more failed cells"] if len(lines) > SHOWN_FAILURES else []
    return [*problems, *lines[:SHOWN_FAILURES], *more]


@dataclass(frozen=True, repr=False)
class WrittenReport:
    """A report that was written: its folder, its files, its text as Markdown and its tables as data frames by name.

    A frame has a row per number, with the labels of its line, its column, value, sd and n; nothing is rounded.
    `warnings` say what was left out. In a notebook it shows itself as Markdown.
    """

    folder: Path
    paths: tuple[Path, ...]
    markdown: str
    frames: Mapping[str, pd.DataFrame]
    warnings: tuple[str, ...] = ()

    @property
    def page(self) -> Path:
        """The page that holds all of it, index.html."""
        return self.folder / "index.html"

    def __repr__(self) -> str:
        return f"report of {len(self.paths)} files in {self.folder}; open {self.page}"

    def _repr_markdown_(self) -> str:
        return self.markdown


def report(  # noqa: PLR0913  # a keyword for each flag of the command
    folder: str | PathLike[str] = USUAL_FOLDER,
    *,
    output: str | PathLike[str] | None = None,
    eval_point: EvalPoint | None = None,
    candidate: str | None = None,
    study: str | Sequence[str] = (),
    with_paper: bool = False,
    diagnostics: bool = False,
    metric: str | Sequence[str] = (),
    stat: Stat | Sequence[Stat] = USUAL_STATS,
    layout: str | None = None,
) -> WrittenReport:
    """Write tables, figures and statistics on the records of a folder into FOLDER/report, as `mlecs-bench report` does.

    `output` names another folder; `eval_point` shows "local" or "received" alone; `candidate` is the algorithm that is
    tested against the others; `study` adds the sections of one or more studies, `with_paper` those of the paper's,
    `diagnostics` the diagnostic scores of datasets; `layout` is one that a study offers, or "plain". `metric` and
    `stat` (of "avg", "best", "worst", "server") are what tables of scores show; files of CSV hold all. A file that is
    no valid record is a Python warning and is left out.
    Raises UsageError for what cannot be shown, RecordError for a folder without a valid record.
    """
    if eval_point not in (None, *EVAL_POINTS):
        raise UsageError(f"eval-point must be {' or '.join(EVAL_POINTS)}, got {eval_point}")
    points = BOTH_POINTS if eval_point is None else (eval_point,)
    studies = (study,) if isinstance(study, str) else tuple(study)
    place = Path(folder).expanduser()

    def warn(line: str) -> None:
        warnings.warn(line, stacklevel=4)

    metrics = (metric,) if isinstance(metric, str) else tuple(metric)
    stats = (stat,) if isinstance(stat, str) else tuple(stat)
    if not stats or any(one not in STATS for one in stats):
        raise UsageError(f"stat must be among {', '.join(STATS)}, got {stat}")
    choice = Choice(points, candidate, studies, with_paper, diagnostics, metrics, stats, layout)
    built = built_report(place, choice, warn)
    target = Path(output).expanduser() if output is not None else place / REPORT_FOLDER
    paths = tuple(built.write(target))
    return WrittenReport(
        target, paths, report_markdown(built.report), _frames(built), tuple(map(str, built.report.warnings))
    )


def _frames(built: Built) -> dict[str, pd.DataFrame]:
    import pandas as pd

    tables = report_json(built.report, built.records)["tables"]
    return {table["name"]: pd.DataFrame([_row(number) for number in table["numbers"]]) for table in tables}


def _row(number: Mapping[str, Any]) -> dict[str, Any]:
    """Return a number of a table for a frame: the path of its column as one text."""
    return {**number, "column": " ".join(filter(None, number["column"]))}
