"""The table that stands in where a user gives none: three moods of a machine, shown by a sensor and by a note."""

from __future__ import annotations

from collections.abc import Iterator

from mlecs_bench.api import rng
from mlecs_plugins.datasets.jsonl.layout import layout_of
from mlecs_plugins.datasets.jsonl.rows import Row

VERSION = 1
SEED = 2611
N_SAMPLES = 600
N_NUMBERS = 6
ABSENT = 0.1
"""How often a sample has no note, and no reading."""
NOTES = {
    "calm": ("still", "slow", "quiet", "gentle"),
    "cheerful": ("bright", "quick", "humming", "warm"),
    "angry": ("loud", "hot", "shaking", "sharp"),
}
LAYOUT = layout_of(
    {
        "title": "stand-in",
        "samples": "stand-in.jsonl",
        "id": "id",
        "target": "mood",
        "labels": list(NOTES),
        "prompt": "How is the machine?",
        "max_new_tokens": 8,
        "licence": "none: generated",
        "modalities": {"note": {"text": "note", "words": 8}, "reading": {"array": "reading"}},
    },
    "stand-in",
)


def rows() -> Iterator[Row]:
    """Yield the rows: a note of three words, one of which tells the mood, and numbers around the mood's mean."""
    generator = rng(SEED, "jsonl")
    moods = list(NOTES)
    means = generator.standard_normal((len(moods), N_NUMBERS))
    for number in range(N_SAMPLES):
        mood = int(generator.integers(len(moods)))
        pools = [NOTES[moods[mood]], *(NOTES[moods[int(m)]] for m in generator.integers(len(moods), size=2))]
        note = " ".join(str(generator.choice(pool)) for pool in pools)
        reading = means[mood] + generator.standard_normal(N_NUMBERS)
        absent = generator.random(2) < ABSENT
        values = {
            "id": f"s{number:03d}",
            "mood": moods[mood],
            "note": None if absent[0] else note,
            "reading": None if absent[1] else [round(float(x), 4) for x in reading],
        }
        yield Row(f"line {number + 1}", values)
