"""`mlecs-bench show NAME`: the card of one plugin."""

from __future__ import annotations

import json

import click

from mlecs_bench.cli.card import card_markdown, card_text, cards_of
from mlecs_bench.doors.registry import KINDS, Kind, Registry


@click.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), help="The kind of plugin, where several have the name.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a Markdown page, as in docs/cards.")
def show(name: str, kind: Kind | None, as_json: bool, as_markdown: bool) -> None:
    """Show the card of a plugin."""
    cards = cards_of(name, Registry.installed(), kind)
    if as_json:
        click.echo(json.dumps(cards[0] if len(cards) == 1 else cards, indent=2))
    elif as_markdown:
        click.echo("\n".join(map(card_markdown, cards)), nl=False)
    else:
        click.echo("\n\n".join(map(card_text, cards)))
