"""Backward passes through a base of float16: losses are scaled, so that small gradients do not vanish on the way.

What is trained is float32, and so are its gradients; what flows back between the layers of a float16 base is not. It
cannot hold magnitudes below 6e-8, so the loss is multiplied before the pass and the gradients are divided after it.
Where a gradient becomes too large for float16 the pass is done again with half the scale: no step is left out, unlike
with torch's GradScaler, so that the number of steps is what the budget says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mlecs_bench.errors import MlecsError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor, nn

START = 2.0**14
"""The first scale of a stage: a loss per token, whose gradient at the logits is below 1, stays below 65504."""


class LossScale:
    """The backward passes of one stage over `parameters`; the scale only falls, by halves, from `START` to 1."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.value = START
        self._parameters = parameters

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Fill the parameters' gradients, unscaled; they have to be empty before.

        Raises MlecsError for a loss or a gradient that is not finite at any scale.
        """
        while True:
            (loss * self.value).backward(retain_graph=True)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            if self.value == 1 or all(bool(torch.isfinite(g).all()) for g in gradients):
                break
            self.value /= 2
            for parameter in self._parameters:
                parameter.grad = None
        if not all(bool(torch.isfinite(g).all()) for g in (loss, *gradients)):
            raise MlecsError("float16 does not hold the loss or its gradient; give --dtype float32, or bfloat16")
        for gradient in gradients:
            gradient.div_(self.value)
