"""Laws of Multi-FedAvg: averages over the holders of each tensor, weighted by samples; nothing else moves."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import toy
from mlecs_baselines.multi_fedavg import MultiFedAvg, MultiFedAvgOptions
from mlecs_bench.blocks import supervised
from mlecs_bench.doors.profile import LoraSettings
from mlecs_bench.federation.build import Federation
from mlecs_bench.federation.device import Device
from mlecs_bench.federation.messages import Message, kind_of
from mlecs_bench.models.unified import PARTS, UnifiedModel
from mlecs_bench.seeds import rng
from mlecs_bench.testing.steps import Listening

EVERYTHING = ("encoder", "projector", "lora", "soft_prompt", "fusion")


def federation_of(profile, samples, held, **changes) -> Federation:
    settings = {"rounds": 1, "steps": 1, "public_stage": False} | changes
    return toy.federation_of(profile, samples, held, **settings)


def one_round(algorithm: MultiFedAvg, federation: Federation, t: int = 1) -> dict[str, Message]:
    """Run one round without an engine; return the uploads."""
    down = algorithm.broadcast(federation.server, t)
    for device in federation.devices:
        algorithm.receive(device, down.get(device.id, Message()).copied(), t)
    uploads = {d.id: algorithm.local_update(d, t).copied() for d in federation.devices}
    algorithm.aggregate(federation.server, uploads, t)
    return uploads


def next_start(algorithm: MultiFedAvg, federation: Federation, t: int = 2) -> None:
    """Let all devices take in the next broadcast."""
    for id_, message in algorithm.broadcast(federation.server, t).items():
        device = next(d for d in federation.devices if d.id == id_)
        algorithm.receive(device, message.copied(), t)


def gradient_of_first_batch(device: Device, model: UnifiedModel) -> dict[str, torch.Tensor]:
    """Return the gradients of `model` on the first batch that a device will train on; None as zero."""
    order = rng(device.seed, "batches", device.id, 1, "private")
    rows = device.train.rows[supervised.batches(len(device.train), 4, 1, order)[0]]
    with model.only_trainable(PARTS):
        loss = model.loss(device.train.batch(rows), device.prompt, device.train.targets(rows))
        named = {f"{part}/{k}": p for part in PARTS for k, p in model.part(part).items()}
        grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {k: torch.zeros_like(p) if g is None else g for (k, p), g in zip(named.items(), grads, strict=True)}


def test_one_sgd_step_on_equal_shares_is_one_centralised_step_on_the_union(profile, samples, monkeypatch):
    """Equal n_j, all modalities, no dropout, no clipping: the averaged models are θ - η · mean of the gradients."""

    def sgd(party, stage):
        return torch.optim.SGD([p for m, parts in stage.models for p in m.parameters(parts)], lr=0.5), []

    monkeypatch.setattr(supervised, "_optimiser", sgd)
    quiet = dataclasses.replace(profile, lora=LoraSettings(dropout=0.0), connector_dropout=0.0)
    federation = federation_of(quiet, samples, [toy.NAMES] * 3)
    algorithm = MultiFedAvg(MultiFedAvgOptions(exchange=EVERYTHING))
    model = federation.server.slm
    start = {f"{part}/{k}": p.detach().clone() for part in PARTS for k, p in model.part(part).items()}
    gradients = [gradient_of_first_batch(device, model) for device in federation.devices]
    one_round(algorithm, federation)
    next_start(algorithm, federation)
    for device in federation.devices:
        for key, tensor in device.model.state().items():
            step = torch.stack([g[key] for g in gradients]).mean(0)
            torch.testing.assert_close(tensor, start[key] - 0.5 * step, rtol=1e-5, atol=1e-6, msg=key)


def test_one_device_alone_is_standalone_bit_for_bit(profile, samples):
    for held in [toy.NAMES, ("text",), ()]:
        federations = [federation_of(profile, samples, [held], rounds=2, steps=2) for _ in range(2)]
        federated, single = (
            toy.run_toy(algo, f, samples) for algo, f in zip(("multi-fedavg", "standalone"), federations, strict=True)
        )
        states = [f.devices[0].state() for f in federations]
        assert not toy.differing(*states)
        assert federated.metrics["client"] == single.metrics["client"]


def crafted(algorithm: MultiFedAvg, federation: Federation, n: dict[str, int]) -> dict[str, Message]:
    """Return uploads in which device j sends j + 1 everywhere, with n_j samples."""
    uploads = {}
    for j, device in enumerate(federation.devices):
        message = algorithm.local_update(device, 1)
        tensors = {k: torch.full_like(v, j + 1.0).detach() for k, v in message.tensors.items()}
        uploads[device.id] = Message(tensors, {"num_samples": n[device.id]})
    return uploads


def values(tensors) -> set[float]:
    return {round(float(v), 6) for t in tensors for v in t.detach().flatten()}


def test_weights_are_the_sample_counts(profile, samples):
    federation = federation_of(profile, samples, [toy.NAMES] * 2)
    algorithm = MultiFedAvg(MultiFedAvgOptions())
    uploads = one_round(algorithm, federation)
    assert {id_: m.scalars for id_, m in uploads.items()} == {
        d.id: {"num_samples": len(d.train)} for d in federation.devices
    }
    algorithm.aggregate(federation.server, crafted(algorithm, federation, {"d00": 1, "d01": 3}), 1)
    for part in algorithm.options.exchange:
        assert values(federation.server.slm.part(part).values()) == {0.25 * 1 + 0.75 * 2}


def test_every_tensor_is_averaged_over_its_holders_only(profile, samples):
    federation = federation_of(profile, samples, [("audio",), ("audio", "text"), ("text",)])
    algorithm = MultiFedAvg(MultiFedAvgOptions())
    video = {k: v.detach().clone() for k, v in federation.server.slm.part("encoder").items() if k.startswith("video/")}
    algorithm.aggregate(federation.server, crafted(algorithm, federation, dict.fromkeys(("d00", "d01", "d02"), 1)), 1)
    for part in ("encoder", "projector"):
        own = federation.server.slm.part(part)
        by_modality = {m: values(v for k, v in own.items() if k.startswith(f"{m}/")) for m in ("audio", "text")}
        assert by_modality == {"audio": {1.5}, "text": {2.5}}
    assert values(federation.server.slm.part("lora").values()) == {2.0}
    assert not toy.differing(
        video, {k: v for k, v in federation.server.slm.part("encoder").items() if k.startswith("video/")}
    )


def test_device_without_samples_has_no_weight(profile, samples):
    federation = federation_of(profile, samples, [("audio",), ("audio",)])
    algorithm = MultiFedAvg(MultiFedAvgOptions())
    algorithm.aggregate(federation.server, crafted(algorithm, federation, {"d00": 0, "d01": 5}), 1)
    assert values(federation.server.slm.part("lora").values()) == {2.0}
    before = federation.server.state()
    algorithm.aggregate(federation.server, crafted(algorithm, federation, {"d00": 0, "d01": 0}), 1)
    assert not toy.differing(before, federation.server.state())


def test_disjoint_modalities_keep_their_own_encoders_and_mix_the_rest(profile, samples):
    federation = federation_of(profile, samples, [("audio",), ("text", "video")])
    algorithm = MultiFedAvg(MultiFedAvgOptions())
    one_round(algorithm, federation)
    local = {d.id: d.state() for d in federation.devices}
    next_start(algorithm, federation)
    for device in federation.devices:
        changed = {k.split("/")[1] for k in toy.differing(local[device.id], device.state())}
        assert changed == {"lora", "soft_prompt"}
    one, two = (d.model.part("lora") for d in federation.devices)
    assert not toy.differing(one, two)


def test_tensor_of_a_modality_never_moves_on_a_device_that_lacks_it(profile, samples):
    for exchange in [("encoder", "projector", "lora", "soft_prompt"), EVERYTHING]:
        held = {"d00": ("audio",), "d01": ("text", "video"), "d02": ()}
        federation, listening = federation_of(profile, samples, list(held.values())), Listening()
        toy.run_toy("multi-fedavg", federation, samples, carry=listening, options={"exchange": exchange})
        seen: dict[tuple[str, str], set[str]] = {}
        for one in listening.sent:
            per_modality = {n.split("/")[1] for n in one.message.tensors if kind_of(n) in ("encoder", "projector")}
            seen.setdefault((one.device, one.direction), set()).update(per_modality)
            assert not any(name.endswith("constant") for name in one.message.tensors)
        assert seen == {(id_, way): set(m) for id_, m in held.items() for way in ("down", "up")}


def test_only_the_exchanged_parts_travel_and_in_full(profile, samples):
    for exchange in [("encoder",), ("encoder", "lora"), ("encoder", "projector", "lora", "soft_prompt")]:
        federation = federation_of(profile, samples, [toy.NAMES, ("audio", "text")])
        comm = toy.run_toy("multi-fedavg", federation, samples, options={"exchange": exchange}).comm
        sizes = {
            part: sum(p.numel() for d in federation.devices for p in d.model.part(part).values()) for part in exchange
        }
        expected = {(way, part): n for part, n in sizes.items() for way in ("down", "up")} | {("up", "scalar"): 2}
        assert {(e["direction"], e["kind"]): e["params"] for e in comm["entries"]} == expected


def test_parts_that_do_not_travel_stay_local(profile, samples):
    federation = federation_of(profile, samples, [toy.NAMES] * 2)
    algorithm = MultiFedAvg(MultiFedAvgOptions(exchange=("encoder",)))
    one_round(algorithm, federation)
    local = {d.id: d.state() for d in federation.devices}
    next_start(algorithm, federation)
    for device in federation.devices:
        changed = {k.split("/")[1] for k in toy.differing(local[device.id], device.state())}
        assert changed == {"encoder"}


def test_fusion_is_averaged_among_devices_of_equal_modalities_only(profile, samples):
    federation = federation_of(profile, samples, [("audio", "text"), ("audio",), ("audio", "text")], rounds=2)
    algorithm = MultiFedAvg(MultiFedAvgOptions(exchange=EVERYTHING))
    uploads = one_round(algorithm, federation)
    local = [{k: v.detach().clone() for k, v in d.model.part("fusion").items()} for d in federation.devices]
    next_start(algorithm, federation)
    now = [d.model.part("fusion") for d in federation.devices]
    n = [m.scalars["num_samples"] for m in uploads.values()]
    for key, tensor in now[0].items():
        mean = (n[0] * local[0][key] + n[2] * local[2][key]) / (n[0] + n[2])
        torch.testing.assert_close(tensor, mean)
        assert torch.equal(tensor, now[2][key])
    assert toy.differing(local[0], now[0])
    assert not toy.differing(local[1], now[1])


def test_first_broadcast_is_empty_and_the_servers_own_model_never_changes(profile, samples):
    federation = federation_of(profile, samples, [toy.NAMES] * 2)
    algorithm = MultiFedAvg(MultiFedAvgOptions())
    assert algorithm.broadcast(federation.server, 1) == {}
    before = federation.server.model.state()
    one_round(algorithm, federation)
    assert not toy.differing(before, federation.server.model.state())
    assert "server" not in federation.server.steps


def test_exchange_must_name_each_part_once():
    for exchange in [(), ("encoder", "encoder")]:
        with pytest.raises(ValueError, match="option 'exchange' must name"):
            MultiFedAvgOptions(exchange=exchange)
