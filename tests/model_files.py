"""Model files as strangers publish them, written by hand: GGUF, CTranslate2, and wheels around them."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

TYPE_NUMBERS = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}


def write_gguf(
    path: Path, folder: Path, *, add_bos: bool = False, licence: str = "mit", quantise: bool = False
) -> Path:
    """Write the tiny Llama in `folder` as GGUF; with `quantise` the embeddings are in Q8_0."""
    import gguf
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    config, tokenizer = model.config, json.loads((folder / "tokenizer.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    if licence:
        writer.add_license(licence)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    pieces = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(pieces)
    writer.add_token_types([3 if piece == "<eos>" else 1 for piece in pieces])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(add_bos)
    for name, tensor in _gguf_tensors(model):
        if quantise and name == "token_embd.weight":
            packed = gguf.quants.quantize(tensor, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_tensors(model: Any):
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    outside = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for key, tensor in model.state_dict().items():
        values = tensor.numpy().astype(np.float32)
        module = key.removesuffix(".weight")
        if module in outside:
            yield f"{outside[module]}.weight", values
            continue
        _, _, k, part = module.split(".", 3)
        if part in ("self_attn.q_proj", "self_attn.k_proj"):  # llama.cpp rotates neighbours, transformers halves
            heads = model.config.num_attention_heads
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        yield f"blk.{k}.{parts[part]}.weight", np.ascontiguousarray(values)


def write_ctranslate2(
    path: Path,
    variables: Mapping[str, np.ndarray],
    *,
    specification: str = "WhisperSpec",
    aliases: Mapping[str, str] | None = None,
    version: int = 6,
    tail: bytes = b"",
) -> Path:
    """Write variables in the format of CTranslate2."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    out = struct.pack("<I", version) + text(specification) + struct.pack("<II", 3, len(variables))
    for name, value in sorted(variables.items()):
        out += text(name) + struct.pack("<B", value.ndim) + struct.pack(f"<{value.ndim}I", *value.shape)
        out += struct.pack("<BI", TYPE_NUMBERS[str(value.dtype)], value.nbytes) + value.tobytes()
    aliases = aliases or {}
    out += struct.pack("<I", len(aliases)) + b"".join(text(a) + text(b) for a, b in aliases.items())
    path.write_bytes(out + tail)
    return path


def whisper_variables(model: Any) -> dict[str, np.ndarray]:
    """Return the weights of a Whisper of transformers under the names of CTranslate2, projections side by side."""
    state = {key: tensor.detach().numpy() for key, tensor in model.state_dict().items()}
    found: dict[str, np.ndarray] = {
        "decoder/activation": np.int8(3),
        "decoder/embeddings/weight": state["model.decoder.embed_tokens.weight"],
    }
    for conv in ("conv1", "conv2"):
        found |= {f"encoder/{conv}/{name}": state[f"model.encoder.{conv}.{name}"] for name in ("weight", "bias")}

    def fuse(theirs: str, ours: str, heads: str) -> None:
        weights = [state[f"{ours}.{h}_proj.weight"] for h in heads]
        biases = [state.get(f"{ours}.{h}_proj.bias", np.zeros(len(weights[0]), np.float32)) for h in heads]
        found[f"{theirs}/weight"], found[f"{theirs}/bias"] = np.concatenate(weights), np.concatenate(biases)

    def copy(theirs: str, ours: str, *, norm: bool = False) -> None:
        for name, other in (("weight", "gamma"), ("bias", "beta")):
            found[f"{theirs}/{other if norm else name}"] = state[f"{ours}.{name}"]

    for side, layers in (("encoder", model.config.encoder_layers), ("decoder", model.config.decoder_layers)):
        found[f"{side}/num_heads"] = np.int16(getattr(model.config, f"{side}_attention_heads"))
        found[f"{side}/position_encodings/encodings"] = state[f"model.{side}.embed_positions.weight"]
        copy(f"{side}/layer_norm", f"model.{side}.layer_norm", norm=True)
        for k in range(layers):
            theirs, ours = f"{side}/layer_{k}", f"model.{side}.layers.{k}"
            fuse(f"{theirs}/self_attention/linear_0", f"{ours}.self_attn", "qkv")
            copy(f"{theirs}/self_attention/linear_1", f"{ours}.self_attn.out_proj")
            copy(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm", norm=True)
            if side == "decoder":
                fuse(f"{theirs}/attention/linear_0", f"{ours}.encoder_attn", "q")
                fuse(f"{theirs}/attention/linear_1", f"{ours}.encoder_attn", "kv")
                copy(f"{theirs}/attention/linear_2", f"{ours}.encoder_attn.out_proj")
                copy(f"{theirs}/attention/layer_norm", f"{ours}.encoder_attn_layer_norm", norm=True)
            copy(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
            copy(f"{theirs}/ffn/linear_1", f"{ours}.fc2")
            copy(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm", norm=True)
    return found


def tiny_whisper(positions: int = 8) -> Any:
    """Return a random Whisper of two and one layers."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    from mlecs_bench.seeds import torch_stream

    config = WhisperConfig(
        vocab_size=20, num_mel_bins=80, d_model=8, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=12, decoder_ffn_dim=12, max_source_positions=positions,
        max_target_positions=6, pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=1,
    )  # fmt: skip  # sizes
    with torch_stream(1, "tiny whisper"):
        model = WhisperForConditionalGeneration(config).eval()
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data.add_(torch.randn(parameter.shape) * 0.1)
    return model


def write_wheel(path: Path, members: Mapping[str, bytes], *, name: str = "tiny-model", **fields: str) -> Path:
    """Write a wheel whose package would make itself heard if anything imported it."""
    package = name.replace("-", "_")
    metadata = {"Metadata-Version": "2.1", "Name": name, "Version": "1.0", **fields}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{package}/__init__.py", "raise SystemExit('a package of strangers was imported')")
        archive.writestr(f"{package}-1.0.dist-info/METADATA", "".join(f"{k}: {v}\n" for k, v in metadata.items()))
        for member, data in members.items():
            archive.writestr(f"{package}/{member}", data)
    return path
