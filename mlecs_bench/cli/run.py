"""`mlecs-bench run`: one algorithm on one dataset at one rate, over some seeds."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlecs_bench.cli.config import Places, Request, build_request, read_config
from mlecs_bench.cli.defaults import known_cards
from mlecs_bench.cli.flags import ONE_RUN, PLACES, SETTINGS, parsed, with_flags
from mlecs_bench.cli.outcome import honest_line, lacking_lines, scoring_line, transmitted, transmitted_text
from mlecs_bench.cli.progress import make_view
from mlecs_bench.doors.registry import Registry
from mlecs_bench.plan.settings import merged
from mlecs_bench.plan.spec import RunSpec, rho_text

if TYPE_CHECKING:
    from mlecs_bench.execution.jobs import CellResult
    from mlecs_bench.plan.plan import Plan


@click.command()
@with_flags(ONE_RUN, SETTINGS, PLACES)
@click.option("--config", type=click.Path(path_type=Path), help="YAML or JSON file of these settings; flags win.")
@click.option("--dry-run", is_flag=True, help="Print the plan as JSON and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--quiet", is_flag=True, help="Show no progress, only errors and the result.")
@click.pass_context
def run(ctx: click.Context, /, config: Path | None, dry_run: bool, as_json: bool, quiet: bool, **flags: Any) -> None:
    """Run one algorithm on one dataset at one rate."""
    request = build_request(merged(read_config(config) if config else {}, parsed(flags)))
    if dry_run:
        click.echo(json.dumps(_asked_and_planned(request.spec, _planned(request)), indent=2))
        return
    plan, results = _execute(request, quiet)
    records = [result.record for result in results if result.record is not None]
    if as_json:
        click.echo(json.dumps(_result_json(request.spec, plan, results), indent=2))
    elif records:
        click.echo(_result_text(results, request.places))
    _report_failures(results)
    ctx.exit(1 if any(result.error for result in results) else 0)


def _planned(request: Request) -> Plan:
    from mlecs_bench.execution.jobs import Execution
    from mlecs_bench.execution.protocol import check_places
    from mlecs_bench.plan.resolve import resolve

    registry = Registry.installed()
    check_places(Execution(**vars(request.places)), registry)
    return resolve(request.spec, registry)


def _asked_and_planned(spec: RunSpec, plan: Plan) -> dict[str, Any]:
    """Return what was asked and what was made of it; `--config` reads it back."""
    return {"spec": json.loads(spec.to_json()), "plan": plan.to_values()}


def _execute(request: Request, quiet: bool) -> tuple[Plan, list[CellResult]]:
    """Run the cells under a live view, which speaks before the heavy packages are imported.

    Returns the plan, and one result per seed.
    """
    spec = request.spec
    view = make_view(len(spec.seeds), sys.stderr, quiet)
    view.say(f"{spec.algo} on {spec.dataset}, rho {rho_text(spec.rho)}, seeds {', '.join(map(str, spec.seeds))}")
    try:
        from mlecs_bench.execution import protocol
        from mlecs_bench.execution.jobs import Execution
        from mlecs_bench.plan.preflight import memory_warning

        registry = Registry.installed()
        observers, warnings = registry.observers()
        for warning in warnings:
            view.say(f"warning: {warning}")
        observers.register(view, name="live-view")
        plan = _planned(request)
        tight = memory_warning(plan, registry.dataset(plan.dataset.name).info)
        if tight:
            view.say(f"warning: {tight}")
        return plan, protocol.run(plan, Execution(**vars(request.places)), observers=observers)
    finally:
        view.close()


def _result_json(spec: RunSpec, plan: Plan, results: Sequence[CellResult]) -> dict[str, Any]:
    from mlecs_bench.report import row_summary

    records = [result.record for result in results if result.record is not None]
    cells = [
        {"seed": r.seed, "path": str(r.path) if r.path else None, "skipped": r.skipped, "error": r.error}
        for r in results
    ]
    return {
        **_asked_and_planned(spec, plan),
        "cells": cells,
        "metrics": {str(r.seed): _final_scores(r.record) for r in results if r.record is not None},
        "summary": row_summary(records) if records else None,
        "transmitted": transmitted(records),
        "note": honest_line(records),
    }


def _final_scores(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of the last round; those of every round are in the record."""
    return {party: record["metrics"][party] for party in ("client", "server")}


def _result_text(results: Sequence[CellResult], places: Places) -> str:
    """Return the table row, what was transmitted, where the records are, and what the numbers are not."""
    from mlecs_bench.report import build_table

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
