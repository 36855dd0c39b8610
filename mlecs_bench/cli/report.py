"""`mlecs-bench report`: the tables, figures and statistics of a folder of records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlecs_bench.cli.config import DEFAULT_OUT
from mlecs_bench.cli.defaults import known_cards, studies_of, with_ablations
from mlecs_bench.cli.flags import eval_point_flag
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import RecordError, UsageError, did_you_mean
from mlecs_bench.records.failures import read_failures
from mlecs_bench.records.results import FOLDER, read_folder, record_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlecs_bench.report.frame import EvalPoint
    from mlecs_bench.report.table import Report

REPORT_FOLDER = "report"
SHOWN_FAILURES = 10
PAPER = "paper"
"""The study that --with-paper stands for."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path(DEFAULT_OUT))
@eval_point_flag
@click.option(
    "--candidate",
    metavar="NAME",
    help="The algorithm that is tested against the others.  [default: that of the study, else the one with ablations]",
)
@click.option(
    "--study",
    "studies",
    multiple=True,
    metavar="NAME",
    help="A study whose sections are shown; repeatable."
    "  [default: those that the folder's study.yaml names under report]",
)
@click.option("--with-paper", is_flag=True, help="Show the study paper, its printed values beside ours.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead, and write nothing.")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="Write here.  [default: FOLDER/report]")
def report(  # noqa: PLR0913, PLR0917  # a flag each
    folder: Path,
    eval_points: tuple[EvalPoint, ...],
    candidate: str | None,
    studies: tuple[str, ...],
    with_paper: bool,
    as_json: bool,
    output: Path | None,
) -> None:
    """Build tables, figures and statistics from the records in FOLDER (default: results/scratch).

    Prints all scores as tables, and writes tables (Markdown, LaTeX, CSV), figures (SVG, PNG), tests of the differences,
    what studies add to them, and one HTML page of it all. Files that are no valid record are named on stderr, one line
    each, and left out.
    """
    from mlecs_bench.report import Wanted, build_report, build_table, report_json

    _check_folder(folder)
    found = read_folder(folder)
    for problem in found.problems:
        click.echo(f"warning: {problem}", err=True)
    if not found.records:
        raise RecordError(f"no valid record in {folder}; {_instead(folder)}")
    if candidate is not None:
        _check_candidate(candidate, found.records)
    registry = Registry.installed()
    shown, problems = studies_of(folder, (*studies, *([PAPER] if with_paper else [])), registry)
    warnings = [*problems, *_failed(folder)]
    for line in warnings:
        click.echo(f"warning: {line}", err=True)
    if candidate is None and not any(study.candidate for study in shown):
        candidate = with_ablations(found.records, registry)
    left_out = [f"left out: {Path(problem.split()[0]).name}" for problem in found.problems]
    wanted = Wanted(eval_points, candidate, with_paper, shown, found.paths)
    cards = known_cards(found.records, registry)
    files = {key: path.relative_to(folder).as_posix() for key, path in found.paths.items()}
    title = f"Report of {folder.resolve().name}"
    built = build_report(found.records, title, wanted, cards, [*left_out, *warnings], files)
    if as_json:
        click.echo(json.dumps(report_json(built, found.records), indent=1))
        return
    _write(folder, built, found.records, output or folder / REPORT_FOLDER, [study.title for study in shown])
    click.echo(build_table(found.records, eval_points, cards), nl=False)


def _write(folder: Path, built: Report, records: Sequence[dict[str, Any]], place: Path, studies: Sequence[str]) -> None:
    """Write the report on the records of `folder` into `place` and say so, and which studies have a part in it."""
    from mlecs_bench.report import write_report

    try:
        written = write_report(built, records, place, folder)
    except OSError as error:
        raise UsageError(f"cannot write {place}: {error.strerror}; give another folder with --output") from error
    added = f", with what the study '{', '.join(studies)}' adds" if studies else ""
    click.echo(f"wrote {len(written)} files to {place}{added}; open {place / 'index.html'}", err=True)


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise UsageError(f"{folder} is a file; give the folder that holds the records")
    if not folder.exists() and folder != Path(DEFAULT_OUT):
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


def _failed(folder: Path) -> list[str]:
    """Return a line per cell that has failed, the first ones by name."""
    failures, problems = read_failures(folder)
    lines = [f"failed: {record_name(one.identity).removesuffix('.json')}: {one.reason}" for one in failures]
    more = [f"... and {len(lines) - SHOWN_FAILURES} more failed cells"] if len(lines) > SHOWN_FAILURES else []
    return [*problems, *lines[:SHOWN_FAILURES], *more]
