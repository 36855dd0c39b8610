"""What is known of a language model from its configuration alone: shapes, sizes, and a stand-in without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from mlecs_bench.doors.profile import LoraSettings
from mlecs_bench.errors import PluginError, UsageError
from mlecs_bench.models.sources import configuration

LORA_TARGETS: dict[str, tuple[str, ...]] = {
    "gpt2": ("c_attn", "c_proj"),
    "gptj": ("q_proj", "k_proj", "v_proj", "out_proj", "fc_out"),
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj"),
    "gemma3_text": ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj"),
}
"""Adapted projections by architecture: those of attention and the one out of the MLP, as {c_attn, c_proj} on GPT-2."""


def targets_of(model_type: str, chosen: Sequence[str] | None) -> tuple[str, ...]:
    """Return the endings of the adapted modules' names; empty for an architecture without a list: all linear layers."""
    return tuple(chosen or LORA_TARGETS.get(model_type, ()))


@dataclass(frozen=True)
class BackboneShape:
    """The sizes of a language model: H, vocabulary V, positions, layers, attention heads, parameters.

    `adapted` are the modules that LoRA adapts, with their widths (in, out), by name; `quantised` is the number of
    parameters in linear layers, which is what quantisation shrinks.
    """

    model_type: str
    hidden_size: int
    vocab_size: int
    max_positions: int
    n_layers: int
    n_heads: int
    n_parameters: int
    quantised: int
    adapted: Mapping[str, tuple[int, int]]


@lru_cache(maxsize=32)
def backbone_shape(source: str, targets: tuple[str, ...] | None) -> BackboneShape:
    """Return the shape of the backbone at `source` from its configuration alone; no weights are read."""
    from transformers import AutoModelForCausalLM

    config = configuration(source)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"'{source}' is no causal language model: {first}") from error
    endings = targets_of(config.model_type, targets)
    head = model.get_output_embeddings()
    linear = {n: m for n, m in model.named_modules() if _is_linear(m) and m is not head}
    return BackboneShape(
        model_type=config.model_type,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_parameters=sum(p.numel() for p in model.parameters()),
        quantised=sum(m.weight.numel() for m in linear.values()),
        adapted={n: _widths(m) for n, m in linear.items() if not endings or n.rsplit(".", 1)[-1] in endings},
    )


def _is_linear(module: Any) -> bool:
    return getattr(module, "weight", None) is not None and type(module).__name__ in ("Linear", "Conv1D")


def _widths(module: Any) -> tuple[int, int]:
    """Return (in, out); GPT-2's Conv1D stores its weight transposed."""
    one, other = module.weight.shape
    return (one, other) if type(module).__name__ == "Conv1D" else (other, one)


class BackboneOutline:
    """A backbone without weights: its adapters have the names and shapes of the real ones, on the meta device.

    It can be adapted, sent and received, which is all that counting what an algorithm transmits needs; it can compute
    nothing.
    """

    def __init__(self, source: str) -> None:
        shape = backbone_shape(source, None)
        self.source = source
        self.torch_device = torch.device("meta")
        self.model_type = shape.model_type
        self.hidden_size = shape.hidden_size
        self.vocab_size = shape.vocab_size
        self.max_positions = shape.max_positions
        self.n_parameters = shape.n_parameters
        self._adapters: dict[str, dict[str, nn.Parameter]] = {}

    def add_adapter(self, name: str, settings: LoraSettings, seed: int, role: str) -> None:
        """Add a LoRA adapter of the settings' rank; seed and role decide values, and there are none."""
        tensors = {}
        for module, (n_in, n_out) in backbone_shape(self.source, settings.targets).adapted.items():
            tensors[f"{module}.lora_A"] = self._parameter(settings.rank, n_in)
            tensors[f"{module}.lora_B"] = self._parameter(n_out, settings.rank)
        self._adapters[name] = tensors

    def _parameter(self, rows: int, columns: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(rows, columns, device=self.torch_device), requires_grad=False)

    def adapter(self, name: str) -> dict[str, nn.Parameter]:
        """Return φ of one adapter: module path and lora_A or lora_B → parameter."""
        return dict(self._adapters[name])

    def adapter_settings(self, name: str) -> dict[str, Any]:
        """Raise PluginError."""
        raise self._cannot()

    def activate(self, names: Sequence[str], training: bool) -> None:
        """Do nothing: no adapter ever acts."""

    def tokenizer(self, *texts: Any, **settings: Any) -> Any:
        """Raise PluginError."""
        raise self._cannot()

    def embed(self, ids: Int64[Tensor, "*batch"]) -> Float[Tensor, "*batch H"]:
        """Raise PluginError."""
        raise self._cannot()

    def logits(self, embeds: Float[Tensor, "b S H"], keep: int) -> Float32[Tensor, "b {keep} V"]:
        """Raise PluginError."""
        raise self._cannot()

    def generate(self, embeds: Float[Tensor, "b S H"], max_new_tokens: int) -> list[str]:
        """Raise PluginError."""
        raise self._cannot()

    def _cannot(self) -> PluginError:
        return PluginError(
            f"what the algorithm sends depends on answers of '{self.source}', and here are only shapes; run it and "
            "read the comm block of its record"
        )
