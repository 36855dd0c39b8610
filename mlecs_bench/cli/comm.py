"""`mlecs-bench comm`: what algorithms transmit with given models, without their weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlecs_bench.cli.data import shown_progress
from mlecs_bench.cli.flags import offline_flag
from mlecs_bench.cli.verbose import verbose_flag
from mlecs_bench.data.cache import CACHE_VARIABLE, default_cache_dir
from mlecs_bench.doors.events import Telling
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.files import writable
from mlecs_bench.plan.settings import parse_pairs, parse_rho
from mlecs_bench.plan.spec import RunSpec

if TYPE_CHECKING:
    from mlecs_bench.data.samples import Samples
    from mlecs_bench.plan.plan import Plan
    from mlecs_bench.report.transmission import Counted


@click.command()
@click.option("--profile", default="paper", show_default=True, metavar="NAME", help="Models and sizes, or a YAML file.")
@click.option("--algo", metavar="A,B", help="Algorithms.  [default: all that are installed, without ablations]")
@click.option(
    "--n-devices",
    "--n-clients",
    "n_devices",
    default=str(RunSpec.n_devices),
    show_default=True,
    metavar="N,N",
    help="Devices.",
)
@click.option(
    "--rank", metavar="R,R", help="LoRA ranks, where the algorithm has none of its own.  [default: the profile's]"
)
@click.option("--dataset", default="vast", show_default=True, metavar="NAME", help="What the samples are taken from.")
@click.option("--data-option", multiple=True, metavar="NAME=VALUE", help="An option of the dataset; repeatable.")
@click.option("--data-dir", metavar="DIR", help="Your own data.  [default: none, a stand-in as large as the paper's]")
@click.option("--rho", default="1", show_default=True, metavar="RATE", help="Rate at which devices hold a modality.")
@click.option("--rounds", type=click.IntRange(min=1), metavar="T", help="Rounds.  [default: the profile's]")
@click.option("--set", multiple=True, metavar="NAME=VALUE", help="A number of the profile; repeatable.")
@click.option("--slm", metavar="MODEL", help="Another small language model: folder or hub id.")
@click.option("--llm", metavar="MODEL", help="Another large language model: folder or hub id.")
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help=f"Prepared data.  [default: ${CACHE_VARIABLE}, or the user's cache folder]",
)
@click.option("--study", metavar="NAME", help="A study whose words on volumes stand beside ours, such as paper.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@verbose_flag
@offline_flag
def comm(
    algo: str | None, n_devices: str, rank: str | None, study: str | None, as_json: bool, quiet: bool, **given: Any
) -> None:
    """Count what algorithms transmit, without weights.

    The rounds of a run are carried out with models that have the true sizes and no values.
    """
    registry = Registry.installed()
    beside = registry.study(study).info if study else None
    names = algo.split(",") if algo else [e.name for e in registry.entries("algorithm") if "/" not in e.name]
    counts = _whole_numbers(n_devices, "--n-devices")
    ranks: list[int | None] = [*_whole_numbers(rank, "--rank")] if rank else [None]
    cache_dir = given["cache_dir"] or default_cache_dir()
    writable(cache_dir, "--cache-dir")
    base = RunSpec(
        algo=names[0].strip(),
        dataset=given["dataset"],
        rho=parse_rho(given["rho"]),
        profile=given["profile"],
        data_options=parse_pairs(given["data_option"], "--data-option"),
        data_dir=given["data_dir"],
        rounds=given["rounds"],
        slm=given["slm"],
        llm=given["llm"],
        device="cpu",
        bertscore_model="none",
        set=parse_pairs(given["set"], "--set"),
    )
    if rank and "lora.rank" in base.set:
        raise UsageError(f"--rank {rank} and --set lora.rank={base.set['lora.rank']} name one thing; give one of them")
    specs = [dataclasses.replace(base, algo=name.strip(), n_devices=n) for n in counts for name in names]
    rows = _counted(specs, ranks, registry, cache_dir, quiet)
    from mlecs_bench.report.transmission import transmission_json, transmission_text

    if as_json:
        click.echo(json.dumps({"schema": "mlecs-bench/comm/1", "rows": transmission_json(rows)}, indent=1))
    else:
        click.echo(transmission_text(rows, beside))


def _counted(
    specs: list[RunSpec], ranks: list[int | None], registry: Registry, cache_dir: Path, quiet: bool
) -> list[Counted]:
    """Count every spec at every rank; an algorithm with ranks of its own is counted once."""
    from mlecs_bench.data.samples import Samples
    from mlecs_bench.execution.protocol import prepare_data
    from mlecs_bench.plan.preflight import fetch_configurations
    from mlecs_bench.plan.resolve import resolve

    with shown_progress(quiet) as progress:
        plans = [resolve(spec, registry) for spec in specs]
        for plan in plans:
            fetch_configurations(plan, Telling(lambda text: click.echo(text, err=True), progress))
        samples = Samples.open(prepare_data(plans[0], registry, cache_dir, progress))
        rows = []
        for done, plan in enumerate(plans):
            progress(done, len(plans), f"settings counted: {plan.algorithm.name}, {plan.n_devices} devices")
            rows += _at_ranks(plan, ranks, registry, samples)
        progress(len(plans), len(plans), "settings counted")
    return rows


def _at_ranks(plan: Plan, ranks: list[int | None], registry: Registry, samples: Samples) -> list[Counted]:
    from mlecs_bench.execution.counting import count_transmitted
    from mlecs_bench.report.transmission import Counted

    wanted = [None] if plan.needs.ranks else ranks
    plans = [plan if rank is None else plan.at_rank(rank) for rank in wanted]
    return [Counted(one.algorithm.name, count_transmitted(one, registry, samples)) for one in plans]


def _whole_numbers(text: str, flag: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1 or len(set(numbers)) != len(numbers):
        raise UsageError(f"{flag} takes different whole numbers of at least 1 with commas, such as 3,5, got '{text}'")
    return numbers
