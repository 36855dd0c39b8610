"""`mlecs-bench report`: the tables of a folder of records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlecs_bench.errors import RecordError, UsageError
from mlecs_bench.results import read_records, write_text

if TYPE_CHECKING:
    from mlecs_bench.report.frame import Moment


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("results/scratch"))
@click.option(
    "--moment",
    type=click.Choice(["local", "received"]),
    default="local",
    show_default=True,
    help="Score the devices after their own training, or after the last broadcast.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with both moments and all scores.")
@click.option("--output", type=click.Path(path_type=Path), help="Write to this file instead of the terminal.")
def report(folder: Path, moment: Moment, as_json: bool, output: Path | None) -> None:
    """Build tables from the records in FOLDER (default: results/scratch).

    Files that are no valid record are named on stderr, one line each, and left out.
    """
    from mlecs_bench.report import build_table, row_summary

    if folder.is_file():
        raise UsageError(f"{folder} is a file; give the folder that holds the records")
    records, problems = read_records(folder)
    for problem in problems:
        click.echo(f"warning: {problem}", err=True)
    if not records:
        raise RecordError(
            f"no valid record in {folder}; run 'mlecs-bench run --algo NAME --dataset NAME --rho 0.5 --out {folder}' "
            "first, or name another folder"
        )
    text = json.dumps(row_summary(records), indent=1) + "\n" if as_json else build_table(records, moment)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        write_text(output, text)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}; give another file with --output") from error
    click.echo(f"wrote {output}", err=True)
