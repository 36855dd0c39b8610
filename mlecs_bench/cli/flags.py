"""The flags that are settings, shared by the commands that run cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from mlecs_bench.cli.config import CACHE_VARIABLE, DEFAULT_OUT
from mlecs_bench.plan.settings import DEVICE_KEYS, parse_pairs
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.report.frame import BOTH_POINTS

Decorated = Callable[..., Any]
_POSITIVE = click.IntRange(min=1)

ONE_RUN = (
    click.option("--algo", metavar="NAME", help="The algorithm; see mlecs-bench list."),
    click.option("--dataset", metavar="NAME", help="The dataset; see mlecs-bench list."),
    click.option("--rho", metavar="RATE", help="Rate at which devices hold a modality: 0.5, or audio=0.5,vision=1."),
    click.option("--n-devices", type=_POSITIVE, metavar="N", help=f"Devices.  [default: {RunSpec.n_devices}]"),
    click.option("--split", metavar="NAME", help="How samples are split.  [default: the dataset's first]"),
    click.option("--budget", type=click.Choice(["paper", "equal"]), help="How optimiser steps are counted: as the"
                 f" paper does, or the same total for all.  [default: {RunSpec.budget}]"),
)  # fmt: skip  # one flag, one entry

GRID = (
    click.option("--algo", metavar="A,B", help="Algorithms; see mlecs-bench list."),
    click.option("--dataset", metavar="A,B", help="Datasets; see mlecs-bench list."),
    click.option("--rho", multiple=True, metavar="R,R", help="Rates: 0.5,0.7. One rate per modality is written"
                 " audio=0.5,vision=1; repeatable."),
    click.option("--n-devices", metavar="N,N", help=f"Numbers of devices.  [default: {RunSpec.n_devices}]"),
    click.option("--split", metavar="A,B", help="How samples are split.  [default: the dataset's first]"),
    click.option("--budget", metavar="A,B", help="How optimiser steps are counted: paper, equal.  [default:"
                 f" {RunSpec.budget}]"),
)  # fmt: skip  # one flag, one entry

SETTINGS = (
    click.option("-o", "--option", multiple=True, metavar="NAME=VALUE", help="An option of the algorithm; repeatable."),
    click.option("--data-option", multiple=True, metavar="NAME=VALUE", help="An option of the dataset; repeatable."),
    click.option("--rounds", type=_POSITIVE, metavar="T", help="Rounds.  [default: the profile's]"),
    click.option("--steps", type=_POSITIVE, metavar="Q", help="Optimiser steps of a stage.  [default: the profile's]"),
    click.option("--batch-size", type=_POSITIVE, metavar="B", help="Samples of a step.  [default: the profile's]"),
    click.option("--limit", metavar="N", help="Most training samples of a device and of the public part, for a try."),
    click.option("--private-limit", metavar="N", help="Most training samples of a device, or all.  [default: the"
                 " profile's]"),
    click.option("--public-limit", metavar="N", help="Most public training samples, or all.  [default: the profile's]"),
    click.option("--test-limit", "--limit-test", metavar="N", help="Most test samples of a party, or all."
                 "  [default: the profile's]"),
    click.option("--seeds", metavar="S,S", help="Seeds, such as 27,34.  [default: the five of the protocol]"),
    click.option("--n-seeds", type=int, metavar="K", help="The first K of the protocol's five seeds."),
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
)  # fmt: skip  # one flag, one entry

PLACES = (
    click.option("--out", metavar="DIR", help="Where records go.  [default: results/NAME of a preset or a study file,"
                 f" the folder of a study.yaml, else {DEFAULT_OUT}]"),
    click.option("--workers", metavar="N", help="Cells at a time, or kind of workers: N, NAME, NAME:N.  [default: one"
                 " per core, or one on a GPU]"),
    click.option("--fleet", metavar="NAME", help="Where the devices of a cell live: in-process, or processes:2."
                 "  [default: in-process]"),
    click.option("--save-predictions/--no-save-predictions", default=None, help="Keep every answer beside the record."
                 "  [default: where no party has more than 2,000 test samples]"),
    click.option("--save-models", is_flag=True, default=None, help="Keep what every party has trained beside the"
                 " record: adapters as PEFT reads them."),
    click.option("--cache-dir", metavar="DIR", help=f"Prepared data.  [default: ${CACHE_VARIABLE}, or the user's"
                 " cache folder]"),
)  # fmt: skip  # one flag, one entry


def with_flags(*groups: tuple[Decorated, ...]) -> Callable[[Decorated], Decorated]:
    """Return a decorator that gives a command all flags of the groups, in their order."""

    def decorate(function: Decorated) -> Decorated:
        for flag in reversed([flag for group in groups for flag in group]):
            function = flag(function)
        return function

    return decorate


def parsed(flags: dict[str, Any]) -> dict[str, Any]:
    """Return flags of `SETTINGS` as settings: pairs as mappings, one limit as two, and everything else as it is."""
    values = dict(flags)
    limit = values.pop("limit")
    for name in ("private_limit", "public_limit"):
        values[name] = limit if values[name] is None else values[name]
    values["options"] = parse_pairs(values.pop("option"), "--option")
    values["data_options"] = parse_pairs(values.pop("data_option"), "--data-option")
    values["base_bits"] = int(values["base_bits"]) if values["base_bits"] else None
    for name in DEVICE_KEYS:
        text = values[name]
        values[name] = parse_pairs(text.split(","), f"--{name.replace('_', '-')}") if text else {}
    return values


class _Renamed(click.Option):
    """A flag whose former name, its second one, is taken and not shown."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return record and (record[0].replace(f", {self.opts[1]}", ""), record[1])


eval_point_flag = click.option(
    "--eval-point",
    "--moment",
    "eval_points",
    cls=_Renamed,
    type=click.Choice(["local", "received"]),
    callback=lambda _context, _flag, point: BOTH_POINTS if point is None else (point,),
    help="Show the devices' scores after their own training alone, or after the last broadcast.  [default: both]",
)
"""Of the commands that read records."""
