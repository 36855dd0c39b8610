"""Prompt and answers as token ids of one tokenizer: every text is tokenised once per process.

A model reads [opening ; soft tokens ; prompt ; answer]. The opening is the BOS token where the model's own tokenizer
prepends one: such models have never read a text without it. Prompt and answer bring no special token of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from mlecs_bench.errors import DataError
from mlecs_bench.models.placement import moved
from mlecs_bench.models.sources import prepends_bos

PROMPT_TEMPLATE = "Instruction: {prompt} Output:"
"""Plain words, so that no backbone needs new tokens whose frozen embeddings would be random."""


def prompt_text(prompt: str) -> str:
    """Return the text between soft prompt and answer."""
    return PROMPT_TEMPLATE.format(prompt=prompt)


def as_data(tokenizer: Any, text: str | list[str], **settings: bool) -> Any:
    """Tokenise data as ordinary text: a "</s>" in a caption is its characters, and ends nothing.

    Raises DataError where a tokenizer spells a token of its own with such characters all the same.
    """
    found = tokenizer(text, add_special_tokens=False, split_special_tokens=True, **settings)
    ids = found["input_ids"]
    rows = zip(text, ids, strict=True) if isinstance(text, list) else [(text, ids)]
    own = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for row, row_ids in rows:
        hidden = own.intersection(row_ids)
        if hidden:
            token = tokenizer.convert_ids_to_tokens(min(hidden))
            raise DataError(
                f"the text {row[:60]!r} holds '{token}', which the tokenizer can only read as its own special token; "
                "write it otherwise in the data, or choose another model"
            )
    return found


def answer_text(target: str) -> str:
    """Return the text that the model has to produce before the end-of-sequence token."""
    return " " + target


@dataclass(frozen=True)
class Answers:
    """Answers of a batch: `ids` with the end-of-sequence token last and padded with it, `mask` False on padding.

    `positions` are the answer tokens in the flattened `ids`, without padding; found on the CPU, where lengths are
    known, since a mask on a GPU would have to be waited for. `texts` are what the tokens before the end-of-sequence
    token spell.
    """

    ids: Int64[Tensor, "b a"]
    mask: Bool[Tensor, "b a"]
    positions: Int64[Tensor, " n"]
    texts: tuple[str, ...]


class Texts:
    """The texts of one tokenizer, cached."""

    def __init__(self, tokenizer: Any, eos_id: int, torch_device: torch.device) -> None:
        self._tokenizer = tokenizer
        self._eos = eos_id
        self._torch_device = torch_device
        self._answers: dict[str, tuple[int, ...]] = {}
        self._prompts: dict[str, Tensor] = {}

    @cached_property
    def opening(self) -> Int64[Tensor, " o"]:
        """The ids that the model reads before anything else: BOS where its own tokenizer prepends one, else none."""
        ids = [self._tokenizer.bos_token_id] if prepends_bos(self._tokenizer) else []
        return torch.tensor(ids, dtype=torch.long, device=self._torch_device)

    def prompt(self, prompt: str) -> Int64[Tensor, " p"]:
        """Return the ids of the prompt in its template."""
        if prompt not in self._prompts:
            ids = as_data(self._tokenizer, prompt_text(prompt))["input_ids"]
            self._prompts[prompt] = torch.tensor(ids, dtype=torch.long, device=self._torch_device)
        return self._prompts[prompt]

    def _learn(self, targets: Sequence[str]) -> None:
        """Tokenise the targets that are new, all in one call."""
        new = [t for t in dict.fromkeys(targets) if t not in self._answers]
        if new:
            encoded = as_data(self._tokenizer, [answer_text(t) for t in new])["input_ids"]
            self._answers.update({t: (*ids, self._eos) for t, ids in zip(new, encoded, strict=True)})

    def answers(self, targets: Sequence[str]) -> Answers:
        """Return the answers of a batch."""
        self._learn(targets)
        rows = [self._answers[t] for t in targets]
        length = max(map(len, rows))
        ids = torch.tensor([(*row, *([self._eos] * (length - len(row)))) for row in rows], dtype=torch.long)
        known = torch.arange(length)[None] < torch.tensor([len(row) for row in rows])[:, None]
        positions = known.flatten().nonzero().squeeze(1)
        texts = tuple(map(answer_text, targets))
        there = [moved(tensor, self._torch_device) for tensor in (ids, known, positions)]
        return Answers(there[0], there[1], there[2], texts)

    def longest_answer(self, targets: Sequence[str]) -> int:
        """Return the greatest number of tokens of any answer, the end-of-sequence token included."""
        self._learn(targets)
        return max(len(self._answers[t]) for t in set(targets))
