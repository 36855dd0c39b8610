"""Towers of pictures: image models of transformers, and networks of encoder plugins with weights from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mlecs_plugins.datasets.towers.checkpoints import TowerCheckpoint, WeightFile
from mlecs_plugins.datasets.towers.loading import (
    LOAD_ERRORS,
    LOCAL,
    array,
    first_line,
    loaded_model,
    loaded_processor,
    reason,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

NO_PREPROCESSING = (
    "it does not say how pictures are prepared; write a preprocessor_config.json into the folder, such as "
    '{"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}, '
    '"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}'
)
PROBE = (96, 128)
"""Height and width of the picture that is shown to a tower when it is opened."""
NESTED = ("state_dict", "model")
"""Under these names training scripts save the state dict beside other things."""


class VisionTower:
    """An image model of transformers on pictures (H, W, 3) uint8, prepared as its folder says.

    CLIP gives its projected embeddings, other models their pooled output. A model whose pooling has no weights in the
    checkpoint, or that has no pooling, gives the mean of its last states over all positions.
    """

    def __init__(self, checkpoint: TowerCheckpoint, device: torch.device) -> None:
        from transformers import AutoImageProcessor

        self._checkpoint, self._device = checkpoint, device
        self._model, self._pools = _image_model(checkpoint, device)
        self._processor = loaded_processor(
            checkpoint, partial(AutoImageProcessor.from_pretrained, use_fast=False), NO_PREPROCESSING
        )
        self.width = self._probed()

    def _probed(self) -> int:
        """Return the width of embeddings; raises UsageError for a model that does not encode pictures."""
        picture = np.arange(3 * PROBE[0] * PROBE[1], dtype=np.uint32).reshape(*PROBE, 3) * 2654435761 >> 24
        pictures = [picture.astype(np.uint8)]
        try:
            once, again = self._embedded(pictures), self._embedded(pictures)
        except LOAD_ERRORS as error:
            raise self._checkpoint.unusable(f"it does not encode a picture ({first_line(error)})") from error
        if not np.array_equal(once, again):
            raise self._checkpoint.unusable("it gives one picture two embeddings, as models do that mask at random")
        return int(once.shape[1])

    def embed(self, items: Sequence[Any]) -> Array:
        """Return the embeddings (n, d) of pictures."""
        return self._embedded(items)

    @torch.inference_mode()
    def _embedded(self, items: Sequence[Any]) -> Array:
        pixels = self._processor(images=list(items), return_tensors="pt")["pixel_values"]
        output = self._model(pixel_values=pixels.to(self._device))
        return array(_pooled(output, self._pools))


def _image_model(checkpoint: TowerCheckpoint, device: torch.device) -> tuple[Any, bool]:
    """Return the model, and whether its own pooling has weights."""
    from transformers import AutoModel, CLIPVisionModelWithProjection, SiglipVisionModel

    if checkpoint.model_type in ("clip", "clip_vision_model"):
        # A whole CLIP names the width of its projection outside of the part about pictures.
        projection = {"projection_dim": int(checkpoint.config.get("projection_dim", 512))}
        return loaded_model(checkpoint, CLIPVisionModelWithProjection, device, settings=projection)
    if checkpoint.model_type in ("siglip", "siglip_vision_model"):
        return loaded_model(checkpoint, SiglipVisionModel, device)
    _check_reads_pictures(checkpoint)
    return loaded_model(checkpoint, AutoModel, device)


def _check_reads_pictures(checkpoint: TowerCheckpoint) -> None:
    """Raise UsageError unless pictures are what the architecture reads."""
    from transformers import MODEL_MAPPING, AutoConfig

    try:
        model_class = MODEL_MAPPING[type(AutoConfig.from_pretrained(checkpoint.folder, **LOCAL))]
    except LOAD_ERRORS as error:
        raise checkpoint.unusable(reason(error)) from error
    reads = getattr(model_class, "main_input_name", "several things")
    if reads != "pixel_values":
        raise checkpoint.unusable(f"its architecture '{checkpoint.model_type}' reads {reads}, and no pictures alone")


def _pooled(output: Any, pools: bool) -> Tensor:
    """Return embeddings (n, d), or (n, d, 1, 1), from what a model gives."""
    for name in ("image_embeds", "pooler_output"):
        pooled: Tensor | None = getattr(output, name, None)
        if pooled is not None and (pools or name != "pooler_output"):
            return pooled
    states: Tensor = output.last_hidden_state  # (n, positions, d), or a map (n, d, h, w)
    return states.mean(dim=1) if states.dim() == 3 else states.flatten(2).mean(dim=2)


class WeightTower:
    """The network of an encoder plugin with weights from a file, on pictures (H, W, 3) uint8.

    The whole picture is resized to the network's square by bicubic interpolation, whatever its shape.
    """

    def __init__(self, file: WeightFile, device: torch.device) -> None:
        self._info, self._device = file.tower, device
        self._network = self._info.build()
        _fill(self._network, file)
        # Channels last is how pictures come, and convolutions on a CPU are faster on it.
        network = self._network.requires_grad_(False).eval().to(device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub forgets it
        size = self._info.size
        self.width = int(self.embed([np.zeros((size, size, 3), dtype=np.uint8)]).shape[1])

    @torch.inference_mode()
    def embed(self, items: Sequence[Any]) -> Array:
        """Return the embeddings (n, d) of pictures."""
        pixels = torch.from_numpy(np.stack([self._resized(picture) for picture in items]))
        mean, std = (torch.tensor(values, dtype=torch.float32) for values in (self._info.mean, self._info.std))
        scaled = ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2).to(self._device)
        # On a CPU the maps of one picture fit its caches: one by one takes half the time of 32 together.
        size = 1 if self._device.type == "cpu" else len(scaled)
        passes = [self._network(scaled[i : i + size]) for i in range(0, len(scaled), size)]
        return array(torch.cat(passes))

    def _resized(self, picture: Array) -> Array:
        from PIL import Image

        size = (self._info.size, self._info.size)
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _fill(network: nn.Module, file: WeightFile) -> None:
    """Load a file's weights into a network; raises UsageError that names tensors which do not fit."""
    given = {key: tensor for name, tensor in _state_dict(file).items() if (key := file.tower.key(name)) is not None}
    own = network.state_dict()
    both = own.keys() & given.keys()
    problems = {
        "lacks": sorted(own.keys() - given.keys()),
        "has unknown": sorted(given.keys() - own.keys()),
        "has of another shape": sorted(key for key in both if own[key].shape != given[key].shape),
    }
    told = [
        f"{what} {len(keys)} ({', '.join(keys[:2])}{', ...' * (len(keys) > 2)})"
        for what, keys in problems.items()
        if keys
    ]
    if told:
        raise file.unusable(f"its tensors are not those of {file.adapter}: it {'; it '.join(told)}")
    network.load_state_dict(given)


def _state_dict(file: WeightFile) -> Mapping[str, Tensor]:
    """Return the tensors of a file by name; code in it is never run."""
    try:
        values = _read(file.path)
    except Exception as error:  # what a damaged file makes torch raise is not written down anywhere
        raise file.unusable(f"it cannot be read as weights alone ({first_line(error)})") from error
    for name in NESTED:
        if isinstance(values, Mapping) and isinstance(values.get(name), Mapping):
            values = values[name]
    if not isinstance(values, Mapping) or not all(isinstance(value, Tensor) for value in values.values()):
        raise file.unusable(f"it holds a {type(values).__name__} and no state dict")
    return values


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
