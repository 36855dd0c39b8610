"""AdamW and gradient clipping written out in numpy, on a loss whose gradients are known by hand."""

from __future__ import annotations

import itertools

import numpy as np
import torch


def quadratic(models, parts, factors):
    """Return the loss Σ factor(step) · Σ (p - 0.5)² of each model, and no dropout."""
    steps = itertools.count()

    def loss(rows):
        step = next(steps)
        total = torch.zeros(())
        for model, factor in zip(models, factors, strict=True):
            squares = sum((p - 0.5).square().sum() for p in model.parameters(parts))
            total = total + factor * 10.0 ** (step % 3) * squares
        return total

    return loss


def adamw_by_hand(tensors, rates, factor, steps, training):
    """Take the steps of AdamW on `quadratic` in float64 (Loshchilov and Hutter 2019, algorithm 2)."""
    values = [t.detach().double().numpy().copy() for t in tensors]
    first, second = ([np.zeros_like(v) for v in values] for _ in range(2))
    for step in range(steps):
        gradients = [2 * factor * 10.0 ** (step % 3) * (v - 0.5) for v in values]
        norm = np.sqrt(sum((g**2).sum() for g in gradients))
        scale = min(1.0, training.clip_norm / (norm + 1e-6))
        for i, gradient in enumerate(gradients):
            g = scale * gradient
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g**2
            values[i] = values[i] * (1 - rates[i] * training.weight_decay)
            corrected = np.sqrt(second[i] / (1 - 0.999 ** (step + 1))) + 1e-8
            values[i] = values[i] - rates[i] * first[i] / (1 - 0.9 ** (step + 1)) / corrected
    return values
