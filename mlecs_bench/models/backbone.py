"""B: a frozen causal language model that any number of LoRA adapters share."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlecs_bench.errors import DataError, UsageError
from mlecs_bench.profiles import LoraSettings, is_folder
from mlecs_bench.seeds import torch_generator

LORA_TARGETS: dict[str, tuple[str, ...]] = {
    "gpt2": ("c_attn", "c_proj"),
    "gptj": ("q_proj", "k_proj", "v_proj", "out_proj", "fc_out"),
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj"),
}
"""Adapted projections by architecture: those of attention and the one out of the MLP, as {c_attn, c_proj} on GPT-2."""


class Backbone:
    """A frozen causal LM with its tokenizer. Adapters are added by name; those of one model are active at a time.

    The base stays in evaluation mode: its weights are frozen, and only the adapters' own dropout is switched on in
    training.
    """

    def __init__(self, source: str, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.source = source
        self.device = device
        self.dtype = dtype
        config, model, tokenizer = _load(source, dtype)
        self.model_type: str = config.model_type
        self.hidden_size: int = config.hidden_size
        self.vocab_size: int = config.vocab_size
        self.max_positions: int = config.max_position_embeddings
        self.n_parameters = sum(p.numel() for p in model.parameters())
        self.tokenizer: Any = tokenizer
        self.eos_id: int = tokenizer.eos_token_id
        self._base: Any = model.requires_grad_(False).eval().to(device)
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
        self._peft.eval()
        self._active = ()
        self._dropouts[name] = [
            m.lora_dropout[name] for m in self._peft.modules() if name in getattr(m, "lora_dropout", {})
        ]

    def adapter(self, name: str) -> dict[str, nn.Parameter]:
        """Return φ of one adapter: module path and lora_A or lora_B → parameter, without the adapter's name."""
        return dict(self._adapters[name])

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

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the input embeddings of token ids, (..., H)."""
        embedded: torch.Tensor = self._base.get_input_embeddings()(ids)
        return embedded

    def logits(self, embeds: torch.Tensor, keep: int) -> torch.Tensor:
        """Return the logits (b, keep, V) of the last `keep` positions of inputs (b, S, H), in float32."""
        logits: torch.Tensor = self._peft(
            inputs_embeds=embeds.to(self.dtype), logits_to_keep=keep, use_cache=False
        ).logits
        return logits[:, -keep:].float()

    @torch.no_grad()
    def generate(self, embeds: torch.Tensor, max_new_tokens: int) -> list[str]:
        """Return greedy continuations of inputs (b, S, H) as text, decoded with a key-value cache."""
        ids = self._peft.generate(
            inputs_embeds=embeds.to(self.dtype),
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=self.eos_id,
            eos_token_id=self.eos_id,
        )
        texts: list[str] = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]


def targets_of(model_type: str, chosen: Sequence[str] | None) -> tuple[str, ...]:
    """Return the endings of the adapted modules' names; empty for an architecture without a list: all linear layers."""
    return tuple(chosen or LORA_TARGETS.get(model_type, ()))


@dataclass(frozen=True)
class BackboneShape:
    """What decides the shapes of a backbone's adapters and soft prompts: adapted modules (in, out) by name, and H."""

    model_type: str
    hidden_size: int
    adapted: Mapping[str, tuple[int, int]]


@lru_cache(maxsize=32)
def backbone_shape(source: str, targets: tuple[str, ...] | None) -> BackboneShape:
    """Return the shape of the backbone at `source` from its configuration alone; no weights are read."""
    from transformers import AutoConfig, AutoModelForCausalLM

    local = is_folder(source)
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=local)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"cannot read a causal language model's configuration from '{source}': {first}") from error
    endings = targets_of(config.model_type, targets)
    head = model.get_output_embeddings()
    adapted = {
        name: _widths(module)
        for name, module in model.named_modules()
        if _is_linear(module) and module is not head and (not endings or name.rsplit(".", 1)[-1] in endings)
    }
    return BackboneShape(config.model_type, config.hidden_size, adapted)


def _is_linear(module: Any) -> bool:
    return getattr(module, "weight", None) is not None and type(module).__name__ in ("Linear", "Conv1D")


def _widths(module: Any) -> tuple[int, int]:
    """Return (in, out); GPT-2's Conv1D stores its weight transposed."""
    one, other = module.weight.shape
    return (one, other) if type(module).__name__ == "Conv1D" else (other, one)


def _load(source: str, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """Load configuration, model and tokenizer from a folder or a hub id; raises UsageError in one line."""
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the run has its own progress view
    local = Path(source).is_dir()
    if local and not (Path(source) / "config.json").is_file():
        raise UsageError(f"{source} holds no config.json; give a folder saved by transformers' save_pretrained")
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=local)
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
        model, report = AutoModelForCausalLM.from_pretrained(
            source, local_files_only=local, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"cannot load a causal language model from '{source}': {first}") from error
    _check_loaded(source, report["missing_keys"], tokenizer, config.vocab_size)
    # A checkpoint may bring its own decoding (repetition penalty, sampling): greedy means greedy for all.
    model.generation_config = GenerationConfig()
    return config, model, tokenizer


def _check_loaded(source: str, missing: Collection[str], tokenizer: Any, vocab_size: int) -> None:
    """Raise UsageError for what transformers lets pass: weights drawn at random, a tokenizer that cannot serve."""
    if missing:
        raise UsageError(f"'{source}' lacks {len(missing)} weights, such as {min(missing)}; save the whole model")
    if tokenizer.eos_token_id is None:
        raise UsageError(f"the tokenizer of '{source}' has no end-of-sequence token; add eos_token to its config")
    if not tokenizer.is_fast:
        raise UsageError(f"the tokenizer of '{source}' has no character offsets; save a fast one (tokenizer.json)")
    if not tokenizer("Output:", add_special_tokens=False)["input_ids"]:  # an empty one, for a folder without any
        raise UsageError(f"'{source}' holds no usable tokenizer; save tokenizer.json beside the model")
    n_tokens = max(tokenizer.vocab_size, tokenizer.eos_token_id + 1)
    if n_tokens > vocab_size:
        raise UsageError(f"the tokenizer of '{source}' has {n_tokens} tokens, its model {vocab_size}; save its own")


def _kaiming_uniform(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Draw lora_A (r, in) as PEFT does: uniform in ±1/sqrt(in) (Kaiming with a = sqrt(5)), row by row."""
    bound: float = shape[1] ** -0.5
    rows = [torch.rand(shape[1], generator=generator) for _ in range(shape[0])]
    return (torch.stack(rows) * 2 - 1) * bound


def load_adapter(backbone: Backbone, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
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
