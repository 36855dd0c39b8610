"""Laws of FedMLLM's messages and server: what devices share travels, averaged or stepped over its holders."""

from __future__ import annotations

import torch

import toy
from fedmllm_rounds import INFO, SETS, algorithm_of, federation_of, play, receive, run, update
from mlecs_baselines import fedmllm
from mlecs_baselines.fedmllm import EXCHANGED
from mlecs_bench.federation.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mlecs_bench.federation.messages import Message, kind_of
from mlecs_bench.models.unified import UnifiedModel
from mlecs_bench.testing.steps import Listening

ADAPTIVE = ("fedadagrad", "fedadam", "fedyogi")


def crafted(federation, n, value=lambda j, tensor: torch.full_like(tensor, j + 1.0)):
    """Return uploads in which device j sends `value(j, tensor)` for every tensor, with n_j samples."""
    uploads = {}
    for j, device in enumerate(federation.devices):
        tensors = fedmllm.exchanged(device.model, device.modalities)
        tensors = {name: value(j, tensor.detach()) for name, tensor in tensors.items()}
        uploads[device.id] = Message(tensors, {"num_samples": n[j]})
    return uploads


def shared_state(model: UnifiedModel) -> dict[str, torch.Tensor]:
    return {f"{part}/{name}": t.detach().clone() for part in EXCHANGED for name, t in model.part(part).items()}


# ------------------------------------------------------------------------------------------------------- the messages


def test_only_shared_parts_travel_and_projectors_only_of_held_modalities(profile, samples):
    algorithm, listening = algorithm_of(), Listening()
    federation = federation_of(profile, samples, algorithm=algorithm)
    comm = run(algorithm, federation, samples, carry=listening).comm
    expected = {}
    for device in federation.devices:
        names = {f"lora/{name}" for name in device.model.part("lora")} | {"soft_prompt/2.weight", "soft_prompt/2.bias"}
        for m in device.modalities:
            names |= {f"projector/{m}/{rest}" for rest in ("weight", "bias", "missing")}
        for t in (1, 2, 3):
            expected[device.id, "down", t] = names if t > 1 else set()
        expected |= {(device.id, "up", t): names for t in (1, 2)}
    assert {(one.device, one.direction, one.round): set(one.message.tensors) for one in listening.sent} == expected
    assert all(set(s.message.scalars) == ({"num_samples"} if s.direction == "up" else set()) for s in listening.sent)
    declared = {
        (e.kind, way) for e in INFO.exchanges for way in (("down", "up") if e.direction == "both" else (e.direction,))
    }
    assert {(entry["kind"], entry["direction"]) for entry in comm["entries"]} == declared


def test_a_device_without_modalities_takes_part_and_keeps_its_constant_prompt(profile, samples):
    algorithm = algorithm_of()
    federation = federation_of(profile, samples, [(), ("audio",), ()], algorithm)
    uploads = play(algorithm, federation, (1,))
    assert {kind_of(name) for name in uploads["d00"].tensors} == {"lora", "soft_prompt"}
    assert not any("constant" in name for name in uploads["d00"].tensors)
    before = [device.state() for device in federation.devices]
    receive(algorithm, federation, 2)
    first, _, last = federation.devices
    changed = {name.removeprefix("model/") for name in toy.differing(before[0], first.state())}
    assert {name.split("/")[0] for name in changed} == {"lora", "soft_prompt"}
    assert "soft_prompt/constant" not in changed
    assert not toy.differing(first.model.part("lora"), last.model.part("lora"))
    assert not torch.equal(first.model.part("soft_prompt")["constant"], last.model.part("soft_prompt")["constant"])


def test_encoders_and_fusion_stay_local_and_the_shared_parts_become_equal(profile, samples):
    algorithm = algorithm_of()
    federation = federation_of(profile, samples, [toy.NAMES, toy.NAMES], algorithm)
    play(algorithm, federation, (1,))
    local = [device.state() for device in federation.devices]
    receive(algorithm, federation, 2)
    states = [device.state() for device in federation.devices]
    for before, after in zip(local, states, strict=True):
        assert {name.split("/")[1] for name in toy.differing(before, after)} == set(EXCHANGED)
    assert {name.split("/")[1] for name in toy.differing(*states)} == {"encoder", "fusion"}


# --------------------------------------------------------------------------------------------------------- the server


def test_fedavg_weights_are_the_sample_counts(profile, samples):
    for n in [(1, 3), (5, 5), (0, 2)]:
        algorithm = algorithm_of()
        federation = federation_of(profile, samples, [toy.NAMES] * 2, algorithm)
        algorithm.aggregate(federation.server, crafted(federation, n), 1)
        mean = (1 * n[0] + 2 * n[1]) / sum(n)
        for name, tensor in shared_state(federation.server.slm).items():
            torch.testing.assert_close(tensor, torch.full_like(tensor, mean), msg=name)


def test_fedavg_of_identical_adapters_is_that_adapter_whatever_the_server_had(profile, samples):
    """Not old value plus new, which the published code makes of every tensor but the first."""
    algorithm = algorithm_of()
    federation = federation_of(profile, samples, [toy.NAMES] * 3, algorithm)
    generator = torch.Generator().manual_seed(1)
    drawn = {name: torch.randn(t.shape, generator=generator) for name, t in shared_state(federation.server.slm).items()}
    message = Message(drawn)
    uploads = {
        d.id: Message(message.tensors, {"num_samples": n}) for d, n in zip(federation.devices, (3, 7, 11), strict=True)
    }
    for t in (1, 2):
        algorithm.aggregate(federation.server, uploads, t)
        assert not toy.differing(shared_state(federation.server.slm), drawn)


def test_tensors_that_nobody_holds_keep_their_value(profile, samples):
    for server_opt in ["fedavg", "fedadam"]:
        algorithm = algorithm_of(server_opt=server_opt)
        federation = federation_of(profile, samples, [("audio",), ("text",), ()], algorithm)
        before = shared_state(federation.server.slm)
        play(algorithm, federation, (1,))
        changed = toy.differing(before, shared_state(federation.server.slm))
        assert {name.split("/")[1] for name in changed if name.startswith("projector/")} == {"audio", "text"}
        assert {kind_of(name) for name in changed} == set(EXCHANGED)
        assert not any("/video/" in name for name in federation.server.memory)


def test_devices_without_samples_have_no_say(profile, samples):
    for server_opt in ["fedavg", "fedadam"]:
        algorithm = algorithm_of(server_opt=server_opt)
        federations = [federation_of(profile, samples, [("audio",)] * n, algorithm) for n in (1, 2)]
        for federation, n in zip(federations, ((4,), (4, 0)), strict=True):
            algorithm.aggregate(federation.server, crafted(federation, n), 1)
        assert not toy.differing(*(federation.server.state() for federation in federations))
        before = federations[1].server.state()
        algorithm.aggregate(federations[1].server, crafted(federations[1], (0, 0)), 2)
        assert not toy.differing(before, federations[1].server.state())


def test_adaptive_server_steps_follow_their_formula_over_the_holders_of_each_tensor(profile, samples):
    for server_opt in ADAPTIVE:
        rate, tau, beta1, beta2 = 0.05, 0.01, 0.8, 0.9
        algorithm = algorithm_of(
            server_opt=server_opt, server_lr=rate, server_tau=tau, server_beta1=beta1, server_beta2=beta2
        )
        federation = federation_of(profile, samples, algorithm=algorithm, steps=1)
        w = {name: tensor.double() for name, tensor in shared_state(federation.server.slm).items()}
        m = dict.fromkeys(w, torch.zeros((), dtype=torch.float64))
        v = dict.fromkeys(w, torch.tensor(tau**2, dtype=torch.float64))
        for t in (1, 2):
            uploads = play(algorithm, federation, (t,))
            for name, old in w.items():
                sent = [message.tensors[name].double() for message in uploads.values() if name in message.tensors]
                delta = sum(sent) / len(sent) - old
                m[name] = delta if server_opt == "fedadagrad" else beta1 * m[name] + (1 - beta1) * delta
                if server_opt == "fedadagrad":
                    v[name] = v[name] + delta**2
                elif server_opt == "fedadam":
                    v[name] = beta2 * v[name] + (1 - beta2) * delta**2
                else:
                    v[name] = v[name] - (1 - beta2) * delta**2 * torch.sign(v[name] - delta**2)
                w[name] = (old + rate * m[name] / (v[name].sqrt() + tau)).float().double()
            for name, tensor in shared_state(federation.server.slm).items():
                torch.testing.assert_close(tensor.double(), w[name], rtol=1e-6, atol=1e-8, msg=name)


def test_saving_and_loading_in_the_middle_changes_nothing(profile, samples, tmp_path):
    for server_opt in ["fedavg", *ADAPTIVE]:
        algorithm = algorithm_of(server_opt=server_opt)
        straight, first, second = (federation_of(profile, samples, SETS[:2], algorithm, steps=1) for _ in range(3))
        play(algorithm, straight, (1, 2, 3))
        play(algorithm, first, (1, 2))
        path = tmp_path / "state.safetensors"
        save_checkpoint(path, Checkpoint(toy.state_of(first), {"key": "k"}))
        saved = load_checkpoint(path)
        assert saved is not None
        assert any(":memory/" in name for name in saved.tensors) == (server_opt != "fedavg")
        for party in (second.server, *second.devices):
            prefix = f"{party.id}:"
            party.load_state({k.removeprefix(prefix): v for k, v in saved.tensors.items() if k.startswith(prefix)})
        if server_opt != "fedavg":  # what would be lost without the state
            first.server.memory = {}
            play(algorithm, first, (3,))
            assert toy.differing(shared_state(straight.server.slm), shared_state(first.server.slm))
        play(algorithm, second, (3,))
        assert not toy.differing(toy.state_of(straight), toy.state_of(second))


def test_one_device_alone_is_pulled_towards_its_own_last_round(profile, samples):
    algorithm = algorithm_of(mu=1.0)
    federated, alone = (federation_of(profile, samples, [("audio", "text")], algorithm) for _ in range(2))
    play(algorithm, federated, (1, 2, 3))
    for t in (1, 2, 3):
        update(algorithm, alone.devices[0], t)
    assert not toy.differing(federated.devices[0].state(), alone.devices[0].state())


def test_first_broadcast_is_empty_and_the_servers_own_model_never_changes(profile, samples):
    algorithm = algorithm_of(server_opt="fedadam")
    federation = federation_of(profile, samples, algorithm=algorithm)
    assert algorithm.broadcast(federation.server, 1) == {}
    before = federation.server.model.state()
    play(algorithm, federation, (1, 2))
    assert not toy.differing(before, federation.server.model.state())
    assert not INFO.server_score
