"""From a CTranslate2 `model.bin` that holds a Whisper to a folder that transformers (and the audio tower) loads.

The format, little-endian: its version; name and revision of the specification; variables, each a name, a shape, a type
and its bytes; and aliases, names that stand for another variable. A name is its length and its bytes, the last zero.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from mlecs_bench.models.importing.conversion import UNREADABLE, Conversion, unreadable

TYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
"""The types of variables, by their number in a file."""
VERSION = 6
WHISPER = "WhisperSpec"
GELU = 3
"""The number of the activation that every Whisper has."""
CONVOLUTIONS = ("encoder/conv1", "encoder/conv2")


@dataclass(frozen=True)
class Variables:
    """The variables of a `model.bin` as they are stored, aliases among them, and the name of its specification."""

    specification: str
    values: Mapping[str, Tensor]

    def weight(self, name: str) -> Tensor:
        """Return a variable in float32; a quantised one is divided by its scale, one per row or one for all."""
        value = self.values[name]
        if value.dtype not in (torch.int8, torch.int16):
            return value.float()
        scale = self.values[f"{name}_scale"].float()
        return value.float() / (scale.unsqueeze(1) if scale.dim() else scale)

    def number(self, name: str) -> int:
        """Return a variable without axes."""
        return int(self.values[name])


def read_variables(path: Path) -> Variables:
    """Read a file; raises ValueError for one that is not of this format."""
    with path.open("rb") as stream:
        version = _number(stream, "I")
        if version != VERSION:
            raise ValueError(f"its version is {version}, this reads {VERSION}")
        specification = _text(stream)
        _number(stream, "I")  # the specification's revision: weights are looked up by name
        values = dict(_variable(stream) for _ in range(_number(stream, "I")))
        aliases = [(_text(stream), _text(stream)) for _ in range(_number(stream, "I"))]
        if stream.read(1):
            raise ValueError("there is more behind its end")
    return Variables(specification, values | {alias: values[name] for alias, name in aliases})


def _variable(stream: IO[bytes]) -> tuple[str, Tensor]:
    name = _text(stream)
    shape = [_number(stream, "I") for _ in range(_number(stream, "B"))]
    kind = _number(stream, "B")
    if kind >= len(TYPES):
        raise ValueError(f"{name} is of an unknown type {kind}")
    data = _exactly(stream, _number(stream, "I"))
    return name, torch.frombuffer(bytearray(data), dtype=TYPES[kind]).reshape(shape)


def _text(stream: IO[bytes]) -> str:
    return _exactly(stream, _number(stream, "H"))[:-1].decode("utf-8")


def _number(stream: IO[bytes], form: str) -> int:
    (value,) = struct.unpack(f"<{form}", _exactly(stream, struct.calcsize(f"<{form}")))
    return int(value)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise ValueError("it ends too early")
    return data


def convert_whisper(path: Path, target: Path) -> Conversion:
    """Write the Whisper in `path` to the folder `target`, in float32, with the preprocessing of sound.

    Raises UsageError, in one line, for a file that cannot be read or holds another model.
    """
    from transformers import WhisperFeatureExtractor
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        variables = read_variables(path)
        model = _whisper(variables)
    except UNREADABLE as error:
        raise unreadable(path, "a Whisper of CTranslate2", error) from error
    model.save_pretrained(target)
    WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).save_pretrained(target)
    stored = sorted({str(value.dtype).removeprefix("torch.") for value in variables.values.values() if value.dim() > 1})
    return Conversion(
        name="Whisper",
        licence="",
        architecture="whisper",
        n_parameters=sum(p.numel() for p in model.parameters()),
        quantisation=", ".join(stored),
        bos=None,
        done=(
            "weights turned to float32 and put under the names of transformers",
            "preprocessing of sound as Whisper was published with; no tokenizer, the audio tower needs none",
        ),
        packages=("transformers", "torch"),
    )


def _whisper(variables: Variables) -> Any:
    """Return the model with the weights of a file; raises ValueError or KeyError for one that is no Whisper."""
    from transformers import WhisperForConditionalGeneration

    if variables.specification != WHISPER:
        raise ValueError(f"it holds a {variables.specification}")
    if "decoder/activation" in variables.values and variables.number("decoder/activation") != GELU:
        raise ValueError("its activation is not that of Whisper")
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(_config(variables))
    weights = dict(_weights(variables))
    weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"]
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    return model


def _config(variables: Variables) -> Any:
    from transformers import WhisperConfig

    values = variables.values
    n_vocabulary, width = values["decoder/embeddings/weight"].shape
    return WhisperConfig(
        vocab_size=n_vocabulary,
        d_model=width,
        num_mel_bins=values["encoder/conv1/weight"].shape[1],
        encoder_layers=_layers(values, "encoder"),
        decoder_layers=_layers(values, "decoder"),
        encoder_attention_heads=variables.number("encoder/num_heads"),
        decoder_attention_heads=variables.number("decoder/num_heads"),
        encoder_ffn_dim=values["encoder/layer_0/ffn/linear_0/weight"].shape[0],
        decoder_ffn_dim=values["decoder/layer_0/ffn/linear_0/weight"].shape[0],
        max_source_positions=values["encoder/position_encodings/encodings"].shape[0],
        max_target_positions=values["decoder/position_encodings/encodings"].shape[0],
        # Ids of special tokens depend on the vocabulary, which this file does not hold.
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")),
    )


def _layers(values: Mapping[str, Tensor], side: str) -> int:
    prefix = f"{side}/layer_"
    numbers = {name.removeprefix(prefix).partition("/")[0] for name in values if name.startswith(prefix)}
    return sum(number.isdigit() for number in numbers)


def _weights(variables: Variables) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of encoder and decoder under the names of transformers."""
    for side in ("encoder", "decoder"):
        ours = f"model.{side}"
        yield f"{ours}.embed_positions.weight", variables.weight(f"{side}/position_encodings/encodings")
        yield from _norm(variables, f"{side}/layer_norm", f"{ours}.layer_norm")
        for k in range(_layers(variables.values, side)):
            yield from _layer(variables, f"{side}/layer_{k}", f"{ours}.layers.{k}", crossed=side == "decoder")
    yield "model.decoder.embed_tokens.weight", variables.weight("decoder/embeddings/weight")
    for theirs in CONVOLUTIONS:
        yield from _affine(variables, theirs, f"model.{theirs.replace('/', '.')}")


def _layer(variables: Variables, theirs: str, ours: str, *, crossed: bool) -> Iterator[tuple[str, Tensor]]:
    yield from _fused(variables, f"{theirs}/self_attention/linear_0", f"{ours}.self_attn", ("q", "k", "v"))
    yield from _affine(variables, f"{theirs}/self_attention/linear_1", f"{ours}.self_attn.out_proj")
    yield from _norm(variables, f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
    if crossed:
        yield from _fused(variables, f"{theirs}/attention/linear_0", f"{ours}.encoder_attn", ("q",))
        yield from _fused(variables, f"{theirs}/attention/linear_1", f"{ours}.encoder_attn", ("k", "v"))
        yield from _affine(variables, f"{theirs}/attention/linear_2", f"{ours}.encoder_attn.out_proj")
        yield from _norm(variables, f"{theirs}/attention/layer_norm", f"{ours}.encoder_attn_layer_norm")
    yield from _affine(variables, f"{theirs}/ffn/linear_0", f"{ours}.fc1")
    yield from _affine(variables, f"{theirs}/ffn/linear_1", f"{ours}.fc2")
    yield from _norm(variables, f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")


def _fused(variables: Variables, theirs: str, ours: str, heads: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    """Yield the projections that stand under each other in one matrix; that of the keys has no bias in Whisper."""
    weights = variables.weight(f"{theirs}/weight").chunk(len(heads))
    biases = variables.weight(f"{theirs}/bias").chunk(len(heads))
    for head, weight, bias in zip(heads, weights, biases, strict=True):
        yield f"{ours}.{head}_proj.weight", weight.contiguous()
        if head != "k":
            yield f"{ours}.{head}_proj.bias", bias.contiguous()


def _affine(variables: Variables, theirs: str, ours: str) -> Iterator[tuple[str, Tensor]]:
    for name in ("weight", "bias"):
        yield f"{ours}.{name}", variables.weight(f"{theirs}/{name}")


def _norm(variables: Variables, theirs: str, ours: str) -> Iterator[tuple[str, Tensor]]:
    for name, other in (("weight", "gamma"), ("bias", "beta")):
        yield f"{ours}.{name}", variables.weight(f"{theirs}/{other}")
