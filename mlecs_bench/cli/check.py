"""`mlecs-bench check NAME`: does a plugin keep the contract of its kind?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mlecs_bench.doors.registry import KINDS, Kind, Registry
from mlecs_bench.errors import UsageError, did_you_mean
from mlecs_bench.plan.settings import parse_pairs

if TYPE_CHECKING:
    from mlecs_bench.testing import Check, Verdict

INDENT = 6
Pairs = tuple[str, ...]


def _print_toys(ctx: click.Context, _flag: click.Parameter, wanted: bool) -> None:
    """Print where the metadata of the toys lies, and leave."""
    if wanted:
        from mlecs_bench.testing.installed import TOYS

        click.echo(TOYS)
        ctx.exit()


@click.command()
@click.argument("name")
@click.option(
    "--kind", type=click.Choice(KINDS), help="Check the plugin of this kind only, where several share a name."
)
@click.option("-o", "--option", multiple=True, metavar="NAME=VALUE", help="An option of the plugin; repeatable.")
@click.option("--only", multiple=True, metavar="CHECK", help="Run this check only; repeatable.")
@click.option(
    "--toys", is_flag=True, is_eager=True, expose_value=False, callback=_print_toys,
    help="Print the folder that processes need on their PYTHONPATH which run before the checks of workers or a fleet"
    " begin, such as nodes of a cluster, and stop.",
)  # fmt: skip  # an option
@click.option("--list", "as_list", is_flag=True, help="List the checks and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--quiet", is_flag=True, help="Show failed checks and the verdict only.")
@click.pass_context
def check(ctx: click.Context, /, name: str, kind: Kind | None, option: Pairs, only: Pairs, **show: bool) -> None:
    """Check a plugin against the contract.

    Runs every check of the plugin NAME, of whichever kind it is, on tiny models and data made on the spot. Workers and
    fleets may be named with their argument, such as ray:10.0.0.1:6379.
    """
    checks = _chosen(_checks_of(name, kind, option), only)
    as_json = show["as_json"]
    if show["as_list"]:
        _print_list(checks, as_json)
        return
    verdicts = _run(checks, as_text=not as_json, quiet=show["quiet"])
    failed = sum(not verdict.passed for verdict in verdicts)
    if as_json:
        click.echo(json.dumps({"name": name, "passed": not failed, "checks": [_row(v) for v in verdicts]}, indent=2))
    else:
        click.echo(_last_line(name, verdicts, failed))
    ctx.exit(1 if failed else 0)


def _checks_of(name: str, kind: Kind | None, option: Pairs) -> list[Check]:
    """Return the checks of a plugin; an unknown name is refused before the heavy packages are imported."""
    registry = Registry.installed()
    if kind is None:
        registry.kinds_of(name.partition(":")[0])
    from mlecs_bench.testing import checks_of

    return checks_of(name, kind, parse_pairs(option, "--option"), registry)


def _chosen(checks: Sequence[Check], only: Sequence[str]) -> list[Check]:
    """Return the checks that `only` names; all of them if it names none, or if the plugin does not even load."""
    names = {check.name for check in checks}
    if not only or names == {"loads"}:
        return list(checks)
    unknown = sorted(set(only) - names)
    if unknown:
        raise UsageError(f"no check '{unknown[0]}'. {did_you_mean(unknown[0], names)}")
    return [check for check in checks if check.name in only]


def _print_list(checks: Sequence[Check], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([{"name": check.name, "summary": check.summary} for check in checks], indent=2))
        return
    width = max(len(check.name) for check in checks)
    for check in checks:
        click.echo(f"{check.name:{width}}  {check.summary}")


def _run(checks: Sequence[Check], *, as_text: bool, quiet: bool) -> list[Verdict]:
    """Run the checks, with a line for each as soon as it is done."""
    from mlecs_bench.testing import run_checks

    width = max(len(check.name) for check in checks)
    verdicts = []
    for verdict in run_checks(checks):
        verdicts.append(verdict)
        if as_text and not (quiet and verdict.passed) and not verdict.repeats:
            click.echo(_line(verdict, width))
    if as_text:
        for line in _repeated(verdicts):
            click.echo(line)
    return verdicts


def _repeated(verdicts: Sequence[Verdict]) -> list[str]:
    """Return a line for each check whose error other checks met, too: an error is shown once."""
    first = dict.fromkeys(verdict.repeats for verdict in verdicts if verdict.repeats)
    found = {name: [v.check.name for v in verdicts if v.repeats == name] for name in first}
    return [f"{'FAIL':{INDENT}}the error of {name} again: {', '.join(names)}" for name, names in found.items()]


def _line(verdict: Verdict, width: int) -> str:
    mark = "ok" if verdict.passed else "FAIL"
    line = f"{mark:{INDENT}}{verdict.check.name:{width}}  {verdict.seconds:5.1f} s"
    return line if verdict.passed else f"{line}\n{'':{INDENT}}{verdict.reason}"


def _row(verdict: Verdict) -> dict[str, Any]:
    return {
        "name": verdict.check.name,
        "summary": verdict.check.summary,
        "passed": verdict.passed,
        "reason": verdict.reason,
        "repeats": verdict.repeats or None,
        "seconds": round(verdict.seconds, 3),
    }


def _last_line(name: str, verdicts: Sequence[Verdict], failed: int) -> str:
    seconds = sum(verdict.seconds for verdict in verdicts)
    what = f"{failed} of {len(verdicts)} checks failed" if failed else f"all {len(verdicts)} checks passed"
    return f"{name}: {what} in {seconds:.1f} s"
