"""Which label an answer spells, and what follows from that for single classes."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from mlecs_bench.doors.scoring import Metric

MATCHING = "answers match labels without case, outer space and differences of Unicode form (NFC)"
"""How `label_of` compares, in one line."""


def label_of(prediction: str, labels: Sequence[str]) -> str | None:
    """Return the label that `prediction` spells, apart from case, outer spaces and Unicode form, or None."""
    text = spelling(prediction)
    return next((label for label in labels if spelling(label) == text), None)


def spelling(text: str) -> str:
    """Return a text as labels are compared: without outer space and case, in one Unicode form (NFC)."""
    text = text.strip()
    if text.isascii():
        return text.casefold()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def recall_by_label(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, Metric]:
    """Return the recall of every label among `targets`: how many of its samples are answered with it.

    The diagnostic scores of a dataset with classes: `DatasetInfo.diagnose` may return them. Their names are
    ``recall_`` and the label, with underscores in the place of spaces.
    """
    found = {}
    for label in sorted(set(targets)):
        answers = [p for p, target in zip(predictions, targets, strict=True) if target == label]
        hits = sum(spelling(answer) == spelling(label) for answer in answers)
        found[f"recall_{'_'.join(label.split())}"] = Metric(hits / len(answers), len(answers))
    return found
