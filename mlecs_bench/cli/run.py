"""`mlecs-bench run`: one algorithm on one dataset at one rate, over some seeds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlecs_bench.cli.config import (
    CACHE_VARIABLE,
    DEFAULT_OUT,
    DEVICE_KEYS,
    Request,
    build_request,
    merged,
    parse_pairs,
    read_config,
)
from mlecs_bench.cli.outcome import honest_line, transmitted, transmitted_text
from mlecs_bench.cli.progress import make_view
from mlecs_bench.registry import Registry
from mlecs_bench.spec import RunSpec, rho_text

if TYPE_CHECKING:
    from mlecs_bench.protocol import CellResult

Decorated = Callable[..., Any]
_POSITIVE = click.IntRange(min=1)

_FLAGS = (
    click.option("--algo", metavar="NAME", help="The algorithm; see mlecs-bench list."),
    click.option("--dataset", metavar="NAME", help="The dataset; see mlecs-bench list."),
    click.option("--rho", metavar="RATE", help="Rate at which devices hold a modality: 0.5, or audio=0.5,vision=1."),
    click.option("-o", "--option", multiple=True, metavar="NAME=VALUE", help="An option of the algorithm; repeatable."),
    click.option("--data-option", multiple=True, metavar="NAME=VALUE", help="An option of the dataset; repeatable."),
    click.option("--rounds", type=_POSITIVE, metavar="T", help="Rounds.  [default: the profile's]"),
    click.option("--steps", type=_POSITIVE, metavar="Q", help="Optimiser steps of a stage.  [default: the profile's]"),
    click.option("--batch-size", type=_POSITIVE, metavar="B", help="Samples of a step.  [default: the profile's]"),
    click.option("--n-devices", type=_POSITIVE, metavar="N", help=f"Devices.  [default: {RunSpec.n_devices}]"),
    click.option("--seeds", metavar="S,S", help="Seeds, such as 27,34.  [default: the five of the protocol]"),
    click.option("--n-seeds", type=int, metavar="K", help="The first K of the protocol's five seeds."),
    click.option("--split", metavar="NAME", help="How samples are split.  [default: the dataset's first]"),
    click.option("--budget", type=click.Choice(["paper", "equal"]), help="How optimiser steps are counted: as the"
                 f" paper does, or the same total for all.  [default: {RunSpec.budget}]"),
    click.option("--evaluate", type=click.Choice(["last", "all"]), help="Rounds to score."
                 f"  [default: {RunSpec.evaluate}]"),
    click.option("--min-modalities", type=click.IntRange(0, 1), metavar="K", help="Least modalities of a device."
                 f"  [default: {RunSpec.min_modalities}]"),
    click.option("--profile", metavar="NAME", help=f"Models and sizes.  [default: {RunSpec.profile}]"),
    click.option("--slm", metavar="MODEL", help="Another small language model for the devices: folder or hub id."),
    click.option("--device-slm", metavar="D=FOLDER,...", help="Other language models for single devices: d1=FOLDER."),
    click.option("--device-rank", metavar="D=R,...", help="LoRA ranks of single devices: d0=4,d2=16."),
    click.option("--device-encoder-width", metavar="D=W,...", help="Encoder widths of single devices: d1=32."),
    click.option("--proxy", metavar="FOLDER", help="The proxy model of algorithms that use one.  [default: the SLM]"),
    click.option("--llm", metavar="MODEL", help="Another large language model for the server."),
    click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="Numbers of the language models."
                 "  [default: the profile's]"),
    click.option("--base-bits", type=click.Choice(["4", "8"]), help="Quantise the frozen weights (needs the extra"
                 " quantised)."),
    click.option("--gradient-checkpointing", is_flag=True, default=None, help="Less memory for more time; the same"
                 " numbers."),
    click.option("--bertscore-model", metavar="NAME", help="A folder, a hub id, packaged or none.  [default: the"
                 " profile's]"),
    click.option("--data-dir", metavar="DIR", help="Your own data.  [default: none, the synthetic stand-in]"),
    click.option("--device", metavar="NAME", help="cpu or cuda.  [default: the profile's]"),
    click.option("--threads", type=_POSITIVE, metavar="N", help=f"Threads of a cell.  [default: {RunSpec.threads}]"),
    click.option("--out", metavar="DIR", help=f"Where records go.  [default: {DEFAULT_OUT}]"),
    click.option("--workers", type=_POSITIVE, metavar="N", help="Cells at a time.  [default: one per core, or one on"
                 " a GPU]"),
    click.option("--cache-dir", metavar="DIR", help=f"Prepared data.  [default: ${CACHE_VARIABLE}, or the user's"
                 " cache folder]"),
)  # fmt: skip  # one flag, one entry


def _with_flags(function: Decorated) -> Decorated:
    """Give a command all flags that are settings, in the order of `_FLAGS`."""
    for flag in reversed(_FLAGS):
        function = flag(function)
    return function


@click.command()
@_with_flags
@click.option("--config", type=click.Path(path_type=Path), help="YAML or JSON file of these settings; flags win.")
@click.option("--dry-run", is_flag=True, help="Print the resolved settings as JSON and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--quiet", is_flag=True, help="Show no progress, only errors and the result.")
@click.pass_context
def run(ctx: click.Context, /, config: Path | None, dry_run: bool, as_json: bool, quiet: bool, **flags: Any) -> None:
    """Run one algorithm on one dataset at one rate."""
    flags["options"] = parse_pairs(flags.pop("option"), "--option")
    flags["data_options"] = parse_pairs(flags.pop("data_option"), "--data-option")
    flags["base_bits"] = int(flags["base_bits"]) if flags["base_bits"] else None
    for name in DEVICE_KEYS:
        flags[name] = parse_pairs(flags[name].split(","), f"--{name.replace('_', '-')}") if flags[name] else {}
    request = build_request(merged(read_config(config) if config else {}, flags))
    if dry_run:
        click.echo(json.dumps(json.loads(_resolved(request).to_json()), indent=2))
        return
    spec, results = _execute(request, quiet)
    records = [result.record for result in results if result.record is not None]
    if as_json:
        click.echo(json.dumps(_result_json(spec, results), indent=2))
    elif records:
        click.echo(_result_text(results))
    _report_failures(results)
    ctx.exit(1 if any(result.error for result in results) else 0)


def _resolved(request: Request) -> RunSpec:
    from mlecs_bench import protocol

    return protocol.resolve(request.spec, Registry.installed())


def _execute(request: Request, quiet: bool) -> tuple[RunSpec, list[CellResult]]:
    """Run the cells under a live view, which speaks before the heavy packages are imported.

    Returns the spec as it was resolved, and one result per seed.
    """
    spec = request.spec
    view = make_view(len(spec.seeds), sys.stderr, quiet)
    view.say(f"{spec.algo} on {spec.dataset}, rho {rho_text(spec.rho)}, seeds {', '.join(map(str, spec.seeds))}")
    try:
        from mlecs_bench import protocol
        from mlecs_bench.preflight import memory_warning

        registry = Registry.installed()
        observers, warnings = registry.observers()
        for warning in warnings:
            view.say(f"warning: {warning}")
        observers.register(view, name="live-view")
        execution = protocol.Execution(out=request.out, cache_dir=request.cache_dir, workers=request.workers)
        resolved = protocol.resolve(spec, registry)
        tight = memory_warning(resolved, registry.dataset(resolved.dataset).info)
        if tight:
            view.say(f"warning: {tight}")
        return resolved, protocol.run(resolved, execution, observers=observers)
    finally:
        view.close()


def _result_json(spec: RunSpec, results: Sequence[CellResult]) -> dict[str, Any]:
    from mlecs_bench.report import row_summary

    records = [result.record for result in results if result.record is not None]
    cells = [
        {"seed": r.seed, "path": str(r.path) if r.path else None, "skipped": r.skipped, "error": r.error}
        for r in results
    ]
    return {
        "spec": json.loads(spec.to_json()),
        "cells": cells,
        "metrics": {str(r.seed): _final_scores(r.record) for r in results if r.record is not None},
        "summary": row_summary(records) if records else None,
        "transmitted": transmitted(records),
        "note": honest_line(records),
    }


def _final_scores(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of the last round; those of every round are in the record."""
    return {party: record["metrics"][party] for party in ("client", "server")}


def _result_text(results: Sequence[CellResult]) -> str:
    """Return the table row, what was transmitted, where the records are, and what the numbers are not."""
    from mlecs_bench.report import build_table

    records = [result.record for result in results if result.record is not None]
    paths = sorted({result.path.parent for result in results if result.path is not None})
    parts = [
        build_table(records).strip(),
        transmitted_text(transmitted(records)),
        f"{len(records)} record{'s' * (len(records) != 1)} of this run in {', '.join(map(str, paths))}",
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
