"""Laws of what a loaded model is tried for: a fault of each kind is seen, and none where there is none."""

from __future__ import annotations

import pytest
import torch

from mlecs_bench.errors import UsageError
from mlecs_bench.models.checkpointing import Recomputation, check_recomputation
from mlecs_bench.models.trial import computes, decoded_as_read, is_causal, trial_inputs

INPUTS = trial_inputs(4, torch.device("cpu"))
ROWS = torch.eye(4)


def test_what_cannot_be_computed_or_is_not_finite_is_seen():
    def unfit(embeds: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("expected scalar type Float but found Char")

    assert computes(torch.tanh, INPUTS)
    assert not computes(unfit, INPUTS)
    assert not computes(lambda embeds: embeds / 0, INPUTS)
    assert not computes(lambda embeds: embeds.abs().mul(0).sqrt(), INPUTS), "a gradient that is no number"


def running_sum(embeds: torch.Tensor) -> torch.Tensor:
    return embeds.cumsum(dim=1)


def test_a_model_that_sees_what_follows_is_told_from_one_that_does_not():
    assert is_causal(running_sum, INPUTS)
    assert not is_causal(lambda embeds: embeds - embeds.mean(dim=1, keepdim=True), INPUTS)


def decoded(fault: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return greedy ids of the running sum and their logits, those of the second row spoilt by a fault."""
    seen, ids, logits = INPUTS, [], []
    for _ in range(3):
        logits.append(running_sum(seen)[:, -1])
        ids.append(logits[-1].argmax(dim=-1))
        seen = torch.cat([seen, ROWS[ids[-1]][:, None]], dim=1)
    logits[-1] = logits[-1] + torch.tensor([[0.0], [fault]])
    return torch.stack(ids, dim=1), torch.stack(logits, dim=1)


def test_a_cache_that_spoils_one_row_of_a_batch_is_seen():
    assert decoded_as_read(running_sum, ROWS.__getitem__, INPUTS, decoded(0.0))
    assert not decoded_as_read(running_sum, ROWS.__getitem__, INPUTS, decoded(1.0))


def test_recomputation_that_changes_values_or_gradients_is_refused():
    switch = Recomputation()
    check_recomputation("m", switch, torch.tanh, INPUTS, exact=True)
    assert not switch.on

    def other_values(embeds: torch.Tensor) -> torch.Tensor:
        return embeds * (1.5 if switch.on else 1.0)

    def other_gradients(embeds: torch.Tensor) -> torch.Tensor:
        return embeds + 0.5 * (embeds.detach() - embeds) if switch.on else embeds * 1.0

    for compute in (other_values, other_gradients):
        for exact in (True, False):
            with pytest.raises(UsageError, match="leave --gradient-checkpointing out"):
                check_recomputation("m", switch, compute, INPUTS, exact=exact)
