"""What the embedded language models read during pretraining: conditions (values at eight positions), prompt, answer.

A condition has one number per soft-token position: which row of the condition table stands there. Row 0 to 7 mean
"nothing known" at that position; then come the values of the slots, then the postures. The table itself is thrown
away after pretraining: what stays in the model is that it reads its first eight positions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mlecs_bench.api import rng
from mlecs_plugins.datasets.vast.synthetic import PROMPT as VAST_PROMPT
from mlecs_plugins.datasets.vast.synthetic import pool
from mlecs_plugins.datasets.vast.words import SHOWN_BY, SLOT_NAMES, SLOTS

POSTURE_PROMPT = "What is the posture of the person?"
POSTURE_WORDS = ("not lying", "temporary pose", "lying on the ground")
POSTURE_DIGITS = ("0", "1", "2")
TEMPLATE = "Instruction: {prompt} Output:"

POSITIONS = len(SLOT_NAMES)
_SIZES = [len(SLOTS[name]) for name in SLOT_NAMES]
_FIRST = POSITIONS + np.concatenate(([0], np.cumsum(_SIZES)))
FIRST_POSTURE = int(_FIRST[-1])
CONDITION_ROWS = FIRST_POSTURE + len(POSTURE_WORDS)

_FULL_SHARE, _MODALITY_SHARE = 0.45, 0.4
_POSTURE_SHARE, _DIGIT_SHARE = 0.12, 0.2


@dataclass(frozen=True)
class Pairs:
    """Conditions (n, 8) int64 and what follows them: n prompts and n answers."""

    conditions: np.ndarray
    prompts: list[str]
    answers: list[str]


def clip_pairs(seed: int, n: int, *, full: bool = False) -> Pairs:
    """Return `n` summaries of the pool. `full` shows every slot; otherwise 45 % of the conditions are complete,
    40 % show what one set of modalities shows, and in 15 % every slot is shown at a random rate.
    """
    clips = pool(seed, n, with_inputs=False)
    values = np.stack([_FIRST[i] + clips.slots[name] for i, name in enumerate(SLOT_NAMES)], axis=1)
    shown = np.ones((n, POSITIONS), dtype=bool) if full else _draw_shown(seed, n)
    conditions = np.where(shown, values, np.arange(POSITIONS))
    return Pairs(conditions, [VAST_PROMPT] * n, clips.summaries)


def _draw_shown(seed: int, n: int) -> np.ndarray:
    """Return which slots each condition shows, (n, 8) bool."""
    generator = rng(seed, "mini", "shown")
    by_modality = np.array([[name in slots for name in SLOT_NAMES] for slots in SHOWN_BY.values()])
    held = generator.integers(1, 2 ** len(by_modality) - 1, size=n)
    bits = (held[:, None] >> np.arange(len(by_modality))) & 1
    of_modalities = bits @ by_modality > 0
    at_random = generator.random((n, POSITIONS)) < generator.random((n, 1))
    kind = generator.random((n, 1))
    return np.where(kind < _FULL_SHARE, True, np.where(kind < _FULL_SHARE + _MODALITY_SHARE, of_modalities, at_random))


def posture_pairs(seed: int, n: int, *, full: bool = False) -> Pairs:
    """Return `n` posture questions. The posture stands at one to eight positions; unless `full`, in a fifth at none."""
    generator = rng(seed, "mini", "postures")
    posture = generator.integers(0, len(POSTURE_WORDS), size=n)
    count = generator.integers(1, POSITIONS + 1, size=n)
    if not full:
        count = np.where(generator.random(n) < 0.2, 0, count)
    told = generator.random((n, POSITIONS)).argsort(axis=1) < count[:, None]
    conditions = np.where(told, FIRST_POSTURE + posture[:, None], np.arange(POSITIONS))
    in_digits = generator.random(n) < (0.0 if full else _DIGIT_SHARE)
    answers = [(POSTURE_DIGITS if d else POSTURE_WORDS)[p] for p, d in zip(posture, in_digits, strict=True)]
    return Pairs(conditions, [POSTURE_PROMPT] * n, answers)


def pretraining_pairs(seed: int, n: int) -> Pairs:
    """Return `n` shuffled pairs: summaries, and 12 % posture questions."""
    n_postures = round(n * _POSTURE_SHARE)
    clips, postures = clip_pairs(seed, n - n_postures), posture_pairs(seed, n_postures)
    order = rng(seed, "mini", "order").permutation(n)
    prompts, answers = clips.prompts + postures.prompts, clips.answers + postures.answers
    conditions = np.concatenate([clips.conditions, postures.conditions])[order]
    return Pairs(conditions, [prompts[i] for i in order], [answers[i] for i in order])


def tokenizer_texts(seed: int, n: int) -> list[str]:
    """Return whole texts (template, prompt, answer) for the tokenizers to be trained on."""
    pairs = pretraining_pairs(seed, n)
    return [f"{TEMPLATE.format(prompt=p)} {a}" for p, a in zip(pairs.prompts, pairs.answers, strict=True)]


def words_of(texts: Iterable[str]) -> list[str]:
    """Return all words of texts, sorted, each once; numbers are none."""
    return sorted({word for text in texts for word in re.findall(r"[A-Za-z]+", text)}, key=str.lower)
