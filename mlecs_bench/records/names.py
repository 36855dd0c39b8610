"""Names of record files: what a person tells cells apart by, and the digits of the key that a file is found by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

KEY_DIGITS = 8
"""How many digits of the key a file's name ends in."""
USUAL = {"profile": "mini", "devices": "3", "split": "frame", "budget": "paper", "evaluate": "last"}
"""What a name leaves out."""
LONGEST = 60
"""Characters of one part of a name; the key tells apart what is cut."""

MODELS_SUFFIX = ".models"
MOST_ANSWERS = 2000
"""Test samples of a party up to which answers are kept unasked."""


def models_path(record: Path) -> Path:
    """Return where the models of a record lie, or would: a folder with one folder for each party."""
    return record.with_name(record.name.removesuffix(".json") + MODELS_SUFFIX)


def rho_label(rho: Mapping[str, float]) -> str:
    """Return the rates of an identity in a few characters: one rate if all are equal."""
    if len(set(rho.values())) == 1:
        return f"{next(iter(rho.values())):g}"
    return ",".join(f"{name}={rho[name]:g}" for name in sorted(rho))


def option_words(options: Mapping[str, Any], usual: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Return the options of an algorithm that depart from the usual ones, such as ``kt_weight=0``; "" for none."""
    return "-".join(f"{name}={_value(value)}" for name, value in options.items() if value != usual.get(name))


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    return "none" if value in ("", None) else f"{value:g}" if isinstance(value, float) else str(value)


def cell_name(identity: Mapping[str, Any], key: str, variant: str = "") -> str:
    """Return a file's name, such as ``ml-ecs--vast--rho0.5--seed27--devices=5-amt=off--1a2b3c4d.json``.

    Before the key stands, where there is any, in what the cell departs from `USUAL`, and the caller's `variant`.
    """
    own = {
        "profile": identity["profile"]["name"],
        "devices": str(identity["n_devices"]),
        "split": identity["dataset"]["split"],
        "budget": identity["training"]["budget"],
        "evaluate": identity["evaluate"],
    }
    words = [f"{name}={value}" for name, value in own.items() if value != USUAL[name]]
    departs = "-".join([*words, *([variant] if variant else [])])
    parts = (
        identity["algo"]["name"].replace("/", "+"),
        identity["dataset"]["name"],
        "rho" + rho_label(identity["rho"]),
        f"seed{identity['seed']}",
        *([departs] if departs else []),
        key[:KEY_DIGITS],
    )
    safe = [re.sub(r"[^A-Za-z0-9.,=+_-]", "_", part)[:LONGEST].rstrip("-") for part in parts]
    return "--".join(safe).lstrip(".") + ".json"


def key_digits(name: str) -> str:
    """Return the digits of the key in a file's name, "" where it has none."""
    digits = name.removesuffix(".json").rpartition("--")[2]
    return digits if re.fullmatch(f"[0-9a-f]{{{KEY_DIGITS}}}", digits) else ""
