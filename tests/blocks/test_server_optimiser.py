"""Adaptive server steps against loops in plain Python, over rounds in which devices come and go."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from laws import for_all
from mlecs_bench.blocks.server_optimiser import ServerOptimiser, adaptive_step
from mlecs_bench.errors import PluginError

RULES = ("fedadagrad", "fedadam", "fedyogi")
SHAPES = {"all": (3, 4), "some": (5,), "one": (2, 1, 2), "nobody": (3,)}


def draw(shape, generator, dtype=torch.float32, scale=1.0):
    return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def federation(seed, dtype=torch.float32, rounds=4, n_devices=3):
    """Return the server's tensors and what the devices send per round: not everybody holds every tensor."""
    generator = torch.Generator().manual_seed(seed)
    current = {name: draw(shape, generator, dtype) for name, shape in SHAPES.items()}
    uploads = []
    for t in range(rounds):
        scale = 10.0 ** float(torch.randint(-4, 2, (1,), generator=generator))
        uploads.append(
            {
                f"d{j:02d}": {
                    name: (current[name] + draw(SHAPES[name], generator, scale=scale)).to(dtype)
                    for name in ("all", "some", "one")
                    if name == "all" or (name == "some" and (j + t) % 2) or (name == "one" and t != 1 and j == 0)
                }
                for j in range(n_devices)
            }
        )
    return current, uploads


def by_hand(optimiser, current, uploads):
    """Return the server's tensors after each round as flat lists, computed one number at a time."""
    values = {name: tensor.double().flatten().tolist() for name, tensor in current.items()}
    memory = {name: [(0.0, optimiser.tau**2)] * len(v) for name, v in values.items()}
    dtypes = {name: tensor.dtype for name, tensor in current.items()}
    rounds = []
    for received in uploads:
        for name, numbers in values.items():
            held = [received[j][name].double().flatten().tolist() for j in sorted(received) if name in received[j]]
            for i in range(len(numbers) if held else 0):
                delta = sum(sent[i] - numbers[i] for sent in held) / len(held)
                m, v = memory[name][i]
                if optimiser.rule == "fedadagrad":
                    m, v = delta, v + delta**2
                else:
                    m = optimiser.beta1 * m + (1 - optimiser.beta1) * delta
                    if optimiser.rule == "fedadam":
                        v = optimiser.beta2 * v + (1 - optimiser.beta2) * delta**2
                    elif v != delta**2:
                        v -= (1 - optimiser.beta2) * delta**2 * math.copysign(1, v - delta**2)
                memory[name][i] = (m, v)
                new = numbers[i] + optimiser.rate * m / (math.sqrt(v) + optimiser.tau)
                numbers[i] = torch.tensor(new, dtype=dtypes[name]).item()  # a model keeps its own precision
        rounds.append({name: list(numbers) for name, numbers in values.items()})
    return rounds


@for_all("dtype", [torch.float32, torch.float64, torch.bfloat16])
@for_all("settings", [{}, {"rate": 0.3, "tau": 0.1, "beta1": 0.0, "beta2": 0.5}])
@for_all("rule", RULES)
@for_all("seed", range(3))
def test_four_rounds_equal_a_loop_over_numbers(seed, rule, settings, dtype):
    optimiser = ServerOptimiser(rule, **settings)
    current, uploads = federation(seed, dtype)
    expected = by_hand(optimiser, current, uploads)
    state = {}
    for received, wanted in zip(uploads, expected, strict=True):
        new, state = adaptive_step(optimiser, current, received, state)
        current = current | new
        for name, tensor in current.items():
            assert tensor.dtype == dtype
            assert tensor.shape == SHAPES[name]
            flat = torch.tensor(wanted[name], dtype=torch.float64)
            rtol = max(torch.finfo(dtype).eps, 1e-12)
            torch.testing.assert_close(tensor.double().flatten(), flat, rtol=rtol, atol=1e-12, msg=name)


def step(rule, w, sent, state=None, **settings):
    """Take one step of a single number; return it and the state."""
    optimiser = ServerOptimiser(rule, **({"rate": 0.5, "tau": 1.0, "beta1": 0.9, "beta2": 0.99} | settings))
    received = {f"d{j}": {"w": torch.tensor([x], dtype=torch.float64)} for j, x in enumerate(sent)}
    new, state = adaptive_step(optimiser, {"w": torch.tensor([w], dtype=torch.float64)}, received, state or {})
    return new["w"].item(), state


def test_fedadagrad_by_hand():
    w, state = step("fedadagrad", 1.0, [3.0, 5.0])  # Δ = 3, v = 1 + 9
    assert w == pytest.approx(1 + 0.5 * 3 / (math.sqrt(10) + 1), rel=1e-12)
    w, state = step("fedadagrad", 0.0, [2.0], state)  # v = 10 + 4
    assert w == pytest.approx(0.5 * 2 / (math.sqrt(14) + 1), rel=1e-12)
    assert set(state) == {"v/w"}


def test_fedadam_by_hand():
    w, state = step("fedadam", 1.0, [3.0, 5.0])  # m = 0.3, v = 0.99 + 0.09
    assert w == pytest.approx(1 + 0.5 * 0.3 / (math.sqrt(1.08) + 1), rel=1e-12)
    w, state = step("fedadam", 0.0, [2.0], state)  # m = 0.27 + 0.2, v = 0.99 * 1.08 + 0.04
    assert w == pytest.approx(0.5 * 0.47 / (math.sqrt(1.1092) + 1), rel=1e-12)
    assert {name: tensor.item() for name, tensor in state.items()} == pytest.approx({"m/w": 0.47, "v/w": 1.1092})


@for_all(("delta", "v"), [(3.0, 1 + 0.01 * 9), (0.5, 1 - 0.01 * 0.25), (1.0, 1.0), (-3.0, 1.09)])
def test_fedyogi_moves_its_second_moment_towards_the_square_by_a_share_of_it(delta, v):
    w, state = step("fedyogi", 0.0, [delta])
    assert state["v/w"].item() == pytest.approx(v, rel=1e-12)
    assert w == pytest.approx(0.5 * 0.1 * delta / (math.sqrt(v) + 1), rel=1e-12)


@for_all("rule", RULES)
@for_all("seed", range(2))
def test_the_order_of_devices_and_names_does_not_change_a_bit(seed, rule):
    optimiser = ServerOptimiser(rule, rate=0.1)
    current, (first, second, *_) = federation(seed)
    new, state = adaptive_step(optimiser, current, first, {})
    expected, expected_state = adaptive_step(optimiser, current | new, second, state)
    for order in itertools.permutations(second):
        shuffled = {j: dict(reversed(second[j].items())) for j in order}
        got, got_state = adaptive_step(
            optimiser, dict(reversed((current | new).items())), shuffled, dict(reversed(state.items()))
        )
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], expected[name]) for name in expected)
        assert got_state.keys() == expected_state.keys()
        assert all(torch.equal(got_state[name], expected_state[name]) for name in expected_state)


@for_all("rule", RULES)
def test_a_tensor_that_nobody_holds_keeps_value_and_state(rule):
    optimiser = ServerOptimiser(rule)
    current, uploads = federation(0)
    new, state = adaptive_step(optimiser, current, uploads[0], {})
    assert set(new) == {"all", "some", "one"}
    assert not any(name.endswith("/nobody") for name in state)
    later, later_state = adaptive_step(optimiser, current | new, uploads[1], state)  # in round 2 nobody sends "one"
    assert set(later) == {"all", "some"}
    kept = {name for name in state if name.endswith("/one")}
    assert kept == ({"v/one"} if rule == "fedadagrad" else {"m/one", "v/one"})
    assert all(torch.equal(later_state[name], state[name]) for name in kept)
    assert not torch.equal(later_state["v/all"], state["v/all"])


@for_all("rule", RULES)
def test_without_uploads_nothing_happens(rule):
    current, uploads = federation(1)
    _, state = adaptive_step(ServerOptimiser(rule), current, uploads[0], {})
    for received in ({}, {"d00": {}}):
        new, after = adaptive_step(ServerOptimiser(rule), current, received, state)
        assert new == {}
        assert after.keys() == state.keys()
        assert all(torch.equal(after[name], state[name]) for name in state)


@for_all("n", [1, 2, 5])
@for_all("rule", RULES)
def test_devices_that_changed_nothing_change_nothing(rule, n):
    current, _ = federation(2)
    new, _ = adaptive_step(ServerOptimiser(rule, rate=10.0), current, {f"d{j}": dict(current) for j in range(n)}, {})
    assert new.keys() == current.keys()
    assert all(torch.equal(new[name], current[name]) for name in current)


@for_all("n", [2, 4, 20])
@for_all("rule", RULES)
def test_devices_of_one_mind_step_as_one(rule, n):
    current, uploads = federation(3)
    sent = uploads[0]["d00"]
    alone, _ = adaptive_step(ServerOptimiser(rule, rate=0.1), current, {"d00": sent}, {})
    together, _ = adaptive_step(ServerOptimiser(rule, rate=0.1), current, {f"d{j:02d}": sent for j in range(n)}, {})
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], rtol=1e-6, atol=0)


@for_all("rule", RULES)
def test_every_device_counts_once(rule):
    assert step(rule, 0.0, [3.0, 0.0, 0.0])[0] == pytest.approx(step(rule, 0.0, [1.0])[0], rel=1e-12)


@for_all("rule", RULES)
@for_all("seed", range(3))
def test_no_step_is_longer_than_its_rule_allows(seed, rule):
    """|m| / √v is at most 1 for FedAdagrad, and (1 - β1) / √(1 - β2) = 1 in the first step of the others."""
    current, uploads = federation(seed, torch.float64)
    new, _ = adaptive_step(ServerOptimiser(rule, rate=0.01, tau=1e-9), current, uploads[0], {})
    for name, tensor in new.items():
        assert (tensor - current[name]).abs().max() <= 0.01 * (1 + 1e-9)
        delta = torch.stack([sent[name] for sent in uploads[0].values() if name in sent]).mean(0) - current[name]
        assert torch.equal(torch.sign(tensor - current[name]), torch.sign(delta))


@for_all("rule", RULES)
def test_the_second_moment_stays_positive(rule):
    state = {}
    for sent in ([100.0], [0.0], [1e-9], [-1e4], [0.0], [1e-3]):
        w, state = step(rule, 0.0, sent, state, tau=1e-6, beta2=0.0)
        assert state["v/w"].item() >= 0
        assert math.isfinite(w)


@for_all("rule", RULES)
def test_what_goes_in_is_not_changed_and_needs_no_gradient(rule):
    current, uploads = federation(4)
    current = {name: torch.nn.Parameter(tensor) for name, tensor in current.items()}
    _, state = adaptive_step(ServerOptimiser(rule), current, uploads[0], {})
    before = [{k: v.detach().clone() for k, v in d.items()} for d in (current, state, *uploads[1].values())]
    new, after = adaptive_step(ServerOptimiser(rule), current, uploads[1], state)
    for was, now in zip(before, (current, state, *uploads[1].values()), strict=True):
        assert was.keys() == now.keys()
        assert all(torch.equal(was[name], now[name]) for name in was)
    assert not any(tensor.requires_grad for tensor in (*new.values(), *after.values()))
    assert {tensor.dtype for tensor in after.values()} == {torch.float64}


def test_a_tensor_that_the_server_lacks_is_refused():
    with pytest.raises(PluginError, match="the server has no tensor 'b' to step from; send only"):
        adaptive_step(ServerOptimiser("fedadam"), {"a": torch.zeros(1)}, {"d00": {"b": torch.zeros(1)}}, {})


@for_all(
    ("name", "values", "wanted"),
    [
        ("rate", [0.0, -1.0, math.inf, math.nan], "above 0 and finite"),
        ("tau", [0.0, -1e-3, math.inf, math.nan], "above 0 and finite"),
        ("beta1", [-0.1, 1.0, math.nan], "at least 0 and below 1"),
        ("beta2", [-0.1, 1.0, math.nan], "at least 0 and below 1"),
    ],
)
def test_settings_outside_their_range_are_refused(name, values, wanted):
    for value in values:
        with pytest.raises(ValueError, match=f"the server's {name} must be {wanted}, got"):
            ServerOptimiser("fedadam", **{name: value})
