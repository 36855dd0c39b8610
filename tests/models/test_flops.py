"""The FLOPs of a step, against a count by hand over the toy model's layers."""

from __future__ import annotations

import torch

import toy
from mlecs_bench.models.flops import step_flops


def linear(n: int, n_in: int, n_out: int, products: int = 3) -> int:
    """n rows through a linear layer: forward, gradient of the input, gradient of the weights."""
    return products * 2 * n * n_in * n_out


def backbone(b: int, length: int, keep: int, rank: int, vocabulary: int) -> int:
    """A GPT-2 of two layers of width 16 with LoRA on c_attn and both c_proj: frozen weights have no gradient."""
    n, width = b * length, 16
    frozen = linear(n, width, 48, 2) + linear(n, width, width, 2) + linear(n, width, 64, 2) + linear(n, 64, width, 2)
    pairs = ((width, 48), (width, width), (64, width))
    lora = sum(linear(n, n_in, rank) + linear(n, rank, n_out) for n_in, n_out in pairs)
    product = 2 * b * length * length * width
    attention = 2 * product + 5 * product  # backward computes the scores again
    return 2 * (frozen + lora + attention) + linear(b * keep, width, vocabulary, 2)


def connector(b: int) -> int:
    return 3 * linear(b, 8, 8) + linear(b, 24, 8) + linear(b, 8, 48)


def encoders(b: int) -> int:
    """Convolutions over 4 places each (2 → 24 → 32 channels, kernel 3); first layers need no gradient of inputs."""
    audio = linear(b * 4, 2 * 3, 24, 2) + linear(b * 4, 24 * 3, 32) + linear(b, 128, 64) + linear(b, 64, 8)
    return audio + linear(b, 48, 64) + linear(b, 64, 8) + linear(b, 6, 64, 2) + linear(b, 64, 8)


def test_flops_of_a_step_are_those_counted_by_hand_and_counting_changes_nothing(profile, samples):
    device = next(d for d in toy.toy_federation(profile, samples, steps=1).devices if len(d.modalities) == 3)
    model, state = device.model, device.state()
    for b in (1, 4):
        rows = device.train.rows[:b]
        targets = device.train.targets(rows)
        keep = model.texts.answers(targets).ids.shape[1]
        length = 3 + model.texts.prompt(device.prompt).shape[-1] + keep - 1  # three soft tokens
        stream = torch.get_rng_state()
        found = step_flops(model, device.train.batch(rows), device.prompt, targets)
        by_hand = backbone(b, length, keep, 8, model.backbone.vocab_size) + connector(b) + encoders(b)
        assert found == by_hand
        assert torch.equal(torch.get_rng_state(), stream)
    assert not toy.differing(state, device.state())
    assert all(p.grad is None and not p.requires_grad for p in model.parameters(model.parts))
