"""`mlecs-bench sweep`: many runs, in worker processes, as a preset, a study file or lists of settings."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlecs_bench.cli.config import DEFAULT_OUT, Places, places_of
from mlecs_bench.cli.flags import GRID, PLACES, SETTINGS, parsed, with_flags
from mlecs_bench.cli.outcome import honest_line, lacking_lines, scoring_line
from mlecs_bench.cli.progress import cell_name, make_view
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.plan.settings import DEVICE_KEYS
from mlecs_bench.plan.study import Study, default_folder, keep_study, preset, read_study
from mlecs_bench.records.failures import reason_of

if TYPE_CHECKING:
    from mlecs_bench.doors.events import CellRef
    from mlecs_bench.execution.jobs import CellResult
    from mlecs_bench.plan.spec import RunSpec

Cells = list[tuple["CellRef", "CellResult"]]
_PLACES = ("out", "workers", "fleet", "cache_dir", "save_predictions", "save_models")
SHOWN_FAILURES = 10


@dataclass(frozen=True)
class Sweep:
    """What a sweep was asked to do; `whole` says that the study is run as it is, without a flag that changes it."""

    study: Study
    specs: Sequence[RunSpec]
    whole: bool
    places: Places
    retry_failed: bool

    @property
    def out(self) -> Path:
        """The folder of the records."""
        return self.places.out


@click.command()
@click.option(
    "--preset",
    "preset_name",
    metavar="NAME",
    help="A study that comes with a plugin, such as table1; mlecs-bench show paper lists those of the paper.",
)
@click.option("--study", "study_file", type=click.Path(path_type=Path), metavar="FILE", help="A study file (YAML).")
@with_flags(GRID, SETTINGS, PLACES)
@click.option("--retry", type=click.Choice(["failed"]), help="Run cells again that have failed before.")
@click.option("--dry-run", is_flag=True, help="List the cells and what is there of them, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--quiet", is_flag=True, help="Show no progress, only errors and the result.")
@click.pass_context
def sweep(ctx: click.Context, /, dry_run: bool, as_json: bool, quiet: bool, **flags: Any) -> None:
    """Run many cells: a preset, a study file or lists.

    Of lists every combination is run; flags replace the settings of a preset or a study.
    Cells that have a record are skipped, and so are cells that failed before, unless --retry failed. A cell that
    fails costs only itself. The same command again goes on where this one was stopped.
    """
    asked = _asked(flags)
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
    name, file, retry = (flags.pop(key) for key in ("preset_name", "study_file", "retry"))
    if name and file:
        raise UsageError("--preset and --study exclude each other; give one of them")
    places = {key: flags.pop(key) for key in _PLACES}
    settings = _lists(parsed(flags))
    given = {key: value for key, value in settings.items() if value not in (None, {}, [])}
    if not name and not file and not {"algo", "dataset", "rho"} <= given.keys():
        raise UsageError("name what to run: --preset NAME, --study FILE, or --algo, --dataset and --rho")
    study = preset(name, Registry.installed()) if name else read_study(file) if file else Study("", "", {"": {}})
    specs = study.overlaid(given).specs()
    if "data_dir" in given and len({spec.dataset for spec in specs}) > 1:
        raise UsageError("--data-dir is one folder and the sweep has several datasets; name one with --dataset")
    default = Path("results") / name if name else default_folder(file) if file else Path(DEFAULT_OUT)
    return Sweep(
        study=study,
        specs=specs,
        whole=bool(name or file) and not given.keys() - {"data_dir", "device", "threads"},
        places=places_of(places, default),
        retry_failed=retry == "failed",
    )


def _lists(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings whose flags take lists as lists; a rate per modality stays one rate."""
    values = dict(settings)
    for key in ("algo", "dataset", "split", "budget", "n_devices"):
        if values[key]:
            values[key] = [part.strip() for part in values[key].split(",") if part.strip()]
    try:
        values["n_devices"] = [int(n) for n in values["n_devices"] or ()]
    except ValueError:
        raise UsageError(f"n-devices must be whole numbers with commas, got {settings['n_devices']}") from None
    rates = [[text] if "=" in text else text.split(",") for text in values["rho"]]
    values["rho"] = [rate for part in rates for rate in part]
    return {key: value for key, value in values.items() if value or key not in DEVICE_KEYS}


def _execute(asked: Sweep, quiet: bool) -> Cells:
    """Run the cells under a live view and keep the status file up to date."""
    view = make_view(sum(len(spec.seeds) for spec in asked.specs), sys.stderr, quiet, brief=True)
    view.say(f"{len(asked.specs)} runs into {asked.out}; packages are being loaded")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        from mlecs_bench.cli.status_file import StatusFile
        from mlecs_bench.execution import protocol
        from mlecs_bench.execution.jobs import Execution
        from mlecs_bench.execution.sweep import Interrupted
        from mlecs_bench.files import writable

        registry = Registry.installed()
        observers, warnings = registry.observers()
        for warning in warnings:
            view.say(f"warning: {warning}")
        writable(asked.out)
        if asked.whole:
            keep_study(asked.study, asked.out)
        status = StatusFile(asked.out, asked.places.workers)
        observers.register(view, name="live-view")
        observers.register(status, name="status-file")
        execution = Execution(**vars(asked.places), retry_failed=asked.retry_failed)
        state = "failed"
        try:
            cells = protocol.sweep(asked.specs, execution, observers, registry)
            state = "done"
            return cells
        except (Interrupted, KeyboardInterrupt):
            state = "interrupted"
            raise
        finally:
            status.close(state)
    finally:
        view.close()


def _interrupt(_signal: int, _frame: Any) -> None:
    """End a sweep that a batch system stops as Ctrl-C would."""
    raise KeyboardInterrupt


def _planned(asked: Sweep) -> Cells:
    """Return the cells and what there is of them, without running any; data is prepared, as identities hold it."""
    from mlecs_bench.execution import protocol
    from mlecs_bench.execution.jobs import CellResult, Execution
    from mlecs_bench.execution.sweep import what_there_is

    registry = Registry.installed()
    observers, _ = registry.observers()
    plans, cells = protocol.resolve_all(asked.specs, registry, asked.out)
    execution = Execution(**vars(asked.places), retry_failed=asked.retry_failed)
    for job in protocol.plan_jobs(plans, registry, execution, observers):
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
