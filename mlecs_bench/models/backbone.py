"""B: a frozen causal language model that any number of LoRA adapters share."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from mlecs_bench.doors.profile import LoraSettings
from mlecs_bench.errors import DataError
from mlecs_bench.models.loading import BaseSettings, at_rest, load_base
from mlecs_bench.models.outline import BackboneOutline, targets_of
from mlecs_bench.models.sources import pretrained
from mlecs_bench.seeds import torch_generator


class Backbone:
    """A frozen causal LM with its tokenizer. Adapters are added by name; those of one model are active at a time.

    The base stays in evaluation mode: its weights are frozen, and only the adapters' own dropout is switched on in
    training. With `settings.checkpointing` every layer's activations are recomputed in the backward pass, for the
    same gradients bit for bit on a CPU. In a base of 16 bits everything between the embeddings and the logits is
    computed in that dtype (autocast), while adapters, gradients and optimiser states stay in float32.
    """

    def __init__(self, source: str, settings: BaseSettings) -> None:
        self.source = source
        self.settings = settings
        self.torch_device = settings.torch_device
        config, model, tokenizer = load_base(source, settings)
        self.model_type: str = config.model_type
        self.hidden_size: int = config.hidden_size
        self.vocab_size: int = config.vocab_size
        self.max_positions: int = config.max_position_embeddings
        self.n_parameters = sum(p.numel() for p in model.parameters())
        self.tokenizer: Any = tokenizer
        self.eos_id: int = tokenizer.eos_token_id
        self._base: Any = model
        self._layers = _checkpointed_layers(model) if settings.checkpointing else []
        self._peft: Any = None
        self._active: tuple[str, ...] = ()
        self._adapters: dict[str, dict[str, nn.Parameter]] = {}
        self._dropouts: dict[str, list[nn.Module]] = {}

    def add_adapter(self, name: str, settings: LoraSettings, seed: int, role: str) -> None:
        """Add a LoRA adapter: A from the streams ("init", "lora", role, tensor) of `seed`, B = 0.

        So adapters of one role are equal on all parties, and a smaller rank's A is the first rows of a larger one's.
        """
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            bias="none",
            target_modules=list(targets_of(self.model_type, settings.targets)) or "all-linear",
            fan_in_fan_out=self.model_type == "gpt2",
            task_type="CAUSAL_LM",
        )
        with warnings.catch_warnings():
            # peft 0.21 reads an attribute that transformers 5 has renamed; nothing a user could mend.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            if self._peft is None:
                self._peft = get_peft_model(self._base, config, adapter_name=name)
            else:
                self._peft.add_adapter(name, config)
        # Kept: walking all adapters at every look-up would cost the square of the number of devices.
        self._adapters[name] = self._find_adapter(name)
        for key, tensor in self.adapter(name).items():
            with torch.no_grad():
                if "lora_A" in key:
                    tensor.copy_(_kaiming_uniform(tensor.shape, torch_generator(seed, "init", "lora", role, key)))
                else:
                    tensor.zero_()
        at_rest(self._peft)
        self._active = ()
        self._dropouts[name] = [
            m.lora_dropout[name] for m in self._peft.modules() if name in getattr(m, "lora_dropout", {})
        ]

    def adapter(self, name: str) -> dict[str, nn.Parameter]:
        """Return φ of one adapter: module path and lora_A or lora_B → parameter, without the adapter's name."""
        return dict(self._adapters[name])

    def adapter_settings(self, name: str) -> dict[str, Any]:
        """Return the settings of one adapter as PEFT writes them, with the model that it belongs to."""
        base, where = pretrained(self.source)
        revision = where.get("revision")
        values: dict[str, Any] = self._peft.peft_config[name].to_dict()
        values |= {"base_model_name_or_path": base if revision else str(Path(base).resolve())}
        values |= {"revision": revision, "inference_mode": True}
        return {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}

    def _find_adapter(self, name: str) -> dict[str, nn.Parameter]:
        found = {}
        for key, parameter in self._peft.named_parameters():
            if "lora_" in key and f".{name}." in key:
                short = key.removeprefix("base_model.model.").replace(f".{name}.weight", "")
                found[short] = parameter
        return found

    def activate(self, names: Sequence[str], training: bool) -> None:
        """Let the adapters `names` together act on the next forward passes, with their dropout in training."""
        if self._active != tuple(names):
            self._peft.base_model.set_adapter(list(names))
            self._active = tuple(names)
        for name in names:
            for module in self._dropouts[name]:
                module.train(training)
        for layer in self._layers:
            # Of a layer alone, not of the modules in it: it recomputes, and its dropout stays off as in evaluation.
            layer.training = training

    def embed(self, ids: Int64[Tensor, "*batch"]) -> Float[Tensor, "*batch {self.hidden_size}"]:
        """Return the input embeddings of token ids."""
        embedded: Tensor = self._base.get_input_embeddings()(ids)
        return embedded

    def logits(self, embeds: Float[Tensor, "b S H"], keep: int) -> Float32[Tensor, "b {keep} V"]:
        """Return the logits of the last `keep` positions of inputs, in float32."""
        with self._autocast():
            logits: Tensor = self._peft(
                inputs_embeds=embeds.to(self.settings.dtype), logits_to_keep=keep, use_cache=False
            ).logits
        return logits[:, -keep:].float()

    def _autocast(self) -> AbstractContextManager[object]:
        dtype = self.settings.dtype
        return nullcontext() if dtype == torch.float32 else torch.autocast(self.torch_device.type, dtype=dtype)

    @torch.no_grad()
    def generate(self, embeds: Float[Tensor, "b S H"], max_new_tokens: int) -> list[str]:
        """Return greedy continuations of inputs as text, decoded with a key-value cache."""
        with self._autocast():
            ids = self._peft.generate(
                inputs_embeds=embeds.to(self.settings.dtype),
                attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=self.eos_id,
                eos_token_id=self.eos_id,
            )
        texts: list[str] = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]


def _checkpointed_layers(model: Any) -> list[nn.Module]:
    """Switch gradient checkpointing on and return the layers that do it while their own `training` is true."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    # transformers 5 has renamed it; earlier versions know the old name alone.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _kaiming_uniform(shape: torch.Size, generator: torch.Generator) -> Float32[Tensor, "r n_in"]:
    """Draw lora_A as PEFT does: uniform in ±1/sqrt(in) (Kaiming with a = sqrt(5)), row by row."""
    bound: float = shape[1] ** -0.5
    rows = [torch.rand(shape[1], generator=generator) for _ in range(shape[0])]
    return (torch.stack(rows) * 2 - 1) * bound


AnyBackbone = Backbone | BackboneOutline
"""A backbone, or its shapes alone."""


def load_adapter(backbone: AnyBackbone, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Overwrite φ of one adapter; raises DataError unless names and shapes are the adapter's own."""
    own = backbone.adapter(name)
    if set(own) != set(tensors):
        different = sorted(set(own) ^ set(tensors))[:2]
        raise DataError(
            f"adapter '{name}' and what came for it differ in {different}; load an adapter whole, for example "
            "{**model.part('lora'), **yours}"
        )
    with torch.no_grad():
        for key, parameter in own.items():
            if parameter.shape != tensors[key].shape:
                raise DataError(f"'{key}' has shape {tuple(tensors[key].shape)}, the adapter {tuple(parameter.shape)}")
            parameter.copy_(tensors[key])
