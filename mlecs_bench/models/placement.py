"""Moving what was made on the CPU to where a model computes."""

from __future__ import annotations

import torch

from mlecs_bench.doors.profile import Dtype
from mlecs_bench.errors import UsageError


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a CPU tensor on `device`; towards a GPU the copy runs beside the computation, from pinned memory."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def torch_device(name: str) -> torch.device:
    """Return the torch device called `name`; raises UsageError when it is unknown, cannot serve or is not there."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device '{name}'; use cpu, cuda or cuda:N") from error
    if device.type == "mps":
        raise UsageError("device 'mps' knows no float64, in which volumes and averages are computed; use cpu")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device '{name}' is not supported; use cpu, cuda or cuda:N")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"device '{name}' was asked for but torch sees {torch.cuda.device_count()} GPUs; use cpu")
    return device


def check_dtype(device: torch.device, dtype: Dtype) -> None:
    """Raise UsageError for a dtype that a device would only emulate: bfloat16 on a GPU before Ampere (V100, T4)."""
    if device.type != "cuda" or dtype != "bfloat16":
        return
    with torch.cuda.device(device):
        known, name = torch.cuda.is_bf16_supported(including_emulation=False), torch.cuda.get_device_name(device)
    if not known:
        raise UsageError(f"{name} does not compute bfloat16; give --dtype float16 or --dtype float32")
