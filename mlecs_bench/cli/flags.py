"""The flags that are settings, shared by the commands that run cells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click
from click.shell_completion import CompletionItem

from mlecs_bench.cli.verbose import verbose_flag
from mlecs_bench.data.cache import CACHE_VARIABLE
from mlecs_bench.doors.profile import Dtype
from mlecs_bench.doors.registry import Kind, Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.plan.settings import DEVICE_KEYS, parse_pairs
from mlecs_bench.plan.spec import ALL, AnswerRule, RunSpec
from mlecs_bench.report.frame import BOTH_POINTS
from mlecs_bench.session.request import DEFAULT_OUT

Decorated = Callable[..., Any]
_POSITIVE = click.IntRange(min=1)


class Values(click.ParamType[Any]):
    """What a setting takes: one value, or in a sweep one or more with commas."""

    def __init__(self, of: click.ParamType[Any], many: bool) -> None:
        self.name = of.name
        self._of = of
        self._many = many

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value, or a list of several; in a run, several are refused with a word on `sweep`."""
        parts = value.split(",") if isinstance(value, str) and "=" not in value else [value]
        if len(parts) > 1 and not self._many:
            flag = param.opts[0] if param else self.name
            raise UsageError(
                f"run takes one value of {flag}, got '{value}'; for all of them: mlecs-bench sweep {flag} {value} ..."
            )
        found = [self._of.convert(part.strip() if isinstance(part, str) else part, param, ctx) for part in parts]
        return found if len(found) > 1 else found[0]

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """Return how choices are written; other flags say it themselves."""
        return self._of.get_metavar(param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return how choices are completed."""
        return self._of.shell_complete(ctx, param, incomplete)


class DeviceCount(click.ParamType[Any]):
    """What a number of devices takes: a whole number of at least 1, or all."""

    name = "integer range"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or "all"."""
        return value if value == ALL else _POSITIVE.convert(value, param, ctx)


def _names(kind: Kind) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Return a function that completes the names of installed plugins; of several with commas, the last."""

    def complete(_context: click.Context, _flag: click.Parameter, incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        names = dict.fromkeys(entry.name for entry in Registry.installed().entries(kind))
        return [f"{before}{comma}{name}" for name in names if name.startswith(last)]

    return complete


def _one(of: click.ParamType[Any] = click.STRING) -> Values:
    return Values(of, many=False)


ONE_RUN = (
    click.option("--algo", type=_one(), metavar="NAME", shell_complete=_names("algorithm"),
                 help="The algorithm; see mlecs-bench list."),
    click.option("--dataset", type=_one(), metavar="NAME", shell_complete=_names("dataset"),
                 help="The dataset; see mlecs-bench list."),
    click.option("--rho", type=_one(), metavar="RATE", help="Rate at which devices hold a modality: 0.5, or"
                 " audio=0.5,vision=1."),
    click.option("--n-devices", "--n-clients", "n_devices", type=_one(DeviceCount()), metavar="N", help="Devices, or"
                 f" all that --partition group makes.  [default: {RunSpec.n_devices}]"),
    click.option("--split", type=_one(), metavar="NAME", help="How samples are split.  [default: the dataset's first]"),
    click.option("--budget", type=_one(click.Choice(["paper", "equal"])), help="How optimiser steps are counted: as the"
                 f" paper does, or the same total for all.  [default: {RunSpec.budget}]"),
)  # fmt: skip  # one flag, one entry

GRID = (
    click.option("--algo", metavar="A,B", shell_complete=_names("algorithm"),
                 help="Algorithms; see mlecs-bench list."),
    click.option("--dataset", metavar="A,B", shell_complete=_names("dataset"),
                 help="Datasets; see mlecs-bench list."),
    click.option("--rho", multiple=True, metavar="R,R", help="Rates: 0.5,0.7. One rate per modality is written"
                 " audio=0.5,vision=1; repeatable."),
    click.option("--n-devices", "--n-clients", "n_devices", metavar="N,N", help="Numbers of devices, or"
                 f" all that --partition group makes.  [default: {RunSpec.n_devices}]"),
    click.option("--split", metavar="A,B", help="How samples are split.  [default: the dataset's first]"),
    click.option("--budget", metavar="A,B", help="How optimiser steps are counted: paper, equal.  [default:"
                 f" {RunSpec.budget}]"),
)  # fmt: skip  # one flag, one entry


def _settings(*, many: bool) -> tuple[Decorated, ...]:
    """Return the flags that `run` and `sweep` share; with `many` they take lists with commas."""

    def takes(of: click.ParamType[Any] = click.STRING) -> Values | click.ParamType[Any]:
        # A folder may hold a comma, so a run leaves texts as they are.
        return of if of is click.STRING and not many else Values(of, many)

    def shown(metavar: str) -> str:
        return f"{metavar},{metavar}" if many else metavar

    pairs = "NAME=V,V" if many else "NAME=VALUE"
    return (
        click.option("-o", "--option", multiple=True, metavar=pairs, help="An option of the algorithm; repeatable."),
        click.option("--data-option", multiple=True, metavar=pairs, help="An option of the dataset; repeatable."),
        click.option("--set", multiple=True, metavar=pairs, help="A number of the profile, such as lora.rank=16, by the"
                     " names that mlecs-bench show PROFILE prints; repeatable."),
        click.option("--rounds", type=takes(_POSITIVE), metavar=shown("T"), help="Rounds.  [default: the profile's]"),
        click.option("--steps", type=takes(_POSITIVE), metavar=shown("Q"), help="Optimiser steps of a stage."
                     "  [default: the profile's]"),
        click.option("--local-epochs", type=takes(_POSITIVE), metavar=shown("E"), help="Passes of a stage over a"
                     " party's samples, in place of steps."),
        click.option("--batch-size", type=takes(_POSITIVE), metavar=shown("B"), help="Samples of a step.  [default: the"
                     " profile's]"),
        click.option("--limit", type=takes(), metavar=shown("N"), help="Most training samples of a device and of the"
                     " public part, for a try."),
        click.option("--private-limit", type=takes(), metavar=shown("N"), help="Most training samples of a device, or"
                     " all.  [default: the profile's]"),
        click.option("--public-limit", type=takes(), metavar=shown("N"), help="Most public training samples, or all."
                     "  [default: the profile's]"),
        click.option("--test-limit", "--limit-test", type=takes(), metavar=shown("N"), help="Most test samples of a"
                     " party, or all.  [default: the profile's]"),
        click.option("--seeds", metavar="S,S", help="Seeds, such as 27,34.  [default: the five of the protocol]"),
        click.option("--n-seeds", type=int, metavar="K", help="The first K of the protocol's five seeds."),
        click.option("--evaluate", type=takes(click.Choice(["last", "all"])), help="Rounds to score."
                     f"  [default: {RunSpec.evaluate}]"),
        click.option("--metrics", metavar="A,B", help="Metrics to score beside the dataset's; see mlecs-bench list."),
        click.option("--answer", type=takes(click.Choice(get_args(AnswerRule))), help="What an answer is: what a model"
                     " writes; rank also scores the label it finds most likely."
                     f"  [default: {RunSpec.answer}]"),
        click.option("--min-modalities", type=takes(click.IntRange(0, 1)), metavar=shown("K"), help="Least modalities"
                     f" of a device.  [default: {RunSpec.min_modalities}]"),
        click.option("--modalities", metavar="LAW", help="How modalities are dealt: bernoulli, exact (as many as the"
                     " rates say), or d0=rgb+depth,d1=acce.  [default: bernoulli]"),
        click.option("--partition", type=takes(), metavar=shown("LAW"), help="How samples go to devices: iid,"
                     " dirichlet:0.3, shards:2, group, quantity:0.5.  [default: iid]"),
        click.option("--sample-rho", type=takes(), metavar=shown("RATE"), help="Rate at which a device's sample has a"
                     " modality that the device holds: 0.8, or audio=0.5,vision=1.  [default: 1]"),
        click.option("--participation", metavar="SHARE", help="Share of the devices that takes part in a round, or a"
                     " whole number of them.  [default: 1.0]"),
        click.option("--dropout", metavar="P", help="Probability that such a device drops out of the round."
                     "  [default: 0]"),
        click.option("--network", metavar="NAME", help="Simulated seconds and FLOPs by a published network: 4g, fixed"
                     " or flash.  [default: none]"),
        click.option("--schedule", metavar="LAW", help="How modalities come and go over rounds: static,"
                     " markov:fail=0.2,repair=0.5 or duty:on=3,off=1.  [default: static]"),
        click.option("--robustness", is_flag=True, default=None, help="Score every party once more without each"
                     " modality, after the last broadcast."),
        click.option("--compression", metavar="LAW", help="How messages travel: none, fp16, int8, topk:0.01, or"
                     " law=int8,direction=up.  [default: none]"),
        click.option("--profile", type=takes(), metavar=shown("NAME"), shell_complete=_names("profile"),
                     help=f"Models and sizes, or a YAML file of them.  [default: {RunSpec.profile}]"),
        click.option("--slm", type=takes(), metavar=shown("MODEL"), help="Another small language model for the devices:"
                     " folder or hub id."),
        click.option("--device-slm", metavar="D=FOLDER,...", help="Other language models for single devices:"
                     " d1=FOLDER."),
        click.option("--device-rank", metavar="D=R,...", help="LoRA ranks of single devices: d0=4,d2=16."),
        click.option("--device-encoder-width", metavar="D=W,...", help="Encoder widths of single devices: d1=32."),
        click.option("--proxy", type=takes(), metavar=shown("FOLDER"), help="The proxy model of algorithms that use"
                     " one.  [default: the SLM]"),
        click.option("--llm", type=takes(), metavar=shown("MODEL"), help="Another large language model for the"
                     " server."),
        click.option("--dtype", type=takes(click.Choice(get_args(Dtype))), help="Numbers of the language models."
                     "  [default: the profile's]"),
        click.option("--base-bits", type=takes(click.Choice(["4", "8"])), help="Quantise the frozen weights (needs the"
                     " extra quantised)."),
        click.option("--gradient-checkpointing", is_flag=True, default=None, help="Less memory for more time; the same"
                     " numbers."),
        click.option("--bertscore-model", metavar="NAME", help="A folder, a hub id, packaged or none.  [default: the"
                     " profile's]"),
        click.option("--data-dir", metavar="DIR", help="Your own data.  [default: none, the synthetic stand-in]"),
        click.option("--device", metavar="NAME", help="cpu or cuda.  [default: the profile's]"),
        click.option("--threads", type=_POSITIVE, metavar="N", help="Threads of a cell."
                     f"  [default: {RunSpec.threads}]"),
        verbose_flag,
    )  # fmt: skip  # one flag, one entry


SETTINGS, LISTS = _settings(many=False), _settings(many=True)
"""The flags of one run, and the same with lists for a sweep."""
settings_file = click.option(
    "--config",
    "--study",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file of these settings or a study (YAML or JSON); flags win.",
)

PLACES = (
    click.option("--out", metavar="DIR", help="Where records go.  [default: results/NAME of a preset or a study file,"
                 f" the folder of a study.yaml, else {DEFAULT_OUT}]"),
    click.option("--workers", metavar="N", help="Cells at a time, or kind of workers: N, NAME, NAME:ARGUMENT."
                 "  [default: one per core, or one on a GPU]"),
    click.option("--fleet", metavar="NAME", help="Where the devices of a cell live: in-process, processes:2,"
                 " or on other machines (docs/networks.md).  [default: in-process]"),
    click.option("--round-timeout", type=float, metavar="SECONDS", help="How long devices in a fleet elsewhere may take"
                 " for a round before they are missing from it.  [default: as long as it takes]"),
    click.option("--track", metavar="A,B", help="Trackers to tell: tensorboard, mlflow, wandb.  [default: those of the"
                 " file, else none]"),
    click.option("--save-predictions/--no-save-predictions", default=None, help="Keep every answer beside the record."
                 "  [default: where no party has more than 2,000 test samples]"),
    click.option("--save-models", is_flag=True, default=None, help="Keep what every party has trained beside the"
                 " record: adapters as PEFT reads them."),
    click.option("--cache-dir", metavar="DIR", help=f"Prepared data.  [default: ${CACHE_VARIABLE}, or the user's"
                 " cache folder]"),
)  # fmt: skip  # one flag, one entry


def _offline(context: click.Context, _flag: click.Parameter, given: bool) -> None:
    if given and not context.resilient_parsing:
        from mlecs_bench.models.hub import go_offline

        go_offline()


offline_flag = click.option(
    "--offline",
    is_flag=True,
    expose_value=False,
    callback=_offline,
    help="Fetch nothing from a hub or PyPI, as HF_HUB_OFFLINE=1 does.",
)
"""Of the commands that use models."""


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
    values["set"] = parse_pairs(values.pop("set"), "--set")
    bits = values["base_bits"]
    values["base_bits"] = [int(one) for one in bits] if isinstance(bits, list) else int(bits) if bits else None
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
