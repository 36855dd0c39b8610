"""Laws of ML-ECS on the devices and of its messages: who learns what in CCL and AMT, what travels, how anchors pair."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

import toy
from mlecs_bench.errors import AccessError, UsageError
from mlecs_bench.federation.build import Federation
from mlecs_bench.federation.device import Device
from mlecs_bench.federation.engine import CellRun
from mlecs_bench.federation.messages import Message, kind_of, with_kind
from mlecs_bench.testing.steps import Listening
from mlecs_plugins.ml_ecs import ccl, mma
from mlecs_plugins.ml_ecs.algorithm import MlEcs
from mlecs_plugins.ml_ecs.anchors import anchors_for, fuse_public, keep_anchors
from mlecs_plugins.ml_ecs.options import MlEcsOptions

SETS = [("audio",), ("text", "video"), toy.NAMES]


@pytest.fixture
def federation(profile, samples) -> Federation:
    """Devices with one, two and three modalities."""
    return toy.federation_of(profile, samples, SETS, rounds=2, steps=2)


@pytest.fixture
def algorithm() -> MlEcs:
    return MlEcs(MlEcsOptions())


def receive(algorithm: MlEcs, federation: Federation, t: int) -> None:
    messages = algorithm.broadcast(federation.server, t)
    for device in federation.devices:
        algorithm.receive(device, messages[device.id].copied(), t)


def parts_that_moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Return the parts of a device's model that differ between two states, the missing embeddings apart."""
    moved = {k for k in toy.differing(before, after) if k.startswith("model/") and not k.endswith("/missing")}
    return {k.split("/")[1] for k in moved}


def test_ccl_leaves_encoders_bit_identical_and_moves_connector_and_lora(algorithm, federation):
    receive(algorithm, federation, 1)
    for device in federation.devices:
        before = device.state()
        algorithm.align(device, 1)
        assert parts_that_moved(before, device.state()) == {"projector", "fusion", "soft_prompt", "lora"}


def test_amt_leaves_the_connector_bit_identical_and_moves_encoders_and_lora(algorithm, federation):
    for device in federation.devices:
        before = device.state()
        algorithm.tune(device, 1)
        moved = toy.differing(before, device.state())
        assert {k.split("/")[1] for k in moved} == {"encoder", "lora"}


def test_amt_trains_the_connector_when_asked_to(federation):
    algorithm = MlEcs(MlEcsOptions(amt_trains=("encoder", "lora", "connector")))
    device = federation.devices[2]
    before = device.state()
    algorithm.tune(device, 1)
    assert parts_that_moved(before, device.state()) == {"encoder", "projector", "fusion", "soft_prompt", "lora"}


@pytest.mark.parametrize(
    ("trains", "moved"),
    [
        (("encoder", "connector", "lora"), {"encoder", "projector", "fusion", "soft_prompt", "lora"}),
        (("connector",), {"projector", "fusion", "soft_prompt"}),
        (("encoder",), {"encoder"}),
        (("lora",), {"lora"}),
    ],
)
def test_ccl_trains_what_it_is_told_to_and_nothing_else(trains, moved, federation):
    algorithm = MlEcs(MlEcsOptions(ccl_trains=trains))
    receive(algorithm, federation, 1)
    for device in federation.devices:
        before = device.state()
        algorithm.align(device, 1)
        assert parts_that_moved(before, device.state()) == moved


def test_order_in_which_ccl_is_told_what_to_train_changes_no_more_than_the_last_bits(profile, samples):
    states = []
    for trains in (("connector", "lora"), ("lora", "connector")):
        federation = toy.federation_of(profile, samples, [("text", "video")], rounds=1, steps=2)
        algorithm = MlEcs(MlEcsOptions(ccl_trains=trains))
        receive(algorithm, federation, 1)
        algorithm.align(federation.devices[0], 1)
        states.append(federation.devices[0].model.state())
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-4, atol=1e-6)


def test_stages_train_on_the_data_they_name(algorithm, federation):
    device = federation.devices[0]
    receive(algorithm, federation, 1)
    seen: list[tuple[str, set[int]]] = []
    for name in ("public", "train"):
        data = getattr(device, name)
        inner = data.batch
        data.batch = lambda rows, name=name, inner=inner: seen.append((name, set(map(int, rows)))) or inner(rows)
    algorithm.align(device, 1)
    assert {name for name, _ in seen} == {"public"}
    seen.clear()
    algorithm.tune(device, 1)
    assert {name for name, _ in seen} == {"train"}


def test_device_aligns_before_it_tunes(federation, algorithm, monkeypatch):
    steps: list[str] = []
    monkeypatch.setattr(MlEcs, "align", lambda *_: steps.append("align"))
    monkeypatch.setattr(MlEcs, "tune", lambda *_: steps.append("tune"))
    algorithm.local_update(federation.devices[0], 1)
    assert steps == ["align", "tune"]


def test_contrast_pulls_towards_the_anchors_the_server_sent(profile, samples):
    def after(flip: bool) -> dict[str, torch.Tensor]:
        federation = toy.federation_of(profile, samples, [("text", "video")], rounds=1, steps=2)
        algorithm, device = MlEcs(MlEcsOptions()), federation.devices[0]
        receive(algorithm, federation, 1)
        if flip:
            device.memory["fused/public"] = device.memory["fused/public"].flip(0)
        algorithm.align(device, 1)
        return device.model.state()

    moved = toy.differing(after(False), after(True))
    assert "projector/text/weight" in moved


def test_anchors_get_no_gradient_on_devices(algorithm, federation, monkeypatch):
    seen: list[torch.Tensor] = []

    def spy(anchors, *rest):
        seen.append(anchors)
        return original(anchors, *rest)

    original = ccl.contrastive_loss
    monkeypatch.setattr(ccl, "contrastive_loss", spy)
    receive(algorithm, federation, 1)
    for device in federation.devices:
        algorithm.align(device, 1)
    assert len(seen) == 6
    assert not any(a.requires_grad for a in seen)


def test_upload_is_the_lora_after_amt_and_the_number_of_modalities(algorithm, federation):
    receive(algorithm, federation, 1)
    for device in federation.devices:
        upload = algorithm.local_update(device, 1)
        assert not toy.differing(upload.of_kind("lora"), device.model.part("lora"))
        assert upload.scalars == {"num_modalities": len(device.modalities)}


def test_public_stage_alone_is_not_what_is_uploaded(federation, algorithm):
    receive(algorithm, federation, 1)
    device = federation.devices[0]
    algorithm.align(device, 1)
    aligned = {k: v.detach().clone() for k, v in device.model.part("lora").items()}
    algorithm.tune(device, 1)
    assert toy.differing(aligned, device.model.part("lora"))


def test_broadcast_carries_the_servers_slm_after_se_ccl_and_devices_start_from_it(algorithm, federation):
    receive(algorithm, federation, 1)
    uploads = {d.id: algorithm.local_update(d, 1).copied() for d in federation.devices}
    merged = mma.merge(uploads, mma.modality_weights(uploads))
    own = {d.id: d.state() for d in federation.devices}
    algorithm.aggregate(federation.server, uploads, 1)
    slm = {k: v.detach().clone() for k, v in federation.server.slm.part("lora").items()}
    assert len(toy.differing(slm, merged)) == len(slm), "SE-CCL must have moved every tensor of MMA's result"
    messages = algorithm.broadcast(federation.server, 2)
    for device in federation.devices:
        assert not toy.differing(messages[device.id].of_kind("lora"), slm)
        assert toy.differing(slm, uploads[device.id].of_kind("lora"))
    receive(algorithm, federation, 2)
    for device in federation.devices:
        assert not toy.differing(device.model.part("lora"), slm)
        changed = toy.differing(own[device.id], device.state())
        assert {k.split("/")[1] for k in changed} == {"lora", "fused"}, "encoders and connector survive the round"


def test_first_round_sends_no_lora_and_the_last_broadcast_nothing_else(algorithm, federation):
    first = algorithm.broadcast(federation.server, 1)["d00"]
    assert {kind_of(name) for name in first.tensors} == {"fused", "ids"}
    last = algorithm.broadcast(federation.server, 3)["d00"]
    assert {kind_of(name) for name in last.tensors} == {"lora"}


def test_first_anchors_come_from_the_servers_model_in_evaluation_mode(algorithm, federation):
    server = federation.server
    sent = algorithm.broadcast(server, 1)["d00"].tensors["fused/public"]
    server.model.switch(training=False)
    with torch.no_grad():
        rows = [server.model.represent(server.train.batch([row])).fused[0] for row in server.train.rows]
    torch.testing.assert_close(sent, torch.stack(rows))
    assert not sent.requires_grad
    assert torch.equal(fuse_public(server), fuse_public(server))


def test_traffic_per_device_and_round_is_as_the_algorithm_says(profile, samples):
    rounds = 2
    federation = toy.federation_of(profile, samples, SETS, rounds=rounds, steps=1)
    run = CellRun(toy.toy_cell("ml-ecs", federation, samples))
    run.run()
    ledger = run._ledger
    n, width = len(federation.server.train), profile.fused_width
    phi = sum(p.numel() for p in federation.devices[0].model.part("lora").values())
    down = {1: {"fused": n * width, "ids": n}, 2: {"fused": n * width, "lora": phi}, 3: {"lora": phi}}
    up = {t: {"lora": phi, "scalar": 1} for t in (1, 2)}
    expected = {
        (t, d.id, "down", kind): k for d in federation.devices for t, m in down.items() for kind, k in m.items()
    }
    expected |= {(t, d.id, "up", kind): k for d in federation.devices for t, m in up.items() for kind, k in m.items()}
    assert {(e.round, e.device, e.direction, e.kind): e.params for e in ledger.entries} == expected
    assert len(ledger.entries) == len(expected)
    assert set(ledger.kinds()) == {"lora", "fused", "ids", "scalar"}


def test_nothing_but_lora_anchors_and_ids_is_ever_named_in_a_message(profile, samples):
    federation, listening = toy.federation_of(profile, samples, SETS, rounds=1, steps=1), Listening()
    toy.run_toy("ml-ecs", federation, samples, carry=listening)
    names = {name for sent in listening.sent for name in sent.message.tensors}
    shapes = {name.split(".")[-1] if name.startswith("lora/") else name for name in names}
    assert shapes == {
        "fused/public",
        "ids/public",
        "lora_A",
        "lora_B",
    }


def device_with_anchors(federation: Federation, order: np.ndarray) -> tuple[Device, torch.Tensor]:
    """Give a device anchors that name their row, in the order `order` of the public rows; return it and them."""
    device = federation.devices[0]
    rows = federation.server.train.rows[order]
    fused = torch.from_numpy(rows).float()[:, None].repeat(1, 8)
    keep_anchors(device, Message({"fused/public": fused, "ids/public": torch.from_numpy(rows.copy())}))
    return device, fused


def test_anchors_are_paired_by_sample_id_whatever_their_order(federation):
    n = len(federation.server.train)
    generator = np.random.default_rng(0)
    for _ in range(3):
        device, _ = device_with_anchors(federation, generator.permutation(n))
        rows = generator.permutation(device.public.rows)[:7]
        assert torch.equal(anchors_for(device, rows)[:, 0], torch.from_numpy(rows).float())


def test_public_sample_without_an_anchor_is_refused(federation):
    n = len(federation.server.train)
    for missing in (0, n // 2, n - 1):
        device, _ = device_with_anchors(federation, np.delete(np.arange(n), missing))
        with pytest.raises(AccessError, match="has no anchor for public sample") as caught:
            anchors_for(device, device.public.rows)
        assert "\n" not in str(caught.value)


def test_anchors_of_another_width_are_refused(federation):
    device, _ = device_with_anchors(federation, np.arange(len(federation.server.train)))
    device.memory["fused/public"] = device.memory["fused/public"][:, :5]
    with pytest.raises(UsageError, match="d_s = 5 and d_h = 8"):
        anchors_for(device, device.public.rows[:2])


def test_ids_are_sent_once_and_kept_while_anchors_are_dropped_after_use(algorithm, federation):
    receive(algorithm, federation, 1)
    device = federation.devices[0]
    algorithm.local_update(device, 1)
    assert set(device.memory) == {"ids/public"}
    assert set(device.state()) >= {"memory/ids/public"}


def test_device_without_modalities_aligns_by_its_supervised_loss_alone(profile, samples, algorithm):
    federation = toy.federation_of(profile, samples, [(), ("audio",)], rounds=1, steps=2)
    receive(algorithm, federation, 1)
    device = federation.devices[0]
    before = device.state()
    upload = algorithm.local_update(device, 1)
    assert upload.scalars == {"num_modalities": 0}
    moved = {k.split("/")[1] for k in toy.differing(before, device.state())}
    assert moved == {"soft_prompt", "lora", "fused"}, "fused: the anchors are dropped after use"
    assert set(device.logs) == {"ccl", "amt"}, "one term, no volumes"


def uploads_of(counts: dict[str, int], seed: int = 0, scale: int = 1) -> dict[str, Message]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        j: {"a": torch.randn(3, 2, generator=generator), "b": torch.randn(4, generator=generator)} for j in counts
    }
    return {j: Message(with_kind("lora", t), {"num_modalities": counts[j] * scale}) for j, t in tensors.items()}


def merge(uploads: dict[str, Message]) -> dict[str, torch.Tensor]:
    return mma.merge(uploads, mma.modality_weights(uploads))


def test_mma_weighs_one_two_three_modalities_by_sixths():
    uploads = uploads_of({"d00": 1, "d01": 2, "d02": 3})
    for name, tensor in merge(uploads).items():
        one, two, three = (uploads[f"d0{j}"].of_kind("lora")[name].double() for j in range(3))
        torch.testing.assert_close(tensor, (one / 6 + two / 3 + three / 2).float())


def test_mma_of_equal_counts_is_the_plain_mean_bit_for_bit():
    uploads = uploads_of({"d00": 2, "d01": 2, "d02": 2})
    assert not toy.differing(merge(uploads), mma.merge(uploads, dict.fromkeys(uploads, 1.0)))
    for name, tensor in merge(uploads).items():
        torch.testing.assert_close(tensor, torch.stack([m.of_kind("lora")[name] for m in uploads.values()]).mean(0))


def test_mma_ignores_a_device_without_modalities():
    uploads = uploads_of({"d00": 1, "d01": 0, "d02": 3})
    without = {j: m for j, m in uploads.items() if j != "d01"}
    assert not toy.differing(merge(uploads), merge(without))


def test_mma_depends_on_the_ratio_of_counts_and_not_on_the_order_of_devices():
    counts = {"d00": 1, "d01": 2, "d02": 3}
    plain = merge(uploads_of(counts))
    assert not toy.differing(plain, merge(uploads_of(counts, scale=7)))
    assert not toy.differing(plain, merge(dict(reversed(uploads_of(counts).items()))))


def test_mma_stays_in_the_convex_hull_and_keeps_what_all_agree_on():
    uploads = uploads_of({"d00": 1, "d01": 2, "d02": 3})
    for name, tensor in merge(uploads).items():
        stack = torch.stack([m.of_kind("lora")[name] for m in uploads.values()])
        assert bool(((tensor >= stack.amin(0)) & (tensor <= stack.amax(0))).all())
    same = {j: dataclasses.replace(m, tensors=uploads["d00"].tensors) for j, m in uploads.items()}
    assert not toy.differing(merge(same), uploads["d00"].of_kind("lora"))


def test_mma_of_no_modality_anywhere_keeps_the_old_lora(profile, samples, monkeypatch):
    federation = toy.federation_of(profile, samples, SETS, rounds=1, steps=1)
    algorithm = MlEcs(MlEcsOptions())
    monkeypatch.setattr(MlEcs, "transfer", lambda *_: None)
    shapes = federation.server.slm.part("lora")
    old = {k: v.detach().clone() for k, v in shapes.items()}
    new = with_kind("lora", {k: torch.ones_like(v) for k, v in old.items()})
    nobody = {d.id: Message(new, {"num_modalities": 0}) for d in federation.devices}
    algorithm.aggregate(federation.server, nobody, 1)
    assert not toy.differing(federation.server.slm.part("lora"), old)
    algorithm.aggregate(federation.server, nobody | {"d00": Message(new, {"num_modalities": 1})}, 1)
    assert all(bool((v == 1).all()) for v in federation.server.slm.part("lora").values())


def test_contrast_logs_matched_and_mismatched_volumes(algorithm, federation):
    receive(algorithm, federation, 1)
    device = federation.devices[1]
    algorithm.align(device, 1)
    assert 0 < device.logs["ccl/volume_matched"] <= 1
    assert 0 < device.logs["ccl/volume_mismatched"] <= 1
    terms = device.logs["ccl/supervised"] + device.logs["ccl/contrast"]
    assert device.logs["ccl"] == pytest.approx(terms, rel=1e-6)


def test_temperature_acts_on_the_contrast(profile, samples):
    states = []
    for temperature in (1.0, 0.07):
        federation = toy.federation_of(profile, samples, [("text", "video")], rounds=1, steps=1)
        algorithm = MlEcs(MlEcsOptions(temperature=temperature))
        receive(algorithm, federation, 1)
        algorithm.align(federation.devices[0], 1)
        states.append(federation.devices[0].model.state())
    assert toy.differing(*states)


def test_options_refuse_what_makes_no_sense():
    cases = [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"kt_weight": -1.0}, "kt_weight"),
        ({"kt_weight": float("nan")}, "kt_weight"),
        ({"kt_bins": 0}, "kt_bins"),
        ({"ccl_trains": ()}, "ccl_trains"),
        ({"ccl_trains": ("lora", "lora")}, "ccl_trains"),
        ({"amt_trains": ()}, "amt_trains"),
        ({"amt_trains": ("lora", "lora")}, "amt_trains"),
    ]
    for values, match in cases:
        with pytest.raises(ValueError, match=f"'{match}' must"):
            MlEcsOptions(**values)


def test_every_sample_of_a_batch_is_distinct(algorithm, federation, monkeypatch):
    batches: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        ccl, "anchors_for", lambda device, rows: batches.append(tuple(map(int, rows))) or anchors_for(device, rows)
    )
    receive(algorithm, federation, 1)
    algorithm.align(federation.devices[0], 1)
    assert all(max(Counter(rows).values()) == 1 for rows in batches)
    assert len(batches) == 2
