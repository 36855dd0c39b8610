"""Moving what was made on the CPU to where a model computes."""

from __future__ import annotations

import torch

from mlecs_bench.errors import UsageError


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a CPU tensor on `device`; towards a GPU the copy runs beside the computation, from pinned memory."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def torch_device(name: str) -> torch.device:
    """Return the torch device called `name`; raises UsageError when it is unknown or not there."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device '{name}'; use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"device '{name}' was asked for but torch sees {torch.cuda.device_count()} GPUs; use cpu")
    return device
