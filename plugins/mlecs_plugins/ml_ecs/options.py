"""Options of ML-ECS and its ablations, with the source of every default."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mlecs_bench.api import TransferOptions, option

Trained = Literal["encoder", "lora", "connector"]
CONNECTOR = ("projector", "fusion", "soft_prompt")


def parts_of(trained: Sequence[Trained]) -> list[str]:
    """Return the parts of a model that an option names; the connector has three."""
    return [part for name in trained for part in (CONNECTOR if name == "connector" else (name,))]


def check_trained(name: str, trained: Sequence[Trained]) -> None:
    """Raise ValueError unless option `name` lists each part once and at least one."""
    if not trained or len(set(trained)) != len(trained):
        raise ValueError(f"option '{name}' must name each part once and at least one, got {trained}")


@dataclass(frozen=True)
class ContrastOptions:
    """What ML-ECS and every ablation of it have."""

    temperature: float = option(
        1.0, help="τ of the contrastive loss; GRAM starts at 0.07", source="paper Eq. 7-8 (no temperature printed)"
    )
    ccl_trains: tuple[Trained, ...] = option(
        ("connector", "lora"),
        help="what devices train on the public data, in contrastive learning: encoder may be added",
        source="authors' script, first stage; not in the paper",
    )
    server_trains_encoders: bool | None = option(
        None, help="train the server's encoders in its steps; none: as the profile says", source="not in the paper"
    )

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"option 'temperature' must be above 0 and finite, got {self.temperature}")
        check_trained("ccl_trains", self.ccl_trains)


@dataclass(frozen=True)
class TuningOptions(ContrastOptions):
    """What remains without knowledge transfer."""

    amt_trains: tuple[Trained, ...] = option(
        ("encoder", "lora"),
        help="what adaptive multimodal tuning trains; the authors' script trains encoder,lora,connector",
        source="paper, section 3.2",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_trained("amt_trains", self.amt_trains)


@dataclass(frozen=True)
class ServerOptions(TransferOptions, ContrastOptions):
    """What remains without adaptive multimodal tuning."""

    def __post_init__(self) -> None:
        TransferOptions.__post_init__(self)
        ContrastOptions.__post_init__(self)


@dataclass(frozen=True)
class MlEcsOptions(TransferOptions, TuningOptions):
    """Options of ML-ECS."""

    def __post_init__(self) -> None:
        TransferOptions.__post_init__(self)
        TuningOptions.__post_init__(self)
