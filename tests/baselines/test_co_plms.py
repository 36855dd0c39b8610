"""Laws of Co-PLMs: who learns what in each stage, what travels, and that architectures may differ."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import toy
from mlecs_baselines.co_plms import CoPlms, CoPlmsOptions, forward, mlecs_algorithm
from mlecs_bench.blocks.aggregate import weighted_mean
from mlecs_bench.blocks.supervised import Stage, supervised_loss, train_on_private, train_stage
from mlecs_bench.blocks.transfer import pooled_kl
from mlecs_bench.doors.hookspecs import Needs
from mlecs_bench.errors import UsageError
from mlecs_bench.federation.build import Federation
from mlecs_bench.federation.messages import Message, kind_of
from mlecs_bench.testing.steps import Listening

SETS = [("audio",), ("text", "video"), toy.NAMES]
QUICK = {"distill_steps": 2}


def options(**changes: object) -> CoPlmsOptions:
    return CoPlmsOptions(**(QUICK | changes))  # type: ignore[arg-type]


def federation_of(profile, samples, held=SETS, given: CoPlmsOptions | None = None, **changes) -> Federation:
    needs = mlecs_algorithm().needs(given or options())
    return toy.federation_of(profile, samples, held, needs=needs, **({"rounds": 2, "steps": 4} | changes))


@pytest.fixture
def still(profile):
    """The toy profile without dropout, so that a pass does not depend on what was drawn before it."""
    return dataclasses.replace(profile, connector_dropout=0.0, lora=dataclasses.replace(profile.lora, dropout=0.0))


def moved(before, after) -> set[str]:
    """Return model/part of all that differs between two states, embeddings of missing samples apart."""
    names = {k for k in toy.differing(before, after) if not k.endswith(("/missing", "/constant"))}
    return {"/".join(k.split("/")[:2]) for k in names}


def start(algorithm: CoPlms, federation: Federation, t: int = 1) -> dict[str, Message]:
    messages = algorithm.broadcast(federation.server, t)
    for device in federation.devices:
        algorithm.receive(device, messages[device.id].copied(), t)
    return dict(messages)


def test_tuning_moves_the_slm_side_and_the_domain_adapter_and_never_the_shared_one(profile, samples):
    federation, algorithm = federation_of(profile, samples), CoPlms(options())
    start(algorithm, federation)
    for device in federation.devices:
        before = device.state()
        algorithm.tune(device, 1)
        slm = {f"model/{part}" for part in ("encoder", "projector", "fusion", "soft_prompt", "lora")}
        assert moved(before, device.state()) == slm | {"proxy/domain", "proxy/soft_prompt"}


def test_mutual_learning_moves_connector_lora_and_the_shared_adapter(profile, samples):
    federation, algorithm = federation_of(profile, samples), CoPlms(options())
    start(algorithm, federation)
    for device in federation.devices:
        before = device.state()
        algorithm.learn_mutually(device, 1)
        slm = {f"model/{part}" for part in ("projector", "fusion", "soft_prompt", "lora")}
        assert moved(before, device.state()) == slm | {"proxy/lora", "proxy/soft_prompt"}


def test_distillation_moves_the_servers_proxy_alone_and_happens_once(profile, samples):
    federation, algorithm = federation_of(profile, samples), CoPlms(options())
    before = federation.server.state()
    algorithm.broadcast(federation.server, 1)
    assert moved(before, federation.server.state()) == {"proxy/lora", "proxy/soft_prompt"}
    assert federation.server.steps == {"setup": 2}
    before = federation.server.state()
    algorithm.broadcast(federation.server, 2)
    assert not toy.differing(before, federation.server.state())


def test_servers_mutual_learning_trains_its_model_and_the_shared_adapter(profile, samples):
    federation, algorithm = federation_of(profile, samples), CoPlms(options())
    start(algorithm, federation)
    before = federation.server.state()
    algorithm.aggregate(federation.server, {}, 1)
    model = {f"model/{part}" for part in ("encoder", "projector", "fusion", "soft_prompt", "lora")}
    assert moved(before, federation.server.state()) == model | {"proxy/lora", "proxy/soft_prompt"}


def test_steps_stay_within_the_budget_and_use_it_up(profile, samples):
    cases = [
        ({}, "paper", 3, {"private": 6}),
        ({}, "equal", 3, {"private": 6}),
        ({"saml_steps": "half"}, "paper", 1, {"private": 1}),
        ({"saml_steps": "half"}, "paper", 5, {"private": 5}),
        ({"saml_steps": "half"}, "equal", 3, {"private": 6}),
        ({"saml_data": "public"}, "paper", 1, {"private": 1, "public": 1}),
        ({"saml_data": "public"}, "equal", 2, {"private": 2, "public": 2}),
    ]
    for changes, budget, steps, taken in cases:
        given = options(**changes)
        federation = federation_of(profile, samples, given=given, steps=steps, budget=budget)
        algorithm = CoPlms(given)
        start(algorithm, federation)
        device = federation.devices[2]
        algorithm.local_update(device, 1)
        assert device.steps == taken
        device.check_budget(1)


def test_each_stage_takes_q_steps_and_halved_ones_share_q(profile, samples):
    for changes, budget, (dst, saml) in [
        ({}, "paper", (3, 3)),
        ({}, "equal", (3, 3)),
        ({"saml_steps": "half"}, "paper", (2, 1)),
        ({"saml_steps": "half"}, "equal", (3, 3)),
        ({"saml_data": "public"}, "paper", (3, 3)),
    ]:
        given = options(**changes)
        device = federation_of(profile, samples, given=given, steps=3, budget=budget).devices[0]
        stages = [CoPlms(given).tuning(device, 1).stage, CoPlms(given).mutual_learning(device, 1).stage]
        assert [stage.steps for stage in stages] == [dst, saml]


def test_under_equal_budgets_devices_take_as_many_steps_as_those_of_one_stage(profile, samples):
    info = mlecs_algorithm()
    for changes in ({}, {"saml_steps": "half"}, {"saml_data": "public"}):
        plans = [
            toy.toy_plan(profile, needs, steps=5, budget="equal").training.budget
            for needs in (info.needs(options(**changes)), Needs())
        ]
        assert [plan.private + plan.public for plan in plans] == [10, 10]


@pytest.mark.parametrize("order", ["dst-then-saml", "saml-then-dst"])
def test_order_of_the_stages(order, profile, samples, monkeypatch):
    federation, algorithm = federation_of(profile, samples), CoPlms(options(order=order))
    start(algorithm, federation)
    called: list[str] = []
    monkeypatch.setattr(CoPlms, "tune", lambda *_: called.append("dst"))
    monkeypatch.setattr(CoPlms, "learn_mutually", lambda *_: called.append("saml"))
    algorithm.local_update(federation.devices[0], 1)
    assert called == order.split("-then-")


def test_without_transfer_the_slm_side_of_tuning_is_standalone_bit_for_bit(still, samples):
    for held in [("audio",), toy.NAMES, ()]:
        given = options(saml_data="public", kt_weight=0.0, exchange_encoders=False, distill_steps=0)
        federation = federation_of(still, samples, [held], given)
        reference = toy.federation_of(still, samples, [held], public_stage=False, rounds=2, steps=4).devices[0]
        algorithm, device = CoPlms(given), federation.devices[0]
        start(algorithm, federation)
        algorithm.tune(device, 1)
        train_on_private(reference, 1)
        assert not toy.differing(device.model.state(), reference.model.state())


def test_without_transfer_mutual_learning_is_supervised_training_of_the_same_parts(still, samples):
    given = options(saml_data="public", kt_weight=0.0)
    federation, other = (federation_of(still, samples, [toy.NAMES], given) for _ in range(2))
    algorithm, device, reference = CoPlms(given), federation.devices[0], other.devices[0]
    algorithm.learn_mutually(device, 1)
    parts = ("projector", "fusion", "soft_prompt", "lora")
    stage = Stage("any", "public", 1, 4, [(reference.model, parts)])
    train_stage(reference, reference.public, stage, supervised_loss(reference.model, reference.public, "Say it."))
    assert not toy.differing(device.model.state(), reference.model.state())


def test_transfer_changes_both_sides_and_nothing_flows_through_the_representation(still, samples):
    federation = federation_of(still, samples, [toy.NAMES])
    device = federation.devices[0]
    with device.model.only_trainable(("encoder", "lora")), device.proxy.only_trainable(("lora", "soft_prompt")):
        _, proxy = forward(device, device.train, device.train.rows[:4])
        proxy.loss.backward()
        assert all(p.grad is None for p in device.model.parameters(("encoder", "lora")))
        assert any(p.grad is not None and bool(p.grad.any()) for p in device.proxy.parameters(("soft_prompt",)))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_mutual_loss_is_the_sum_of_its_parts_by_hand(reduction, still, samples):
    """With one tokenizer on both sides every row is paired, so the transfer is a plain loop over answer positions."""
    kt = options(kt_weight=0.7, kt_reduction=reduction, kt_pool="topk", kt_bins=5)
    federation = federation_of(still, samples, [toy.NAMES], kt)
    device, rows = federation.devices[0], federation.devices[0].train.rows[:3]
    for key, p in device.model.part("lora").items():
        if key.endswith("lora_B"):
            p.data += 0.3
    with torch.no_grad():
        device.model.switch(training=False)
        device.proxy.switch(training=False)
        own, proxy = forward(device, device.train, rows)
        transferred = 0.0
        lengths = [int(n) for n in own.answers.mask.sum(dim=1)]
        for i, n in enumerate(lengths):
            a, b = own.logits[i, :n], proxy.logits[i, :n]
            transferred += float((pooled_kl(a, b, "topk", 5, None) + pooled_kl(b, a, "topk", 5, None)).sum())
        transferred /= sum(lengths) if reduction == "mean" else len(lengths)
        found = CoPlms(kt).mutual_learning(device, 1).terms(rows).total
    assert transferred > 1e-4
    assert float(found) == pytest.approx(float(own.loss + proxy.loss) + 0.7 * transferred, rel=1e-4)


def shapes_of(listening: Listening) -> dict[tuple[str, str, int], dict[str, tuple[int, ...]]]:
    """Return the names and shapes of all that passed."""
    return {
        (sent.device, sent.direction, sent.round): {name: tuple(t.shape) for name, t in sent.message.tensors.items()}
        for sent in listening.sent
    }


def test_only_the_shared_adapter_and_held_encoders_travel(profile, samples):
    for exchange_encoders in [True, False]:
        given = QUICK | {"exchange_encoders": exchange_encoders}
        federation, listening = federation_of(profile, samples, [*SETS, ()], options(**given), steps=1), Listening()
        toy.run_toy("co-plms", federation, samples, options=given, carry=listening)
        shared = {f"proxy/{name}" for name in federation.server.proxy.part("lora")}
        for (id_, direction, t), names in shapes_of(listening).items():
            device = next(d for d in federation.devices if d.id == id_)
            sends_encoders = exchange_encoders and (t > 1 or direction == "up")
            encoders = {f"encoder/{name}" for name in device.model.part("encoder")} if sends_encoders else set()
            assert set(names) == shared | encoders
            assert {kind_of(name) for name in names} <= {"proxy", "encoder"}


@pytest.mark.slow
def test_another_architecture_on_one_device_leaves_every_message_as_it_was(profile, samples, checkpoints):
    shapes = []
    for device_slm in ({}, {"d01": checkpoints["llama"]}):
        federation, listening = federation_of(profile, samples, device_slm=device_slm), Listening()
        outcome = toy.run_toy("co-plms", federation, samples, options=QUICK, carry=listening)
        assert set(outcome.metrics["client"]["local"]["digest"]) == {"d00", "d01", "d02"}
        shapes.append(shapes_of(listening))
        kinds = [d.model.backbone.model_type for d in federation.devices]
    assert shapes[0] == shapes[1]
    assert kinds == ["gpt2", "llama", "gpt2"]


def test_encoders_of_two_widths_are_refused_unless_they_stay_at_home(profile, samples):
    with pytest.raises(UsageError, match="averages the devices' 'encoder'"):
        federation_of(profile, samples, device_encoder_width={"d01": 5})
    given = QUICK | {"exchange_encoders": False}
    federation = federation_of(
        profile, samples, given=options(**given), device_encoder_width={"d01": 5}, rounds=1, steps=1
    )
    toy.run_toy("co-plms", federation, samples, options=given)


def test_uploads_are_averaged_over_samples_and_encoders_over_their_holders(profile, samples):
    for n in [(1, 1, 1), (1, 3, 2), (0, 2, 5)]:
        federation = federation_of(profile, samples, given=options())
        federation.server.training = dataclasses.replace(
            federation.server.training, budget=dataclasses.replace(federation.server.training.budget, server=0)
        )
        algorithm = CoPlms(options())
        start(algorithm, federation)
        uploads = {}
        for j, device in enumerate(federation.devices):
            message = algorithm.local_update(device, 1).copied()
            uploads[device.id] = Message(message.tensors, {"num_samples": n[j]})
        algorithm.aggregate(federation.server, dict(reversed(uploads.items())), 1)
        server = federation.server
        for kind, model, part in (("proxy", server.proxy, "lora"), ("encoder", server.model, "encoder")):
            for name, tensor in model.part(part).items():
                held = [
                    (n[j], m.of_kind(kind)[name]) for j, m in enumerate(uploads.values()) if name in m.of_kind(kind)
                ]
                total = sum(weight for weight, _ in held)
                if total:
                    expected = sum(weight * t.double() for weight, t in held) / total
                    torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)
        equal = weighted_mean({k: m.of_kind("proxy") for k, m in uploads.items()}, dict.fromkeys(uploads, 1.0))
        assert (not toy.differing(equal, federation.server.proxy.part("lora"))) == (n == (1, 1, 1))


def test_what_is_broadcast_after_the_server_is_what_devices_start_from(profile, samples):
    federation, algorithm = federation_of(profile, samples), CoPlms(options())
    start(algorithm, federation)
    algorithm.aggregate(federation.server, {d.id: algorithm.local_update(d, 1).copied() for d in federation.devices}, 1)
    start(algorithm, federation, 2)
    for device in federation.devices:
        assert not toy.differing(device.proxy.part("lora"), federation.server.proxy.part("lora"))
        own = device.model.part("encoder")
        shared = {k: v for k, v in federation.server.model.part("encoder").items() if k in own}
        assert not toy.differing(own, shared)
        assert toy.differing(device.proxy.part("domain"), federation.server.proxy.part("domain"))


def test_options_are_checked():
    with pytest.raises(ValueError, match="distill_steps"):
        CoPlmsOptions(distill_steps=-1)
    with pytest.raises(ValueError, match="kt_weight"):
        CoPlmsOptions(kt_weight=-1)
    with pytest.raises(ValueError, match="'saml_steps' has no effect with saml_data=public, got half; leave it out"):
        CoPlmsOptions(saml_steps="half", saml_data="public")


def test_needs_count_the_private_stages():
    needs = mlecs_algorithm().needs
    assert [needs(options(**changes)).private_stages for changes in ({}, {"saml_steps": "half"})] == [2, 1]
    assert needs(options(saml_data="public")).private_stages == 1
