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
@click.option("--observer", is_flag=True, help="The same as --kind observer.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    default=Path(),
    help="Write DIR/NAME.  [default: the current folder]",
)
def new_plugin(name: str, kind: Kind | None, folder: Path, **flags: bool) -> None:
    """Write the project of a new plugin.

    NAME is the plugin's name on the command line: lower-case letters, digits and single hyphens.
    """
    kind = _chosen(kind, [known for known in KINDS if flags.get(known)])
    registry = Registry.installed()
    check_name(name, {entry.name for known in KINDS for entry in registry.entries(known)})
    project = folder / name
    files = write_project(kind, name, project)
    click.echo("Wrote")
    for path in files:
        click.echo(f"  {path}")
    click.echo("Next:")
    for command in (f"cd {shlex.quote(str(project))}", 'pip install -e ".[test]"', f"mlecs-bench check {name}"):
        click.echo(f"  {command}")


def _chosen(kind: Kind | None, named: list[Kind]) -> Kind:
    """Return the kind that `--kind` and flags such as --dataset ask for, an algorithm where none does."""
    asked = list(dict.fromkeys([*named, *([kind] if kind else [])]))
    if len(asked) > 1:
        raise UsageError(f"--{asked[0]} asks for one kind of plugin and another flag for {asked[1]}; give one of them")
    return asked[0] if asked else "algorithm"
