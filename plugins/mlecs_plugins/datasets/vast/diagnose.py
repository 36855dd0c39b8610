"""Which slots of a clip a summary names: the diagnostic scores of the synthetic dataset."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlecs_bench.api import Metric

from .words import REDUNDANCY, SLOT_NAMES, SLOTS

SLOT_COLUMNS = tuple(f"slot_{name}" for name in SLOT_NAMES)
_SYNONYMS = {name: {words[0]: frozenset(words) for words in values} for name, values in SLOTS.items()}


def slot_scores(columns: Mapping[str, Sequence[Any]], predictions: Sequence[str]) -> dict[str, Metric]:
    """Return the share of slots that the predictions name, by how many modalities show them and in all.

    `columns` holds slot_<name> → the values' names (n,), `predictions` n texts. A slot is named when its value or
    a synonym of it is among the words of the prediction.
    """
    said = [frozenset(re.findall(r"[a-z]+", text.lower())) for text in predictions]
    share = {name: _share_named(name, columns[f"slot_{name}"], said) for name in SLOT_NAMES}
    groups = {**REDUNDANCY, "all": SLOT_NAMES}
    return {
        f"slots_{group}": Metric(sum(share[name] for name in names) / len(names), len(said))
        for group, names in groups.items()
    }


def _share_named(name: str, values: Sequence[str], said: Sequence[frozenset[str]]) -> float:
    """Return the share of samples whose words `said` include one for the slot's value; 0 without samples."""
    named = sum(bool(_SYNONYMS[name][value] & words) for value, words in zip(values, said, strict=True))
    return named / len(said) if said else 0.0
