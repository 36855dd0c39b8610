"""`mlecs-bench list`: what is installed, read from metadata without importing a plugin."""

from __future__ import annotations

import json
from collections import Counter

import click

from mlecs_bench.doors.registry import DOORS, KINDS, Kind, PluginEntry, Registry


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_command(as_json: bool) -> None:
    """List the installed plugins of every kind."""
    registry = Registry.installed()
    rows = {DOORS[kind][0]: [_row(entry) for entry in registry.entries(kind)] for kind in KINDS}
    click.echo(json.dumps(rows, indent=2) if as_json else _table(rows))
    for kind in KINDS:
        for name in _claimed_twice(registry, kind):
            click.echo(f"warning: {kind} '{name}' is declared more than once; uninstall one of them", err=True)


def _row(entry: PluginEntry) -> dict[str, str]:
    return {
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "target": entry.target,
    }


def _table(rows: dict[str, list[dict[str, str]]]) -> str:
    """Return the rows as text, one block per kind that has any."""
    width = max((len(row["name"]) for block in rows.values() for row in block), default=0)
    lines: list[str] = []
    for kind, block in rows.items():
        if block:
            lines += [f"{kind}:"]
            lines += [f"  {row['name']:{width}}  {row['distribution']} {row['version']}" for row in block]
    return "\n".join(lines)


def _claimed_twice(registry: Registry, kind: Kind) -> list[str]:
    counts = Counter(entry.name for entry in registry.entries(kind))
    return [name for name, count in counts.items() if count > 1]
