"""What is looked at before anything is prepared or trained: are the models whole, and does the run fit into memory?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mlecs_bench.doors.events import SILENT, Telling
from mlecs_bench.errors import UsageError
from mlecs_bench.models.hub import Part, fetched
from mlecs_bench.models.sources import WEIGHT_SUFFIXES, check_files, is_folder, is_known

if TYPE_CHECKING:
    from mlecs_bench.models.memory import MemoryEstimate
    from mlecs_bench.plan.plan import Plan

NEARLY = 0.9
"""Share of the memory from which a run is warned: the estimate is no measurement, and others use the device too."""
SMALL_BYTES = 64 * 2**20
"""Size of all weight files up to which memory is no question, and no estimate is made: it imports transformers."""


def check_models(plan: Plan, telling: Telling = SILENT) -> None:
    """Raise UsageError unless the models of a plan are of families that run, fit into the memory and are whole.

    Of the memory only what cannot work is refused: frozen weights and trained parameters alone are more than the
    device has. Of models of the hub no more than the configuration is fetched.
    """
    for source in filter(is_folder, plan.models()):
        check_files(source)
    fetch_configurations(plan, telling)
    _check_families(plan)
    n_modalities = len(plan.rates)
    found = memory_of(plan, n_modalities)
    if found is not None and found[0].weights + found[0].trained > found[1]:
        raise UsageError(_too_much(plan, n_modalities, found))


def _check_families(plan: Plan) -> None:
    """Raise UsageError for a model that no run could use, by its configuration and its tokenizer."""
    from mlecs_bench.models.loading import check_stored_tokenizer
    from mlecs_bench.models.outline import backbone_shape

    for source in plan.models():
        shape = backbone_shape(source, plan.profile.lora.targets)
        if plan.profile.base_bits is not None and not shape.quantised:
            raise UsageError(
                f"'{source}' ({shape.model_type}) has no layers that bitsandbytes quantises; leave --base-bits out"
            )
        if is_folder(source):  # of a hub id it might have to be fetched
            check_stored_tokenizer(source, shape.vocab_size)


def family_notes(plan: Plan) -> list[str]:
    """Return a line for every family of the plan's models whose LoRA targets are PEFT's, which are no table's."""
    from mlecs_bench.models.outline import backbone_shape
    from mlecs_bench.models.projections import LORA_TARGETS

    if plan.profile.lora.targets is not None:
        return []
    shapes = {shape.model_type: shape for shape in (backbone_shape(source, None) for source in plan.models())}
    return [
        f"models of the family '{family}' are adapted where PEFT does by default "
        f"({', '.join(dict.fromkeys(name.rpartition('.')[2] for name in shape.adapted))}), which may be less than what "
        "the families in docs/models.md have; --set lora.targets=... names others"
        for family, shape in shapes.items()
        if family not in LORA_TARGETS
    ]


def fetch_configurations(plan: Plan, telling: Telling = SILENT) -> None:
    """Fetch the configurations of a plan's models that are neither here nor known; raises UsageError."""
    for source in plan.models():
        if not is_folder(source) and not is_known(source):
            fetched(source, Part.CONFIG, telling)


def fetch_models(plan: Plan, telling: Telling = SILENT, part: Part = Part.WHOLE) -> None:
    """Fetch what the hub's cache lacks of a plan's models, so that no cell has to; raises UsageError.

    `part` less than the whole is enough for a plan that is only looked at.
    """
    for source in plan.models():
        if not is_folder(source):
            fetched(source, part, telling)


def memory_warning(plan: Plan, telling: Telling = SILENT) -> str | None:
    """Return a line for a run that will fit barely or not at all, else None."""
    fetch_configurations(plan, telling)
    n_modalities = len(plan.rates)
    found = memory_of(plan, n_modalities)
    return None if found is None or found[0].total <= NEARLY * found[1] else _too_much(plan, n_modalities, found)


def memory_of(plan: Plan, n_modalities: int) -> tuple[MemoryEstimate, int] | None:
    """Return the estimate of a plan and the bytes its device has; None where that is no question."""
    sources = plan.models()
    if all(map(is_folder, sources)) and sum(map(_weight_bytes, sources)) <= SMALL_BYTES:
        return None
    from mlecs_bench.models.memory import available_memory, estimate_memory

    profile, available = plan.profile, available_memory(plan.torch_device)
    if available is None:
        return None
    others = [source for source in sources if source not in (profile.slm, profile.llm)]
    return estimate_memory(profile, plan.n_devices, n_modalities, others), available


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (
        [name.strip() for name in chosen.split(",")] if chosen else [str(i) for i in range(torch.cuda.device_count())]
    )


def workers_that_fit(plan: Plan, wanted: int) -> int:
    """Return how many cells to run at a time where the user names no number: one per GPU, else what memory allows."""
    if plan.torch_device == "cuda":
        return max(1, len(visible_gpus()))
    if plan.torch_device != "cpu":
        return 1
    found = memory_of(plan, len(plan.rates))
    return wanted if found is None else max(1, min(wanted, found[1] // found[0].total))


def _weight_bytes(folder: str) -> int:
    files = Path(folder).expanduser().iterdir()
    return sum(path.stat().st_size for path in files if path.suffix in WEIGHT_SUFFIXES)


def _too_much(plan: Plan, n_modalities: int, found: tuple[MemoryEstimate, int]) -> str:
    from mlecs_bench.models.memory import GIB, advice

    estimate, available = found
    cure = advice(plan.profile, plan.n_devices, n_modalities, int(NEARLY * available))
    return f"a cell needs about {estimate}, and {plan.torch_device} has {available / GIB:.1f} GiB; {cure}"
