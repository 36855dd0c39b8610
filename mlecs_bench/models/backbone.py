"""B: a frozen causal language model that any number of LoRA adapters share."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from mlecs_bench.doors.profile import LoraSettings
from mlecs_bench.errors import DataError, UsageError
from mlecs_bench.models.checkpointing import Recomputation, check_recomputation, recompute_layers
from mlecs_bench.models.hub import split
from mlecs_bench.models.loading import BaseSettings, at_rest, load_base
from mlecs_bench.models.outline import BackboneOutline, LanguageSizes, check_causal
from mlecs_bench.models.projections import LORA_TARGETS, adapted_modules, linear_modules
from mlecs_bench.models.sources import hub_commit, is_folder
from mlecs_bench.models.trial import NEAR, NEAR_IN_FEW_BITS, TOKENS, computes, decoded_as_read, is_causal, trial_inputs
from mlecs_bench.seeds import torch_generator


class Backbone:
    """A frozen causal LM with its tokenizer. Adapters are added by name; those of one model are active at a time.

    The base stays in evaluation mode: its weights are frozen, and only the adapters' own dropout is switched on in
    training. With `settings.checkpointing` every layer's activations are recomputed in the backward pass, for the
    same gradients bit for bit on a CPU; whether they are is tried when a model is loaded. In a base of 16 bits
    everything between the embeddings and the logits is computed in that dtype (autocast), while adapters, gradients and
    optimiser states stay in float32. `hidden_size` is the width of the inputs; `max_positions` None means no limit.
    """

    def __init__(self, source: str, settings: BaseSettings) -> None:
        self.source = source
        self.settings = settings
        self.torch_device = settings.torch_device
        model, tokenizer = load_base(source, settings)
        check_causal(source, model)
        sizes = LanguageSizes.of(model)
        self.model_type = sizes.model_type
        self.hidden_size = sizes.hidden_size
        self.vocab_size = sizes.vocab_size
        self.max_positions = sizes.max_positions
        self.n_parameters = sizes.n_parameters
        self.tokenizer: Any = tokenizer
        self.eos_id: int = tokenizer.eos_token_id
        self._base: Any = model
        # Found before adapters are wrapped around them, which hides what they are.
        self._linear = linear_modules(model)
        self._transposed = any(type(module).__name__ == "Conv1D" for module in model.modules())
        self._forward_keywords = {"use_cache": False} if "use_cache" in signature(model.forward).parameters else {}
        self._decodes_embeddings = "inputs_embeds" in signature(model.prepare_inputs_for_generation).parameters
        self._recomputation = recompute_layers(model) if settings.checkpointing else Recomputation()
        self._peft: Any = None
        self._active: tuple[str, ...] = ()
        self._adapters: dict[str, dict[str, nn.Parameter]] = {}
        self._dropouts: dict[str, list[nn.Module]] = {}
        inputs = trial_inputs(self.hidden_size, self.torch_device)
        if settings.bits is not None and not computes(self._whole_logits, inputs):
            raise UsageError(
                f"'{source}' ({self.model_type}) cannot be computed with base-bits {settings.bits}; leave it out"
            )
        if self.model_type not in LORA_TARGETS:
            self._try_unknown(inputs)
        if settings.checkpointing:
            exact = settings.torch_device.type == "cpu"
            check_recomputation(source, self._recomputation, self._whole_logits, inputs, exact=exact)

    def _whole_logits(self, embeds: Float[Tensor, "b S H"]) -> Float32[Tensor, "b S V"]:
        return self.logits(embeds, keep=embeds.shape[1])

    def _try_unknown(self, inputs: Float32[Tensor, "b s H"]) -> None:
        """Refuse a model that sees what it has to predict, and decode without a cache whose answers are others."""
        near = NEAR if self.settings.bits is None else NEAR_IN_FEW_BITS
        if not is_causal(self._whole_logits, inputs, near):
            raise UsageError(f"'{self.source}' ({self.model_type}) sees what it has to predict; give a causal model")
        if self._decodes_embeddings:
            found = self._cached(inputs, TOKENS, output_logits=True, return_dict_in_generate=True)
            decoded = found.sequences, torch.stack(found.logits, dim=1).float()
            self._decodes_embeddings = decoded_as_read(self._whole_logits, self.embed, inputs, decoded, near)

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
            target_modules=list(adapted_modules(self.model_type, self._linear, settings.targets, self.source)),
            fan_in_fan_out=self._transposed,
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

    def remove_adapter(self, name: str) -> None:
        """Take an adapter away again, and with it the memory that it takes."""
        with warnings.catch_warnings():
            # PEFT says which adapter is active now; before the next forward pass `activate` says so.
            warnings.filterwarnings("ignore", message=".* was active which is now deleted")
            self._peft.delete_adapter(name)
        del self._adapters[name], self._dropouts[name]
        self._active = ()

    def adapter(self, name: str) -> dict[str, nn.Parameter]:
        """Return φ of one adapter: module path and lora_A or lora_B → parameter, without the adapter's name."""
        return dict(self._adapters[name])

    def adapter_settings(self, name: str) -> dict[str, Any]:
        """Return the settings of one adapter as PEFT writes them, with the model that it belongs to."""
        values: dict[str, Any] = self._peft.peft_config[name].to_dict()
        values |= {"inference_mode": True, **_named_base(self.source)}
        return {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}

    def _find_adapter(self, name: str) -> dict[str, nn.Parameter]:
        found = {}
        for key, parameter in self._peft.named_parameters():
            if "lora_" in key and f".{name}." in key:
                short = key.removeprefix("base_model.model.").replace(f".{name}.weight", "")
                found[short] = parameter
        return found

    @property
    def needs_loss_scale(self) -> bool:
        """Whether small gradients would vanish on their way back through the base: in the range of float16 they do."""
        return self.settings.dtype == torch.float16

    def activate(self, names: Sequence[str], training: bool) -> None:
        """Let the adapters `names` together act on the next forward passes, with their dropout in training."""
        if self._active != tuple(names):
            self._peft.base_model.set_adapter(list(names))
            self._active = tuple(names)
        for name in names:
            for module in self._dropouts[name]:
                module.train(training)
        self._recomputation.on = training

    def embed(self, ids: Int64[Tensor, "*batch"]) -> Float[Tensor, "*batch {self.hidden_size}"]:
        """Return the input embeddings of token ids."""
        embedded: Tensor = self._base.get_input_embeddings()(ids)
        return embedded

    def logits(self, embeds: Float[Tensor, "b S H"], keep: int) -> Float32[Tensor, "b {keep} V"]:
        """Return the logits of the last `keep` positions of inputs, in float32."""
        with self._autocast():
            # Adapters are wrapped around layers of the base itself, so it is called without PEFT, whose own model
            # refuses the embeddings of some families.
            # Copied, since a family (CTRL) scales its inputs in place.
            inputs = embeds.to(self.settings.dtype, copy=True)
            logits: Tensor = self._base(inputs_embeds=inputs, logits_to_keep=keep, **self._forward_keywords).logits
        return logits[:, -keep:].float()

    @torch.no_grad()
    def continued(self, embeds: Float[Tensor, "b S H"], ids: Int64[Tensor, "k a"]) -> Float32[Tensor, "b k a V"]:
        """Return the logits that predict each token of k continuations `ids` after each of b inputs, in float32.

        The inputs are read once where the model keeps plain keys and values of them, else with every continuation.
        """
        b, (k, a) = len(embeds), ids.shape
        embeds = embeds.to(self.settings.dtype)
        behind = self.embed(ids[:, :-1]).to(self.settings.dtype).repeat(b, 1, 1)
        with self._autocast():
            keep_cache = dict.fromkeys(self._forward_keywords, True)
            start = self._base(inputs_embeds=embeds.clone(), logits_to_keep=1, **keep_cache)
            cache: Any = getattr(start, "past_key_values", None)
            if a == 1 or not _is_plain_cache(cache):
                whole = torch.cat([embeds.repeat_interleave(k, dim=0), behind], dim=1)
                return self.logits(whole, keep=a).view(b, k, a, -1)
            cache.batch_repeat_interleave(k)
            rest = self._base(inputs_embeds=behind, past_key_values=cache, **keep_cache).logits
        first = start.logits[:, -1:].repeat_interleave(k, dim=0)
        return torch.cat([first, rest], dim=1).float().view(b, k, a, -1)

    def _autocast(self) -> AbstractContextManager[object]:
        dtype = self.settings.dtype
        return nullcontext() if dtype == torch.float32 else torch.autocast(self.torch_device.type, dtype=dtype)

    @torch.no_grad()
    def generate(self, embeds: Float[Tensor, "b S H"], max_new_tokens: int) -> list[str]:
        """Return greedy continuations of inputs as text, decoded with a cache where the family allows it."""
        ids: Tensor = (self._cached if self._decodes_embeddings else self._uncached)(embeds, max_new_tokens)
        texts: list[str] = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]

    @torch.no_grad()
    def _cached(self, embeds: Float[Tensor, "b S H"], max_new_tokens: int, **wanted: bool) -> Any:
        """Return what transformers' generate does: ids, or all that is `wanted` of it."""
        with self._autocast():
            return self._base.generate(
                inputs_embeds=embeds.to(self.settings.dtype),
                attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=self.eos_id,
                eos_token_id=self.eos_id,
                **wanted,
            )

    def _uncached(self, embeds: Float[Tensor, "b S H"], max_new_tokens: int) -> Int64[Tensor, "b n"]:
        """Return ids from a full forward pass per token; a row that has ended is filled up with the end token."""
        ids = torch.empty(len(embeds), 0, dtype=torch.long, device=embeds.device)
        ended = torch.zeros(len(embeds), dtype=torch.bool, device=embeds.device)
        while ids.shape[1] < max_new_tokens and not bool(ended.all()):
            following = self.logits(torch.cat([embeds, self.embed(ids).to(embeds.dtype)], dim=1), keep=1)[:, -1]
            chosen = following.argmax(dim=-1).masked_fill(ended, self.eos_id)
            ended |= chosen == self.eos_id
            ids = torch.cat([ids, chosen[:, None]], dim=1)
        return ids


def _named_base(source: str) -> dict[str, str | None]:
    """Return how PEFT's settings name a base: by its folder, or by its id and commit on the hub."""
    if is_folder(source):
        return {"base_model_name_or_path": str(Path(source).expanduser().resolve()), "revision": None}
    return {"base_model_name_or_path": split(source)[0], "revision": hub_commit(source)}


def _is_plain_cache(cache: Any) -> bool:
    """Does a cache hold nothing but keys and values, so that rows of it can be repeated?"""
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    return type(cache) is DynamicCache and all(type(layer) in plain for layer in cache.layers)


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
