"""Cards of plugins: what one of any kind says of itself, as JSON values, text or Markdown."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlecs_bench.doors.hookspecs import (
    AlgorithmInfo,
    Control,
    DatasetInfo,
    EncoderInfo,
    MetricInfo,
    Needs,
    StudyInfo,
    TrackerInfo,
)
from mlecs_bench.doors.options import NoOptions, option_rows
from mlecs_bench.doors.places import ArgumentKind, PlaceInfo
from mlecs_bench.doors.profile import Profile
from mlecs_bench.doors.profile_settings import setting_rows
from mlecs_bench.doors.registry import Kind, Loaded, Registry
from mlecs_bench.plan.profiles import is_profile_file, profile_named

Card = dict[str, Any]

EXCHANGE_COLUMNS = ("kind", "direction", "size", "meaning")
OPTION_COLUMNS = ("name", "type", "default", "help", "source")
SETTING_COLUMNS = ("name", "value", "source")


def cards_of(name: str, registry: Registry, kind: Kind | None = None) -> list[Card]:
    """Return the cards of everything called `name`, or of the `kind` alone; raises UsageError when there is nothing.

    A name that ends in .yaml is the file of a profile.
    """
    if is_profile_file(name) and kind in (None, "profile"):
        return [_card("profile", profile_named(name, registry), name)]
    return [_card(one, registry.load(one, name)) for one in ([kind] if kind else registry.kinds_of(name))]


def _card(kind: Kind, loaded: Loaded[Any], use: str = "") -> Card:
    """Return what every card has, around the facts of its kind; `use` is what flags call it, if not by its name."""
    head = {"name": loaded.name, "kind": kind, "distribution": loaded.distribution, "version": loaded.version}
    words = _words(loaded.info)
    options = option_rows(getattr(loaded.info, "options", NoOptions))
    used = TRACKER_USE if isinstance(loaded.info, TrackerInfo) else USES[kind]
    used += ARGUMENTS[loaded.info.argument] if isinstance(loaded.info, PlaceInfo) else ""
    return {
        **head,
        **words,
        **FACTS[kind](loaded.info),
        "use": used.format(name=use or loaded.name),
        "options": options,
    }


def _words(info: Any) -> dict[str, str]:
    """Return title and summary; a profile has no title, and an observer says in its docstring what it does."""
    if isinstance(info, Profile):
        return {"title": "", "summary": info.summary}
    if hasattr(info, "summary"):
        return {"title": info.title, "summary": info.summary}
    return {"title": "", "summary": " ".join((inspect.getdoc(info) or "no docstring").partition("\n\n")[0].split())}


def _of_algorithm(info: AlgorithmInfo) -> Card:
    exchanges = [
        {"kind": e.kind, "direction": e.direction, "size": e.size, "meaning": e.meaning} for e in info.exchanges
    ]
    return {
        "paper": info.paper,
        "server_score": info.server_score,
        "needs": needs_sentences(info.needs(info.options())) or ["nothing in particular"],
        "control": control_text(info.control(info.options())),
        "exchanges": exchanges,
        **{name: list(getattr(info, name)) for name in ("reproduced", "readings", "deviations")},
    }


def control_text(control: Control | None) -> str:
    """Return what an algorithm is beside the others for, "" where it is one of them."""
    return f"{control.role}: {control.says}" if control else ""


def needs_sentences(needs: Needs) -> list[str]:
    """Return what an algorithm needs of a federation, by default, in words."""
    rank = " (but for LoRA's rank)" if needs.any_rank else ""
    found = {
        f"equal shapes on all devices of {', '.join(needs.same)}{rank}": needs.same,
        f"LoRA of rank {', '.join(map(str, needs.ranks))} on the devices": needs.ranks,
        "a public stage on the devices": needs.public_stage,
        "no private stage on the devices": not needs.private_stages,
        f"{needs.private_stages} private stages on the devices": needs.private_stages > 1,
        "a proxy model on every party": needs.proxy,
        "the training data of all parties on every party": needs.pool,
        "hidden_width equal to fused_width": needs.one_width,
        f"{needs.setup_steps} steps of the server before round 1": needs.setup_steps,
        f"the prompt followed by '{needs.prompt_suffix}'": needs.prompt_suffix,
    }
    return [sentence for sentence, asked in found.items() if asked]


def _of_dataset(info: DatasetInfo) -> Card:
    return {
        "task": info.task,
        "modalities": list(info.modalities),
        "metrics": list(info.metrics),
        "splits": list(info.splits),
        "where_to_get": info.where_to_get,
        "notes": list(info.notes),
    }


def _of_metric(info: MetricInfo) -> Card:
    least, greatest = info.range
    return {
        "higher_is_better": info.higher_is_better,
        "per": {"sample": "the mean over samples", "corpus": "all samples together"}[info.per],
        "range": f"{least:g} to {greatest:g}",
        "labels": info.labels,
        "reading": info.reading,
        "real_texts": info.real_texts,
    }


def _of_encoder(info: EncoderInfo) -> Card:
    if info.tower is None:
        return {"axes": info.axes}
    return {"axes": info.axes, "tower": f"published weights in a file, pictures of {info.tower.size}x{info.tower.size}"}


def _of_profile(info: Profile) -> Card:
    return {"settings": setting_rows(info)}


def _of_study(info: StudyInfo) -> Card:
    return {"presets": sorted(info.presets), **({"layouts": sorted(info.layouts)} if info.layouts else {})}


def _of_observer(info: Any) -> Card:
    return {"install": info.install} if isinstance(info, TrackerInfo) else {}


def _nothing_more(_info: Any) -> Card:
    return {}


FACTS: Mapping[Kind, Callable[[Any], Card]] = {
    "algorithm": _of_algorithm,
    "dataset": _of_dataset,
    "metric": _of_metric,
    "encoder": _of_encoder,
    "profile": _of_profile,
    "workers": _nothing_more,
    "fleet": _nothing_more,
    "observer": _of_observer,
    "study": _of_study,
}
USES: Mapping[Kind, str] = {
    "algorithm": "--algo {name}",
    "dataset": "--dataset {name}",
    "metric": "--metrics {name}, or datasets name it among theirs",
    "encoder": "datasets name it as the encoding of a modality",
    "profile": "--profile {name}",
    "workers": "--workers {name}",
    "fleet": "--fleet {name}",
    "observer": "it is told of every run and sweep, as long as it is installed",
    "study": "sweep --preset with one of its presets; report --study {name}",
}
"""How a plugin of each kind gets into a run."""
TRACKER_USE = "--track {name}"
ARGUMENTS: Mapping[ArgumentKind, str] = {"none": "", "number": ":NUMBER", "text": ":TEXT"}
"""What stands behind the name of workers or a fleet."""


def card_text(card: Card) -> str:
    """Return a card as text."""
    origin = f"{card['kind']}, {card['distribution']} {card['version']}".rstrip()
    title = f": {card['title']}" if card["title"] else ""
    lines = [f"{card['name']}{title} ({origin})", "", card["summary"]]
    facts = {label: _fact(card[key]) for key, label in _FACTS.items() if key in card}
    lines += ["", *(f"{label}: {text}" for label, text in facts.items() if text)]
    if card.get("exchanges"):
        lines += ["", "Exchanges:", *_columns(card["exchanges"], EXCHANGE_COLUMNS)]
    if card.get("settings"):
        rows = [{**row, "source": f"[{row['source']}]"} for row in card["settings"]]
        lines += ["", "Settings (--set name=value):", *_columns(rows, SETTING_COLUMNS)]
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
    "control": "Control",
    "task": "Task",
    "modalities": "Modalities",
    "metrics": "Metrics, headline first",
    "splits": "Splits, default first",
    "where_to_get": "Where to get it",
    "higher_is_better": "Higher is better",
    "per": "Score of",
    "range": "Range",
    "labels": "For classes alone",
    "reading": "Texts are read so",
    "real_texts": "Shown for real texts alone",
    "axes": "Axes of a sample",
    "tower": "As a tower",
    "presets": "Presets",
    "install": "To install what it needs",
    "use": "Use",
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
    title = f": {card['title']}" if card["title"] else ""
    lines = [f"# {card['name']}{title}", "", f"{_sentence(card['summary'])}", ""]
    facts = {label: _fact(card.get(key, "")) for key, label in _FACTS.items() if key != "use"}
    lines += [f"- {label}: {text}" for label, text in facts.items() if text]
    if card.get("exchanges"):
        lines += ["", "## Messages", "", *_table(card["exchanges"], EXCHANGE_COLUMNS)]
    for key, heading in SENTENCES.items():
        if card.get(key):
            lines += ["", f"## {heading}", "", *(f"- {sentence}" for sentence in card[key])]
    if card.get("settings"):
        lines += ["", "## Settings", "", *_table(card["settings"], SETTING_COLUMNS)]
    if card["options"]:
        lines += ["", "## Options", "", *_table(card["options"], OPTION_COLUMNS)]
    return "\n".join(lines) + "\n"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].removesuffix(".") + "."


def _table(rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[str]:
    cells = [[row[name].replace("|", "\\|") for name in names] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (names, ["---"] * len(names), *cells)]
