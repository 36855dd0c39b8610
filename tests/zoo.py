"""The zoo: tiny random checkpoints of the causal families of transformers, each with a small made-up tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

import toy
from mlecs_bench.seeds import torch_stream

IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
GEMMA = LLAMA_LIKE | {"head_dim": 8, "query_pre_attn_scalar": 8}
GPT2_LIKE = {"n_positions": 96, "n_embd": 32, "n_layer": 2, "n_head": 4}
OPT_LIKE = {
    **{"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    "max_position_embeddings": 96,
}
VISION = {
    **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"image_size": 8, "patch_size": 4, "vision_use_head": False},
}
FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "gpt2": ("gpt2", GPT2_LIKE),
        "gptj": ("gptj", GPT2_LIKE | {"rotary_dim": 4}),
        "gpt_neox": ("gpt_neox", LLAMA_LIKE),
        "gpt_neo": (
            "gpt_neo",
            {
                **{"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 96},
                **{"attention_types": [[["global", "local"], 1]], "window_size": 4},
            },
        ),
        "openai-gpt": ("openai-gpt", GPT2_LIKE),
        "gpt_bigcode": ("gpt_bigcode", GPT2_LIKE),
        "codegen": ("codegen", GPT2_LIKE | {"n_ctx": 96, "rotary_dim": 4}),
        "ctrl": ("ctrl", GPT2_LIKE | {"dff": 48}),
        "xlnet": ("xlnet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
        "opt": ("opt", OPT_LIKE | {"word_embed_proj_dim": 32}),
        "opt-350m": ("opt", OPT_LIKE | {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
        "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
        "mpt": ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 96}),
        "falcon": ("falcon", LLAMA_LIKE),
        "falcon-alibi": ("falcon", LLAMA_LIKE | {"alibi": True, "multi_query": False, "parallel_attn": False}),
        "llama": ("llama", LLAMA_LIKE),
        "mistral": ("mistral", LLAMA_LIKE | {"sliding_window": 8}),
        "mixtral": ("mixtral", LLAMA_LIKE | EXPERTS),
        "qwen2": ("qwen2", LLAMA_LIKE),
        "qwen2_moe": (
            "qwen2_moe",
            LLAMA_LIKE
            | {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
            | {"shared_expert_intermediate_size": 16},
        ),
        "qwen3": ("qwen3", LLAMA_LIKE | {"head_dim": 8}),
        "qwen3_moe": (
            "qwen3_moe",
            LLAMA_LIKE | {"head_dim": 8, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16},
        ),
        "gemma": ("gemma", LLAMA_LIKE | {"head_dim": 8}),
        "gemma2": ("gemma2", GEMMA | {"sliding_window": 8}),
        "gemma3_text": ("gemma3_text", GEMMA | {"sliding_window": 8}),
        "gemma3": (
            "gemma3",
            {
                "text_config": GEMMA | {"sliding_window": 8},
                "vision_config": VISION,
                "mm_tokens_per_image": 4,
                **{"boi_token_index": 1, "eoi_token_index": 2, "image_token_index": 3},
            },
        ),
        "phi": ("phi", LLAMA_LIKE),
        "phi3": ("phi3", LLAMA_LIKE),
        "smollm3": ("smollm3", LLAMA_LIKE),
        "stablelm": ("stablelm", LLAMA_LIKE),
        "olmo2": ("olmo2", LLAMA_LIKE),
        "granite": ("granite", LLAMA_LIKE),
        "cohere": ("cohere", LLAMA_LIKE),
        "cohere2": ("cohere2", LLAMA_LIKE | {"head_dim": 8, "sliding_window": 8}),
        "starcoder2": ("starcoder2", LLAMA_LIKE),
        "nemotron": ("nemotron", LLAMA_LIKE),
        "persimmon": ("persimmon", LLAMA_LIKE),
        "glm4": ("glm4", LLAMA_LIKE | {"head_dim": 8}),
        "gpt_oss": ("gpt_oss", LLAMA_LIKE | EXPERTS | {"head_dim": 8, "sliding_window": 8}),
        "lfm2": ("lfm2", LLAMA_LIKE | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8}),
        "mamba": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
        "mamba2": (
            "mamba2",
            {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "num_heads": 8, "head_dim": 8, "n_groups": 1},
        ),
        "rwkv": ("rwkv", {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2}),
    }
)
"""By name: the family's model_type and the sizes that make it tiny; the vocabulary is the tokenizer's."""


def save(name: str, folder: Path, **changes: Any) -> str:
    """Save a random checkpoint of a family with a tokenizer; `changes` are further fields of its configuration."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, sizes = FAMILIES[name]
    tokenizer = toy.byte_level_tokenizer(folder, 300)
    sizes = {**sizes, **changes}
    if "text_config" in sizes:
        sizes["text_config"] = {**sizes["text_config"], **IDS, "vocab_size": len(tokenizer)}
    else:
        sizes["vocab_size"] = len(tokenizer)
    config = AutoConfig.for_model(model_type, **IDS, **sizes)
    with torch_stream(11, "zoo", name):
        model = AutoModelForCausalLM.from_config(config)
        for path, parameter in model.named_parameters():
            if parameter.dim() >= 2 and not path.endswith("A_log"):  # wide, so that a random model heeds what it reads
                parameter.data.mul_(4)
    model.save_pretrained(folder)
    return str(folder)
