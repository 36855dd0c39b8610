"""One small encoder per encoding of a modality: raw batch (b, *shape) in, float32 features (b, dim) out.

Every encoding enters by an entry point of the group `mlecs_bench.encoders`; these come with mlecs-bench. They stand in
for large pretrained extractors, so that a run takes minutes on a CPU; uint8 values are scaled to [-1, 1] inside. None
keeps running statistics: a buffer that follows the data of one device would not survive an average over devices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int, Num
from torch import Tensor, nn

from mlecs_bench.data.samples import Modality
from mlecs_bench.doors.hookspecs import EncoderInfo, hookimpl
from mlecs_bench.doors.registry import Loaded, Registry
from mlecs_bench.errors import DataError

TABLE_ROWS = 512
"""Rows of the token table of a modality that names no vocabulary: ids beyond it share rows, so any id works."""

_NORM_GROUPS = 4


def encoders_of(modalities: Iterable[Modality], registry: Registry) -> dict[str, EncoderInfo]:
    """Return the encoder of every encoding among `modalities`, by encoding.

    Raises DataError for an encoding that no installed encoder reads, PluginError for an encoder that is broken.
    """
    return {encoding: encoder.info for encoding, encoder in _loaded(modalities, registry).items()}


def encoder_origins(modalities: Iterable[Modality], registry: Registry) -> dict[str, str]:
    """Return distribution, version and code digest of every encoder of `modalities` that is not mlecs-bench's own.

    Results depend on them, so they belong to what identifies a result. Raises as `encoders_of`.
    """
    origins = {encoding: encoder.origin for encoding, encoder in _loaded(modalities, registry).items()}
    return {encoding: origin for encoding, origin in origins.items() if origin}


def installed_encoder(name: str) -> Loaded[EncoderInfo]:
    """Import one encoder of this installation, as datasets do that use its network as a tower.

    Raises UsageError with the nearest name for one that is not installed, PluginError for one that is broken.
    """
    return Registry.installed().encoder(name)


def _loaded(modalities: Iterable[Modality], registry: Registry) -> dict[str, Loaded[EncoderInfo]]:
    known = sorted({entry.name for entry in registry.entries("encoder")})
    found: dict[str, Loaded[EncoderInfo]] = {}
    for modality in modalities:
        if modality.encoding not in known:
            raise DataError(
                f"modality '{modality.name}' has no known encoding: {modality.encoding}; use one of {', '.join(known)}"
            )
        if modality.encoding not in found:
            found[modality.encoding] = registry.encoder(modality.encoding)
    return found


def build_encoder(modality: Modality, dim: int, info: EncoderInfo) -> nn.Module:
    """Return a freshly initialised encoder of `modality` with `dim` outputs (weights from torch's current stream).

    It maps a batch (b, *modality.shape) of the modality's dtype to float32 (b, dim). Raises DataError when the shape
    does not fit the encoding.
    """
    if len(modality.shape) != info.axes:
        raise DataError(
            f"modality '{modality.name}' is encoded as {modality.encoding}, which needs {info.axes} axes, "
            f"but its shape is {modality.shape}; correct the dataset's manifest"
        )
    return info.build(modality, dim)


def _conv_block(n_in: int, n_out: int, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride, padding=1), nn.GroupNorm(_NORM_GROUPS, n_out), nn.GELU())


def _to_float(values: Tensor) -> Tensor:
    """Return `values` as float32, uint8 scaled from 0..255 to -1..1."""
    return values.float() / 127.5 - 1.0 if values.dtype == torch.uint8 else values.float()


class FramesEncoder(nn.Module):
    """Frames (b, T, H, W, C) as T·C channels of one image, so that the first layer sees motion."""

    def __init__(self, shape: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.body = _image_body(shape[0] * shape[3], dim)

    def forward(self, frames: Num[Tensor, "b T H W C"]) -> Float32[Tensor, "b dim"]:
        """Return features of `frames`."""
        b, t, h, w, c = frames.shape
        stacked = _to_float(frames).permute(0, 1, 4, 2, 3).reshape(b, t * c, h, w)
        features: Tensor = self.body(stacked)
        return features


class ImageEncoder(nn.Module):
    """An image (b, H, W, C)."""

    def __init__(self, shape: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.body = _image_body(shape[2], dim)

    def forward(self, image: Num[Tensor, "b H W C"]) -> Float32[Tensor, "b dim"]:
        """Return features of `image`."""
        features: Tensor = self.body(_to_float(image).permute(0, 3, 1, 2))
        return features


def _image_body(channels: int, dim: int) -> nn.Sequential:
    """Return the network behind images: two halvings, then a 4 × 4 grid, so place in the image is kept."""
    blocks = (_conv_block(channels, 24), _conv_block(24, 32, stride=1), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    return nn.Sequential(*blocks, nn.Linear(32 * 16, 72), nn.GELU(), nn.Linear(72, dim))


class SpectrogramEncoder(nn.Module):
    """A spectrogram (b, F, T): pooled less along frequency than along time, where events may begin anywhere."""

    def __init__(self, shape: tuple[int, ...], dim: int) -> None:
        super().__init__()
        blocks = (_conv_block(1, 16), _conv_block(16, 24), nn.AdaptiveAvgPool2d((6, 3)), nn.Flatten())
        self.body = nn.Sequential(*blocks, nn.Linear(24 * 18, 64), nn.GELU(), nn.Linear(64, dim))

    def forward(self, spectrogram: Num[Tensor, "b F T"]) -> Float32[Tensor, "b dim"]:
        """Return features of `spectrogram`."""
        features: Tensor = self.body(spectrogram.float().unsqueeze(1))
        return features


class TokensEncoder(nn.Module):
    """Token ids (b, L), 0 = padding: the mean of the words' vectors, then an MLP. Ids beyond the table wrap."""

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, 48)
        self.body = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 64), nn.GELU(), nn.Linear(64, dim))

    def forward(self, ids: Int[Tensor, "b L"]) -> Float32[Tensor, "b dim"]:
        """Return features of `ids`; a row of padding only gives the features of no words."""
        known = (ids != 0).unsqueeze(-1).float()
        words = self.table(ids.long() % self.table.num_embeddings) * known
        features: Tensor = self.body(words.sum(dim=1) / known.sum(dim=1).clamp(min=1.0))
        return features


class SeriesEncoder(nn.Module):
    """A series (b, T, C): two convolutions in time, then four stretches of it side by side."""

    def __init__(self, shape: tuple[int, ...], dim: int) -> None:
        super().__init__()
        first = (nn.Conv1d(shape[1], 24, 3, padding=1), nn.GroupNorm(_NORM_GROUPS, 24), nn.GELU())
        second = (nn.Conv1d(24, 32, 3, padding=1), nn.GELU(), nn.AdaptiveAvgPool1d(4), nn.Flatten())
        self.body = nn.Sequential(*first, *second, nn.Linear(128, 64), nn.GELU(), nn.Linear(64, dim))

    def forward(self, series: Num[Tensor, "b T C"]) -> Float32[Tensor, "b dim"]:
        """Return features of `series`."""
        features: Tensor = self.body(series.float().transpose(1, 2))
        return features


class VectorEncoder(nn.Module):
    """A vector (b, F) of standardised features through an MLP."""

    def __init__(self, shape: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(shape[0], 64), nn.GELU(), nn.Linear(64, dim))

    def forward(self, vector: Num[Tensor, "b F"]) -> Float32[Tensor, "b dim"]:
        """Return features of `vector`."""
        features: Tensor = self.body(vector.float())
        return features


@dataclass(frozen=True)
class EncoderPlugin:
    """One of the encoders above, as an entry point names it."""

    info: EncoderInfo

    @hookimpl
    def mlecs_encoder(self) -> EncoderInfo:
        """Return the encoder."""
        return self.info


FRAMES = EncoderPlugin(
    EncoderInfo(
        title="Frames",
        summary="convolutions over the stacked frames (T, H, W, C) of a clip, uint8",
        axes=4,
        build=lambda modality, dim: FramesEncoder(modality.shape, dim),
    )
)
IMAGE = EncoderPlugin(
    EncoderInfo(
        title="Image",
        summary="convolutions over an image (H, W, C), uint8",
        axes=3,
        build=lambda modality, dim: ImageEncoder(modality.shape, dim),
    )
)
SPECTROGRAM = EncoderPlugin(
    EncoderInfo(
        title="Spectrogram",
        summary="convolutions over frequency and time (F, T), float32",
        axes=2,
        build=lambda modality, dim: SpectrogramEncoder(modality.shape, dim),
    )
)
TOKENS = EncoderPlugin(
    EncoderInfo(
        title="Tokens",
        summary="the mean of the word vectors of ids (L,), int64, 0 = padding",
        axes=1,
        build=lambda modality, dim: TokensEncoder(modality.vocabulary or TABLE_ROWS, dim),
    )
)
SERIES = EncoderPlugin(
    EncoderInfo(
        title="Series",
        summary="convolutions in time over channels (T, C), float32",
        axes=2,
        build=lambda modality, dim: SeriesEncoder(modality.shape, dim),
    )
)
VECTOR = EncoderPlugin(
    EncoderInfo(
        title="Vector",
        summary="a network on features (F,), float32",
        axes=1,
        build=lambda modality, dim: VectorEncoder(modality.shape, dim),
    )
)
