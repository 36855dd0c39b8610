"""What two processes on one card are worth: seconds per round of one and of two, and whether they send the same bits.

The rounds of both alternate. Measured with the embedded models, whose steps are too short to fill a card, and with
gpt2-large of random weights in 16 bits, which each process loads from a folder, as in a real run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fleets import Side
from gpu_sections.clock import forget
from gpu_sections.random_models import save_random_model, tiny_configurations
from gpu_sections.runner import Options, Report
from mlecs_bench.data.samples import DataRequest, Prepared, Samples
from mlecs_bench.doors.registry import Registry
from mlecs_bench.federation.messages import Message
from mlecs_bench.models.loading import BaseSettings
from mlecs_bench.models.placement import torch_device
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import RunSpec

FLEETS = ("in-process", "processes:2")
ALGORITHM = "multi-fedavg"
PAPERS_SLM = "MiniLLM/MiniLLM-gpt2-760M"


def measure(options: Options, report: Report) -> None:
    """Report both fleets with small and with large models on the devices."""
    folder = options.folder
    info = Registry.installed().dataset("vast").info
    data = info.prepare(DataRequest(None, folder, info.options()))
    size = {"n_devices": 2, "rounds": 2, "steps": 1} if options.tiny else {"n_devices": 4, "rounds": 4, "steps": 8}
    common = {"algo": ALGORITHM, "dataset": "vast", "rho": 0.8, "device": options.device, "bertscore_model": "none"}
    if not options.tiny:
        report("mini", compared(RunSpec(**common, **size), data, folder / "mini"))
    source = tiny_configurations(folder)[0] if options.tiny else PAPERS_SLM
    settings = BaseSettings(torch_device(options.device), torch.bfloat16)
    model = save_random_model(source, Samples.open(data).targets, settings, folder / "model")
    forget()
    report(
        "gpt2-large", compared(RunSpec(**common, **size, profile="paper", slm=model, llm=model), data, folder / "large")
    )


def compared(spec: RunSpec, data: Prepared, folder: Path) -> dict[str, Any]:
    """Return the seconds per round of both fleets after the first, their ratio, and how far their uploads are apart."""
    plan = resolve(spec, Registry.installed())
    sides = [Side(name, plan, data, folder) for name in FLEETS]
    apart, equal = 0.0, True
    try:
        for here, there in zip(*(side.rounds() for side in sides), strict=True):
            equal = equal and here == there
            apart = max(apart, *(furthest(here[id_], there[id_]) for id_ in here))
    finally:
        for side in sides:
            side.fleet.close()
    seconds = {side.name: side.median for side in sides}
    return {
        "n_devices": plan.n_devices,
        "steps": spec.steps,
        "round_seconds": seconds,
        "ratio": seconds[FLEETS[0]] / seconds[FLEETS[1]],
        "equal_uploads": equal,
        "largest_difference": apart,
    }


def furthest(one: bytes, other: bytes) -> float:
    """Return the largest difference of two messages that travelled as bytes."""
    here, there = Message.from_bytes(one).tensors, Message.from_bytes(other).tensors
    return max((float((here[name].double() - there[name].double()).abs().max()) for name in here), default=0.0)
