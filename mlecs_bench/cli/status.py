"""`mlecs-bench status`: where the sweeps of a folder stand, from any terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mlecs_bench.errors import UsageError
from mlecs_bench.records.failures import read_failures
from mlecs_bench.records.results import damaged_files, record_files
from mlecs_bench.session.progress import duration
from mlecs_bench.session.request import DEFAULT_OUT
from mlecs_bench.session.status_file import Status, read_statuses

STATES = {
    "running": "running",
    "done": "ended",
    "interrupted": "interrupted",
    "failed": "ended with an error",
    "lost": "gone without a word (killed?); the same command goes on",
}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path(DEFAULT_OUT))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def status(folder: Path, as_json: bool) -> None:
    """Show how far the sweeps of FOLDER are (default: results/scratch).

    Cells done, running and failed, and the time to go, from any terminal.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; give the --out of a sweep")
    statuses = read_statuses(folder)
    damaged = damaged_files(folder)
    records = len(record_files(folder)) - len(damaged)
    failures, problems = read_failures(folder)
    for problem in (*damaged, *problems):
        click.echo(f"warning: {problem}", err=True)
    if as_json:
        sweeps = [{**s.values, "state": s.state} for s in statuses]
        failed = [{"cell": _named(f.identity), "error": f.reason, "attempts": f.attempts} for f in failures]
        click.echo(json.dumps({"records": records, "damaged": damaged, "failures": failed, "sweeps": sweeps}, indent=2))
        return
    lines = [line for found in statuses for line in _lines(found)]
    others = f", {len(damaged)} that are no whole records" if damaged else ""
    lines.append(f"{folder}: {records} record files{others}, {len(failures)} failures")
    lines += [f"  failed: {_named(f.identity)}: {f.reason} ({f.attempts}x, last {f.ended})" for f in failures]
    click.echo("\n".join(lines if statuses else ["no sweep has run here", *lines]))


def _lines(found: Status) -> list[str]:
    values, cells = found.values, found.values["cells"]
    head = f"sweep {values['pid']} on {values['host']}: {STATES.get(found.state, found.state)}"
    counts = f"{cells['done']} of {cells['total']} cells done ({cells['skipped']} found), {cells['failed']} failed"
    times = f"started {values['started']}, last word {values['updated']}"
    if found.live:
        times += f", ETA {duration(values['eta_seconds'])}"
    running = [f"    {row['cell']}: {row['at']}" for row in values["running"]] if found.live else []
    return [head, f"  {counts}", f"  {times}", *([f"  {len(running)} running:", *running] if running else [])]


def _named(identity: Any) -> str:
    """Return a cell in a few words."""
    from mlecs_bench.records.names import rho_label

    data = identity["dataset"]["name"]
    where = f"rho {rho_label(identity['rho'])}, {identity['n_devices']} devices, seed {identity['seed']}"
    return f"{identity['algo']['name']} {data} {where}"
