"""Seconds and bytes of a torch device: whoever looks at a clock waits first for what the device still has to do."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def synchronised() -> float:
    """Return the time when all that was asked of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    """Add the seconds of the block to those of `what`."""
    started = synchronised()
    yield
    seconds[what] = seconds.get(what, 0.0) + synchronised() - started


def forget() -> None:
    """Give back what nothing refers to any more, and count the peak of memory anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def allocated() -> int | None:
    """Return the bytes of tensors on the GPU now; None without one."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else None


def peak() -> int | None:
    """Return the most bytes of tensors on the GPU since `forget`; None without one."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
