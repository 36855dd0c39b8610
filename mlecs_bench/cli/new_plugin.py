"""`mlecs-bench new-plugin NAME`: the project of an algorithm or a dataset, ready to install."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from mlecs_bench.doors.registry import KINDS, Registry
from mlecs_bench.scaffold import check_name, write_project


@click.command("new-plugin")
@click.argument("name")
@click.option("--dataset", is_flag=True, help="Write a dataset instead of an algorithm.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    default=Path(),
    help="Write DIR/NAME.  [default: the current folder]",
)
def new_plugin(name: str, dataset: bool, folder: Path) -> None:
    """Write the project of a new plugin.

    NAME is the plugin's name on the command line: lower-case letters, digits and single hyphens.
    """
    registry = Registry.installed()
    check_name(name, {entry.name for kind in KINDS for entry in registry.entries(kind)})
    project = folder / name
    files = write_project("dataset" if dataset else "algorithm", name, project)
    click.echo("Wrote")
    for path in files:
        click.echo(f"  {path}")
    click.echo("Next:")
    for command in (f"cd {shlex.quote(str(project))}", 'pip install -e ".[test]"', f"mlecs-bench check {name}"):
        click.echo(f"  {command}")
