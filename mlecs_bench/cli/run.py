"""`mlecs-bench run`: one algorithm on one dataset at one rate, over some seeds."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlecs_bench.cli.flags import ONE_RUN, PLACES, SETTINGS, offline_flag, parsed, settings_file, with_flags
from mlecs_bench.doors.registry import Registry
from mlecs_bench.report.frame import honest_line
from mlecs_bench.report.installed import known_cards
from mlecs_bench.session.carry_out import planned, run_cells, run_text
from mlecs_bench.session.outcome import (
    lacking_lines,
    majority_line,
    scoring_line,
    transmitted,
    transmitted_text,
)
from mlecs_bench.session.progress import make_view
from mlecs_bench.session.request import Places, Request, SettingsFile, build_request, read_file

if TYPE_CHECKING:
    from mlecs_bench.execution.jobs import CellResult
    from mlecs_bench.plan.plan import Plan
    from mlecs_bench.plan.spec import RunSpec


@click.command()
@with_flags(ONE_RUN, SETTINGS, PLACES)
@settings_file
@offline_flag
@click.option("--dry-run", is_flag=True, help="Print the plan as JSON and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--quiet", is_flag=True, help="Show no progress, only errors and the result.")
@click.pass_context
def run(ctx: click.Context, /, file: Path | None, dry_run: bool, as_json: bool, quiet: bool, **flags: Any) -> None:
    """Run one algorithm on one dataset at one rate."""
    request = build_request(parsed(flags), read_file(file) if file else SettingsFile())
    if dry_run:
        click.echo(json.dumps(_asked_and_planned(request.spec, planned(request, Registry.installed())), indent=2))
        return
    plan, results = _execute(request, quiet)
    records = [result.record for result in results if result.record is not None]
    if as_json:
        click.echo(json.dumps(_result_json(request.spec, plan, results), indent=2))
    elif records:
        click.echo(_result_text(results, request.places, quiet))
    _report_failures(results)
    ctx.exit(1 if any(result.error for result in results) else 0)


def _asked_and_planned(spec: RunSpec, plan: Plan) -> dict[str, Any]:
    """Return what was asked and what was made of it; `--config` reads it back."""
    return {"spec": json.loads(spec.to_json()), "plan": plan.to_values()}


def _execute(request: Request, quiet: bool) -> tuple[Plan, list[CellResult]]:
    """Run the cells under a live view, which speaks before the heavy packages are imported."""
    view = make_view(len(request.spec.seeds), sys.stderr, quiet)
    view.say(run_text(request.spec))
    try:
        registry = Registry.installed()
        plan = planned(request, registry, view)
        return plan, [result for _, result in run_cells(plan, request.places, registry, view)]
    finally:
        view.close()


def _result_json(spec: RunSpec, plan: Plan, results: Sequence[CellResult]) -> dict[str, Any]:
    from mlecs_bench.report.summary import row_summary
    from mlecs_bench.report.tidy import tidy_rows

    records = [result.record for result in results if result.record is not None]
    cells = [
        {"seed": r.seed, "path": str(r.path) if r.path else None, "skipped": r.skipped, "error": r.error}
        for r in results
    ]
    return {
        **_asked_and_planned(spec, plan),
        "cells": cells,
        "metrics": {str(r.seed): _final_scores(r.record) for r in results if r.record is not None},
        "scores": tidy_rows(records, Registry.installed()),
        "summary": row_summary(records) if records else None,
        "transmitted": transmitted(records),
        "note": honest_line(records),
        "at_majority": majority_line(records),
    }


def _final_scores(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of the last round; those of every round are in the record."""
    return {party: record["metrics"][party] for party in ("client", "server")}


def _result_text(results: Sequence[CellResult], places: Places, quiet: bool) -> str:
    """Return the table row, what was transmitted, where the records are, what the numbers are not, what may help."""
    from mlecs_bench.report.build import build_table

    records = [result.record for result in results if result.record is not None]
    cards = known_cards(records, Registry.installed())
    paths = sorted({result.path.parent for result in results if result.path is not None})
    parts = [
        build_table(records, cards=cards).strip(),
        transmitted_text(transmitted(records)),
        f"{len(records)} record{'s' * (len(records) != 1)} of this run in {', '.join(map(str, paths))}",
        scoring_line([result.record for result in results if result.record is not None and not result.skipped]),
        *lacking_lines(results, places),
        honest_line(records),
        "" if quiet else majority_line(records),
    ]
    return "\n\n".join(part for part in parts if part)


def _report_failures(results: Sequence[CellResult]) -> None:
    """Show the tracebacks of defects; the view has shown every error in one line already."""
    failed = [result for result in results if result.error]
    for result in failed:
        if "\n" in str(result.error).strip():
            click.echo(f"seed {result.seed}:\n{result.error}", err=True)
    if failed:
        click.echo(f"error: {len(failed)} of {len(results)} cells failed", err=True)
