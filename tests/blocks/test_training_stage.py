"""One training stage: what it changes and what it leaves, which streams it follows, and that its steps are AdamW's."""

from __future__ import annotations

import contextlib
import copy
import dataclasses

import numpy as np
import pytest
import torch

import toy
from adamw import adamw_by_hand, quadratic
from mlecs_bench.blocks.supervised import (
    ALL_PARTS,
    Objective,
    Stage,
    Terms,
    batches,
    minimise,
    supervised_loss,
    train_on_private,
    train_stage,
)
from mlecs_bench.data.samples import PartyData
from mlecs_bench.doors.profile import LearningRates
from mlecs_bench.errors import MlecsError, PluginError
from mlecs_bench.plan.training import Budget
from mlecs_bench.seeds import rng, torch_stream

CONNECTOR = ("projector", "fusion", "soft_prompt")
RATES = LearningRates(encoder=1e-3, connector=5e-3, lora=2e-2)
RATE_OF = {"encoder": RATES.encoder, "lora": RATES.lora} | dict.fromkeys(CONNECTOR, RATES.connector)


@pytest.fixture(scope="module")
def federation(profile, samples):
    """A device with every modality and one with none."""
    return toy.federation_of(profile, samples, [toy.NAMES, ()], min_modalities=0)


@contextlib.contextmanager
def as_built(party):
    """Give the party back its state, counters and settings afterwards."""
    state, training = party.state(), party.training
    try:
        yield party
    finally:
        party.load_state(state)
        party.steps, party.logs, party.training = {}, {}, training


@pytest.fixture
def device(federation):
    """The device with every modality."""
    with as_built(federation.devices[0]) as party:
        yield party


@pytest.fixture
def bare(federation):
    """The device without any modality."""
    with as_built(federation.devices[1]) as party:
        yield party


@pytest.fixture
def server(federation):
    with as_built(federation.server) as party:
        yield party


def stage_of(party, parts=ALL_PARTS, **changes):
    values = {"name": "tune", "budget": "private", "round": 1, "steps": 3, "models": [(party.model, parts)]}
    return Stage(**(values | changes))


def train(party, parts=ALL_PARTS, **changes):
    loss = supervised_loss(party.model, party.train, party.prompt)
    return train_stage(party, party.train, stage_of(party, parts, **changes), loss)


def changed_parts(before, after):
    return {name.split("/")[1] for name in toy.differing(before, after)}


def frozen_weights(backbone):
    return {k: p.detach().clone() for k, p in backbone._peft.named_parameters() if "lora_" not in k}


# -------------------------------------------------------------------------------------------- what a stage may change


@pytest.mark.parametrize(
    "parts", [*((part,) for part in ALL_PARTS), ("encoder", "lora"), (*CONNECTOR, "lora"), ALL_PARTS], ids="+".join
)
def test_only_the_named_parts_change_and_no_other_party(federation, device, parts):
    others = [federation.server, federation.devices[1]]
    before, elsewhere = device.state(), [party.state() for party in others]
    weights = frozen_weights(device.model.backbone)
    train(device, parts)
    assert changed_parts(before, device.state()) == set(parts)
    for party, state in zip(others, elsewhere, strict=True):
        assert not toy.differing(party.state(), state)
    assert not toy.differing(frozen_weights(device.model.backbone), weights)


def test_the_server_trains_its_own_model_only(federation, server):
    before, devices = server.state(), [d.state() for d in federation.devices]
    train(server, ("fusion", "lora"), budget="server")
    assert changed_parts(before, server.state()) == {"fusion", "lora"}
    for device, state in zip(federation.devices, devices, strict=True):
        assert not toy.differing(device.state(), state)


def test_a_device_without_modalities_trains_its_constant_prompt_and_its_adapter(bare):
    before = bare.state()
    assert len(train(bare)) == 3
    assert "model/soft_prompt/constant" in toy.differing(before, bare.state())
    assert changed_parts(before, bare.state()) == {"soft_prompt", "lora"}


def test_a_stage_over_parts_that_a_device_lacks_takes_no_step(bare):
    before = bare.state()
    assert train(bare, ("encoder",)) == []
    assert not toy.differing(before, bare.state())
    assert (bare.steps, bare.logs) == ({}, {})


@pytest.mark.parametrize("fails", [False, True])
def test_no_parameter_wants_or_keeps_a_gradient_afterwards(device, fails):
    seen = []

    def loss(rows):
        seen.append({part: {p.requires_grad for p in device.model.parameters([part])} for part in ALL_PARTS})
        if fails and len(seen) == 2:
            raise ZeroDivisionError
        return device.model.loss(device.train.batch(rows), device.prompt, device.train.targets(rows))

    with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
        train_stage(device, device.train, stage_of(device, ("encoder", "lora")), loss)
    assert seen[0] == {part: {part in ("encoder", "lora")} for part in ALL_PARTS}
    everything = [*device.model.parameters(ALL_PARTS), *device.model.backbone._base.parameters()]
    assert not any(p.requires_grad for p in everything)
    assert all(p.grad is None for p in everything)


@pytest.mark.parametrize("fails", [False, True])
def test_the_global_generator_of_torch_is_where_it_was(device, fails):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    loss = supervised_loss(device.model, device.train, device.prompt)

    def failing(rows):
        loss(rows)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
        train_stage(device, device.train, stage_of(device), failing if fails else loss)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("why", ["no steps", "no samples"])
def test_a_stage_with_nothing_to_do_does_nothing(device, samples, why):
    before = device.state()
    data = PartyData(samples, [], toy.NAMES, "d00") if why == "no samples" else device.train

    def loss(rows):
        raise AssertionError("nothing to train on, yet a loss was asked for")

    assert train_stage(device, data, stage_of(device, steps=0 if why == "no steps" else 3), loss) == []
    assert not toy.differing(device.state(), before)
    assert (device.steps, device.logs) == ({}, {})


def test_steps_are_counted_by_budget_and_losses_logged_by_stage(device):
    first = train(device, steps=2, name="a")
    second = train(device, steps=3, name="b")
    third = train(device, steps=1, name="c", budget="public")
    assert [len(losses) for losses in (first, second, third)] == [2, 3, 1]
    assert device.steps == {"private": 5, "public": 1}
    assert device.logs == {"a": pytest.approx(np.mean(first)), "b": pytest.approx(np.mean(second)), "c": third[0]}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_party_stage_and_round(device, value):
    def loss(rows):
        return sum(p.sum() for p in device.model.parameters(["soft_prompt"])) * value

    with pytest.raises(MlecsError, match="d00 diverged in stage tune of round 4"):
        train_stage(device, device.train, stage_of(device, ("soft_prompt",), round=4), loss)


@pytest.mark.parametrize("second", ["another device's", "the same"])
def test_models_of_one_backbone_are_not_trained_together(device, bare, second):
    models = [(device.model, ("soft_prompt",)), (device.model if second == "the same" else bare.model, ("lora",))]
    with pytest.raises(PluginError, match=r"stage tune trains d00 and d0[01] on one backbone"):
        train(device, models=models)


# ----------------------------------------------------------------------------------------------------------- streams


def test_the_same_seed_gives_the_same_bits_whatever_happened_before(federation, device):
    outcomes = []
    for disturbance in range(2):
        with as_built(device):
            torch.manual_seed(disturbance)
            torch.rand(disturbance * 100)
            if disturbance:
                with as_built(federation.server) as server, as_built(federation.devices[1]) as other:
                    train(server, budget="server")
                    train(other)
            losses = train(device)
            outcomes.append((losses, device.state()))
    (first, one), (second, another) = outcomes
    assert first == second
    assert not toy.differing(one, another)


def rows_of_stage(party, data=None, **changes):
    """Return the rows that each step's loss is asked for."""
    asked = []

    def loss(rows):
        asked.append(rows.tolist())
        return sum(p.square().sum() for p in party.model.parameters(["soft_prompt"]))

    train_stage(party, party.train if data is None else data, stage_of(party, ("soft_prompt",), **changes), loss)
    return asked


def test_the_loss_gets_rows_of_the_partys_own_data(device):
    asked = rows_of_stage(device, steps=12)
    positions = batches(len(device.train), 4, 12, rng(device.seed, "batches", "d00", 1, "private"))
    assert asked == [device.train.rows[p].tolist() for p in positions]
    assert {len(rows) for rows in asked} == {4}
    first_pass = [row for rows in asked[: len(device.train) // 4] for row in rows]
    assert len(set(first_pass)) == len(first_pass)
    assert set(first_pass) <= set(device.train.rows.tolist())


def fresh_rows(party, data=None, **changes):
    """Return the rows of a stage that is the first of its round."""
    party.steps = {}
    return rows_of_stage(party, data, **changes)


def test_batches_follow_party_round_and_budget_but_not_the_stages_name(device, bare):
    orders = {
        "base": fresh_rows(device),
        "round": fresh_rows(device, round=2),
        "budget": fresh_rows(device, budget="public"),
        "party": fresh_rows(bare, device.train),
    }
    assert len({str(order) for order in orders.values()}) == 4
    assert fresh_rows(device, name="another") == orders["base"]


@pytest.mark.parametrize(("first", "second"), [(1, 4), (3, 2), (5, 5)])
def test_second_stage_of_a_budget_goes_on_with_its_batches(first, second, device):
    whole = fresh_rows(device, steps=first + second)
    parts = [*fresh_rows(device, steps=first), *rows_of_stage(device, steps=second, name="next")]
    assert parts == whole
    device.steps = {}
    rows_of_stage(device, steps=first)
    assert rows_of_stage(device, steps=second, budget="public") == fresh_rows(device, steps=second, budget="public")


def test_stages_of_one_budget_differ_in_dropout(device):
    losses = []
    for name in ("a", "b", "a"):
        with as_built(device):
            losses.append(train(device, name=name))
    assert losses[0] == losses[2] != losses[1]


# --------------------------------------------------------------------------------------------------------- optimiser


@pytest.mark.parametrize("clip_norm", [1.0, 1e9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_steps_equal_adamw_with_clipping_by_hand_and_each_part_has_its_rate(device, clip_norm, weight_decay):
    changes = {"learning_rates": RATES, "clip_norm": clip_norm, "weight_decay": weight_decay}
    device.training = dataclasses.replace(device.training, **changes)
    rates = [RATE_OF[part] for part in ALL_PARTS for _ in device.model.parameters([part])]
    start = [p.detach().clone() for p in device.model.parameters(ALL_PARTS)]
    expected = adamw_by_hand(start, rates, 1.0, 5, device.training)
    train_stage(device, device.train, stage_of(device, steps=5), quadratic([device.model], ALL_PARTS, [1.0]))
    for got, begun, wanted in zip(device.model.parameters(ALL_PARTS), start, expected, strict=True):
        np.testing.assert_allclose(got.detach().numpy() - begun.numpy(), wanted - begun.numpy(), rtol=2e-3, atol=1e-6)


def test_clipping_changes_the_steps_when_gradients_grow(device):
    ends = []
    for clip_norm in (1.0, 1e9):
        with as_built(device):
            device.training = dataclasses.replace(device.training, clip_norm=clip_norm)
            train_stage(device, device.train, stage_of(device, steps=5), quadratic([device.model], ALL_PARTS, [1.0]))
            ends.append(device.state())
    assert max((ends[0][name] - ends[1][name]).abs().max() for name in ends[0]) > 1e-4


def test_models_trained_together_are_clipped_each_on_its_own(device, server):
    parts, models, factors = ("soft_prompt", "lora"), [device.model, server.model], [1e4, 1e-4]
    alone = []
    for model, factor in zip(models, factors, strict=True):
        with as_built(device), as_built(server):
            stage = stage_of(device, models=[(model, parts)], steps=5)
            train_stage(device, device.train, stage, quadratic([model], parts, [factor]))
            alone.append(model.state())
    stage = stage_of(device, models=[(model, parts) for model in models], steps=5)
    train_stage(device, device.train, stage, quadratic(models, parts, factors))
    assert [toy.differing(model.state(), state) for model, state in zip(models, alone, strict=True)] == [set(), set()]


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("parts", [("soft_prompt",), ("encoder", "lora"), ALL_PARTS], ids="+".join)
def test_a_supervised_step_equals_a_torch_optim_step_on_a_copy(device, parts, weight_decay):
    device.training = dataclasses.replace(device.training, learning_rates=RATES, weight_decay=weight_decay)
    model = device.model
    rows = device.train.rows[batches(len(device.train), 4, 1, rng(device.seed, "batches", "d00", 1, "private"))[0]]
    with torch_stream(device.seed, "dropout", "d00", 1, "tune"), model.only_trainable(parts):
        loss = model.loss(device.train.batch(rows), device.prompt, device.train.targets(rows))
        gradients = torch.autograd.grad(loss, model.parameters(parts), allow_unused=True)
        copies = [copy.deepcopy(p.detach()).requires_grad_() for p in model.parameters(parts)]
    rates = [RATE_OF[part] for part in parts for _ in model.parameters([part])]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(copies, rates, strict=True)]
    oracle = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=False, foreach=False)
    for tensor, gradient in zip(copies, gradients, strict=True):
        tensor.grad = gradient
    torch.nn.utils.clip_grad_norm_(copies, device.training.clip_norm)
    oracle.step()
    assert train(device, parts, steps=1) == [loss.item()]
    for got, wanted in zip(model.parameters(parts), copies, strict=True):
        torch.testing.assert_close(got.detach(), wanted.detach(), rtol=1e-5, atol=1e-7)


def test_the_optimiser_is_new_in_every_stage(device):
    def run(*steps):
        with as_built(device):
            for k in steps:
                train_stage(device, device.train, stage_of(device, steps=k), quadratic([device.model], ALL_PARTS, [1]))
            return device.state()

    with as_built(device):
        device.load_state(run(2))
        train_stage(device, device.train, stage_of(device, steps=2), quadratic([device.model], ALL_PARTS, [1]))
        restarted = device.state()
    assert not toy.differing(run(2, 2), restarted)
    assert toy.differing(run(4), restarted), "moments carried over would make two stages of two steps one of four"


# ------------------------------------------------------------------------------------------------------ supervision


def test_the_supervised_loss_is_the_models_on_those_rows(device):
    rows = device.train.rows[:4]
    device.model.switch(training=False)
    with torch.no_grad():
        loss = supervised_loss(device.model, device.train, device.prompt)(rows)
        wanted = device.model.loss(device.train.batch(rows), device.prompt, device.train.targets(rows))
    assert torch.equal(loss, wanted)


def test_private_training_takes_the_budget_over_all_parts(device):
    device.training = dataclasses.replace(device.training, budget=Budget(private=4, public=9, server=9))
    before = device.state()
    assert len(train_on_private(device, 1)) == 4
    assert device.steps == {"private": 4}
    assert set(device.logs) == {"private"}
    assert changed_parts(before, device.state()) == set(ALL_PARTS)


def test_training_learns_what_resting_does_not(device):
    budget, losses = Budget(private=25, public=0, server=0), []
    for rates in (RATES, LearningRates(0, 0, 0)):
        with as_built(device):
            device.training = dataclasses.replace(device.training, budget=budget, learning_rates=rates)
            losses.append(train_on_private(device, 1))
    trained, resting = losses
    assert trained[0] == resting[0]
    assert all(a < b - 0.05 for a, b in zip(trained[-10:], resting[-10:], strict=True))


def test_test_data_is_refused_for_training(device):
    loss = supervised_loss(device.model, device.test, device.prompt)
    with pytest.raises(PluginError, match="trains d00 on its test data; that is for scores alone"):
        train_stage(device, device.test, stage_of(device, steps=1), loss)
    assert device.steps == {}


# ------------------------------------------------------------------------------------------- losses of several terms


def objective_of(party, weights, watched=0):
    """Return an objective whose terms are the supervised loss times each weight, which watches some numbers."""
    supervised = supervised_loss(party.model, party.train, party.prompt)

    def terms(rows):
        minimised = {name: weight * supervised(rows) for name, weight in weights.items()}
        return Terms(minimised, {f"seen{k}": torch.tensor(float(k + len(rows))) for k in range(watched)})

    return Objective(party.train, stage_of(party), terms)


def test_one_term_trains_as_its_loss_alone_bit_for_bit_and_logs_nothing_more(device):
    start = device.state()
    losses = train(device)
    after = device.state()
    device.load_state(start)
    device.steps, device.logs = {}, {}
    assert minimise(device, objective_of(device, {"only": 1.0})) == losses
    assert not toy.differing(after, device.state())
    assert device.logs == {"tune": pytest.approx(sum(losses) / len(losses))}


def test_terms_are_added_up_and_logged_one_by_one(device):
    losses = minimise(device, objective_of(device, {"a": 1.0, "b": 0.5, "c": 0.0}))
    logs = device.logs
    assert set(logs) == {"tune", "tune/a", "tune/b", "tune/c"}
    assert logs["tune"] == pytest.approx(sum(losses) / 3, rel=1e-6)
    assert logs["tune/a"] + logs["tune/b"] + logs["tune/c"] == pytest.approx(logs["tune"], rel=1e-6)
    assert logs["tune/c"] == 0 < logs["tune/b"]


def test_what_is_watched_is_logged_and_changes_nothing(device):
    start = device.state()
    minimise(device, objective_of(device, {"only": 1.0}))
    after = device.state()
    device.load_state(start)
    device.steps, device.logs = {}, {}
    minimise(device, objective_of(device, {"only": 1.0}, watched=2))
    assert not toy.differing(after, device.state())
    size = min(device.training.batch_size, len(device.train))
    assert device.logs == {"tune": device.logs["tune"], "tune/seen0": size, "tune/seen1": size + 1}


def test_an_objective_without_steps_logs_nothing(device):
    objective = dataclasses.replace(objective_of(device, {"a": 1.0, "b": 1.0}), stage=stage_of(device, steps=0))
    assert minimise(device, objective) == []
    assert device.logs == {}
