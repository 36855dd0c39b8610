"""How many floating-point operations a training step takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from mlecs_bench.data.samples import Batch
    from mlecs_bench.models.unified import UnifiedModel


def step_flops(model: UnifiedModel, batch: Batch, prompt: str, targets: Sequence[str]) -> int:
    """Return the FLOPs of one supervised step on a batch: forward and backward, with every part trained.

    Counted by torch's FlopCounterMode on the very computation: a multiplication and an addition of products,
    convolutions and attention (whole, though half of it is masked) are two operations; elementwise operations and the
    optimiser are not counted. Depends on shapes alone. The model and the random streams are left as they were.
    """
    from torch.utils import flop_counter

    aten = torch.ops.aten
    forward: Any = flop_counter.sdpa_flop_count
    backward: Any = flop_counter.sdpa_backward_flop_count
    # torch knows the formulas of attention, but not by these names, which it has on a CPU.
    on_cpu = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: forward(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda out, q, k, v, *_, **__: backward(out, q, k, v)
        ),
    }
    counting = flop_counter.FlopCounterMode(display=False, custom_mapping=on_cpu)
    with torch.random.fork_rng(), model.only_trainable(model.parts), counting as counter:
        model.loss(batch, prompt, targets).backward()  # type: ignore[no-untyped-call]  # torch has no type for it
    return int(counter.get_total_flops())
