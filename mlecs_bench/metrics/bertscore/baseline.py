"""The zero of a rescaled score: the mean score of unrelated sentences, in the format of bert-score's own files."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from mlecs_bench.errors import DataError
from mlecs_bench.files import write_text

N_BASELINE_PAIRS = 120

_SUBJECTS = (
    "the night train to the coast",
    "a retired carpenter",
    "our local library",
    "the youngest goalkeeper of the league",
    "heavy rain",
    "the price of wheat",
    "a small observatory in the desert",
    "the new bridge",
    "her grandmother's recipe",
    "an old fishing boat",
    "the city council",
    "a team of nurses",
    "the quiet violinist",
    "most of the orchard",
    "a curious fox",
)
_PREDICATES = (
    "was delayed by almost two hours",
    "won a prize nobody had expected",
    "will be closed for repairs",
    "needs far more salt than you think",
    "has lost half of its value",
    "found a message in a bottle",
    "voted against the proposal",
    "played the same song three times",
    "crossed the river without being seen",
    "is older than the church",
    "turned bright red",
    "learned to speak Portuguese",
    "sold its last ticket",
    "repaired the broken clock by hand",
    "discovered a faint green comet",
    "refused to answer any question",
)
_ENDINGS = (
    "before the first bus left",
    "during the hottest summer on record",
    "according to a report published on Monday",
    "while the children were asleep",
    "because of a missing signature",
    "in front of thirty thousand people",
    "at the edge of the forest",
    "for less than five dollars",
    "without any help from the government",
    "after a long discussion about money",
    "on a rainy afternoon in November",
    "as soon as the ice had melted",
    "near the border with Austria",
    "despite a painful injury",
    "with the help of a simple telescope",
    "behind the closed doors of the museum",
    "in less time than it takes to boil an egg",
)


def baseline_pairs() -> list[tuple[str, str]]:
    """Return the fixed pairs of unrelated English sentences whose mean score is the zero of the rescaled score.

    They belong to no dataset, so scores of different datasets are rescaled alike. The three lists have coprime
    lengths: all sentences differ, and the two of a pair share no part.
    """
    sentences = [_sentence(i) for i in range(2 * N_BASELINE_PAIRS)]
    return list(zip(sentences[::2], sentences[1::2], strict=True))


def _sentence(i: int) -> str:
    subject, predicate = _SUBJECTS[i % len(_SUBJECTS)], _PREDICATES[i % len(_PREDICATES)]
    ending = _ENDINGS[i % len(_ENDINGS)]
    text = f"{ending}, {subject} {predicate}." if i % 2 else f"{subject} {predicate} {ending}."
    return text[0].upper() + text[1:]


def baseline_digest() -> str:
    """Return the sha256 of the sentences behind a baseline of our own."""
    return hashlib.sha256(json.dumps(baseline_pairs()).encode()).hexdigest()


def write_baseline(path: Path, means: Sequence[Sequence[float]]) -> None:
    """Write the mean P, R, F1 of unrelated pairs at every layer (row 0 is the embeddings), as the library reads it."""
    rows = [",".join([str(layer), *(repr(value) for value in values)]) for layer, values in enumerate(means)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n".join(["LAYER,P,R,F", *rows]) + "\n")


def baseline_f1(path: Path, layer: int) -> float:
    """Return the mean F1 of unrelated pairs at `layer`; raises DataError when the file does not hold it."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return float({row["LAYER"]: row["F"] for row in csv.DictReader(file)}[str(layer)])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} holds no F of layer {layer} ({type(error).__name__}); delete it, or install bert-score again if "
            "it belongs to that"
        ) from error
