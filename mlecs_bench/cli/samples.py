"""`mlecs-bench samples`: what algorithms answered to the same samples, the worst answers first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import RecordError, UsageError
from mlecs_bench.records.predictions import has_predictions, how_to_get
from mlecs_bench.records.results import read_folder
from mlecs_bench.report.installed import known_cards
from mlecs_bench.session.request import DEFAULT_OUT

if TYPE_CHECKING:
    from mlecs_bench.records.results import Record, RecordFolder
    from mlecs_bench.report.samples import WorstSamples


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path(DEFAULT_OUT))
@click.option("--algo", metavar="A,B", help="One or two algorithms, by name or as tables label a variant; the first"
              " decides the order.  [default: the first two]")  # fmt: skip
@click.option("--worst", type=click.IntRange(min=1), default=10, show_default=True, metavar="N", help="How many.")
@click.option("--metric", metavar="NAME", help="A score of single samples, exact_match among them.  [default: the"
              " dataset's first]")  # fmt: skip
@click.option("--party", metavar="NAME", help="One party, such as d00 or server.  [default: all]")
@click.option("--point", "--eval-point", "point", type=click.Choice(["local", "received", "server"]), help="When they"
              " were scored.  [default: received, and the server]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def samples(  # noqa: PLR0913, PLR0917  # a flag each
    folder: Path,
    algo: str | None,
    worst: int,
    metric: str | None,
    party: str | None,
    point: str | None,
    as_json: bool,
) -> None:
    """Show the worst answers in FOLDER (default: results/scratch).

    Two algorithms are shown side by side: the same seed, party and sample. Answers are there where runs have kept them
    (--save-predictions).
    """
    from mlecs_bench.report.samples import SamplesAsked, worst_samples

    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; give the folder that holds the records")
    found = read_folder(folder)
    for problem in found.problems:
        click.echo(f"warning: {problem}", err=True)
    records = _with_answers(folder, found)
    names = [name.strip() for name in algo.split(",") if name.strip()] if algo else _first_two(records)
    if not 1 <= len(names) <= 2:
        raise UsageError(f"--algo names one algorithm or two, got {len(names)}; leave some out")
    asked = SamplesAsked(tuple(names), worst, metric, party, point)
    shown = worst_samples(records, found.paths, asked, known_cards(records, Registry.installed()))
    if as_json:
        click.echo(json.dumps({"places": [one.to_json() for one in shown]}, indent=2, ensure_ascii=False))
        return
    click.echo("\n\n".join(_text(one) for one in shown))


def _with_answers(folder: Path, found: RecordFolder) -> list[Record]:
    """Return the records with answers beside them; says how many have none, and how to get them."""
    if not found.records:
        raise RecordError(f"no valid record in {folder}; name another folder")
    records = [record for record in found.records if has_predictions(found.paths[record["key"]])]
    lacking = [found.paths[record["key"]] for record in found.records if record not in records]
    if not records:
        raise RecordError(f"none of the {len(lacking)} records in {folder} has answers; {how_to_get(lacking[0])}")
    if lacking:
        click.echo(f"warning: {len(lacking)} records have no answers; {how_to_get(lacking[0])}", err=True)
    return records


def _first_two(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(record["identity"]["algo"]["name"] for record in records))[:2]


def _text(one: WorstSamples) -> str:
    beside = f", beside {one.algos[1]}" if len(one.algos) > 1 else ""
    lines = [f"{one.where}: {len(one.rows)} worst of {one.total} answers by {one.metric} of {one.algos[0]}{beside}"]
    width = max(len(name) for name in ("target", *one.algos))
    for row in one.rows:
        read = ", ".join(row["held"]) or "no modality"
        at = row["device"] if row["eval_point"] == "server" else f"{row['device']} {row['eval_point']}"
        lines += ["", f"seed {row['seed']}, {at}, {row['sample']} ({read})"]
        lines.append(f"  {'target':{width}}         {row['target']}")
        for name, answer, score in zip(one.algos, row["answers"], row["scores"], strict=True):
            lines.append(f"  {name:{width}}  {'-    ' if score is None else f'{score:.3f}'}  {answer}")
    return "\n".join(lines)
