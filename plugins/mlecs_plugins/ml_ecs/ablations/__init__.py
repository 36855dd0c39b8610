"""Ablations of ML-ECS (paper, section 4.5), one plugin each: a subclass that replaces one step of the round."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from mlecs_bench.api import AlgorithmInfo
from mlecs_plugins.ml_ecs.options import ContrastOptions, MlEcsOptions

PRINTED = "arXiv 2602.14107, section 4.5"
OURS = "The paper does not have this ablation; it is ours."


def completed(options: ContrastOptions, **fixed: Any) -> MlEcsOptions:
    """Return the options of ML-ECS with what an ablation offers and the values it fixes; the rest has no effect."""
    return MlEcsOptions(**dataclasses.asdict(options), **fixed)


def about(info: AlgorithmInfo, *, reproduced: Sequence[str] = (), readings: Sequence[str] = ()) -> AlgorithmInfo:
    """Return a card with sentences about the ablation in front of those about what is left."""
    return dataclasses.replace(info, reproduced=(*reproduced, *info.reproduced), readings=(*readings, *info.readings))
