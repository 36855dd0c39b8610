"""How much memory a run takes, estimated from shapes before any weight is read, and what to do if it is too much."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from mlecs_bench.doors.profile import Profile
from mlecs_bench.errors import MlecsError
from mlecs_bench.machine import usable_memory
from mlecs_bench.models.outline import BackboneShape, backbone_shape

GIB = 2**30
FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
TRAINED_BYTES = 16
"""Bytes of a trained parameter while it is trained: its value, its gradient and AdamW's two moments, all float32."""
KEPT_BYTES = 4
"""Bytes of a trained parameter of a party that is not at work: its value."""
NF4_BYTES = 0.5 + 4 / 64
"""Bytes of a weight quantised to 4 bits in blocks of 64, each with one float32 constant."""
LAYER_WIDTHS = 16
"""Values of H, in the base's dtype, that a layer keeps per token for its backward pass: attention (q, k, v and its
output), the MLP (4 H before and after its activation), and the inputs of adapters behind their dropout."""
FLOAT_WIDTHS = 15
"""Values of H that it keeps in float32 in any case: in norms and inside the activation of the MLP, which autocast
computes in float32, and masks of dropout. GPT-2 and GPT-J were counted; a Llama keeps less."""
LOGIT_COPIES = 4
"""Float32 copies of the answers' logits that are alive at once: logits, their softmax, and the gradients of both."""
ANSWER_TOKENS = 64
"""Tokens of an answer that the estimate assumes, and of a prompt."""
ROOM = 1.1
"""Fragmentation of the allocator and small things."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device of a machine: frozen weights, trained parameters with their states, and activations."""

    weights: int
    trained: int
    activations: int

    @property
    def total(self) -> int:
        """The peak, with some room."""
        return int(ROOM * (self.weights + self.trained + self.activations))

    def __str__(self) -> str:
        parts = (("weights", self.weights), ("trained", self.trained), ("activations", self.activations))
        return f"{self.total / GIB:.1f} GiB ({', '.join(f'{name} {size / GIB:.1f}' for name, size in parts)})"


def estimate_memory(profile: Profile, n_devices: int, n_modalities: int, sources: Sequence[str] = ()) -> MemoryEstimate:
    """Return what a run with `n_devices` needs; `sources` are language models beside the profile's two.

    Every language model is loaded once, whatever the number of devices; adapters and connectors exist once per party.
    """
    slm, llm = (backbone_shape(source, profile.lora.targets) for source in (profile.slm, profile.llm))
    others = [backbone_shape(source, profile.lora.targets) for source in sources]
    shapes = [slm, llm, *others]
    small, large = (_trained_parameters(shape, profile, n_modalities) for shape in (slm, llm))
    resting = (n_devices + 1) * small + large
    return MemoryEstimate(
        weights=sum(_weight_bytes(shape, profile) for shape in shapes),
        # The server trains its two models in one stage; devices take turns.
        trained=KEPT_BYTES * resting + (TRAINED_BYTES - KEPT_BYTES) * (small + large),
        activations=max(_activation_bytes(shape, profile) for shape in shapes) + _activation_bytes(slm, profile),
    )


def _weight_bytes(shape: BackboneShape, profile: Profile) -> int:
    size = FLOAT_BYTES[profile.dtype]
    if profile.base_bits is None:
        return shape.n_loaded * size
    quantised = 1.0 if profile.base_bits == 8 else NF4_BYTES
    return int(shape.quantised * quantised) + (shape.n_loaded - shape.quantised) * size


def _trained_parameters(shape: BackboneShape, profile: Profile, n_modalities: int) -> int:
    """Return the parameters of an adapter and a connector with its soft-prompt generator; encoders are small."""
    lora = profile.lora.rank * sum(n_in + n_out for n_in, n_out in shape.adapted.values())
    prompt = (profile.fused_width + 1) * profile.soft_tokens * shape.hidden_size
    fusion = n_modalities * profile.hidden_width * (profile.encoder_width + profile.fused_width)
    return lora + prompt + fusion


def _activation_bytes(shape: BackboneShape, profile: Profile) -> int:
    """Return what the backward pass of one batch needs, attention scores of eager attention included."""
    size, b = FLOAT_BYTES[profile.dtype], profile.batch_size
    tokens = profile.soft_tokens + 2 * ANSWER_TOKENS
    tokens = min(tokens, shape.max_positions or tokens)
    widths = LAYER_WIDTHS * size + FLOAT_WIDTHS * FLOAT_BYTES["float32"]
    layer = b * tokens * (widths * shape.layer_width + 2 * size * shape.n_heads * tokens)
    kept = b * tokens * size * shape.layer_width
    layers = layer + shape.n_layers * kept if profile.gradient_checkpointing else shape.n_layers * layer
    logits = LOGIT_COPIES * 4 * b * min(ANSWER_TOKENS, tokens) * shape.vocab_size
    return layers + logits


def advice(profile: Profile, n_devices: int, n_modalities: int, available: int) -> str:
    """Return the first setting with which the run fits into `available` bytes, mildest first."""
    changes: tuple[tuple[str, dict[str, object]], ...] = (
        ("--gradient-checkpointing", {"gradient_checkpointing": True}),
        ("--dtype bfloat16", {"dtype": "bfloat16"}),
        ("--base-bits 8", {"base_bits": 8}),
        ("--batch-size 1", {"batch_size": 1}),
        ("--base-bits 4", {"base_bits": 4}),
    )
    flags: list[str] = []
    for flag, change in changes:
        halved = "dtype" in change and FLOAT_BYTES[profile.dtype] == 2
        if halved or all(getattr(profile, name) == value for name, value in change.items()):
            continue
        profile = dataclasses.replace(profile, **change)  # type: ignore[arg-type]  # the fields' own types
        flags = [other for other in flags if other.split()[0] != flag.split()[0]] + [flag]
        if estimate_memory(profile, n_devices, n_modalities).total <= available:
            return f"{' '.join(flags)} would need {estimate_memory(profile, n_devices, n_modalities)}"
    return "give smaller models with --slm and --llm, or take --profile small"


def memory_ran_out(error: BaseException) -> MlecsError:
    """Return torch's error that a GPU's memory ran out as one line that says what would need less."""
    cause = str(error).strip().partition("\n")[0].partition(". GPU")[0]
    return MlecsError(
        f"the GPU's memory ran out ({cause}); --gradient-checkpointing, --dtype bfloat16, --base-bits and a smaller "
        "--batch-size need less, and so do fewer processes on one GPU"
    )


def available_memory(device: str) -> int | None:
    """Return the bytes of a device's memory, for the CPU what this process may use; None where that cannot be told."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(torch.device(device)).total_memory)
    return usable_memory()
