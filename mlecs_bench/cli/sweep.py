"""`mlecs-bench sweep`: many runs, in worker processes, as a preset, a study file or lists of settings."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlecs_bench.cli.flags import GRID, LISTS, PLACES, offline_flag, parsed, settings_file, with_flags
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.plan.settings import DEVICE_KEYS
from mlecs_bench.plan.spec import ALL
from mlecs_bench.records.failures import reason_of
from mlecs_bench.report.frame import honest_line
from mlecs_bench.session.carry_out import Cells, sweep_cells, sweep_text
from mlecs_bench.session.outcome import lacking_lines, scoring_line
from mlecs_bench.session.progress import Listener, cell_name, make_view
from mlecs_bench.session.request import PLACE_KEYS, Chosen, Places, Sweep, build_sweep

if TYPE_CHECKING:
    from mlecs_bench.doors.events import Event
    from mlecs_bench.execution.jobs import CellResult

SHOWN_FAILURES = 10
STOP_SIGNALS = ("SIGTERM", "SIGUSR1")
"""What batch systems send a job that is about to end."""


PRINT_SLURM = "--print-slurm"


class _Sweep(click.Command):
    """A command that keeps its arguments as they were typed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments for the script of a batch system."""
        ctx.meta[PRINT_SLURM] = list(args)
        return super().parse_args(ctx, args)


@click.command(cls=_Sweep)
@click.option(
    "--preset",
    "preset_name",
    metavar="NAME",
    help="A study that comes with a plugin, such as table1; mlecs-bench show paper lists those of the paper.",
)
@settings_file
@click.option("--blocks", metavar="A,B", help="Run only these blocks of the study, in this order.")
@with_flags(GRID, LISTS, PLACES)
@offline_flag
@click.option("--retry", type=click.Choice(["failed"]), help="Run cells again that have failed before.")
@click.option("--dry-run", is_flag=True, help="List the cells and what is there of them, and stop.")
@click.option(
    PRINT_SLURM,
    is_flag=False,
    flag_value="",
    metavar="[NAME=VALUE,...]",
    help="Print a script for sbatch whose jobs share the cells, and stop: partition=cpu,time=04:00:00,gpus=1,jobs=16.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--quiet", is_flag=True, help="Show no progress, only errors and the result.")
@click.pass_context
def sweep(
    ctx: click.Context, /, dry_run: bool, print_slurm: str | None, as_json: bool, quiet: bool, **flags: Any
) -> None:
    """Run many cells: a preset, a study file or lists.

    Of lists every combination is run; flags replace the settings of a preset or a study.
    Cells that have a record are skipped, and so are cells that failed before, unless --retry failed. A cell that
    fails costs only itself. The same command again goes on where this one was stopped.
    """
    workers = flags["workers"]
    asked = _asked(flags)
    if print_slurm is not None:
        click.echo(_slurm_script(print_slurm, asked, ctx.meta[PRINT_SLURM], workers), nl=False)
        return
    if dry_run:
        cells = _planned(asked)
        click.echo(json.dumps(_cells_json(cells), indent=2) if as_json else _plan_text(cells, asked.out))
        return
    cells = _execute(asked, quiet)
    if as_json:
        click.echo(json.dumps({"out": str(asked.out), **_cells_json(cells)}, indent=2))
    else:
        click.echo(_result_text(cells, asked.places))
    ctx.exit(1 if any(result.error for _, result in cells) else 0)


def _asked(flags: dict[str, Any]) -> Sweep:
    """Return the request that the flags describe; raises UsageError."""
    name, path, retry, blocks = (flags.pop(key) for key in ("preset_name", "file", "retry", "blocks"))
    places = {key: flags.pop(key) for key in PLACE_KEYS}
    settings = _lists(parsed(flags))
    given = {key: value for key, value in settings.items() if value not in (None, {}, [])}
    only = [part.strip() for part in (blocks or "").split(",") if part.strip()]
    if blocks is not None and not only:
        raise UsageError("--blocks names no block; leave it out for all of them")
    return build_sweep(Chosen(path, name, only), given, places, retry_failed=retry == "failed")


def _lists(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings whose flags take lists as lists; a rate per modality stays one rate."""
    values = dict(settings)
    for key in ("algo", "dataset", "split", "budget", "n_devices"):
        if values[key]:
            values[key] = [part.strip() for part in values[key].split(",") if part.strip()]
    try:
        values["n_devices"] = [n if n == ALL else int(n) for n in values["n_devices"] or ()]
    except ValueError:
        raise UsageError(f"n-devices must be whole numbers with commas, or all, got {settings['n_devices']}") from None
    rates = [[text] if "=" in text else text.split(",") for text in values["rho"]]
    values["rho"] = [rate for part in rates for rate in part]
    for key in ("options", "data_options", "set"):
        values[key] = {name: _listed(text) for name, text in values[key].items()}
    return {key: value for key, value in values.items() if value or key not in DEVICE_KEYS}


def _listed(text: str) -> str | list[Any]:
    """Return the values that commas part; semicolons part values that are lists themselves."""
    if ";" in text:
        return [[part.strip() for part in one.split(",")] for one in text.split(";")]
    return [part.strip() for part in text.split(",")] if "," in text else text


def _slurm_script(text: str, asked: Sweep, typed: list[str], workers: str | None) -> str:
    """Return the script of an array whose jobs run the command that was typed, one cell at a time on one CPU."""
    from mlecs_bench.execution.slurm import slurm_script, slurm_settings

    settings = slurm_settings(text)
    at = next(i for i, word in enumerate(typed) if word.partition("=")[0] == PRINT_SLURM)
    takes_next = typed[at] == PRINT_SLURM and text != ""
    command = [sys.executable, "-m", "mlecs_bench", "sweep", *typed[:at], *typed[at + 1 + takes_next :]]
    if workers is None and settings.cpus == 1 and settings.n_gpus <= 1:
        command += ["--workers", "1"]
    n_cells = sum(len(spec.seeds) for spec in asked.specs)
    return slurm_script(settings, command, Path.cwd(), f"mlecs-{asked.out.name}", n_cells)


def _execute(asked: Sweep, quiet: bool) -> Cells:
    """Run the cells under a live view."""
    view = make_view(sum(len(spec.seeds) for spec in asked.specs), sys.stderr, quiet, brief=True)
    view.say(sweep_text(asked))
    for name in STOP_SIGNALS:
        if hasattr(signal, name):  # Windows knows but one of them
            signal.signal(getattr(signal, name), _interrupt)
    try:
        return sweep_cells(asked, Registry.installed(), view, brief=True)
    finally:
        view.close()


def _interrupt(number: int, _frame: Any) -> None:
    """End a sweep that a batch system stops as Ctrl-C would."""
    raise KeyboardInterrupt(signal.Signals(number).name)


class _Notes(Listener):
    """Says what a user has to know while cells are only listed."""

    def on_note(self, event: Event) -> None:
        click.echo(event.values["text"], err=True)


def _planned(asked: Sweep) -> Cells:
    """Return the cells and what there is of them, without running any.

    Data is prepared, and of models of a hub configuration and tokenizer are fetched, as identities hold them. What is
    fetched is said on stderr.
    """
    from mlecs_bench.execution import protocol
    from mlecs_bench.execution.jobs import CellResult, Execution
    from mlecs_bench.execution.sweep import what_there_is
    from mlecs_bench.models.hub import Part

    registry = Registry.installed()
    observers, _ = registry.observers()
    observers.register(_Notes(), name="notes")
    execution = Execution(**vars(asked.places), retry_failed=asked.retry_failed)
    plans, cells = protocol.resolve_all(asked.specs, registry, execution, observers)
    for job in protocol.plan_jobs(plans, registry, execution, observers, Part.TOKENIZER):
        cells.append((job.ref, what_there_is(job) or CellResult(job.seed)))
    return cells


def _plan_text(cells: Cells, out: Path) -> str:
    lines = [f"{_state(result):8}  {cell_name(ref)}" for ref, result in cells]
    counts = Counter(_state(result) for _, result in cells)
    return "\n".join(
        [*lines, f"{len(cells)} cells in {out}: " + ", ".join(f"{n} {state}" for state, n in counts.items())]
    )


def _state(result: CellResult) -> str:
    return "done" if result.record is not None else "failed" if result.error else "to do"


def _cells_json(cells: Cells) -> dict[str, Any]:
    rows = [
        {
            "cell": cell_name(ref),
            "key": ref.key,
            "state": _state(result),
            "skipped": result.skipped,
            "path": str(result.path) if result.path else None,
            "error": result.error,
        }
        for ref, result in cells
    ]
    counts = Counter(row["state"] for row in rows)
    names = ("done", "failed", "to do")
    return {"total": len(rows), **{n.replace(" ", "_"): counts[n] for n in names}, "cells": rows}


def _result_text(cells: Cells, places: Places) -> str:
    """Return how many cells have records, which failed and why, and what comes next."""
    out = places.out
    records: list[Mapping[str, Any]] = [result.record for _, result in cells if result.record is not None]
    found = sum(result.skipped and result.record is not None for _, result in cells)
    lines = [f"{len(records)} of {len(cells)} cells have records in {out} ({found} were there before)."]
    failed = [(ref, result) for ref, result in cells if result.error]
    lines += [f"failed: {cell_name(ref)}: {reason_of(str(r.error))}" for ref, r in failed[:SHOWN_FAILURES]]
    if len(failed) > SHOWN_FAILURES:
        lines.append(f"... and {len(failed) - SHOWN_FAILURES} more")
    if any(not result.skipped or result.failed_at for _, result in failed):  # not of a file that cannot be read
        lines.append(f"The errors are in {out / 'failures'}; run the same command with --retry failed to try again.")
    lines.append(scoring_line([r.record for _, r in cells if r.record is not None and not r.skipped]))
    lines += lacking_lines([result for _, result in cells], places)
    if records:
        lines += [f"Tables and figures: mlecs-bench report {out}", honest_line(records)]
    return "\n".join(line for line in lines if line)
