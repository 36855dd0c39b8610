"""Laws of a training stage: which samples, which parameters, how many steps, and from which random stream."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
import torch

import toy
from mlecs_bench.blocks import supervised
from mlecs_bench.blocks.supervised import ALL_PARTS, Stage, batches, server_parts, supervised_loss, train_stage
from mlecs_bench.data import PartyData
from mlecs_bench.federation import Federation
from mlecs_bench.models.unified import PARTS
from mlecs_bench.parties import Device
from mlecs_bench.profiles import LearningRates, LoraSettings
from mlecs_bench.seeds import rng


@pytest.fixture
def federation(profile, samples) -> Federation:
    return toy.federation_of(profile, samples, [("audio", "text"), toy.NAMES], steps=3, rounds=2)


@pytest.fixture
def device(federation) -> Device:
    return federation.devices[0]


def stage_of(device: Device, parts=ALL_PARTS, **changes) -> Stage:
    values = {"name": "private", "budget": "private", "round": 1, "steps": 3, "models": [(device.model, parts)]}
    return Stage(**(values | changes))


def train(device: Device, **changes) -> list[float]:
    loss = supervised_loss(device.model, device.train, device.prompt)
    return train_stage(device, device.train, stage_of(device, **changes), loss)


@pytest.mark.parametrize(("n", "size", "steps"), [(12, 4, 9), (10, 4, 8), (7, 7, 4), (3, 8, 5)])
def test_every_pass_takes_each_sample_at_most_once_and_batches_are_never_short(n, size, steps):
    taken = batches(n, size, steps, rng(1, "x"))
    assert [len(b) for b in taken] == [min(n, size)] * steps
    per_pass = n // min(n, size)
    for start in range(0, steps, per_pass):
        one_pass = np.concatenate(taken[start : start + per_pass])
        assert max(Counter(one_pass.tolist()).values()) == 1
    assert {int(i) for b in taken for i in b} <= set(range(n))
    if per_pass * min(n, size) == n:
        assert set(np.concatenate(taken[:per_pass]).tolist()) == set(range(n))


def test_passes_are_shuffled_anew():
    taken = batches(12, 4, 6, rng(1, "x"))
    one, two = (np.concatenate(taken[i : i + 3]).tolist() for i in (0, 3))
    assert sorted(one) == sorted(two)
    assert one != two != list(range(12))


def test_stage_is_adamw_with_clipped_gradients_and_a_rate_per_part(profile, samples):
    rates = LearningRates(encoder=1e-3, connector=3e-3, lora=2e-3)
    quiet = dataclasses.replace(
        profile, lora=LoraSettings(dropout=0.0), connector_dropout=0.0, clip_norm=0.05, learning_rates=rates
    )
    one, other = (toy.federation_of(quiet, samples, [toy.NAMES], steps=3).devices[0] for _ in range(2))
    ours = train(one)
    model, by_part = other.model, {"encoder": rates.encoder, "lora": rates.lora}
    positions = batches(len(other.train), 4, 3, rng(other.seed, "batches", other.id, 1, "private"))
    oracle = []
    with model.only_trainable(PARTS):
        groups = [{"params": model.parameters([p]), "lr": by_part.get(p, rates.connector)} for p in PARTS]
        optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
        for rows in (other.train.rows[p] for p in positions):
            loss = model.loss(other.train.batch(rows), other.prompt, other.train.targets(rows))
            optimiser.zero_grad()
            loss.backward()
            grads = [p.grad for p in model.parameters(PARTS) if p.grad is not None]
            norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
            assert norm > 0.05, "clipping must act"
            for g in grads:
                g.mul_(0.05 / (norm + 1e-6))
            optimiser.step()
            oracle.append(float(loss.detach()))
    assert ours == pytest.approx(oracle, rel=1e-6)
    mine, theirs = one.model.state(), model.state()
    for key in mine:
        torch.testing.assert_close(mine[key], theirs[key], rtol=1e-4, atol=2e-5, msg=key)


@pytest.mark.parametrize("part", PARTS)
def test_only_the_named_part_moves(part, device):
    before = device.model.state()
    train(device, parts=(part,))
    moved = {k.split("/")[0] for k in toy.differing(before, device.model.state())}
    assert moved == {part}


def test_stage_counts_its_steps_and_logs_its_mean_loss(device):
    losses = train(device, name="first")
    again = train(device, name="second", steps=2)
    assert (len(losses), len(again)) == (3, 2)
    assert device.steps == {"private": 5}
    assert device.logs == {"first": pytest.approx(np.mean(losses)), "second": pytest.approx(np.mean(again))}


def test_training_lowers_the_loss(device):
    losses = train(device, steps=40)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1


def test_without_steps_or_data_nothing_happens(device, samples):
    before = device.state()
    assert train(device, steps=0) == []
    nothing = PartyData(samples, [], device.modalities, device.id)
    assert train_stage(device, nothing, stage_of(device), supervised_loss(device.model, nothing, "")) == []
    assert device.steps == {}
    assert not toy.differing(before, device.state())


def test_fewer_samples_than_a_batch_still_train(device, samples):
    few = PartyData(samples, device.train.rows[:2], device.modalities, device.id)
    losses = train_stage(device, few, stage_of(device), supervised_loss(device.model, few, device.prompt))
    assert len(losses) == 3


def test_streams_depend_on_party_round_and_stage_and_on_nothing_else(profile, samples):
    def first_loss(draws: int, j: int = 0, **changes) -> float:
        held = [("audio", "text"), ("audio", "text")]
        device = toy.federation_of(profile, samples, held, steps=3).devices[j]
        torch.rand(draws)
        return train(device, **changes)[0]

    reference = first_loss(0)
    assert first_loss(13) == reference
    others = {first_loss(0, round=2), first_loss(0, name="other"), first_loss(0, j=1)}
    assert reference not in others
    assert len(others) == 3


def test_global_generator_is_left_as_it_was(device):
    before = torch.get_rng_state()
    train(device)
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_do_not_depend_on_the_stage_name_so_algorithms_are_paired(device):
    seen: list[tuple[int, ...]] = []

    def loss(rows):
        seen.append(tuple(map(int, rows)))
        return device.model.loss(device.train.batch(rows), device.prompt, device.train.targets(rows))

    for name in ("private", "amt"):
        train_stage(device, device.train, stage_of(device, name=name), loss)
    assert seen[:3] == seen[3:]


def test_two_models_in_one_stage_train_as_if_alone(profile, samples):
    quiet = dataclasses.replace(profile, lora=LoraSettings(dropout=0.0), connector_dropout=0.0)

    def trained(chosen: tuple[str, ...]) -> dict[str, torch.Tensor]:
        server = toy.federation_of(quiet, samples, [toy.NAMES], steps=3).server
        models = {"model": server.model, "twin": server.twin}
        data = server.train
        losses = {n: supervised_loss(models[n], data, server.prompt) for n in chosen}
        stage = Stage("s", "server", 1, 3, [(models[n], ALL_PARTS) for n in chosen])
        train_stage(server, data, stage, lambda rows: torch.stack([f(rows) for f in losses.values()]).sum())
        return server.state()

    both, first, second = trained(("model", "twin")), trained(("model",)), trained(("twin",))
    for key, tensor in both.items():
        alone = first if key.startswith("model/") else second
        assert torch.equal(tensor, alone[key]), key


def test_gradients_and_trainability_do_not_outlive_the_stage(device):
    train(device)
    assert not any(p.requires_grad or p.grad is not None for p in device.model.parameters(PARTS))


@pytest.mark.parametrize(("profile_says", "asked"), list(itertools.product((True, False), (None, True, False))))
def test_server_encoders_are_trained_as_asked_and_else_as_the_profile_says(profile_says, asked, device):
    training = dataclasses.replace(device.training, server_trains_encoders=profile_says)
    expected = profile_says if asked is None else asked
    assert ("encoder" in server_parts(training, asked)) == expected
    assert set(server_parts(training, asked)) | {"encoder"} == set(supervised.ALL_PARTS)
