"""`mlecs-bench report`: the tables, figures and statistics of a folder of records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlecs_bench.cli.config import DEFAULT_OUT
from mlecs_bench.cli.defaults import known_defaults
from mlecs_bench.cli.flags import moment_flag
from mlecs_bench.errors import RecordError, UsageError, did_you_mean
from mlecs_bench.records.failures import read_failures
from mlecs_bench.records.results import read_records, record_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlecs_bench.report.frame import Moment

REPORT_FOLDER = "report"
SHOWN_FAILURES = 10


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path(DEFAULT_OUT))
@moment_flag
@click.option("--candidate", metavar="NAME", help="The algorithm that is tested against the others.  [default: ml-ecs]")
@click.option("--with-paper", is_flag=True, help="Put the paper's values and the difference to them beside ours.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead, and write nothing.")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="Write here.  [default: FOLDER/report]")
def report(  # a flag each
    folder: Path, moment: Moment, candidate: str | None, with_paper: bool, as_json: bool, output: Path | None
) -> None:
    """Build tables, figures and statistics from the records in FOLDER (default: results/scratch).

    Prints all scores as tables, and writes the paper's tables (Markdown, LaTeX, CSV), figures (SVG, PNG), tests of the
    differences and the paper's claims, and one HTML page of it all. Files that are no valid record are named on
    stderr, one line each, and left out.
    """
    from mlecs_bench.report import Wanted, build_report, build_table, report_json, write_report

    _check_folder(folder)
    records, problems = read_records(folder)
    for problem in problems:
        click.echo(f"warning: {problem}", err=True)
    if not records:
        raise RecordError(f"no valid record in {folder}; {_instead(folder)}")
    if candidate is not None:
        _check_candidate(candidate, records)
    failed = _failed(folder)
    for line in failed:
        click.echo(f"warning: {line}", err=True)
    left_out = [f"left out: {Path(problem.split()[0]).name}" for problem in problems]
    title = f"Report of {folder.resolve().name}"
    wanted = Wanted(moment, candidate, with_paper)
    built = build_report(records, title, wanted, known_defaults(records), [*left_out, *failed])
    if as_json:
        click.echo(json.dumps(report_json(built, records), indent=1))
        return
    place = output or folder / REPORT_FOLDER
    try:
        files = write_report(built, records, place, folder)
    except OSError as error:
        raise UsageError(f"cannot write {place}: {error.strerror}; give another folder with --output") from error
    click.echo(build_table(records, moment), nl=False)
    paper = ", the paper's values among them" if with_paper else ""
    click.echo(f"wrote {len(files)} files to {place}{paper}; open {place / 'index.html'}", err=True)


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise UsageError(f"{folder} is a file; give the folder that holds the records")
    if not folder.exists() and folder != Path(DEFAULT_OUT):
        raise UsageError(f"{folder} is no folder; give the folder that holds the records")


def _instead(folder: Path) -> str:
    """Return what to do about a folder without records: those below it that may have some, or how to make one."""
    below = sorted({path.parent.name for path in folder.glob("*/[!.]*--*.json")})
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
