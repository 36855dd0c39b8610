"""Reads how users write conditions: pairs, devices, and lists of modalities."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlecs_bench.errors import UsageError
from mlecs_bench.plan.structure import usual_id

Written = str | int | float | Mapping[str, Any]
"""A condition as a user writes it."""


def pairs_of(text: str, what: str) -> dict[str, str]:
    """Return ``name=value`` pairs with commas as a mapping; raises UsageError for anything else."""
    found: dict[str, str] = {}
    for pair in text.split(","):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not name or not equals or name in found:
            raise UsageError(f"{what} must be written name=value,name=value with each name once, got '{text}'")
        found[name] = value
    return found


def headed(text: str, what: str) -> tuple[str, dict[str, str]]:
    """Return what stands before the pairs of ``0.5,min-devices=2``, "" for nothing, and the pairs.

    Raises UsageError for anything else.
    """
    head, comma, rest = text.partition(",")
    if "=" in head:
        return "", pairs_of(text, what)
    return head.strip(), pairs_of(rest, what) if comma else {}


def by_device(written: Mapping[Any, Any], what: str) -> dict[str, Any]:
    """Return values by device, d03 for "3" and "d3", in order; what is no device is left for a check to refuse.

    Raises UsageError for a device that is named twice.
    """
    found: dict[str, Any] = {}
    for name, value in written.items():
        id_ = usual_id(str(name))
        if id_ in found:
            raise UsageError(f"{what} names device '{id_}' twice")
        found[id_] = value
    return dict(sorted(found.items()))


def modality_list(written: object, what: str) -> tuple[str, ...]:
    """Return modalities from ``rgb+depth`` or a list, each once and sorted; "none" stands for none.

    Raises UsageError for anything else.
    """
    names = re.split(r"\s*\+\s*", written.strip()) if isinstance(written, str) else written
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise UsageError(f"{what} must be names with +, such as rgb+depth, got {written!r}")
    return () if list(names) == ["none"] else tuple(sorted(set(names)))


def check_known(held: tuple[str, ...], modalities: Sequence[str], what: str) -> None:
    """Raise UsageError for a modality that the dataset lacks; `what` says who is given it."""
    unknown = [name for name in held if name not in modalities]
    if unknown:
        raise UsageError(f"{what} '{unknown[0]}', which the dataset lacks; it has {', '.join(modalities)}")
