"""Means over devices: tensor by tensor over those that hold it, rank by rank over those that reach it, in no order."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from laws import for_all
from mlecs_bench.blocks.aggregate import rank_axis, rank_weighted_mean, truncated, weighted_mean

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


@for_all("dtype", DTYPES)
@for_all("seed", range(5))
def test_the_mean_equals_a_loop_over_the_holders(seed, dtype):
    states, weights = random_states(seed, dtype=dtype)
    mean = weighted_mean(states, weights)
    assert set(mean) == {name for state in states.values() for name in state}
    for name, tensor in mean.items():
        expected = torch.from_numpy(loop_mean(states, weights, name).astype(np.float64))
        assert tensor.dtype == dtype
        rtol = max(torch.finfo(dtype).eps, 1e-12)
        torch.testing.assert_close(tensor.to(torch.float64), expected, rtol=rtol, atol=rtol * 1e-3)


@for_all("dtype", [torch.float32, torch.float64])
@for_all("seed", range(3))
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


@for_all("factor", [1e-6, 0.5, 4, 1e6])
@for_all("seed", range(3))
def test_only_the_ratio_of_weights_matters(seed, factor):
    states, weights = random_states(seed)
    mean, scaled = weighted_mean(states, weights), weighted_mean(states, {j: factor * w for j, w in weights.items()})
    for name in mean:
        torch.testing.assert_close(scaled[name], mean[name], rtol=1e-6, atol=0)


@for_all("weight", [1, 0.3, 2886])
@for_all("n", [1, 3, 7, 20])
def test_equal_weights_give_the_plain_mean(n, weight):
    generator = torch.Generator().manual_seed(n)
    states = {f"d{j:02d}": {"a": torch.randn(50, generator=generator)} for j in range(n)}
    mean = weighted_mean(states, dict.fromkeys(states, weight))["a"]
    plain = torch.stack([state["a"].double() for state in states.values()]).mean(dim=0).float()
    torch.testing.assert_close(mean, plain, rtol=1e-6, atol=1e-9)


@for_all("n", [1, 3, 7])
@for_all("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_of_equal_states_is_that_state_bit_for_bit(n, dtype):
    _, weights = random_states(n, n)
    tensor = torch.randn(200, generator=torch.Generator().manual_seed(n)).to(dtype)
    assert torch.equal(weighted_mean({j: {"a": tensor.clone()} for j in weights}, weights)["a"], tensor)


@for_all("seed", range(10))
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


@for_all(
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


@for_all("weight", [-1, -1e-9, math.inf, -math.inf, math.nan])
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


RANKS = [(2, 4), (4, 2), (2, 4, 3), (3, 3, 3), (1, 8, 4, 4, 2), (5,)]


def adapters(ranks, seed=0, widths=((6, 6), (3, 7), (5, 2)), dtype=torch.float32):
    """Return one random adapter per rank, for modules of the given (in, out) widths."""
    generator = torch.Generator().manual_seed(seed)
    states = {}
    for j, r in enumerate(ranks):
        state = {}
        for k, (width_in, width_out) in enumerate(widths):
            state[f"h.{k}.lora_A"] = torch.randn(r, width_in, generator=generator).to(dtype)
            state[f"h.{k}.lora_B"] = torch.randn(width_out, r, generator=generator).to(dtype)
        states[f"d{j:02d}"] = state
    return states, {j: float(torch.rand(1, generator=generator)) + 0.01 for j in states}


def loop_over_ranks(states, weights):
    """Return the mean index by index in numpy: row ρ of A and column ρ of B over the devices of rank > ρ."""
    result = {}
    for name in next(iter(states.values())):
        # All tensors with the rank first: A as it is, B transposed.
        turn = (lambda x: x) if name.endswith("A") else (lambda x: x.T)
        own = {j: turn(s[name].double().numpy()).astype(np.longdouble) for j, s in states.items() if weights[j] > 0}
        rows = []
        for index in range(max(len(x) for x in own.values())):
            reaching = [j for j in own if len(own[j]) > index]
            total = sum(np.longdouble(weights[j]) for j in reaching)
            rows.append(sum(weights[j] * own[j][index] for j in reaching) / total)
        result[name] = torch.from_numpy(turn(np.stack(rows)).astype(np.float64))
    return result


@for_all("dtype", [torch.float32, torch.float64])
@for_all("seed", range(3))
@for_all("ranks", RANKS)
def test_the_mean_over_ranks_equals_a_loop_over_rank_indices(ranks, seed, dtype):
    states, weights = adapters(ranks, seed, dtype=dtype)
    mean, expected = rank_weighted_mean(states, weights), loop_over_ranks(states, weights)
    assert set(mean) == set(expected)
    for name, tensor in mean.items():
        assert tensor.dtype == dtype
        assert tensor.is_contiguous()
        assert tensor.shape[0 if name.endswith("A") else 1] == max(ranks)
        rtol = torch.finfo(dtype).eps * 2
        torch.testing.assert_close(tensor.double(), expected[name], rtol=rtol, atol=rtol)


@for_all("order", list(itertools.permutations(range(3))))
@for_all("ranks", [(2, 4, 3), (4, 1, 4), (2, 2, 5)])
def test_the_mean_over_ranks_does_not_depend_on_the_order_of_devices_in_any_bit(ranks, order):
    states, weights = adapters(ranks)
    expected = rank_weighted_mean(states, weights)
    shuffled = {j: dict(reversed(states[j].items())) for j in (f"d{k:02d}" for k in order)}
    mean = rank_weighted_mean(shuffled, {j: weights[j] for j in shuffled})
    assert list(mean) == list(expected)
    assert all(torch.equal(mean[name], expected[name]) for name in expected)


@for_all("ranks", [(2, 4), (4, 2)])
def test_rows_that_one_device_alone_reaches_are_its_own(ranks):
    # Padding with zeros would halve them; the published code drops columns of B when the larger rank comes second.
    states, _ = adapters(ranks, 7)
    mean = rank_weighted_mean(states, dict.fromkeys(states, 3))
    large, small = sorted(states.values(), key=lambda s: -len(s["h.0.lora_A"]))
    for k in range(3):
        a, b = f"h.{k}.lora_A", f"h.{k}.lora_B"
        assert torch.equal(mean[a][2:], large[a][2:])
        assert torch.equal(mean[b][:, 2:], large[b][:, 2:])
        torch.testing.assert_close(mean[a][:2], (large[a][:2] + small[a]) / 2)
        torch.testing.assert_close(mean[b][:, :2], (large[b][:, :2] + small[b]) / 2)


@for_all("ranks", [(4, 2), (2, 4), (4, 4), (4, 3, 2)])
def test_names_and_not_shapes_tell_a_from_b(ranks):
    """Both widths of the module are its rank, so A and B have one shape on the device of rank 4."""
    states, weights = adapters(ranks, 3, widths=((4, 4),))
    mean, expected = rank_weighted_mean(states, weights), loop_over_ranks(states, weights)
    for name in expected:
        torch.testing.assert_close(mean[name].double(), expected[name], rtol=1e-6, atol=1e-7)
    short = truncated(mean, 2)
    assert torch.equal(short["h.0.lora_A"], mean["h.0.lora_A"][:2, :])
    assert torch.equal(short["h.0.lora_B"], mean["h.0.lora_B"][:, :2])


@for_all("dtype", DTYPES)
@for_all("seed", range(3))
def test_of_equal_ranks_the_mean_over_ranks_is_the_weighted_mean_bit_for_bit(seed, dtype):
    states, weights = adapters((3,) * 5, seed, dtype=dtype)
    mean, expected = rank_weighted_mean(states, weights), weighted_mean(states, weights)
    assert list(mean) == list(expected)
    assert all(torch.equal(mean[name], expected[name]) for name in expected)


@for_all("ranks", RANKS)
def test_one_device_alone_is_its_own_mean_and_truncation(ranks):
    states, weights = adapters(ranks)
    for j, state in states.items():
        mean = rank_weighted_mean({j: state}, weights, previous=state)
        rank = len(state["h.0.lora_A"])
        assert all(torch.equal(truncated(mean, rank)[name], state[name]) for name in state)


@for_all("zero", [0, 0.0, -0.0])
def test_rank_indices_that_only_devices_of_weight_zero_hold_stay_as_they_were(zero):
    states, weights = adapters((2, 4, 3))
    previous = adapters((4,), 99)[0]["d00"]
    weights["d01"] = zero
    mean = rank_weighted_mean(states, weights, previous)
    others = loop_over_ranks({j: states[j] for j in ("d00", "d02")}, weights)
    for name, tensor in mean.items():
        side = tensor if name.endswith("A") else tensor.T
        old, new = (x if name.endswith("A") else x.T for x in (previous[name], others[name]))
        assert torch.equal(side[3:], old[3:])
        torch.testing.assert_close(side[:3].double(), new, rtol=1e-6, atol=1e-7)
    assert all(tensor.shape == previous[name].shape for name, tensor in mean.items())
    without = rank_weighted_mean(states, weights)
    assert {len(t if n.endswith("A") else t.T) for n, t in without.items()} == {3}


@for_all("weights", [{"d00": 0, "d01": 0}, {"d00": -0.0, "d01": 0.0}])
def test_of_no_weight_at_all_the_previous_adapter_is_what_remains(weights):
    states, _ = adapters((2, 4))
    previous = adapters((4,), 99)[0]["d00"]
    for given in (states, {}):
        mean = rank_weighted_mean(given, weights, previous)
        assert set(mean) == set(previous)
        assert all(torch.equal(mean[name], previous[name]) for name in previous)
        assert rank_weighted_mean(given, weights) == {}


def test_a_tensor_that_no_device_sends_stays_as_it_was():
    states, weights = adapters((2, 3))
    previous = adapters((3,), 99)[0]["d00"]
    for state in states.values():
        del state["h.1.lora_A"]
    mean = rank_weighted_mean(states, weights, previous)
    assert set(mean) == set(previous)
    assert torch.equal(mean["h.1.lora_A"], previous["h.1.lora_A"])


def test_the_mean_over_ranks_shares_nothing_with_what_went_in():
    states, weights = adapters((2, 4))
    weights["d01"] = 0
    previous = adapters((4,), 99)[0]["d00"]
    before = {name: tensor.clone() for name, tensor in previous.items()}
    mean = rank_weighted_mean(states, weights, previous)
    short = truncated(previous, 4)
    for tensor in (*mean.values(), *short.values()):
        tensor.zero_()
    assert all(torch.equal(previous[name], before[name]) for name in before)
    assert all(bool(t.any()) for state in states.values() for t in state.values())


@for_all("rank", [0, -1, 5])
def test_an_adapter_cannot_be_cut_to_a_rank_it_does_not_have(rank):
    with pytest.raises(ValueError, match=f"has rank 4 and cannot be cut to {rank}"):
        truncated(adapters((4,))[0]["d00"], rank)


@for_all("name", ["h.lora_C", "lora_A.weight", "weight", "xlora_A", ""])
def test_only_tensors_of_an_adapter_have_a_rank(name):
    assert (rank_axis("lora_A"), rank_axis("h.lora_B.c.lora_A"), rank_axis("h.lora_B")) == (0, 0, 1)
    with pytest.raises(ValueError, match="no tensor of a LoRA adapter"):
        rank_axis(name)
    with pytest.raises(ValueError, match="no tensor of a LoRA adapter"):
        rank_weighted_mean({"d0": {name: torch.ones(2, 2)}}, {"d0": 1})


@for_all("weight", [-1, math.inf, math.nan])
def test_the_mean_over_ranks_refuses_a_negative_or_infinite_weight(weight):
    states, weights = adapters((2, 4))
    with pytest.raises(ValueError, match="weights must be finite and at least 0"):
        rank_weighted_mean(states, weights | {"d01": weight})
