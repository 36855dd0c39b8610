"""`mlecs-bench report`: the tables, figures and statistics of a folder of records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlecs_bench.cli.flags import eval_point_flag
from mlecs_bench.session.request import DEFAULT_OUT

if TYPE_CHECKING:
    from mlecs_bench.report.frame import EvalPoint, Stat


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path(DEFAULT_OUT))
@eval_point_flag
@click.option(
    "--candidate",
    metavar="NAME",
    help="The algorithm that is tested against the others.  [default: 'candidate' of the study, else its first]",
)
@click.option(
    "--study",
    "studies",
    multiple=True,
    metavar="NAME",
    help="A study whose sections are shown; repeatable."
    "  [default: those that the folder's study.yaml names under report]",
)
@click.option(
    "--layout",
    metavar="NAME",
    help="Lay out a study's part as one of its layouts does, such as a paper's own tables; 'plain' for none."
    "  [default: that of the folder's study.yaml]",
)
@click.option("--with-paper", is_flag=True, help="Show the study paper, its printed values beside ours.")
@click.option("--diagnostics", is_flag=True, help="Show the diagnostic scores of datasets; CSV files always hold them.")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="A metric of the tables of scores; repeatable.  [default: all]",
)
@click.option(
    "--stat",
    "stats",
    type=click.Choice(["avg", "best", "worst", "server"]),
    multiple=True,
    default=["avg", "server"],
    show_default=True,
    help="Average, best or worst device, or the server; repeatable. CSV files always hold all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead, and write nothing.")
@click.option(
    "--output",
    "--out",
    "output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write here.  [default: FOLDER/report]",
)
def report(  # noqa: PLR0913, PLR0917  # a flag each
    folder: Path,
    eval_points: tuple[EvalPoint, ...],
    candidate: str | None,
    studies: tuple[str, ...],
    layout: str | None,
    with_paper: bool,
    diagnostics: bool,
    metrics: tuple[str, ...],
    stats: tuple[Stat, ...],
    as_json: bool,
    output: Path | None,
) -> None:
    """Build tables, figures and statistics from the records in FOLDER (default: results/scratch).

    Prints scores as tables, and writes tables (Markdown, LaTeX, CSV), figures (SVG, PNG, PDF), tests of the
    differences, what studies add to them, and one HTML page of it all. Files that are no valid record are named on
    stderr, one line each, and left out.
    """
    from mlecs_bench.report.folder import REPORT_FOLDER, Choice, built_report
    from mlecs_bench.report.markdown import report_head, table_text
    from mlecs_bench.report.write import report_json

    def warn(line: str) -> None:
        click.echo(f"warning: {line}", err=True)

    choice = Choice(eval_points, candidate, studies, with_paper, diagnostics, metrics, stats, layout)
    built = built_report(folder, choice, warn)
    if as_json:
        click.echo(json.dumps(report_json(built.report, built.records), indent=1))
        return
    place = output or folder / REPORT_FOLDER
    written = built.write(place)
    added = f", with what the study '{', '.join(built.studies)}' adds" if built.studies else ""
    click.echo(f"wrote {len(written)} files to {place}{added}; open {place / 'index.html'}", err=True)
    click.echo("\n".join([report_head(built.report), *map(table_text, built.tables)]), nl=False)
