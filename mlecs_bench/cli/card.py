"""Cards of algorithms and datasets: what a plugin says of itself, as JSON values, text or Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlecs_bench.doors.hookspecs import AlgorithmInfo, DatasetInfo, Needs
from mlecs_bench.doors.options import option_rows
from mlecs_bench.doors.registry import Loaded, Registry
from mlecs_bench.errors import UsageError, did_you_mean

Card = dict[str, Any]

EXCHANGE_COLUMNS = ("kind", "direction", "size", "meaning")
OPTION_COLUMNS = ("name", "type", "default", "help", "source")


def cards_of(name: str, registry: Registry) -> list[Card]:
    """Return the cards of everything called `name`; raises UsageError when there is nothing."""
    known = {kind: {entry.name for entry in registry.entries(kind)} for kind in ("algorithm", "dataset")}
    cards = []
    if name in known["algorithm"]:
        cards.append(_algorithm_card(registry.algorithm(name)))
    if name in known["dataset"]:
        cards.append(_dataset_card(registry.dataset(name)))
    if not cards:
        raise UsageError(f"no algorithm or dataset '{name}'. {did_you_mean(name, set().union(*known.values()))}")
    return cards


def _algorithm_card(loaded: Loaded[AlgorithmInfo]) -> Card:
    info = loaded.info
    exchanges = [
        {"kind": e.kind, "direction": e.direction, "size": e.size, "meaning": e.meaning} for e in info.exchanges
    ]
    facts = {
        "paper": info.paper,
        "server_score": info.server_score,
        "needs": needs_sentences(info.needs(info.options())) or ["nothing in particular"],
        "exchanges": exchanges,
    }
    notes = {name: list(getattr(info, name)) for name in ("reproduced", "readings", "deviations")}
    return _card("algorithm", loaded, facts) | notes


def needs_sentences(needs: Needs) -> list[str]:
    """Return what an algorithm needs of a federation, by default, in words."""
    rank = " (but for LoRA's rank)" if needs.any_rank else ""
    found = {
        f"equal shapes on all devices of {', '.join(needs.same)}{rank}": needs.same,
        f"LoRA of rank {', '.join(map(str, needs.ranks))} on the devices": needs.ranks,
        "a public stage on the devices": needs.public_stage,
        "no private stage on the devices": not needs.private_stage,
        "a proxy model on every party": needs.proxy,
        f"{needs.setup_steps} steps of the server before round 1": needs.setup_steps,
        f"the prompt followed by '{needs.prompt_suffix}'": needs.prompt_suffix,
    }
    return [sentence for sentence, asked in found.items() if asked]


def _dataset_card(loaded: Loaded[DatasetInfo]) -> Card:
    info = loaded.info
    facts = {
        "task": info.task,
        "modalities": list(info.modalities),
        "metrics": list(info.metrics),
        "splits": list(info.splits),
        "where_to_get": info.where_to_get,
    }
    return _card("dataset", loaded, facts) | {"notes": list(info.notes)}


def _card(kind: str, loaded: Loaded[Any], facts: Card) -> Card:
    """Return what every card has around the facts of its kind."""
    head = {"name": loaded.name, "kind": kind, "distribution": loaded.distribution, "version": loaded.version}
    options = option_rows(loaded.info.options)
    return {**head, "title": loaded.info.title, "summary": loaded.info.summary, **facts, "options": options}


def card_text(card: Card) -> str:
    """Return a card as text."""
    origin = f"{card['kind']}, {card['distribution']} {card['version']}"
    lines = [f"{card['name']}: {card['title']} ({origin})", "", card["summary"]]
    facts = {label: _fact(card[key]) for key, label in _FACTS.items() if key in card}
    lines += ["", *(f"{label}: {text}" for label, text in facts.items() if text)]
    if card.get("exchanges"):
        lines += ["", "Exchanges:", *_columns(card["exchanges"], EXCHANGE_COLUMNS)]
    if card["options"]:
        flag = "-o" if card["kind"] == "algorithm" else "--data-option"
        rows = [{**row, "source": f"[{row['source']}]" if row["source"] else ""} for row in card["options"]]
        lines += ["", f"Options ({flag} name=value):", *_columns(rows, OPTION_COLUMNS)]
    for key, heading in SENTENCES.items():
        if card.get(key):
            lines += ["", f"{heading}:", *(f"  - {sentence}" for sentence in card[key])]
    return "\n".join(lines)


SENTENCES = {
    "reproduced": "As in the paper",
    "readings": "Our reading, where the sources leave it open",
    "deviations": "Deviations from the sources",
    "notes": "Notes",
}


_FACTS = {
    "paper": "Paper",
    "server_score": "Server model is trained and scored",
    "needs": "Needs (by default)",
    "task": "Task",
    "modalities": "Modalities",
    "metrics": "Metrics, headline first",
    "splits": "Splits, default first",
    "where_to_get": "Where to get it",
}


def _fact(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(str(v) for v in value) if isinstance(value, list) else str(value)


def _columns(rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[str]:
    """Return rows as aligned lines under their column names."""
    table = [{name: name for name in names}, *rows]
    widths = {name: max(len(row[name]) for row in table) for name in names}
    return ["  " + "  ".join(f"{row[name]:{widths[name]}}" for name in names).rstrip() for row in table]


def card_markdown(card: Card) -> str:
    """Return a card as a Markdown page; it names no version, so that it changes only with the plugin's words."""
    lines = [f"# {card['name']}: {card['title']}", "", f"{_sentence(card['summary'])}", ""]
    lines += [f"- {label}: {text}" for key, label in _FACTS.items() if (text := _fact(card.get(key, "")))]
    if card.get("exchanges"):
        lines += ["", "## Messages", "", *_table(card["exchanges"], EXCHANGE_COLUMNS)]
    for key, heading in SENTENCES.items():
        if card.get(key):
            lines += ["", f"## {heading}", "", *(f"- {sentence}" for sentence in card[key])]
    if card["options"]:
        lines += ["", "## Options", "", *_table(card["options"], OPTION_COLUMNS)]
    return "\n".join(lines) + "\n"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].removesuffix(".") + "."


def _table(rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[str]:
    cells = [[row[name].replace("|", "\\|") for name in names] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (names, ["---"] * len(names), *cells)]
