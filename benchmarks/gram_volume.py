"""Time and memory of the contrastive loss: factorised Gram volumes against the plain batched determinant.

    python benchmarks/gram_volume.py [--quick]

One thread, forward and backward of both directions, gradients to anchors and others. The two implementations take
turns, so that other load on the machine hits both; times are medians, "x" is det over block. Memory is the growth of
the peak resident set over one forward and backward in a fresh process that has already run a small batch.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional

from mlecs_bench.blocks.gram import contrastive_loss
from mlecs_bench.seeds import torch_generator

TEMPERATURE = 0.1
MIN_SAMPLE_SECONDS = 0.05  # a timing sample repeats the call until it lasts about so long
FULL_CASES = ((16, 64, 2), (16, 64, 3), (16, 64, 4), (256, 64, 4), (1024, 64, 4), (1024, 256, 4))
QUICK_CASES = ((16, 64, 4), (256, 64, 4))
MEMORY_FROM_BATCH = 256  # below, the growth is less than the allocator's granularity
HEADERS = ("U=B", "d", "k", "det ms", "block ms", "cpu x", "wall x", "det MiB", "block MiB", "MiB x", "loss diff")

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Timing:
    """Medians of one implementation, in milliseconds per call."""

    cpu: float
    wall: float


def determinant_loss(anchors: Tensor, others: Tensor) -> Tensor:
    """Return the same loss from a U x B x k x k Gram tensor and `torch.linalg.det`: the straightforward way."""
    anchors, others = functional.normalize(anchors, dim=-1), functional.normalize(others, dim=-1)
    u, b, k = len(anchors), len(others), others.shape[1] + 1
    cross = torch.einsum("ud,bmd->ubm", anchors, others)
    gram = torch.empty(u, b, k, k)
    gram[..., 0, 0] = 1
    gram[..., 0, 1:] = cross
    gram[..., 1:, 0] = cross
    gram[..., 1:, 1:] = others @ others.mT
    volumes = torch.linalg.det(gram).clamp_min(1e-6).sqrt()
    logits, targets = -volumes / TEMPERATURE, torch.arange(u)
    return (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2


def block_loss(anchors: Tensor, others: Tensor) -> Tensor:
    """Return the loss of the package."""
    return contrastive_loss(anchors, others, TEMPERATURE).loss


LOSSES: dict[str, Loss] = {"det": determinant_loss, "block": block_loss}


def inputs(batch: int, dim: int, k: int) -> tuple[Tensor, Tensor]:
    """Return anchors (U, d) and others (U, k - 1, d) that need gradients; matched pairs are correlated."""
    generator = torch_generator(0, "gram-volume", batch, dim, k)
    anchors = torch.randn(batch, dim, generator=generator)
    others = torch.randn(batch, k - 1, dim, generator=generator) + anchors.unsqueeze(1)
    return anchors.requires_grad_(), others.requires_grad_()


def step(loss: Loss, anchors: Tensor, others: Tensor) -> float:
    """Run one forward and backward pass; return the loss."""
    anchors.grad = others.grad = None
    value = loss(anchors, others)
    value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return value.item()


def sample(loss: Loss, anchors: Tensor, others: Tensor, calls: int) -> tuple[float, float]:
    """Return CPU and wall milliseconds per call over `calls` calls."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        step(loss, anchors, others)
    return (time.process_time() - cpu) * 1e3 / calls, (time.perf_counter() - wall) * 1e3 / calls


def timings(case: tuple[int, int, int], repeats: int) -> dict[str, Timing]:
    """Return the medians of both implementations, which take turns `repeats` times after a warm-up."""
    anchors, others = inputs(*case)
    calls: dict[str, int] = {}
    samples: dict[str, list[tuple[float, float]]] = {}
    for name, loss in LOSSES.items():
        sample(loss, anchors, others, 2)
        milliseconds = sample(loss, anchors, others, 1)[1]
        calls[name], samples[name] = max(1, round(MIN_SAMPLE_SECONDS * 1e3 / milliseconds)), []
    for _ in range(repeats):
        for name, loss in LOSSES.items():
            samples[name].append(sample(loss, anchors, others, calls[name]))
    return {
        name: Timing(*(statistics.median(column) for column in zip(*rows, strict=True)))
        for name, rows in samples.items()
    }


def peak_mib() -> float:
    """Return the peak resident set of this process in MiB.

    Linux: VmHWM, because the peak that getrusage reports there starts at the parent's and outlives exec.
    """
    status = Path("/proc/self/status")
    if status.exists():
        kib = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(kib) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes


def probe(name: str, case: tuple[int, int, int]) -> float:
    """Return by how many MiB one pass raises the peak resident set; meant for a fresh process."""
    step(LOSSES[name], *inputs(16, case[1], case[2]))
    anchors, others = inputs(*case)
    before = peak_mib()
    step(LOSSES[name], anchors, others)
    return peak_mib() - before


def memory(case: tuple[int, int, int]) -> dict[str, float | None]:
    """Return the extra peak of both implementations in MiB, each measured in a process of its own."""
    if case[0] < MEMORY_FROM_BATCH:
        return dict.fromkeys(LOSSES)
    arguments = [str(size) for size in case]
    return {
        name: float(subprocess.check_output([sys.executable, __file__, "--probe", name, *arguments], text=True))
        for name in LOSSES
    }


def row(case: tuple[int, int, int], repeats: int) -> list[float | str]:
    """Measure one case and return its line of the table."""
    anchors, others = inputs(*case)
    difference = abs(step(determinant_loss, anchors, others) - step(block_loss, anchors, others))
    time_of, mib_of = timings(case, repeats), memory(case)
    det, block = time_of["det"], time_of["block"]
    mib = ["-"] * 3
    if mib_of["det"] is not None and mib_of["block"] is not None:
        mib = [f"{mib_of['det']:.0f}", f"{mib_of['block']:.0f}", f"{mib_of['det'] / mib_of['block']:.1f}"]
    times = [f"{det.cpu:.2f}", f"{block.cpu:.2f}", f"{det.cpu / block.cpu:.2f}", f"{det.wall / block.wall:.2f}"]
    return [*case, *times, *mib, f"{difference:.0e}"]


def main() -> None:
    """Print the table, or with --probe one number for the parent process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small cases, few repeats")
    parser.add_argument("--probe", nargs=4, metavar=("NAME", "U", "D", "K"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.probe:
        name, batch, dim, k = options.probe
        print(probe(name, (int(batch), int(dim), int(k))))
        return
    cases, repeats = (QUICK_CASES, 5) if options.quick else (FULL_CASES, 15)
    print(tabulate([row(case, repeats) for case in cases], headers=HEADERS, disable_numparse=True, stralign="right"))


if __name__ == "__main__":
    main()
