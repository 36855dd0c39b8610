"""The zoo: tiny random checkpoints of the causal families of transformers, each with a small made-up tokenizer."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

import toy
from mlecs_bench.data.samples import Samples
from mlecs_bench.doors.profile import LoraSettings, Profile
from mlecs_bench.errors import UsageError
from mlecs_bench.execution.counting import count_transmitted
from mlecs_bench.federation.build import build_federation
from mlecs_bench.models.backbone import Backbone
from mlecs_bench.models.loading import BaseSettings
from mlecs_bench.models.outline import BackboneOutline, BackboneShape, backbone_shape
from mlecs_bench.seeds import torch_stream
from mlecs_bench.testing import toy as made

IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
LLAMA_LIKE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
GEMMA = LLAMA_LIKE | {"head_dim": 16, "query_pre_attn_scalar": 16}
GPT2_LIKE = {"n_positions": 96, "n_embd": 64, "n_layer": 2, "n_head": 4}
OPT_LIKE = {
    **{"hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4},
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
                **{"hidden_size": 64, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 96},
                **{"attention_types": [[["global", "local"], 1]], "window_size": 4},
            },
        ),
        "openai-gpt": ("openai-gpt", GPT2_LIKE),
        "gpt_bigcode": ("gpt_bigcode", GPT2_LIKE),
        "codegen": ("codegen", GPT2_LIKE | {"n_ctx": 96, "rotary_dim": 4}),
        "ctrl": ("ctrl", GPT2_LIKE | {"dff": 96}),
        "xlnet": ("xlnet", {"d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 96}),
        "opt": ("opt", OPT_LIKE | {"word_embed_proj_dim": 64}),
        "opt-350m": ("opt", OPT_LIKE | {"word_embed_proj_dim": 32, "do_layer_norm_before": False}),
        "bloom": ("bloom", {"hidden_size": 64, "n_layer": 2, "n_head": 4}),
        "mpt": ("mpt", {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 96}),
        "falcon": ("falcon", LLAMA_LIKE),
        "falcon-alibi": ("falcon", LLAMA_LIKE | {"alibi": True, "multi_query": False, "parallel_attn": False}),
        "llama": ("llama", LLAMA_LIKE),
        "mistral": ("mistral", LLAMA_LIKE | {"sliding_window": 8}),
        "mixtral": ("mixtral", LLAMA_LIKE | EXPERTS),
        "qwen2": ("qwen2", LLAMA_LIKE),
        "qwen2_moe": (
            "qwen2_moe",
            LLAMA_LIKE
            | {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
            | {"shared_expert_intermediate_size": 32},
        ),
        "qwen3": ("qwen3", LLAMA_LIKE | {"head_dim": 16}),
        "qwen3_moe": (
            "qwen3_moe",
            LLAMA_LIKE | {"head_dim": 16, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32},
        ),
        "gemma": ("gemma", LLAMA_LIKE | {"head_dim": 16}),
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
        "cohere2": ("cohere2", LLAMA_LIKE | {"head_dim": 16, "sliding_window": 8}),
        "starcoder2": ("starcoder2", LLAMA_LIKE),
        "nemotron": ("nemotron", LLAMA_LIKE),
        "persimmon": ("persimmon", LLAMA_LIKE),
        "glm4": ("glm4", LLAMA_LIKE | {"head_dim": 16}),
        "gpt_oss": ("gpt_oss", LLAMA_LIKE | EXPERTS | {"head_dim": 16, "sliding_window": 8}),
        "lfm2": ("lfm2", LLAMA_LIKE | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8}),
        "mamba": ("mamba", {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 4}),
        "mamba2": (
            "mamba2",
            {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 4, "num_heads": 8, "head_dim": 16, "n_groups": 1},
        ),
        "rwkv": ("rwkv", {"hidden_size": 64, "attention_hidden_size": 64, "num_hidden_layers": 2}),
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
                parameter.data.mul_(3)
    model.save_pretrained(folder)
    return str(folder)


REFUSED = ("xlnet",)
"""Members that no run can use."""
CPU = torch.device("cpu")
NEAR = 1e-4
"""Largest difference, relative to the largest logit, of what float32 computes in two orders."""
LOGITS, ANSWER = 7, 6


@dataclass(frozen=True)
class Finding:
    """What was found of one family: `refusal` says why none of the rest was tried."""

    name: str
    family: str
    targets: str = ""
    cache: bool = False
    bits: tuple[int, ...] = ()
    refusal: str = ""


def examine(name: str, folder: Path) -> Finding:
    """Return what a family can do, after asserting what every family must that is not refused before anything runs.

    That is: the outline names the modules of the loaded model; no position sees what follows; a batch is its rows; an
    answer is that of the greedy loop without a cache; checkpointing changes no bit; 16 bits are near 32.
    """
    source = save(name, folder)
    refusal = refused(lambda: backbone_shape(source, None))
    if refusal:
        return Finding(name, FAMILIES[name][0], refusal=refusal.partition(": ")[2].partition(";")[0])
    shape, backbone = backbone_shape(source, None), adapted(source)
    assert_outlined(source, shape, backbone)
    assert_reads_in_order(backbone)
    assert_decodes(backbone)
    assert_same_tensors(gradients(backbone), gradients(adapted(source, checkpointing=True)))
    assert_16_bits_are_near(source)
    targets = ", ".join(dict.fromkeys(module.rpartition(".")[2] for module in shape.adapted))
    return Finding(name, shape.model_type, targets, backbone._decodes_embeddings)


def refused(attempt: Callable[[], object]) -> str:
    """Return in which line an attempt is refused, "" where it is not."""
    line = ""
    try:
        attempt()
    except UsageError as error:
        line = str(error)
    assert "\n" not in line
    return line


def adapted(source: str, **settings: Any) -> Backbone:
    """Return a backbone with an adapter that acts, active in evaluation mode."""
    backbone = Backbone(source, BaseSettings(CPU, **settings))
    backbone.add_adapter("d00", LoraSettings(rank=2, dropout=0.1), 3, "device")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in sorted(backbone.adapter("d00").items()):
            if key.endswith("lora_B"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    backbone.activate(("d00",), training=False)
    return backbone


def inputs_of(backbone: Backbone) -> torch.Tensor:
    """Return three rows of random inputs."""
    return torch.randn(3, LOGITS, backbone.hidden_size, generator=torch.Generator().manual_seed(1)) / 2


def assert_outlined(source: str, shape: BackboneShape, backbone: Backbone) -> None:
    """Count what is sent without weights as with them; every layer has an adapter."""
    outline = BackboneOutline(source)
    outline.add_adapter("d00", LoraSettings(rank=2), 3, "device")
    ours, theirs = ({k: tuple(t.shape) for k, t in b.adapter("d00").items()} for b in (backbone, outline))
    assert ours == theirs
    for size in ("n_parameters", "hidden_size", "vocab_size", "max_positions", "model_type"):
        assert getattr(backbone, size) == getattr(outline, size) == getattr(shape, size), size
    layers = {match[0] for key in ours if (match := re.search(r"\.\d+\.", key))}
    assert layers == {f".{k}." for k in range(shape.n_layers)}


@torch.no_grad()
def assert_reads_in_order(backbone: Backbone) -> None:
    """No position sees what follows it, and a batch is its rows."""
    embeds = inputs_of(backbone)
    kept = embeds.clone()
    whole = backbone.logits(embeds, keep=LOGITS)
    assert torch.equal(embeds, kept), "inputs are not changed"
    near = NEAR * float(whole.abs().max())
    changed = torch.cat([embeds[:, :-2], -embeds[:, -2:]], dim=1)
    torch.testing.assert_close(backbone.logits(changed, LOGITS)[:, :-2], whole[:, :-2], rtol=0, atol=near)
    rows = torch.cat([backbone.logits(row[None], keep=LOGITS) for row in embeds])
    torch.testing.assert_close(rows, whole, rtol=0, atol=near)
    torch.testing.assert_close(backbone.logits(embeds, keep=2), whole[:, -2:], rtol=0, atol=near)


@torch.no_grad()
def assert_decodes(backbone: Backbone) -> None:
    """Answers are those of a full forward pass per token, for a batch and for each of its rows."""
    embeds = inputs_of(backbone)
    ids = backbone._uncached(embeds, ANSWER)
    texts = [text.strip() for text in backbone.tokenizer.batch_decode(ids, skip_special_tokens=True)]
    assert len({tuple(row) for row in ids.tolist()}) > 1, "the model must heed what it reads"
    assert backbone.generate(embeds, ANSWER) == texts
    assert [backbone.generate(row[None], ANSWER)[0] for row in embeds] == texts


def gradients(backbone: Backbone) -> dict[str, torch.Tensor]:
    """Return logits in training and the gradients of the adapter, every one of which must be there."""
    backbone.activate(("d00",), training=True)
    parameters = backbone.adapter("d00")
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    with torch_stream(5, "zoo", "dropout"):
        logits = backbone.logits(inputs_of(backbone), keep=4)
        found = torch.autograd.grad(logits.square().mean(), list(parameters.values()))
    return {"logits": logits.detach(), **dict(zip(parameters, found, strict=True))}


def assert_same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Equal names and equal values, bit for bit."""
    assert one.keys() == other.keys()
    assert not [key for key, tensor in one.items() if not torch.equal(tensor, other[key])]
    assert all(bool(tensor.any()) for tensor in one.values()), "nothing that is trained has a gradient of zero"


def assert_16_bits_are_near(source: str) -> None:
    """In bfloat16 the logits are near those of float32 with the same rounded weights, and gradients are finite."""
    half, whole = adapted(source, dtype=torch.bfloat16), adapted(source)
    for parameter in whole._base.parameters():
        parameter.data = parameter.data.bfloat16().float()
    with torch.no_grad():
        ours, theirs = (backbone.logits(inputs_of(half), keep=LOGITS) for backbone in (half, whole))
    assert (ours - theirs).square().mean() < 0.3**2 * theirs.square().mean()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in gradients(half).values())


def quantises(source: str, bits: int) -> bool:
    """Say whether a family trains with a base of so few bits; one that does not is refused in one line."""
    if refused(lambda: adapted(source, bits=bits)):
        return False
    found = gradients(adapted(source, bits=bits))
    return all(bool(torch.isfinite(tensor).all()) for tensor in found.values())


def run_round(source: str, profile: Profile, samples: Samples) -> None:
    """Run a round of ML-ECS with a family as SLM and as LLM; what is sent is what is counted without weights."""
    own = dataclasses.replace(profile, slm=source, llm=source)
    needs = toy.needs_of("ml-ecs")
    plan = toy.toy_plan(own, needs, n_devices=2, rounds=1, steps=1)
    federation = build_federation(plan, 27, samples, made.registry())
    before = toy.state_of(federation)
    outcome = toy.run_toy("ml-ecs", federation, samples, evaluator=toy.Unscored())
    after = toy.state_of(federation)
    assert toy.differing(before, after)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in after.values())
    counted = count_transmitted(plan, made.registry(), samples)
    assert outcome.comm == {name: value for name, value in counted.items() if name != "ranks"}
    device = federation.devices[0]
    assert len(device.model.generate(device.test.batch(device.test.rows[:2]), device.prompt, 2)) == 2
