"""What the card can do at most, which other figures are held against: one matrix product, one copy."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gpu_sections.clock import synchronised
from gpu_sections.runner import Options, Report

WIDTH, TINY_WIDTH = 8192, 256
REPEATS = 20


def measure(options: Options, report: Report) -> None:
    """Report TFLOP/s of a product of bfloat16 matrices, and GB/s of a copy, bytes read and written."""
    n = TINY_WIDTH if options.tiny else WIDTH
    one, other = (torch.randn(n, n, device=options.device).to(torch.bfloat16) for _ in range(2))
    target = torch.empty_like(one)
    seconds = _seconds(lambda: torch.mm(one, other, out=target))
    report("matmul_tflops", 2 * n**3 / seconds / 1e12)
    block = torch.empty(n * n * 4, dtype=torch.uint8, device=options.device)
    copy = torch.empty_like(block)
    report("copy_gb_s", 2 * block.numel() / _seconds(lambda: copy.copy_(block)) / 1e9)


def _seconds(work: Callable[[], object]) -> float:
    """Return the mean seconds of one call of `work`, warmed up."""
    for _ in range(3):
        work()
    started = synchronised()
    for _ in range(REPEATS):
        work()
    return (synchronised() - started) / REPEATS
