"""`mlecs-bench new-plugin NAME`: the project of a plugin of any kind, ready to install."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from mlecs_bench.doors.registry import KINDS, Kind, Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.scaffold import check_name, write_project


@click.command("new-plugin")
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), help="What the plugin provides.  [default: algorithm]")
@click.option("--dataset", is_flag=True, help="The same as --kind dataset.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    default=Path(),
    help="Write DIR/NAME.  [default: the current folder]",
)
def new_plugin(name: str, kind: Kind | None, dataset: bool, folder: Path) -> None:
    """Write the project of a new plugin.

    NAME is the plugin's name on the command line: lower-case letters, digits and single hyphens.
    """
    if dataset and kind not in (None, "dataset"):
        raise UsageError(f"--dataset asks for a dataset and --kind for another kind, {kind}; give one of them")
    registry = Registry.installed()
    check_name(name, {entry.name for kind in KINDS for entry in registry.entries(kind)})
    project = folder / name
    files = write_project("dataset" if dataset else kind or "algorithm", name, project)
    click.echo("Wrote")
    for path in files:
        click.echo(f"  {path}")
    click.echo("Next:")
    for command in (f"cd {shlex.quote(str(project))}", 'pip install -e ".[test]"', f"mlecs-bench check {name}"):
        click.echo(f"  {command}")
