"""Compression: what becomes of a message between its sender's hands and its receiver's.

A compressed message is a message again: every tensor travels as one or more parts, named ``name#part``, so kinds are as
before and the ledger counts the parts. What would not become smaller travels whole, and so do whole numbers.

A few lines of torch: torch's own quantised tensors are deprecated, torchao brings kernels of a whole inference stack,
and lossless packers gain little on trained weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from mlecs_bench.errors import MessageError
from mlecs_bench.federation.ledger import Direction
from mlecs_bench.federation.messages import Message
from mlecs_bench.federation.party import named, under
from mlecs_bench.plan.conditions_compression import Compression

Parts = Mapping[str, torch.Tensor]
"""What a tensor travels as, by the part that stands behind its name."""

MARK = "#"
"""Stands between a tensor's name and its part."""
WHOLE, SCALE, VALUES, PLACES = "whole", "scale", "values", "places"
HALF, BYTES = "fp16", "int8"
STEPS = 127
"""The largest whole number of int8, which stands for the largest number of the tensor."""
DTYPES: Mapping[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""What is compressed. Smaller floats have nothing to gain."""
NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}


class Link:
    """One end of the links between the server and its devices: `sends` is the direction of what leaves here.

    For topk it keeps, per device, what the other end has of every tensor (`sent`), what it will have once the last
    message is known to have arrived (`ahead`), and what has arrived here (`received`). Tensors that are kept are never
    written to.
    """

    def __init__(self, compression: Compression, sends: Direction) -> None:
        self._compression = compression
        self._packs = compression.covers(sends)
        self._unpacks = compression.covers("up" if sends == "down" else "down")
        self._sent: dict[str, dict[str, torch.Tensor]] = {}
        self._ahead: dict[str, dict[str, torch.Tensor]] = {}
        self._received: dict[str, dict[str, torch.Tensor]] = {}

    def pack(self, message: Message, device: str) -> Message:
        """Return a message as it travels; raises MessageError for numbers that it cannot carry.

        What was sent before and is not known to have arrived counts as lost.
        """
        if not self._packs:
            return message
        self._ahead[device] = {}
        tensors: dict[str, torch.Tensor] = {}
        for name, tensor in message.tensors.items():
            parts = self._parts(name, tensor, device)
            tensors |= {f"{name}{MARK}{part}": value for part, value in parts.items()}
        return Message(tensors, message.scalars)

    def arrived(self, device: str) -> None:
        """Take note that what was last packed has arrived."""
        self._sent.setdefault(device, {}).update(self._ahead.pop(device, {}))

    def unpack(self, message: Message, device: str) -> Message:
        """Return what was packed, as the receiver gets it: in memory of its own, with names, shapes and types as sent.

        Raises MessageError for anything that `pack` does not make.
        """
        if not self._unpacks:
            return message
        found: dict[str, dict[str, torch.Tensor]] = {}
        for label, value in message.tensors.items():
            name, _, part = label.rpartition(MARK)
            found.setdefault(name, {})[part] = value
        tensors = {name: self._whole(name, parts, device) for name, parts in found.items()}
        return Message(tensors, message.scalars)

    def state(self, device: str) -> dict[str, torch.Tensor]:
        """Return what is kept for a device, as `load_state` reads it."""
        kept = {"sent": self._sent, "ahead": self._ahead, "received": self._received}
        return {label: t for what, all_ in kept.items() for label, t in named(what, all_.get(device, {})).items()}

    def load_state(self, device: str, state: Mapping[str, torch.Tensor]) -> None:
        """Read what `state` returned; an empty one forgets all."""
        self._sent[device] = under("sent", state)
        self._ahead[device] = under("ahead", state)
        self._received[device] = under("received", state)

    def _parts(self, name: str, tensor: torch.Tensor, device: str) -> Parts:
        if tensor.dtype not in NAMES:
            return {WHOLE: tensor}
        if self._compression.law == "topk":
            return self._changes(name, tensor, device)
        parts = PACKERS[self._compression.law](name, tensor)
        return parts if _size(parts) < _size({WHOLE: tensor}) else {WHOLE: tensor}

    def _changes(self, name: str, tensor: torch.Tensor, device: str) -> Parts:
        """Return the numbers that differ most from what the receiver has, and their places.

        This is the Markov compressor of EF21 (Richtárik, Sokolov and Fatkhullin 2021; for models: EF21-P, Gruntkowska,
        Tyurin and Richtárik 2023). Numbers replace those that the receiver has, so nothing is lost by adding up.
        """
        count = math.ceil(self._compression.keep * tensor.numel())
        places_dtype = _places_dtype(tensor.numel())
        if count * (tensor.element_size() + places_dtype.itemsize) >= tensor.numel() * tensor.element_size():
            return {WHOLE: tensor}
        known = self._sent.get(device, {}).get(name)
        if known is None or known.shape != tensor.shape or known.dtype != tensor.dtype:
            self._ahead[device][name] = tensor.clone()
            return {WHOLE: tensor}
        values = tensor.flatten()
        precise = torch.promote_types(tensor.dtype, torch.float32)
        change = (values.to(precise) - known.flatten().to(precise)).abs()
        places = change.topk(count).indices.sort().values
        self._ahead[device][name] = _replaced(known, places, values[places])
        return {VALUES: values[places], PLACES: places.to(places_dtype)}

    def _whole(self, name: str, parts: Parts, device: str) -> torch.Tensor:
        received = self._received.setdefault(device, {})
        if parts.keys() == {VALUES, PLACES}:
            received[name] = _put(name, received.get(name), parts[VALUES], parts[PLACES])
            return received[name].clone()
        if parts.keys() == {WHOLE}:
            if self._compression.law == "topk" and parts[WHOLE].dtype in NAMES:
                received[name] = parts[WHOLE].clone()
            return parts[WHOLE]
        return _decoded(name, parts)


def _halves(name: str, tensor: torch.Tensor) -> Parts:
    """Return a tensor as half floats, rounded as torch rounds."""
    half = tensor.half()
    if not tensor.is_meta and bool(torch.isinf(half).any()):
        largest = float(tensor.abs().max())
        raise MessageError(
            f"tensor '{name}' holds {largest:g} and fp16 reaches 65504; run with compression int8, topk or none"
        )
    return {f"{HALF}.{NAMES[tensor.dtype]}": half}


def _bytes(_name: str, tensor: torch.Tensor) -> Parts:
    """Return a tensor as whole numbers on a scale of its own, which is symmetric so that zeros stay zeros."""
    precise = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    largest = precise.abs().amax() if tensor.numel() else precise.sum()
    # Never 0, and never a number with few digits, on which steps would be uneven.
    scale = (largest / STEPS).clamp(min=torch.finfo(precise.dtype).tiny)
    return {f"{BYTES}.{NAMES[tensor.dtype]}": (precise / scale).round().to(torch.int8), SCALE: scale}


PACKERS: Mapping[str, Callable[[str, torch.Tensor], Parts]] = {"fp16": _halves, "int8": _bytes}


def _decoded(name: str, parts: Parts) -> torch.Tensor:
    """Return the tensor of half floats, or of whole numbers and a scale."""
    for part, value in parts.items():
        form, _, dtype = part.partition(".")
        if dtype not in DTYPES:
            continue
        if form == HALF and len(parts) == 1:
            return value.to(DTYPES[dtype])
        if form == BYTES and len(parts) == 2 and SCALE in parts:
            most = torch.finfo(DTYPES[dtype]).max
            return (value * parts[SCALE]).clamp(-most, most).to(DTYPES[dtype])
    raise MessageError(f"'{name}' does not travel as {', '.join(sorted(parts))}; both sides must compress alike")


def _put(name: str, known: torch.Tensor | None, values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return what is known of a tensor with numbers replaced."""
    if known is None:
        raise MessageError(f"changes of '{name}' have come, of which nothing is here; both sides must be of one run")
    fits = values.shape == places.shape and values.dtype == known.dtype and values.dim() == 1
    if not fits or places.dtype != _places_dtype(known.numel()):
        raise MessageError(f"the changes of '{name}' do not fit the tensor that is here")
    if not places.is_meta and places.numel() and not 0 <= int(places.min()) <= int(places.max()) < known.numel():
        raise MessageError(f"the changes of '{name}' lie outside of the tensor that is here")
    return _replaced(known, places.long(), values)


def _replaced(known: torch.Tensor, places: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return known.flatten().index_copy(0, places, values).view(known.shape)


def _places_dtype(count: int) -> torch.dtype:
    """Return the smallest type that counts the places of a tensor."""
    return next(dtype for dtype in (torch.int16, torch.int32, torch.int64) if count - 1 <= torch.iinfo(dtype).max)


def _size(parts: Parts) -> int:
    return sum(value.numel() * value.element_size() for value in parts.values())
