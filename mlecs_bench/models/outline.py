"""What is known of a language model from its configuration alone: shapes, sizes, and a stand-in without weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from mlecs_bench.doors.profile import LoraSettings
from mlecs_bench.errors import PluginError, UsageError
from mlecs_bench.models.projections import LORA_TARGETS, NOT_CAUSAL, Widths, adapted_modules, family_of, linear_modules
from mlecs_bench.models.sources import configuration, first_line


@dataclass(frozen=True)
class LanguageSizes:
    """What a run asks of a language model, of its text part alone where it also reads pictures or sound.

    `hidden_size` is H, the width of its inputs; that of the layers may be another. `max_positions` is None where texts
    may be of any length.
    """

    model_type: str
    hidden_size: int
    vocab_size: int
    max_positions: int | None
    n_parameters: int

    @classmethod
    def of(cls, model: Any) -> LanguageSizes:
        """Return the sizes of a model of transformers, loaded or on the meta device."""
        text = model.config.get_text_config()
        positions = next((n for name in POSITIONS if (n := getattr(text, name, None))), None)
        parts = [part for part in (model.get_decoder(), model.get_output_embeddings()) if part is not None]
        parameters = {id(p): p.numel() for part in parts for p in part.parameters()}
        return cls(
            model_type=family_of(model.config),
            hidden_size=model.get_input_embeddings().weight.shape[1],
            vocab_size=text.vocab_size,
            max_positions=positions if positions and positions > 0 else None,
            n_parameters=sum(parameters.values()),
        )


POSITIONS = ("max_position_embeddings", "max_seq_len")
"""Where configurations say how many positions a model has; MPT has a name of its own."""


@dataclass(frozen=True)
class BackboneShape(LanguageSizes):
    """The sizes of a language model, of its layers and attention heads too, known from its configuration alone.

    `adapted` are the modules that LoRA adapts, with their widths (in, out), by name; `quantised` is the number of
    parameters in linear layers, which is what quantisation shrinks; `n_loaded` counts towers that no text passes too.
    """

    layer_width: int
    n_layers: int
    n_heads: int
    n_loaded: int
    quantised: int
    adapted: Mapping[str, Widths]


def backbone_shape(source: str, targets: tuple[str, ...] | None) -> BackboneShape:
    """Return the shape of the backbone at `source` from its configuration alone; no weights are read.

    `targets` are the endings of the modules to adapt, None for those of its family. Raises UsageError, in one line, for
    what no run can use.
    """
    shape = _whole_shape(source)
    return dataclasses.replace(shape, adapted=adapted_modules(shape.model_type, shape.adapted, targets, source))


@lru_cache(maxsize=32)
def _whole_shape(source: str) -> BackboneShape:
    """Return the shape of the backbone at `source` as if every linear layer were adapted."""
    from transformers import AutoModelForCausalLM

    config = configuration(source)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # transformers may raise anything for a damaged folder
        raise UsageError(f"'{source}' is no causal language model: {first_line(error)}") from error
    check_causal(source, model)
    sizes, linear = LanguageSizes.of(model), linear_modules(model)
    text = config.get_text_config()
    return BackboneShape(
        **vars(sizes),
        layer_width=text.hidden_size,
        n_layers=text.num_hidden_layers,
        n_heads=getattr(text, "num_attention_heads", 0),  # a Mamba has none
        n_loaded=sum(p.numel() for p in model.parameters()),
        quantised=sum(math.prod(linear[name]) for name in linear if _is_quantised(model.get_submodule(name))),
        adapted=linear,
    )


def _is_quantised(module: nn.Module) -> bool:
    """Say whether bitsandbytes would quantise a linear layer: it passes over those of a family's own (Falcon)."""
    return type(module).__name__ in ("Linear", "Conv1D")


def is_encoder(config: Any) -> bool:
    """Say whether a family that has a switch for reading as a decoder does has it off; some decoders have it too."""
    return getattr(config, "is_decoder", None) is False


def check_causal(source: str, model: Any) -> None:
    """Raise UsageError for a model of transformers' causal ones that is none, or whose parts cannot be told apart."""
    reason = NOT_CAUSAL.get(family_of(model.config))
    if reason is None and family_of(model.config) not in LORA_TARGETS and is_encoder(model.config):
        reason = "its config.json says is_decoder false, so it reads a text in both directions"
    if reason is None and not isinstance(model.get_input_embeddings(), nn.Embedding):
        reason = "it has no table of input embeddings, between which soft tokens could stand"
    if reason is None and not any(isinstance(module, nn.ModuleList) for module in model.get_decoder().modules()):
        reason = "it has no list of layers"
    if reason is not None:
        raise UsageError(f"'{source}' ({family_of(model.config)}) cannot be used: {reason}; give a causal model")


class BackboneOutline:
    """A backbone without weights: its adapters have the names and shapes of the real ones, on the meta device.

    It can be adapted, sent and received, which is all that counting what an algorithm transmits needs; it can compute
    nothing.
    """

    needs_loss_scale = False

    def __init__(self, source: str) -> None:
        shape = _whole_shape(source)
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

    def remove_adapter(self, name: str) -> None:
        """Take an adapter away again."""
        del self._adapters[name]

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

    def continued(self, embeds: Float[Tensor, "b S H"], ids: Int64[Tensor, "k a"]) -> Float32[Tensor, "b k a V"]:
        """Raise PluginError."""
        raise self._cannot()

    def _cannot(self) -> PluginError:
        return PluginError(
            f"what the algorithm sends depends on answers of '{self.source}', and here are only shapes; run it and "
            "read the comm block of its record"
        )
