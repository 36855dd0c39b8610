"""Options of ML-ECS, with the source of every default."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mlecs_bench.api import option

Trained = Literal["encoder", "lora", "connector"]


@dataclass(frozen=True)
class MlEcsOptions:
    """Options of ML-ECS."""

    temperature: float = option(
        1.0, help="τ of the contrastive loss; GRAM starts at 0.07", source="paper Eq. 7-8 (no temperature printed)"
    )
    amt_trains: tuple[Trained, ...] = option(
        ("encoder", "lora"),
        help="what adaptive multimodal tuning trains; the authors' script trains encoder,lora,connector",
        source="paper, section 3.2",
    )
    kt_weight: float = option(1.0, help="λ of the knowledge-transfer losses", source="paper Eq. 15-16 (weight 1)")
    kt_pool: Literal["auto", "topk", "sorted", "avg", "none"] = option(
        "auto",
        help="how output logits are pooled before the divergence; auto: topk where 95 % of the two vocabularies "
        "agree, else sorted, which needs no map between them",
        source="ours; FedMKT pools the top K",
    )
    kt_bins: int = option(128, help="K, the number of pooled bins", source="FedMKT")
    kt_vocabulary: Literal["edit-distance", "drop"] = option(
        "edit-distance",
        help="what becomes of teacher tokens that the student's tokenizer lacks: the nearest token, or the rest bin",
        source="ours; FedMKT uses the minimum edit distance",
    )
    server_trains_encoders: bool | None = option(
        None, help="train the server's encoders in SE-CCL; none: as the profile says", source="not in the paper"
    )

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"option 'temperature' must be above 0 and finite, got {self.temperature}")
        if not 0 <= self.kt_weight < math.inf:
            raise ValueError(f"option 'kt_weight' must be at least 0 and finite, got {self.kt_weight}")
        if self.kt_bins < 1:
            raise ValueError(f"option 'kt_bins' must be at least 1, got {self.kt_bins}")
        if not self.amt_trains or len(set(self.amt_trains)) != len(self.amt_trains):
            raise ValueError(f"option 'amt_trains' must name each part once and at least one, got {self.amt_trains}")
