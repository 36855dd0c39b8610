"""The mailbox: what devices have missed, kept until they take part in a round again.

Of every tensor name and scalar that was sent to an absent device, the newest is kept. Tensors are kept once however
many devices they are for: those that share memory are known by that, others by their content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mlecs_bench.federation.messages import Message

INDEX = "index"
"""What the state of a mailbox calls the text that says whose its tensors are."""


class Mailbox:
    """Messages that have not reached their devices."""

    def __init__(self) -> None:
        self._tensors: dict[str, torch.Tensor] = {}
        self._missed: dict[str, dict[str, dict[str, Any]]] = {}

    def put(self, messages: Mapping[str, Message]) -> None:
        """Keep messages by device; a tensor or scalar takes the place of an older one of its name."""
        known: dict[tuple[Any, ...], str] = {}
        for id_, message in messages.items():
            own = self._missed.setdefault(id_, {"tensors": {}, "scalars": {}})
            for name, tensor in message.tensors.items():
                own["tensors"][name] = self._kept(tensor, known)
            own["scalars"] |= message.scalars
        self._forget_unused()

    def _kept(self, tensor: torch.Tensor, known: dict[tuple[Any, ...], str]) -> str:
        """Return the digest of a tensor, of which a copy is kept; `known` are those of tensors seen a moment ago."""
        place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), str(tensor.device))
        if tensor.data_ptr() and place in known:
            return known[place]
        outline = tensor.device.type == "meta"  # shapes alone, without content
        plain = tensor.detach() if outline else tensor.detach().to("cpu").contiguous()
        bits: Any = plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() and not outline else b""
        head = f"{plain.dtype} {tuple(plain.shape)}".encode()
        digest = hashlib.sha256(head + hashlib.sha256(bits).digest()).hexdigest()
        if digest not in self._tensors:
            self._tensors[digest] = plain.clone()
        known[place] = digest
        return digest

    def of(self, id_: str) -> Message:
        """Return all that a device has missed as one message."""
        own = self._missed.get(id_, {"tensors": {}, "scalars": {}})
        return Message({name: self._tensors[digest] for name, digest in own["tensors"].items()}, dict(own["scalars"]))

    def clear(self, ids: Iterable[str]) -> None:
        """Keep nothing for devices any more: they have got their messages."""
        for id_ in ids:
            self._missed.pop(id_, None)
        self._forget_unused()

    def _forget_unused(self) -> None:
        used = {digest for own in self._missed.values() for digest in own["tensors"].values()}
        self._tensors = {digest: tensor for digest, tensor in self._tensors.items() if digest in used}

    @property
    def bytes(self) -> int:
        """The memory that its tensors take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors.values())

    def state(self) -> dict[str, torch.Tensor]:
        """Return all that it holds as tensors; nothing where nobody has missed anything."""
        if not self._missed:
            return {}
        index = torch.frombuffer(bytearray(json.dumps(self._missed, allow_nan=False).encode()), dtype=torch.uint8)
        return {**self._tensors, INDEX: index}

    @classmethod
    def from_state(cls, state: Mapping[str, torch.Tensor]) -> Mailbox:
        """Read what `state` returned."""
        box = cls()
        if INDEX in state:
            box._missed = json.loads(bytes(state[INDEX].tolist()))
            box._tensors = {digest: tensor for digest, tensor in state.items() if digest != INDEX}
        return box
