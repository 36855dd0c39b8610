"""`mlecs-bench compare`: is one algorithm better than another, did a change alter the numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlecs_bench.cli.flags import eval_point_flag
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import RecordError, UsageError
from mlecs_bench.records.results import Record, read_records, record_files
from mlecs_bench.report.installed import known_cards
from mlecs_bench.session.request import DEFAULT_OUT

if TYPE_CHECKING:
    from mlecs_bench.report.compare import Compared, Shown
    from mlecs_bench.report.frame import EvalPoint, Stat

_WHAT_TO_NAME = "name two folders of records, or two algorithms and the folder of their records"


@click.command()
@click.argument("a")
@click.argument("b")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@eval_point_flag
@click.option("--metric", metavar="NAME", help="A metric, or all.  [default: the first of each dataset]")
@click.option(
    "--stat",
    "stats",
    type=click.Choice(["avg", "best", "worst", "server"]),
    multiple=True,
    default=["avg", "server"],
    show_default=True,
    help="Average, best or worst device, or the server; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with unrounded numbers.")
def compare(  # noqa: PLR0913, PLR0917  # click passes every argument and option by its name
    a: str,
    b: str,
    folder: Path | None,
    eval_points: tuple[EvalPoint, ...],
    metric: str | None,
    stats: tuple[Stat, ...],
    as_json: bool,
) -> None:
    """Compare two algorithms, or two folders of records.

    A and B are algorithms with records in FOLDER (default: results/scratch), by name or by any label that is printed of
    a variant, or two folders, whose same cells are compared. Positive differences mean that A is better. Scores are
    paired by seed.
    """
    from mlecs_bench.report.compare import Shown, compared_json, compared_text

    shown = Shown(eval_points, metric, stats)
    if folder is None and Path(a).exists() and Path(b).exists():
        compared = _folders(Path(a), Path(b), shown)
    else:
        compared = _algorithms(a, b, folder, shown)
    text = json.dumps(compared_json(compared), indent=1) + "\n" if as_json else compared_text(compared)
    click.echo(text, nl=False)


def _algorithms(a: str, b: str, given: Path | None, shown: Shown) -> Compared:
    from mlecs_bench.report.compare import compare_pairs
    from mlecs_bench.report.pairing import pair_algorithms
    from mlecs_bench.report.tidy import record_variants

    if given is not None:
        _check_folder(given)
    elif _holds_records(a) or _holds_records(b):
        raise UsageError(f"{b if _holds_records(a) else a} is no folder; {_WHAT_TO_NAME}")
    folder = given or Path(DEFAULT_OUT)
    hint = f"run 'mlecs-bench run --algo NAME --dataset NAME --rho 0.5 --out {folder}' first, or name another folder"
    records = _read(folder, hint)
    registry = Registry.installed()
    keys = [str(record["key"]) for record in records]
    variants = dict(zip(keys, record_variants(records, registry), strict=True))
    pairing = pair_algorithms(records, a, b, str(folder), known_cards(records, registry), variants)
    return compare_pairs(pairing, (a, b), shown, folders=False)


def _holds_records(name: str) -> bool:
    """Is it a record or a folder of records, not just a folder with the name of an algorithm?"""
    return Path(name).is_file() or bool(record_files(Path(name)))


def _folders(a: Path, b: Path, shown: Shown) -> Compared:
    from mlecs_bench.report.compare import compare_pairs
    from mlecs_bench.report.pairing import pair_folders

    for folder in (a, b):
        _check_folder(folder)
    if a.samefile(b):
        raise UsageError(f"{a} and {b} are the same folder; {_WHAT_TO_NAME}")
    ours, theirs = (_read(folder, _WHAT_TO_NAME) for folder in (a, b))
    pairing = pair_folders((str(a), ours), (str(b), theirs))
    return compare_pairs(pairing, (str(a), str(b)), shown, folders=True)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        what = "a file" if folder.is_file() else "no folder"
        raise UsageError(f"{folder} is {what}; give the folder that holds the records")


def _read(folder: Path, hint: str) -> list[Record]:
    """Return the records of a folder, of which there is at least one; what is none is named on stderr."""
    records, problems = read_records(folder)
    for problem in problems:
        click.echo(f"warning: {problem}", err=True)
    if not records:
        raise RecordError(f"no valid record in {folder}; {hint}")
    return records
