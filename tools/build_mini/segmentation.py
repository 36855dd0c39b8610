"""Tokenizers, all byte-level BPE, so any text can be encoded: one for both models, or two that split words differently.

GPT-2 and GPT-J share their tokens, and so do the two models of `mini`. Those of `mini-split` do not: the small one has
a token for most words of the domain, the large one's may not be longer than six bytes, so it splits words that the
other keeps whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"


@dataclass(frozen=True)
class Segmentation:
    """At most so many tokens, of at most `longest` bytes each."""

    vocabulary: int
    longest: int | None = None


SHARED = Segmentation(880)
SHORT = Segmentation(720, longest=6)


def train_tokenizer(texts: list[str], segmentation: Segmentation) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer that was trained on `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=segmentation.vocabulary,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[END],
        max_token_length=segmentation.longest,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
