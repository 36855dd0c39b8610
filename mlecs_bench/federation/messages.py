"""Messages: the only thing that passes between parties.

A message is named tensors plus a few scalars. The part of a tensor's name before the first slash is its *kind*
(``lora/…``, ``encoder/…``, ``fused/…``); the ledger counts by kind.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from mlecs_bench.errors import MessageError, NotFiniteError

Scalar = int | float
SCALAR_KIND = "scalar"
"""The kind under which a message's scalars are counted."""


@dataclass(frozen=True)
class Message:
    """Named tensors and scalars from one party to another; names are ``kind/rest``."""

    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    scalars: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, tensor in self.tensors.items():
            if "/" not in name:
                raise MessageError(f"tensor '{name}' has no kind; name it 'kind/{name}'")
            if not isinstance(tensor, torch.Tensor):
                raise MessageError(f"'{name}' is a {type(tensor).__name__}; only tensors may travel under a name")
        for name, value in self.scalars.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise MessageError(f"scalar '{name}' is a {type(value).__name__}; send int or float")
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise MessageError(f"scalar '{name}' does not fit into 64 bits; send it as a tensor")
            if not math.isfinite(value):
                raise MessageError(f"scalar '{name}' is {value}; send finite numbers")

    def copied(self) -> Message:
        """Return the message as the receiver sees it: detached copies on the CPU, finite numbers only.

        Raises NotFiniteError when a floating tensor holds NaN or infinity.
        """
        tensors = {}
        for name, tensor in self.tensors.items():
            if not _is_finite(tensor):
                raise NotFiniteError(f"tensor '{name}' holds NaN or infinity; training has diverged: lower the rate")
            tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
        return Message(tensors, dict(self.scalars))

    def of_kind(self, kind: str) -> dict[str, torch.Tensor]:
        """Return the tensors of one kind, named without it."""
        prefix = f"{kind}/"
        return {name[len(prefix) :]: t for name, t in self.tensors.items() if name.startswith(prefix)}

    def to_bytes(self) -> bytes:
        """Return the message in safetensors form; the scalars are its metadata."""
        tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in self.tensors.items()}
        data: bytes = save(tensors, metadata={"scalars": json.dumps(dict(self.scalars), allow_nan=False)})
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Message:
        """Read what `to_bytes` wrote; raises MessageError on anything else."""
        try:
            tensors = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            scalars = dict(json.loads(header["__metadata__"]["scalars"]).items())
        except (SafetensorError, AttributeError, KeyError, ValueError) as error:
            raise MessageError(f"{len(data)} bytes are not a message: {error}") from error
        return cls(tensors, scalars)


def _is_finite(tensor: torch.Tensor) -> bool:
    # torch has no isfinite for some 8-bit floats; every one of them is exact in float32.
    tensor = tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
    return bool(torch.isfinite(tensor).all())


def kind_of(name: str) -> str:
    """Return the kind of a tensor's name: what stands before the first slash."""
    return name.split("/", 1)[0]


def with_kind(kind: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors renamed to ``kind/name``."""
    return {f"{kind}/{name}": tensor for name, tensor in tensors.items()}
