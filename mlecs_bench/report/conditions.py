"""How reports call the conditions of a federation, as records hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlecs_bench.errors import UsageError
from mlecs_bench.plan.conditions import condition
from mlecs_bench.report.frame import flatten

STATIC = "static"
"""What rows under the usual conditions are called where others are not."""


def condition_words(identity: Mapping[str, Any]) -> list[str]:
    """Return in words what is not as usual in a record's federation; nothing where all is."""
    return [_words(name, fields) for name, fields in identity.get("conditions", {}).items()]


def conditions_label(identity: Mapping[str, Any]) -> str:
    """Return the conditions of a record in one text, "static" for the usual ones."""
    return ", ".join(condition_words(identity)) or STATIC


def _words(name: str, fields: Mapping[str, Any]) -> str:
    try:
        return str(condition(name, fields).words())
    except (UsageError, KeyError):  # of another version: its fields say what it was
        return " ".join([name.replace("_", "-"), *(f"{path}={value}" for path, value in flatten(fields).items())])
