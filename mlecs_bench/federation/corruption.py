"""Faulty uploads: what a device sends that sends something else than it should."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mlecs_bench.federation.messages import Message
from mlecs_bench.plan.conditions_rounds import Corruption, Faults
from mlecs_bench.seeds import torch_generator


def corrupted(upload: Message, before: Message | None, faults: Faults, stream: tuple[int, str, int]) -> Message:
    """Return what comes of an upload; `before` is the one that the device sent last, None for none.

    Floating tensors are changed, ids and scalars are not. `stream` names the noise: seed, device and round. An upload
    that is sent twice is the same when it arrives. A first upload has none before it and stays as it is.
    """
    kind: Corruption = faults.byzantine
    if kind == "stale":
        return upload if before is None else before
    if kind == "sign-flip":
        return _changed(upload, lambda tensor, _: -tensor)
    if kind == "nan":
        return _changed(upload, lambda tensor, _: torch.full_like(tensor, torch.nan))
    if kind == "noise":
        seed, device, t = stream

        def noisy(tensor: torch.Tensor, name: str) -> torch.Tensor:
            wide = tensor.detach().to("cpu", torch.float64)
            drawn = torch.randn(
                wide.shape, generator=torch_generator(seed, "byzantine-noise", device, t, name), dtype=torch.float64
            )
            return (wide + faults.noise * wide.square().mean().sqrt() * drawn).to(tensor.dtype)

        return _changed(upload, noisy)
    return upload


def _changed(upload: Message, change: Callable[[torch.Tensor, str], torch.Tensor]) -> Message:
    tensors = {
        name: change(tensor, name) if tensor.is_floating_point() and tensor.numel() else tensor
        for name, tensor in upload.tensors.items()
    }
    return Message(tensors, upload.scalars)
