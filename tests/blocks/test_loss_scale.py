"""float16: gradients through a scaled loss are those of float32, however small or large the loss is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import toy
from mlecs_bench.blocks.loss_scale import START, LossScale
from mlecs_bench.blocks.supervised import ALL_PARTS, Stage, supervised_loss, train_stage
from mlecs_bench.errors import MlecsError


def gradients(profile, samples, dtype: str, factor: float, *, scaled: bool = True, checkpointing: bool = False):
    """Return the gradients of a device's loss times `factor`, over all of its parts, and the scale at the end."""
    device = toy.toy_federation(
        profile, samples, algo="standalone", dtype=dtype, gradient_checkpointing=checkpointing, n_devices=1
    ).devices[0]
    loss = supervised_loss(device.model, device.train, device.prompt)
    generator = torch.Generator().manual_seed(0)
    with device.model.only_trainable(ALL_PARTS), torch.no_grad(), torch.enable_grad():
        for name, parameter in device.model.part("lora").items():
            if "lora_B" in name:  # zero at first, which leaves A without a gradient
                parameter.data.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
        device.model.switch(training=False)  # dropout draws the same in no two dtypes
        parameters = device.model.parameters(ALL_PARTS)
        scale = LossScale(parameters)
        value = loss(device.train.rows[:4]) * factor
        if scaled:
            scale.backward(value)
        else:
            value.backward()
        return [p.grad.clone() / factor for p in parameters if p.grad is not None], scale.value


def worst(found, expected) -> float:
    assert len(found) == len(expected) > 20
    return max(float((one - other).norm() / other.norm()) for one, other in zip(found, expected, strict=True))


def test_scaled_gradients_agree_with_float32_however_small_or_large_the_loss(profile, samples):
    exact, _ = gradients(profile, samples, "float32", 1.0, scaled=False)
    for factor, scale in ((1.0, START), (1e-3, START), (1e5, None)):
        found, last = gradients(profile, samples, "float16", factor)
        assert worst(found, exact) < 0.01
        assert last == scale if scale else last < START
    lost, _ = gradients(profile, samples, "float16", 1e-3, scaled=False)
    assert worst(lost, exact) > 0.1  # what the scale is for
    recomputed, _ = gradients(profile, samples, "float16", 1e5, checkpointing=True)
    assert worst(recomputed, exact) < 0.01  # a second pass over a recomputed graph


def test_no_scale_helps_a_loss_that_is_not_finite():
    weight = nn.Parameter(torch.ones(()))
    with pytest.raises(MlecsError, match="float16 does not hold the loss or its gradient; give --dtype float32"):
        LossScale([weight]).backward(weight * float("inf"))


def test_a_stage_in_float16_takes_all_its_steps_and_keeps_what_is_trained_in_float32(profile, samples):
    losses = {}
    for dtype in ("float32", "float16"):
        device = toy.toy_federation(profile, samples, algo="standalone", dtype=dtype, n_devices=1).devices[0]
        stage = Stage("private", "private", 1, 5, [(device.model, ALL_PARTS)])
        losses[dtype] = train_stage(
            device, device.train, stage, supervised_loss(device.model, device.train, device.prompt)
        )
        assert device.steps == {"private": 5}
        assert {p.dtype for p in device.model.parameters(ALL_PARTS)} == {torch.float32}
    assert losses["float16"] == pytest.approx(losses["float32"], rel=5e-3)
    assert losses["float16"] != losses["float32"]
