"""Messages: the only thing that passes between parties.

A message is named tensors plus a few scalars. The part of a tensor's name before the first slash is its *kind*
(``lora/…``, ``encoder/…``, ``fused/…``); the ledger counts by kind.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from mlecs_bench.errors import MessageError, NotFiniteError
from mlecs_bench.files import parsed_json

Scalar = int | float
SCALAR_KIND = "scalar"
"""The kind under which a message's scalars are counted."""
METADATA, DIGEST = "message", "sha256"
"""The name of the text beside the tensors, and that of the digest in it."""


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
        self.check_finite()
        tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in self.tensors.items()}
        return Message(tensors, dict(self.scalars))

    def check_finite(self) -> None:
        """Raise MessageError when a floating tensor holds NaN or infinity."""
        for name, tensor in self.tensors.items():
            if not _is_finite(tensor):
                raise NotFiniteError(f"tensor '{name}' holds NaN or infinity; training has diverged: lower the rate")

    def of_kind(self, kind: str) -> dict[str, torch.Tensor]:
        """Return the tensors of one kind, named without it."""
        prefix = f"{kind}/"
        return {name[len(prefix) :]: t for name, t in self.tensors.items() if name.startswith(prefix)}

    def to_bytes(self) -> bytes:
        """Return the message in safetensors form; its metadata are the scalars and a digest of it all."""
        tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in self.tensors.items()}
        values = {"scalars": dict(self.scalars), DIGEST: content_digest(self.scalars, tensors)}
        data: bytes = save(tensors, metadata={METADATA: json.dumps(values, allow_nan=False)})
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Message:
        """Read what `to_bytes` wrote; raises MessageError on anything else.

        The sender need not be honest: nothing is unpickled, and memory is taken for no more than there are bytes. A bit
        that was turned on the way is noticed.
        """
        try:
            tensors = load(data)
            header = parsed_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
            values = parsed_json(header["__metadata__"][METADATA])
            scalars = dict(values["scalars"].items())
            whole = values[DIGEST] == content_digest(scalars, tensors)
        except (SafetensorError, RuntimeError, AttributeError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise MessageError(f"{len(data)} bytes are not a message: {reason}") from error
        if not whole:
            raise MessageError(f"{len(data)} bytes are not the message that was sent: their digest is another")
        # The reader yields tensors in an order of chance: those of one message come in the same one everywhere.
        return cls(dict(sorted(tensors.items())), scalars)


def _is_finite(tensor: torch.Tensor) -> bool:
    # torch has no isfinite for some 8-bit floats; every one of them is exact in float32.
    tensor = tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
    return bool(torch.isfinite(tensor).all())


def content_digest(values: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 of JSON values, in their order, and of every tensor's name, type, shape and bits."""
    digest = hashlib.sha256(json.dumps(dict(values), allow_nan=False).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor_bits(tensor))
    return digest.hexdigest()


def tensor_bits(tensor: torch.Tensor) -> memoryview:
    """Return a tensor's bits; torch's equality takes -0 for 0, and NaN for nothing."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def kind_of(name: str) -> str:
    """Return the kind of a tensor's name: what stands before the first slash."""
    return name.split("/", 1)[0]


def with_kind(kind: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors renamed to ``kind/name``."""
    return {f"{kind}/{name}": tensor for name, tensor in tensors.items()}
