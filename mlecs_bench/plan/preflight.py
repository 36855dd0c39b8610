"""What is looked at before anything is prepared or trained: are the models whole, and does the run fit into memory?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mlecs_bench.errors import UsageError
from mlecs_bench.execution.cell import profile_of
from mlecs_bench.metrics.bertscore import check_bertscore
from mlecs_bench.models.sources import WEIGHT_SUFFIXES, check_files, is_folder

if TYPE_CHECKING:
    from mlecs_bench.doors.hookspecs import DatasetInfo
    from mlecs_bench.models.memory import MemoryEstimate
    from mlecs_bench.plan.spec import RunSpec

NEARLY = 0.9
"""Share of the memory from which a run is warned: the estimate is no measurement, and others use the device too."""
SMALL_BYTES = 64 * 2**20
"""Size of all weight files up to which memory is no question, and no estimate is made: it imports transformers."""


def sources_of(spec: RunSpec) -> list[str]:
    """Return the language models that a resolved spec loads, each once."""
    profile = profile_of(spec)
    proxy = [spec.proxy] if spec.proxy else []
    return list(dict.fromkeys([profile.slm, profile.llm, *spec.device_slm.values(), *proxy]))


def check_models(spec: RunSpec, info: DatasetInfo) -> None:
    """Raise UsageError unless every model of a resolved spec has its files, and all fit into the memory.

    Of the memory only what cannot work is refused: frozen weights and trained parameters alone are more than the
    device has. `info` is the dataset's.
    """
    for source in sources_of(spec):
        check_files(source)
    if "bertscore" in info.metrics:
        check_bertscore(profile_of(spec).bertscore)
    n_modalities = len(info.modalities)
    found = memory_of(spec, n_modalities)
    if found is not None and found[0].weights + found[0].trained > found[1]:
        raise UsageError(_too_much(spec, n_modalities, found))


def memory_warning(spec: RunSpec, info: DatasetInfo) -> str | None:
    """Return a line for a run that will fit barely or not at all, else None."""
    n_modalities = len(info.modalities)
    found = memory_of(spec, n_modalities)
    return None if found is None or found[0].total <= NEARLY * found[1] else _too_much(spec, n_modalities, found)


def memory_of(spec: RunSpec, n_modalities: int) -> tuple[MemoryEstimate, int] | None:
    """Return the estimate of a resolved spec and the bytes its device has; None where that is no question."""
    sources = sources_of(spec)
    if all(map(is_folder, sources)) and sum(map(_weight_bytes, sources)) <= SMALL_BYTES:
        return None
    from mlecs_bench.models.memory import available_memory, estimate_memory

    profile, available = profile_of(spec), available_memory(str(spec.device))
    if available is None:
        return None
    others = [source for source in sources if source not in (profile.slm, profile.llm)]
    return estimate_memory(profile, spec.n_devices, n_modalities, others), available


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen.split(",") if chosen else [str(i) for i in range(torch.cuda.device_count())]


def workers_that_fit(spec: RunSpec, info: DatasetInfo, wanted: int) -> int:
    """Return how many cells to run at a time where the user names no number: one per GPU, else what memory allows."""
    if str(spec.device) == "cuda":
        return max(1, len(visible_gpus()))
    if str(spec.device) != "cpu":
        return 1
    found = memory_of(spec, len(info.modalities))
    return wanted if found is None else max(1, min(wanted, found[1] // found[0].total))


def _weight_bytes(folder: str) -> int:
    files = Path(folder).expanduser().iterdir()
    return sum(path.stat().st_size for path in files if path.suffix in WEIGHT_SUFFIXES)


def _too_much(spec: RunSpec, n_modalities: int, found: tuple[MemoryEstimate, int]) -> str:
    from mlecs_bench.models.memory import GIB, advice

    estimate, available = found
    cure = advice(profile_of(spec), spec.n_devices, n_modalities, int(NEARLY * available))
    return f"a cell needs about {estimate}, and {spec.device} has {available / GIB:.1f} GiB; {cure}"
