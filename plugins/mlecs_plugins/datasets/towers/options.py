"""Options of datasets that a tower of pictures can stand in front of. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from mlecs_bench.api import option


@dataclass(frozen=True)
class TowerOptions:
    """Are features embeddings of towers, and of which."""

    features: Literal["raw", "towers"] = option(
        "raw",
        help="raw: small inputs for encoders trained from nothing; towers: embeddings of frozen pretrained encoders",
        source="ours",
    )
    vision_tower: str = option(
        "openai/clip-vit-base-patch32",
        help="encoder of pictures: CLIP, SigLIP or any other image model of transformers, a folder or a hub id; or a "
        "file of weights (.pth, .safetensors) that vision_adapter reads",
        source="ours",
        path=True,
    )
    vision_adapter: str | None = option(
        None,
        help="the encoder plugin whose network a file of weights belongs to, such as efficientnet-lite0",
        source="ours",
    )
    tower_device: Literal["auto", "cpu", "cuda"] = option(
        "auto", help="where towers compute; auto: on a GPU if there is one", source="ours", execution=True
    )
    tower_batch: int = option(32, help="pictures, sounds or texts at a time", source="ours", execution=True)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            given = getattr(self, field.name)
            if self.features == "raw" and field.name.endswith(("_tower", "_adapter")) and given != field.default:
                raise ValueError(f"option '{field.name}' needs features=towers, got {given} with features=raw")
        if self.tower_batch < 1:
            raise ValueError(f"tower_batch must be at least 1, got {self.tower_batch}")
