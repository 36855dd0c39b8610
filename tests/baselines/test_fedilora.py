"""Laws of FediLoRA: ranks are averaged one by one, one lora_A is edited, everything else is FedAvg of the adapters."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import toy
from mlecs_baselines import fedilora
from mlecs_baselines.fedilora import FediLora, FediLoraOptions, cosine, edited
from mlecs_baselines.multi_fedavg import MultiFedAvg, MultiFedAvgOptions
from mlecs_bench.blocks.aggregate import truncated
from mlecs_bench.doors.options import build_options
from mlecs_bench.federation.build import Federation
from mlecs_bench.federation.messages import Message
from mlecs_bench.testing.message_checks import kinds_of
from mlecs_bench.testing.steps import Listening

RANKS = (2, 4, 3)
SETS = [("audio", "text"), toy.NAMES, ("video",)]


def federation_of(profile, samples, held=SETS, ranks=RANKS, **changes) -> Federation:
    needs = fedilora.mlecs_algorithm().needs(FediLoraOptions(ranks=ranks))
    return toy.federation_of(profile, samples, held, needs=needs, **({"rounds": 2, "steps": 2} | changes))


def receive(algorithm, federation: Federation, t: int) -> dict[str, Message]:
    messages = {id_: m.copied() for id_, m in algorithm.broadcast(federation.server, t).items()}
    for device in federation.devices:
        algorithm.receive(device, messages.get(device.id, Message()), t)
    return messages


def one_round(algorithm, federation: Federation, t: int = 1) -> dict[str, Message]:
    """Run one round without an engine; return the uploads."""
    receive(algorithm, federation, t)
    uploads = {d.id: algorithm.local_update(d, t).copied() for d in federation.devices}
    algorithm.aggregate(federation.server, uploads, t)
    return uploads


def lora_of(model) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in model.part("lora").items()}


def rank_first(name: str, tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor of an adapter with its rank as the first axis, in float64."""
    array = tensor.detach().double().numpy()
    return array if name.endswith("lora_A") else array.T


def test_devices_have_the_ranks_of_the_options_in_turn(profile, samples):
    federation = federation_of(profile, samples, [toy.NAMES] * 4, ranks=(2, 4, 3))
    assert dict(federation.server.ranks) == {"d00": 2, "d01": 4, "d02": 3, "d03": 2}
    for device in (*federation.devices, federation.server):
        model = federation.server.slm if device is federation.server else device.model
        ranks = {rank_first(k, v).shape[0] for k, v in model.part("lora").items()}
        assert ranks == {federation.server.ranks.get(device.id, 4)}


def test_adapters_of_all_ranks_start_as_cuts_of_one_and_round_one_sends_nothing(profile, samples):
    federation = federation_of(profile, samples)
    assert FediLora(FediLoraOptions()).broadcast(federation.server, 1) == {}
    whole = federation.server.slm.part("lora")
    for device in federation.devices:
        assert not toy.differing(device.model.part("lora"), truncated(whole, federation.server.ranks[device.id]))


def test_server_adapter_is_the_loop_over_ranks_of_the_uploads_in_any_order(profile, samples):
    federation = federation_of(profile, samples)
    algorithm = FediLora(FediLoraOptions())
    uploads = one_round(algorithm, federation)
    found = lora_of(federation.server.slm)
    n = {id_: m.scalars["num_samples"] for id_, m in uploads.items()}
    assert n == {d.id: len(d.train) for d in federation.devices}
    for name, tensor in found.items():
        own = {id_: rank_first(name, m.of_kind("lora")[name]) for id_, m in uploads.items()}
        for index, row in enumerate(rank_first(name, tensor)):
            holders = [id_ for id_ in own if len(own[id_]) > index]
            expected = sum(n[j] * own[j][index] for j in holders) / sum(n[j] for j in holders)
            np.testing.assert_allclose(row, expected, rtol=1e-6, atol=1e-8)
    algorithm.aggregate(federation.server, dict(reversed(uploads.items())), 1)
    assert not toy.differing(found, federation.server.slm.part("lora"))


def test_upper_indices_are_the_only_device_that_reaches_them(profile, samples):
    for ranks in [(2, 4), (4, 2)]:
        federation = federation_of(profile, samples, [toy.NAMES] * 2, ranks=ranks)
        uploads = one_round(FediLora(FediLoraOptions()), federation)
        large = uploads[f"d0{ranks.index(4)}"].of_kind("lora")
        assert any(bool(v.any()) for k, v in large.items() if k.endswith("lora_B")), "training must have moved B"
        for name, tensor in federation.server.slm.part("lora").items():
            np.testing.assert_array_equal(rank_first(name, tensor)[2:], rank_first(name, large[name])[2:])


def test_devices_start_the_round_from_the_global_adapter_cut_to_their_rank(profile, samples):
    federation = federation_of(profile, samples)
    algorithm = FediLora(FediLoraOptions())
    one_round(algorithm, federation)
    states = {d.id: d.state() for d in federation.devices}
    receive(algorithm, federation, 2)
    whole = federation.server.slm.part("lora")
    for device in federation.devices:
        assert not toy.differing(device.model.part("lora"), truncated(whole, federation.server.ranks[device.id]))
        changed = toy.differing(states[device.id], device.state())
        assert {k.split("/")[1] for k in changed} == {"lora", "global"}


def test_one_device_alone_gets_back_what_it_sent(profile, samples):
    for rank in [1, 4]:
        federation = federation_of(profile, samples, [toy.NAMES], ranks=(rank,))
        algorithm = FediLora(FediLoraOptions())
        for t in (1, 2):
            uploads = one_round(algorithm, federation, t)
            assert not toy.differing(uploads["d00"].of_kind("lora"), federation.server.slm.part("lora"))
        local = federation.devices[0].model.state()
        receive(algorithm, federation, 3)
        assert not toy.differing(local, federation.devices[0].model.state())


def test_of_equal_ranks_without_editing_it_is_fedavg_of_lora_bit_for_bit(profile, samples):
    for held in [[toy.NAMES] * 3, SETS, [(), ("audio",), ("audio", "text")]]:
        one, other = (federation_of(profile, samples, held, ranks=(4,)) for _ in range(2))
        ours = FediLora(FediLoraOptions(ranks=(4,), edit=False))
        theirs = MultiFedAvg(MultiFedAvgOptions(exchange=("lora",)))
        for t in (1, 2):
            uploads, expected = one_round(ours, one, t), one_round(theirs, other, t)
            for id_ in uploads:
                assert not toy.differing(uploads[id_].tensors, expected[id_].tensors)
            assert not toy.differing(one.server.slm.part("lora"), other.server.slm.part("lora"))
        receive(ours, one, 3)
        receive(theirs, other, 3)
        assert not toy.differing(toy.state_of(one), toy.state_of(other))


def test_without_any_samples_the_global_adapter_stays(profile, samples):
    for counts in [(0, 0, 0), (-0.0, 0.0, 0)]:
        federation = federation_of(profile, samples)
        algorithm = FediLora(FediLoraOptions())
        one_round(algorithm, federation)
        before = lora_of(federation.server.slm)
        uploads = {
            d.id: Message(
                {f"lora/{k}": torch.ones_like(v) for k, v in d.model.part("lora").items()}, {"num_samples": n}
            )
            for d, n in zip(federation.devices, counts, strict=True)
        }
        for given in (uploads, {}):
            algorithm.aggregate(federation.server, given, 2)
            assert not toy.differing(before, federation.server.slm.part("lora"))


def test_indices_of_a_device_without_samples_stay_as_they_were(profile, samples):
    federation = federation_of(profile, samples)
    algorithm = FediLora(FediLoraOptions())
    one_round(algorithm, federation)
    before = lora_of(federation.server.slm)
    uploads = {
        d.id: Message({f"lora/{k}": torch.ones_like(v) for k, v in d.model.part("lora").items()}, {"num_samples": n})
        for d, n in zip(federation.devices, (5, 0, 1), strict=True)
    }
    algorithm.aggregate(federation.server, uploads, 2)
    for name, tensor in federation.server.slm.part("lora").items():
        found = rank_first(name, tensor)
        assert (found[:3] == 1).all()
        np.testing.assert_array_equal(found[3:], rank_first(name, before[name])[3:])


def crafted(federation: Federation, similarity: dict[str, float]) -> dict[str, torch.Tensor]:
    """Let a device's lora_A tensors have given cosines to the received ones, 1 where none is given; return those.

    Local tensors lie along the first axis; training is left out.
    """
    device = federation.devices[0]
    names = a_names(federation)
    received = {}
    for name in names:
        s = similarity.get(name, 1.0)
        tensor = torch.zeros_like(device.model.part("lora")[name]).detach()
        tensor[0, 0], tensor[0, 1] = s, (1 - s * s) ** 0.5
        received[name] = tensor
    local = {k: torch.full_like(v, 0.5).detach() for k, v in device.model.part("lora").items()}
    for name in names:
        local[name].zero_()[0, 0] = 2.0
    device.model.load_part("lora", local)
    device.memory |= {f"global/{k}": v for k, v in received.items()}
    return received


@pytest.fixture
def still(monkeypatch):
    """Leave training out."""
    monkeypatch.setattr(fedilora, "train_on_private", lambda *_: [])


@pytest.fixture(scope="module")
def alone(profile, samples) -> Federation:
    """One device, whose adapter the tests overwrite."""
    return federation_of(profile, samples, [toy.NAMES], ranks=(3,))


def a_names(federation: Federation, j: int = 0) -> list[str]:
    """Return the names of the lora_A tensors of device j, in order."""
    return sorted(k for k in federation.devices[j].model.part("lora") if k.endswith("lora_A"))


def test_exactly_the_least_similar_lora_a_is_edited(alone, still):
    for which, s, mode in itertools.product([0, -1], [0.94, 0.5, 0.1, 0.0, -0.5, -1.0], ["mix", "replace", "half"]):
        name = a_names(alone)[which]
        others = dict.fromkeys(a_names(alone), 0.945)
        received = crafted(alone, others | {name: s})
        device = alone.devices[0]
        before = lora_of(device.model)
        upload = FediLora(FediLoraOptions(edit_mode=mode)).local_update(device, 2)
        assert toy.differing(before, device.model.part("lora")) == {name}
        assert not toy.differing(upload.of_kind("lora"), device.model.part("lora")), "editing comes before the upload"
        share = {"mix": max(s, 0.0), "replace": 0.0, "half": 0.5}[mode]
        expected = share * before[name].double() + (1 - share) * received[name].double()
        torch.testing.assert_close(upload.of_kind("lora")[name].double(), expected, rtol=1e-6, atol=1e-7)
        assert device.logs["edit_similarity"] == pytest.approx(s, abs=1e-6)
        assert device.logs["edits"] == 1
        assert device.logs["edit_strength"] == pytest.approx(1 - share, abs=1e-6)


def test_mixing_at_similarity_zero_or_below_gives_the_global_tensor_itself(alone, still):
    for s in [0.0, -1e-9, -0.3, -1.0]:
        name = a_names(alone)[1]
        received = crafted(alone, {name: s})
        FediLora(FediLoraOptions()).local_update(alone.devices[0], 2)
        assert torch.equal(alone.devices[0].model.part("lora")[name], received[name])


def test_nothing_is_edited_from_the_threshold_on(alone, still):
    for s, threshold in [(1.0, 0.95), (0.96, 0.95), (0.5, 0.4), (-0.5, -1.0), (-1.0, -1.0)]:
        crafted(alone, dict.fromkeys(a_names(alone), s))
        device = alone.devices[0]
        before = lora_of(device.model)
        FediLora(FediLoraOptions(edit_threshold=threshold)).local_update(device, 2)
        assert not toy.differing(before, device.model.part("lora"))
        assert (device.logs["edits"], device.logs["edit_strength"]) == (0, 0)
        assert device.logs["edit_similarity"] == pytest.approx(s, abs=1e-6)


def test_of_equally_similar_tensors_one_alone_is_edited(alone, still):
    crafted(alone, dict.fromkeys(a_names(alone), 0.25))
    device = alone.devices[0]
    before = lora_of(device.model)
    FediLora(FediLoraOptions()).local_update(device, 2)
    assert toy.differing(before, device.model.part("lora")) == {a_names(alone)[0]}


def test_a_tensor_equal_to_the_global_one_does_not_change_whatever_the_threshold(alone, still):
    device = alone.devices[0]
    before = lora_of(device.model)
    device.memory |= {f"global/{k}": v for k, v in before.items() if k.endswith("lora_A")}
    FediLora(FediLoraOptions(edit_threshold=1.0)).local_update(device, 2)
    assert not toy.differing(before, device.model.part("lora"))


def test_nothing_is_edited_in_the_first_round(profile, samples):
    federation, plain = (federation_of(profile, samples) for _ in range(2))
    one = one_round(FediLora(FediLoraOptions(edit_threshold=1.0)), federation)
    other = one_round(FediLora(FediLoraOptions(edit=False)), plain)
    assert not toy.differing(toy.state_of(federation), toy.state_of(plain))
    assert all(not toy.differing(one[id_].tensors, other[id_].tensors) for id_ in one)
    assert not any("edits" in d.logs for d in federation.devices)


def test_from_the_second_round_on_one_lora_a_of_every_device_is_edited(profile, samples):
    with_editing, plain = (federation_of(profile, samples) for _ in range(2))
    one_round(FediLora(FediLoraOptions()), with_editing)
    one_round(FediLora(FediLoraOptions()), plain)
    # High enough that every tensor which training has moved at all is below it.
    one = one_round(FediLora(FediLoraOptions(edit_threshold=1.0)), with_editing, 2)
    other = one_round(FediLora(FediLoraOptions(edit=False)), plain, 2)
    for j, device in enumerate(with_editing.devices):
        changed = toy.differing(one[device.id].of_kind("lora"), other[device.id].of_kind("lora"))
        assert len(changed) == 1
        assert changed <= set(a_names(with_editing, j))
        assert device.logs["edits"] == 1
        assert device.logs["edit_strength"] == pytest.approx(1 - device.logs["edit_similarity"])
    assert toy.differing(with_editing.server.slm.part("lora"), plain.server.slm.part("lora"))


def test_editing_that_finds_all_tensors_similar_changes_nothing(profile, samples):
    one, other = (federation_of(profile, samples, ranks=(3,)) for _ in range(2))
    for algorithm, federation in (
        (FediLora(FediLoraOptions(edit_threshold=-1.0)), one),
        (FediLora(FediLoraOptions(edit=False)), other),
    ):
        for t in (1, 2):
            one_round(algorithm, federation, t)
    assert not toy.differing(toy.state_of(one), toy.state_of(other))


def test_cosine_is_that_of_the_flattened_tensors():
    for shape, seed in itertools.product([(1, 1), (4, 4), (3, 17), (24, 64)], range(5)):
        generator = np.random.default_rng(seed)
        one, other = (generator.normal(size=shape) for _ in range(2))
        expected = (one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum())
        found = cosine(torch.from_numpy(one).float(), torch.from_numpy(other).float())
        assert found == pytest.approx(expected, abs=1e-6)
        assert cosine(torch.from_numpy(one), torch.zeros(shape, dtype=torch.float64)) == 0
        assert cosine(torch.from_numpy(one), torch.from_numpy(-3 * one)) == pytest.approx(-1)


def test_an_edited_tensor_lies_between_the_two_and_is_one_of_them_at_the_ends():
    for dtype in [torch.float32, torch.bfloat16]:
        generator = torch.Generator().manual_seed(0)
        local, received = (torch.randn(5, 7, generator=generator).to(dtype) for _ in range(2))
        assert torch.equal(edited(local, received, 1.0), local)
        assert torch.equal(edited(local, received, 0.0), received)
        assert torch.equal(edited(local, local, 0.3), local)
        half = edited(local, received, 0.5)
        assert half.dtype == dtype
        assert ((half >= torch.minimum(local, received)) & (half <= torch.maximum(local, received))).all()


def test_memory_holds_the_received_lora_a_during_a_round_that_edits_only(profile, samples):
    for edit in [True, False]:
        federation = federation_of(profile, samples)
        algorithm = FediLora(FediLoraOptions(edit=edit))
        one_round(algorithm, federation)
        assert all(not d.memory for d in federation.devices)
        messages = receive(algorithm, federation, 2)
        for device in federation.devices:
            sent = {f"global/{k}": v.clone() for k, v in messages[device.id].of_kind("lora").items() if k.endswith("A")}
            for tensor in messages[device.id].tensors.values():
                tensor.zero_()  # the link may use its memory again
            assert not toy.differing(device.memory, sent if edit else {})
            algorithm.local_update(device, 2)
            assert not device.memory
        receive(algorithm, federation, 3)
        assert all(not d.memory for d in federation.devices), "nothing is edited after the last round"


def test_training_moves_every_part_of_a_device_and_the_server_is_never_trained(profile, samples):
    federation = federation_of(profile, samples)
    _ = federation.server.slm
    before, server = federation.devices[1].state(), federation.server.state()
    one_round(FediLora(FediLoraOptions()), federation)
    moved = {k.split("/")[1] for k in toy.differing(before, federation.devices[1].state())}
    assert moved == {"encoder", "projector", "fusion", "soft_prompt", "lora"}
    changed = toy.differing(server, federation.server.state())
    assert {tuple(k.split("/")[:2]) for k in changed} == {("slm", "lora")}
    assert federation.server.steps == {}


def test_a_run_with_ranks_sends_adapters_of_every_devices_rank_and_nothing_else(profile, samples):
    federation, listening = federation_of(profile, samples), Listening()
    options = {"ranks": "2,4,3"}
    outcome = toy.run_toy("fedilora", federation, samples, options=options, carry=listening)
    sent: dict[tuple[str, str], set[int]] = {}
    for one in listening.sent:
        found = {rank_first(k, v).shape[0] for k, v in one.message.of_kind("lora").items()}
        sent.setdefault((one.device, one.direction), set()).update(found)
    ranks = {"d00": 2, "d01": 4, "d02": 3}
    assert {kind for one in listening.sent for kind in kinds_of(one.message)} == {"lora", "scalar"}
    assert sent == {(id_, way): {rank} for id_, rank in ranks.items() for way in ("down", "up")}
    entries = {(e["direction"], e["kind"]): e["params"] for e in outcome.comm["entries"]}
    per_rank = sum(v.numel() for v in federation.server.slm.part("lora").values()) // 4
    lora = 2 * 9 * per_rank  # two rounds, ranks 2 + 4 + 3
    assert entries == {("down", "lora"): lora, ("up", "lora"): lora, ("up", "scalar"): 2 * 3}
    assert set(outcome.metrics["client"]["local"]["loss"]) == set(ranks)
    assert outcome.metrics["server"] is None
    second = outcome.metrics["rounds"][1]["losses"]
    assert all({"private", "edit_similarity", "edits", "edit_strength"} == set(second[id_]) for id_ in ranks)
    assert outcome.cost["steps"] == {"private": 12}


def test_needs_name_the_ranks_and_let_them_differ():
    info = fedilora.mlecs_algorithm()
    needs = info.needs(build_options(info.options, {"ranks": "2,4,3"}, "fedilora"))
    assert (needs.ranks, needs.any_rank, needs.same) == ((2, 4, 3), True, ("lora",))
    assert not needs.public_stage
    assert info.needs(info.options()).ranks == (24,)


def test_options_refuse_what_makes_no_sense():
    cases = [
        ({"ranks": ()}, "ranks"),
        ({"ranks": (4, 0)}, "ranks"),
        ({"ranks": (-1,)}, "ranks"),
        ({"edit_threshold": 1.01}, "edit_threshold"),
        ({"edit_threshold": -1.01}, "edit_threshold"),
        ({"edit_threshold": float("nan")}, "edit_threshold"),
    ]
    for values, match in cases:
        with pytest.raises(ValueError, match=f"option '{match}' must") as caught:
            dataclasses.replace(FediLoraOptions(), **values)
        assert "\n" not in str(caught.value)
