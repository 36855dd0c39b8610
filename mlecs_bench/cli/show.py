"""`mlecs-bench show NAME`: the card of one plugin."""

from __future__ import annotations

import json

import click

from mlecs_bench.cli.card import card_markdown, card_text, cards_of
from mlecs_bench.doors.profile import Profile
from mlecs_bench.doors.registry import KINDS, Kind, Registry
from mlecs_bench.errors import UsageError


@click.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), help="The kind of plugin, where several have the name.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a Markdown page, as in docs/cards.")
@click.option("--words", is_flag=True, help="Print the words that the models of a tiny profile know, one a line.")
def show(name: str, kind: Kind | None, as_json: bool, as_markdown: bool, words: bool) -> None:
    """Show the card of a plugin."""
    if words:
        click.echo(known_words(Registry.installed().profile(name).info), nl=False)
        return
    cards = cards_of(name, Registry.installed(), kind)
    if as_json:
        click.echo(json.dumps(cards[0] if len(cards) == 1 else cards, indent=2))
    elif as_markdown:
        click.echo("\n".join(map(card_markdown, cards)), nl=False)
    else:
        click.echo("\n\n".join(map(card_text, cards)))


def known_words(profile: Profile) -> str:
    """Return the words that the models of a profile know; raises UsageError where they read any text."""
    if profile.words is None:
        raise UsageError(f"the models of profile '{profile.name}' read texts of any kind; none are listed")
    return profile.words.read_text(encoding="utf-8")
