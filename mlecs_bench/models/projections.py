"""Which modules of a language model get LoRA adapters: one table by family, and one function that reads it.

The function looks at modules, not at weights, so it gives the same answer for an outline on the meta device, a loaded
model and a quantised one. Runs, `comm`, memory estimates and structure checks all ask it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mlecs_bench.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

Widths = tuple[int, int]
"""(in, out) of a linear layer."""

GPT2 = ("c_attn", "c_proj")
FUSED = ("query_key_value", "dense", "dense_4h_to_h")
SEPARATE = ("q_proj", "k_proj", "v_proj", "out_proj")
LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")
LORA_TARGETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("gpt2", "gpt_bigcode", "openai-gpt"), GPT2),
        **dict.fromkeys(("bloom", "falcon", "gpt_neox", "persimmon"), FUSED),
        "gptj": (*SEPARATE, "fc_out"),
        "gpt_neo": (*SEPARATE, "c_proj"),
        "opt": (*SEPARATE, "fc2"),
        "codegen": ("qkv_proj", "out_proj", "fc_out"),
        "ctrl": ("Wq", "Wk", "Wv", "dense", "ffn.2"),
        "mpt": ("Wqkv", "out_proj", "down_proj"),
        **dict.fromkeys(("llama", "mistral", "smollm3", "stablelm", "olmo2", "granite", "nemotron"), LLAMA),
        **dict.fromkeys(("qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), LLAMA),
        **dict.fromkeys(("cohere", "cohere2", "glm4"), LLAMA),
        # Of mixtures of experts the experts stay as they are: their weights are no linear layers. One that all tokens
        # pass (Qwen2-MoE) and layers without experts (Qwen3-MoE) are adapted as elsewhere.
        **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss"), LLAMA),
        "phi": ("q_proj", "k_proj", "v_proj", "dense", "fc2"),
        "phi3": ("qkv_proj", "o_proj", "down_proj"),
        "starcoder2": ("q_proj", "k_proj", "v_proj", "o_proj", "c_proj"),
        # Where there is no attention, what takes its place; PEFT adapts no projection out of a Mamba.
        "lfm2": (*SEPARATE, "in_proj", "w2"),
        "mamba": ("in_proj", "x_proj"),
        "mamba2": ("in_proj",),
    }
)
"""Adapted projections by family (`model_type` of the text model), as the endings of the modules' names that PEFT takes:
query, key, value and output of attention and the one out of the MLP, which is what {c_attn, c_proj} means on GPT-2."""
SETTLED = ("gpt2", "gptj", "llama", "gemma3_text")
"""Families whose targets have always been these: identities of records do not name them."""
ALL_LINEAR = "all-linear"
"""What a user may name instead of endings: every linear layer but the output's, as in PEFT."""
NOT_CAUSAL: Mapping[str, str] = MappingProxyType(
    {"xlnet": "it reads a text in both directions, so a token would see the answer that it has to predict"}
)
"""Families of transformers' causal language models that are none, and why."""


def borrowed_targets(family: str) -> str | tuple[str, ...] | None:
    """Return PEFT's own targets (endings, or a pattern) of a family that `LORA_TARGETS` lacks; None for no such."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    found = KNOWN.get(family)
    return found if found is None or isinstance(found, str) else tuple(found)


def family_of(config: Any) -> str:
    """Return the `model_type` of a configuration's text model, which in a multimodal one has a name of its own."""
    return str(config.get_text_config().model_type)


def linear_modules(model: nn.Module) -> dict[str, Widths]:
    """Return the linear layers of a model's language part but its output, with their widths, by name.

    Subclasses count (Falcon has one of its own, bitsandbytes others), and so does GPT-2's Conv1D. Towers that read
    pictures or sound are no part of the language model.
    """
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    causal: Any = model
    inside, head = set(causal.get_decoder().modules()), causal.get_output_embeddings()
    return {
        name: _widths(module)
        for name, module in model.named_modules()
        if isinstance(module, Linear | Conv1D) and module in inside and module is not head
    }


def adapted_modules(
    family: str, linear: Mapping[str, Widths], chosen: Sequence[str] | None, source: str
) -> dict[str, Widths]:
    """Return the modules that LoRA adapts, with their widths, in the model's order.

    `linear` are the model's `linear_modules`; `chosen` are endings that the user names, None for the family's own.
    Raises UsageError, in one line about `source`, for a family that nobody knows and for an ending that names nothing.
    """
    targets = tuple(chosen) if chosen else LORA_TARGETS.get(family) or borrowed_targets(family)
    if targets is None:
        raise UsageError(
            f"'{source}' is of the family '{family}', for which neither mlecs-bench nor PEFT knows what LoRA adapts; "
            f"name the ends of its modules' names with --set lora.targets=..., such as {_endings(linear)}"
        )
    if targets == (ALL_LINEAR,):
        return dict(linear)
    named = {name: widths for name, widths in linear.items() if _is_named(name, targets)}
    lacking = [target for target in chosen or () if not any(_is_named(name, (target,)) for name in linear)]
    if lacking or not named:
        raise UsageError(
            f"lora.targets names {', '.join(lacking) or targets}, and no linear layer of '{source}' is called so; it "
            f"has {_endings(linear)}"
        )
    return named


def _is_named(name: str, targets: str | Sequence[str]) -> bool:
    """Say whether PEFT's `targets`, endings of whole names or a pattern, name a module."""
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _endings(linear: Mapping[str, Widths]) -> str:
    return ",".join(dict.fromkeys(name.rpartition(".")[2] for name in linear)) or "none"


def _widths(module: Any) -> Widths:
    """Return (in, out) of a linear layer, quantised or not; GPT-2's Conv1D stores its weight transposed."""
    if hasattr(module, "in_features"):
        return int(module.in_features), int(module.out_features)
    n_in, n_out = module.weight.shape
    return int(n_in), int(n_out)
