"""Loads a causal language model and refuses what transformers lets pass."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch

from mlecs_bench.doors.profile import BaseBits
from mlecs_bench.errors import UsageError, shortened
from mlecs_bench.models.sources import (
    check_files,
    prepends_bos,
    pretrained,
    stored_configuration,
    whole_tokenizer,
)


@dataclass(frozen=True)
class BaseSettings:
    """How a frozen base is held: on which device, in which dtype, quantised to how many bits, and whether its
    activations are recomputed in the backward pass.
    """

    torch_device: torch.device
    dtype: torch.dtype = torch.float32
    bits: BaseBits | None = None
    checkpointing: bool = False


QUANTISED = ("Linear8bitLt", "Linear4bit")
"""The layers of bitsandbytes. Linear layers of a family's own (Falcon) are passed over."""


def load_base(source: str, settings: BaseSettings) -> tuple[Any, Any]:
    """Return model (frozen, in evaluation mode, on its device) and tokenizer of a folder or hub id.

    Raises UsageError in one line. Attention is the architecture's fastest exact one (SDPA where it has one).
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the run has its own progress view
    if os.environ.get("TRANSFORMERS_VERBOSITY") == "error":
        logging.getLogger("bitsandbytes").setLevel(
            logging.ERROR
        )  # it warns of kernels that a run on a CPU does not use
    check_files(source)
    name, where = pretrained(source)
    config, placement = stored_configuration(source), _placement(source, settings)
    # A checkpoint may bring its own decoding (repetition penalty, sampling): greedy means greedy for all.
    greedy = GenerationConfig()
    with whole_tokenizer(source):
        tokenizer = AutoTokenizer.from_pretrained(name, **where)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            name,
            **where,
            **placement,
            config=config,
            dtype=settings.dtype,
            generation_config=greedy,
            output_loading_info=True,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # transformers may raise anything for a damaged folder
        first = shortened((str(error).strip().splitlines() or [type(error).__name__])[0])
        raise UsageError(f"cannot load a causal language model from '{source}': {first}") from error
    check_complete(source, report["missing_keys"])
    if settings.bits and not any(type(module).__name__ in QUANTISED for module in model.modules()):
        raise UsageError(
            f"'{source}' ({config.model_type}) has no layers that bitsandbytes quantises; leave --base-bits out"
        )
    check_tokenizer(source, tokenizer, config.get_text_config().vocab_size)
    model.generation_config = greedy
    at_rest(model.requires_grad_(False))
    return model if settings.bits else model.to(settings.torch_device), tokenizer


def at_rest(model: Any) -> None:
    """Put a model into evaluation mode, all but layers of 4 bits: on a CPU those would repack their weights into a
    layout through which no gradient passes. They hold no dropout, so the mode changes nothing else in them.
    """
    model.eval()
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.training = True


def _placement(source: str, settings: BaseSettings) -> dict[str, Any]:
    """Return the keywords that quantise the weights while they are loaded; a quantised model cannot be moved later."""
    if settings.bits is None:
        return {}
    import importlib.util

    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None or importlib.util.find_spec("accelerate") is None:
        raise UsageError(
            f"base-bits {settings.bits} for '{source}' needs bitsandbytes; run pip install 'mlecs-bench[quantised]', "
            "or leave --base-bits out"
        )
    config = (
        BitsAndBytesConfig(load_in_8bit=True)
        if settings.bits == 8
        else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=settings.dtype)
    )
    return {"quantization_config": config, "device_map": {"": settings.torch_device}}


def check_complete(source: str, missing: Collection[str]) -> None:
    """Raise UsageError for weights that transformers would draw at random."""
    if missing:
        raise UsageError(f"'{source}' lacks {len(missing)} weights, such as {min(missing)}; save the whole model")


def check_stored_tokenizer(source: str, vocab_size: int) -> None:
    """Raise UsageError unless the tokenizer at `source` can be loaded and serves a model of `vocab_size`."""
    from transformers import AutoTokenizer

    name, where = pretrained(source)
    with whole_tokenizer(source):
        tokenizer = AutoTokenizer.from_pretrained(name, **where)
    check_tokenizer(source, tokenizer, vocab_size)


def check_tokenizer(source: str, tokenizer: Any, vocab_size: int) -> None:
    """Raise UsageError for a tokenizer that transformers lets pass and that cannot serve a model of `vocab_size`."""
    with whole_tokenizer(source):
        _check_tokenizer(source, tokenizer, vocab_size)


def _check_tokenizer(source: str, tokenizer: Any, vocab_size: int) -> None:
    if tokenizer.eos_token_id is None:
        raise UsageError(f"the tokenizer of '{source}' has no end-of-sequence token; add eos_token to its config")
    if not tokenizer.is_fast:
        raise UsageError(f"the tokenizer of '{source}' has no character offsets; save a fast one (tokenizer.json)")
    if not tokenizer("Output:", add_special_tokens=False)["input_ids"]:  # an empty one, for a folder without any
        raise UsageError(f"'{source}' holds no usable tokenizer; save tokenizer.json beside the model")
    # Special tokens but these two never enter a model, so those that an unused pad or mask token adds do no harm.
    ids = [tokenizer.eos_token_id, *([tokenizer.bos_token_id] if prepends_bos(tokenizer) else [])]
    ids += [id_ for id_, token in tokenizer.added_tokens_decoder.items() if not token.special]
    n_tokens = max(tokenizer.vocab_size, *(id_ + 1 for id_ in ids))
    if n_tokens > vocab_size:
        raise UsageError(f"the tokenizer of '{source}' has {n_tokens} tokens, its model {vocab_size}; save its own")
