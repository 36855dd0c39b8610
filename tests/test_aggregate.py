"""The weighted mean over devices: an average tensor by tensor over those that hold it, in no order."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from mlecs_bench.blocks.aggregate import weighted_mean

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def random_states(seed, n=5, dtype=torch.float32):
    """Return states of n devices: every device holds "all", each of the others holds some of m0..m3."""
    generator = torch.Generator().manual_seed(seed)
    states = {}
    for j in range(n):
        held = ["all"] + [f"m{k}" for k in range(4) if torch.rand(1, generator=generator) < 0.5]
        scale = 10.0 ** float(torch.randint(-3, 4, (1,), generator=generator))
        states[f"d{j:02d}"] = {name: (scale * torch.randn(3, 4, generator=generator)).to(dtype) for name in held}
    weights = {j: float(torch.rand(1, generator=generator)) + 0.01 for j in states}
    return states, weights


def loop_mean(states, weights, name):
    """Return the mean of one tensor in numpy's longest float, device by device."""
    held = [j for j in states if name in states[j] and weights[j] > 0]
    total = sum(np.longdouble(weights[j]) for j in held)
    return sum(states[j][name].to(torch.float64).numpy().astype(np.longdouble) * weights[j] for j in held) / total


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_the_mean_equals_a_loop_over_the_holders(seed, dtype):
    states, weights = random_states(seed, dtype=dtype)
    mean = weighted_mean(states, weights)
    assert set(mean) == {name for state in states.values() for name in state}
    for name, tensor in mean.items():
        expected = torch.from_numpy(loop_mean(states, weights, name).astype(np.float64))
        assert tensor.dtype == dtype
        rtol = max(torch.finfo(dtype).eps, 1e-12)
        torch.testing.assert_close(tensor.to(torch.float64), expected, rtol=rtol, atol=rtol * 1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_devices_and_names_does_not_change_a_bit(seed, dtype):
    states, weights = random_states(seed, dtype=dtype)
    expected = weighted_mean(states, weights)
    for order in itertools.permutations(states):
        shuffled = {j: dict(reversed(states[j].items())) for j in order}
        mean = weighted_mean(shuffled, {j: weights[j] for j in reversed(order)})
        assert list(mean) == list(expected)
        assert all(torch.equal(mean[name], expected[name]) for name in expected)


def test_weights_one_two_three_by_hand():
    states = {f"d{j}": {"a": torch.tensor([float(j), 6.0 * j, -1.0])} for j in (1, 2, 3)}
    mean = weighted_mean(states, {"d1": 1, "d2": 2, "d3": 3})
    # (1·1 + 2·2 + 3·3) / 6 = 14/6, six times that, and -1
    assert torch.equal(mean["a"], torch.tensor([14 / 6, 14.0, -1.0]))


@pytest.mark.parametrize("factor", [1e-6, 0.5, 4, 1e6])
@pytest.mark.parametrize("seed", range(3))
def test_only_the_ratio_of_weights_matters(seed, factor):
    states, weights = random_states(seed)
    mean, scaled = weighted_mean(states, weights), weighted_mean(states, {j: factor * w for j, w in weights.items()})
    for name in mean:
        torch.testing.assert_close(scaled[name], mean[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize("weight", [1, 0.3, 2886])
@pytest.mark.parametrize("n", [1, 3, 7, 20])
def test_equal_weights_give_the_plain_mean(n, weight):
    generator = torch.Generator().manual_seed(n)
    states = {f"d{j:02d}": {"a": torch.randn(50, generator=generator)} for j in range(n)}
    mean = weighted_mean(states, dict.fromkeys(states, weight))["a"]
    plain = torch.stack([state["a"].double() for state in states.values()]).mean(dim=0).float()
    torch.testing.assert_close(mean, plain, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("n", [1, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_mean_of_equal_states_is_that_state_bit_for_bit(n, dtype):
    _, weights = random_states(n, n)
    tensor = torch.randn(200, generator=torch.Generator().manual_seed(n)).to(dtype)
    assert torch.equal(weighted_mean({j: {"a": tensor.clone()} for j in weights}, weights)["a"], tensor)


@pytest.mark.parametrize("seed", range(10))
def test_every_number_lies_between_the_least_and_the_greatest_of_its_holders(seed):
    states, weights = random_states(seed)
    for name, tensor in weighted_mean(states, weights).items():
        held = torch.stack([state[name] for state in states.values() if name in state])
        assert (tensor >= held.amin(dim=0)).all()
        assert (tensor <= held.amax(dim=0)).all()


def test_a_tensor_of_one_holder_is_that_holders_whatever_its_weight():
    tensor = torch.tensor([1.5, -2.25])
    states = {"d0": {"shared": torch.zeros(2), "own": tensor}, "d1": {"shared": torch.ones(2)}}
    mean = weighted_mean(states, {"d0": 0.1, "d1": 0.9})
    assert torch.equal(mean["own"], tensor)
    torch.testing.assert_close(mean["shared"], torch.full((2,), 0.9))


def test_devices_without_a_common_tensor_are_merely_united():
    states = {"d0": {"a": torch.ones(2)}, "d1": {"b": torch.full((3,), 2.0)}, "d2": {}}
    mean = weighted_mean(states, {"d0": 1, "d1": 5, "d2": 9})
    assert list(mean) == ["a", "b"]
    assert torch.equal(mean["a"], states["d0"]["a"])
    assert torch.equal(mean["b"], states["d1"]["b"])


def test_a_device_of_weight_zero_is_as_if_it_were_not_there():
    states, weights = random_states(3)
    weights["d01"] = 0.0
    without = {j: state for j, state in states.items() if j != "d01"}
    mean, expected = weighted_mean(states, weights), weighted_mean(without, weights)
    assert set(mean) == set(expected)
    assert all(torch.equal(mean[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("states", "weights"),
    [
        ({}, {}),
        ({"d0": {}, "d1": {}}, {"d0": 1, "d1": 1}),
        ({"d0": {"a": torch.ones(2)}}, {"d0": 0}),
        ({"d0": {"a": torch.ones(2)}, "d1": {"a": torch.ones(2)}}, {"d0": 0.0, "d1": 0.0}),
    ],
)
def test_what_nobody_of_positive_weight_holds_is_left_out(states, weights):
    assert weighted_mean(states, weights) == {}


@pytest.mark.parametrize("weight", [-1, -1e-9, math.inf, -math.inf, math.nan])
def test_a_negative_or_infinite_weight_is_refused(weight):
    states = {"d0": {"a": torch.ones(2)}, "d1": {"b": torch.ones(2)}}
    with pytest.raises(ValueError, match="weights must be finite and at least 0"):
        weighted_mean(states, {"d0": 1, "d1": weight})


def test_every_device_needs_a_weight():
    with pytest.raises(KeyError, match="d1"):
        weighted_mean({"d0": {"a": torch.ones(2)}, "d1": {"a": torch.ones(2)}}, {"d0": 1})


def test_the_states_are_left_as_they_were_and_the_mean_shares_nothing_with_them():
    states, weights = random_states(4)
    before = {j: {name: tensor.clone() for name, tensor in state.items()} for j, state in states.items()}
    for tensor in weighted_mean(states, weights).values():
        tensor.zero_()
    one = weighted_mean({"d00": states["d00"]}, weights)
    one["all"].zero_()
    assert all(torch.equal(states[j][name], before[j][name]) for j in states for name in states[j])


def test_small_contributions_survive_a_large_one():
    # In float32 a running sum of 1e8 would swallow every later 1.
    states = {f"d{j:02d}": {"a": torch.tensor([1e8 if j == 0 else 1.0])} for j in range(20)}
    mean = weighted_mean(states, dict.fromkeys(states, 1))["a"]
    assert mean.item() == np.float32((1e8 + 19) / 20)
