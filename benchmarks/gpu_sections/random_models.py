"""Language models of any configuration with random weights, made where they compute: no hub, no file, no CPU copy."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPTJConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from mlecs_bench.models.loading import BaseSettings, _placement, at_rest
from mlecs_bench.models.sources import configuration
from mlecs_bench.seeds import torch_stream

GPT2_TOKENS, GPTJ_TOKENS = 50_257, 50_400
"""The widths of the published vocabularies; GPT-J's is GPT-2's, padded."""
LEARNT_TOKENS = 2_000
END = "<|endoftext|>"


@contextmanager
def random_weights(texts: Sequence[str]) -> Iterator[None]:
    """Within the block every language model is made from its configuration; its tokenizer has learnt `texts`."""
    tokenizer = filled_tokenizer(tuple(texts))

    def load(source: str, settings: BaseSettings) -> tuple[Any, Any]:
        return random_model(source, settings), tokenizer

    with mock.patch("mlecs_bench.models.backbone.load_base", load):
        yield


def random_model(source: str, settings: BaseSettings) -> Any:
    """Return the model of a source, as `load_base` does, with weights from a stream of its own."""
    config = configuration(source)
    with torch.device(settings.torch_device), torch_stream(0, "benchmark", config.model_type):
        model = AutoModelForCausalLM.from_config(config, dtype=settings.dtype)
    if settings.bits is not None:
        disable_progress_bar()
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it speaks at every layer
        # The library quantises while it loads, so the weights are handed to it as if they came from a file.
        model = type(model).from_pretrained(
            None, config=config, state_dict=model.state_dict(), dtype=settings.dtype, **_placement(source, settings)
        )
    model.generation_config = GenerationConfig()
    at_rest(model.requires_grad_(False))
    return model


@cache
def filled_tokenizer(texts: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer that has learnt `texts`, filled up to as many tokens as GPT-2 has.

    Its other tokens never occur in a text, but are there wherever the vocabularies of two models are compared.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=LEARNT_TOKENS,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    vocabulary |= {f"unused{i}": i for i in range(len(vocabulary), GPT2_TOKENS)}
    filled = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=filled, eos_token=END, pad_token=END)


def tiny_configurations(folder: Path) -> tuple[str, str]:
    """Write configurations of a tiny GPT-2 and a tiny GPT-J with the published vocabularies; return their folders.

    They are wide enough for weights of 4 bits.
    """
    slm = GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=GPT2_TOKENS)
    llm = GPTJConfig(n_embd=64, n_layer=2, n_head=2, rotary_dim=8, vocab_size=GPTJ_TOKENS)
    for config, name in ((slm, "slm"), (llm, "llm")):
        config.save_pretrained(folder / name)
    return str(folder / "slm"), str(folder / "llm")


def save_random_model(source: str, texts: Sequence[str], settings: BaseSettings, folder: Path) -> str:
    """Write a model of random weights with its tokenizer to a folder, for processes that load it from there."""
    _, model = random_model(source, settings)
    model.save_pretrained(folder)
    filled_tokenizer(tuple(texts)).save_pretrained(folder)
    return str(folder)
