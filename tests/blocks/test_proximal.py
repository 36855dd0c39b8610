"""The proximal term: value and gradient by hand, which layers are in the middle, and what a reference must have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from laws import for_all
from mlecs_bench.blocks.proximal import layer_count, layer_of, middle_layers, proximal_term
from mlecs_bench.errors import PluginError

SHAPES = {
    "scalar": {"a": ()},
    "one": {"a": (7,)},
    "adapter": {"h.0.lora_A": (4, 16), "h.0.lora_B": (48, 4), "h.1.lora_A": (4, 16), "h.1.lora_B": (48, 4)},
    "empty": {"a": (0, 3), "b": (2, 3)},
}


def draw(shapes, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}


@for_all("strength", [0.0, 0.001, 1.0, 37.5])
@for_all("shapes", SHAPES.values())
@for_all("seed", range(3))
def test_value_and_gradient_equal_the_formula_by_hand(seed, shapes, strength):
    parameters = {name: w.requires_grad_() for name, w in draw(shapes, seed).items()}
    reference = draw(shapes, seed + 100)
    term = proximal_term(parameters, reference, strength)
    term.backward()
    value = 0.0
    for name, w in parameters.items():
        difference = w.detach().numpy() - reference[name].numpy()
        value += sum(strength / 2 * float(d) ** 2 for d in difference.flat)
        np.testing.assert_allclose(w.grad.numpy(), strength * difference, rtol=1e-12, atol=1e-15)
    assert term.shape == ()
    assert term.item() == pytest.approx(value, rel=1e-12)


@for_all("seed", range(3))
def test_the_gradient_passes_a_check_by_finite_differences(seed):
    reference = draw(SHAPES["adapter"], seed + 100)
    names = sorted(reference)

    def term(*tensors):
        return proximal_term(dict(zip(names, tensors, strict=True)), reference, 0.7)

    tensors = [draw(SHAPES["adapter"], seed)[name].requires_grad_() for name in names]
    assert torch.autograd.gradcheck(term, tensors)


def test_golden_value():
    parameters = {"h.1.lora_A": torch.tensor([1.0, 3.0]), "h.2.lora_A": torch.tensor([[0.5], [0.5]])}
    reference = {"h.1.lora_A": torch.tensor([0.0, 2.0]), "h.2.lora_A": torch.tensor([[-0.5], [1.5]])}
    assert proximal_term(parameters, reference, 0.01 * 0.1).item() == pytest.approx(0.002, rel=1e-6)


@for_all("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_at_the_reference_value_and_gradient_are_exactly_zero(dtype):
    reference = draw(SHAPES["adapter"], 0, dtype)
    parameters = {name: w.clone().requires_grad_() for name, w in reference.items()}
    term = proximal_term(parameters, reference, 5.0)
    term.backward()
    assert term.item() == 0
    assert all(torch.equal(w.grad, torch.zeros_like(w)) for w in parameters.values())


def test_terms_of_disjoint_tensors_add_up_whatever_their_order():
    parameters, reference = draw(SHAPES["adapter"], 1), draw(SHAPES["adapter"], 2)
    whole = proximal_term(dict(reversed(parameters.items())), reference, 0.3)
    single = [proximal_term({name: w}, reference, 0.3) for name, w in parameters.items()]
    torch.testing.assert_close(whole, sum(single))


def test_the_reference_gets_no_gradient():
    reference = {name: w.requires_grad_() for name, w in draw(SHAPES["adapter"], 1).items()}
    parameters = {name: w.requires_grad_() for name, w in draw(SHAPES["adapter"], 2).items()}
    proximal_term(parameters, reference, 1.0).backward()
    assert all(w.grad is None for w in reference.values())


def test_tensors_of_the_reference_alone_do_not_count():
    parameters, reference = draw(SHAPES["adapter"], 1), draw(SHAPES["adapter"], 2)
    wider = reference | {"h.9.lora_A": torch.full((3,), 1e6)}
    assert torch.equal(proximal_term(parameters, wider, 1.0), proximal_term(parameters, reference, 1.0))


def test_without_parameters_the_term_is_zero_and_adds_to_a_loss():
    w = torch.ones(2, requires_grad=True)
    loss = w.sum() + proximal_term({}, {"a": torch.ones(1)}, 3.0)
    loss.backward()
    assert loss.item() == 2
    assert torch.equal(w.grad, torch.ones(2))


@for_all("reference", [{}, {"b": torch.zeros(2, 3)}])
def test_a_tensor_that_the_reference_lacks_is_refused(reference):
    with pytest.raises(PluginError, match=r"has nothing for 'a' of shape \(2, 3\); take the reference"):
        proximal_term({"a": torch.zeros(2, 3)}, reference, 1.0)


@for_all("shape", [(), (3,), (1, 3), (3, 2)])
def test_a_reference_of_another_shape_is_refused_even_if_it_broadcasts(shape):
    with pytest.raises(PluginError, match=r"has shape .* for 'a'"):
        proximal_term({"a": torch.zeros(2, 3)}, {"a": torch.zeros(shape)}, 1.0)


@for_all("mu", [0.01, 0.5])
def test_steps_on_loss_plus_term_are_those_of_fedprox(mu):
    """Gradient descent on |w - c|² / 2 + μ/2 |w - w_0|² ends at (c + μ w_0) / (1 + μ)."""
    start, goal = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([5.0, 5.0], dtype=torch.float64)
    w = start.clone().requires_grad_()
    for _ in range(200):
        loss = (w - goal).square().sum() / 2 + proximal_term({"w": w}, {"w": start}, mu)
        (gradient,) = torch.autograd.grad(loss, [w])
        w = (w - 0.3 * gradient).detach().requires_grad_()
    torch.testing.assert_close(w.detach(), (goal + mu * start) / (1 + mu))


# ------------------------------------------------------------------------------------------------------------ layers


@for_all(
    ("name", "layer"),
    [
        ("transformer.h.0.attn.c_attn.lora_A", 0),
        ("transformer.h.31.mlp.c_proj.lora_B", 31),
        ("model.layers.7.self_attn.q_proj.lora_A", 7),
        ("model.layers.7.mlp.experts.3.down_proj.lora_A", 7),
        ("12", 12),
        ("transformer.wte.weight", None),
        ("rgb/0.weight", None),
        ("model.fc1.lora_A", None),
        ("h2.lora_B", None),
        ("", None),
    ],
)
def test_the_layer_is_the_first_number_among_the_dotted_parts(name, layer):
    assert layer_of(name) == layer


def names_of(n_layers):
    """Return the adapter's names of n layers, in another order than theirs, and some of no layer."""
    names = [f"transformer.h.{i}.attn.c_attn.lora_{ab}" for i in range(n_layers) for ab in "AB"]
    return ["transformer.wte.weight", *sorted(names, reverse=True), "head"]


@for_all("n_layers", [0, 1, 2, 3, 4, 7, 28, 36])
def test_middle_layers_equal_their_definition(n_layers):
    names = names_of(n_layers)
    assert layer_count(names) == n_layers
    for s in range(n_layers + 2):
        expected = {i for i in range(n_layers) if s <= i <= n_layers - 1 - s}
        middle = middle_layers(names, s)
        assert set(middle) == expected
        assert {name for name in names if layer_of(name) in middle} == {
            f"transformer.h.{i}.attn.c_attn.lora_{ab}" for i in expected for ab in "AB"
        }


@for_all(("n_layers", "margin", "first", "last"), [(28, 4, 4, 23), (36, 5, 5, 30), (5, 2, 2, 2)])
def test_both_boundary_layers_belong_to_the_middle(n_layers, margin, first, last):
    middle = middle_layers(names_of(n_layers), margin)
    assert (middle[0], middle[-1]) == (first, last)
    assert first - 1 not in middle
    assert last + 1 not in middle


@for_all(("n_layers", "margin"), [(2, 1), (4, 2), (5, 3), (28, 14), (28, 100)])
def test_a_margin_of_half_the_layers_or_more_leaves_none(n_layers, margin):
    assert list(middle_layers(names_of(n_layers), margin)) == []


def test_a_gap_in_the_layers_does_not_shorten_the_network():
    assert set(middle_layers(["h.0.a", "h.9.a"], 2)) == set(range(2, 8))


def test_a_negative_margin_is_refused():
    with pytest.raises(ValueError, match="at least 0, got -1"):
        middle_layers(names_of(4), -1)
