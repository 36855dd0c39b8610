"""Laws of FedMLLM on the devices: one prompt for all, and a pull of the middle layers to what came down."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config
from transformers.models.gpt2 import GPT2LMHeadModel

import toy
from fedmllm_rounds import INFO, SETS, SUFFIX, algorithm_of, federation_of, play, receive, run, update
from mlecs_baselines.fedmllm import EXCHANGED, FedMllm, FedMllmOptions
from mlecs_bench.blocks import supervised
from mlecs_bench.data.samples import PartyData
from mlecs_bench.doors.options import build_options
from mlecs_bench.doors.profile import LoraSettings
from mlecs_bench.errors import UsageError
from mlecs_bench.models.texts import prompt_text
from mlecs_bench.models.unified import UnifiedModel
from mlecs_bench.seeds import rng
from mlecs_plugins.datasets.ur_fall import card as ur_fall
from mlecs_plugins.datasets.vast import captions, synthetic
from mlecs_plugins.profiles.mini import MINI

DEPTH = 5


@pytest.fixture(scope="module")
def deep_profile(profile, tmp_path_factory):
    """A profile whose small model has five layers, so that one is left out at either end."""
    folder = tmp_path_factory.mktemp("deep") / "slm"
    shutil.copytree(profile.slm, folder)
    torch.manual_seed(3)
    GPT2LMHeadModel(GPT2Config.from_pretrained(profile.slm, n_layer=DEPTH)).save_pretrained(folder)
    quiet = LoraSettings(dropout=0.0)
    return dataclasses.replace(profile, slm=str(folder), lora=quiet, connector_dropout=0.0)


# ----------------------------------------------------------------------------------------- against plain Multi-FedAvg


def test_without_pull_and_sentence_it_is_multi_fedavg_on_the_same_names_bit_for_bit(profile, samples):
    for options in [{"mu": 0.0}, {"lambda_mode": "constant", "lambda_constant": 0.0}]:
        algorithm = algorithm_of(prompt_suffix="", **options)
        ours, theirs = (federation_of(profile, samples, algorithm=algorithm) for _ in range(2))
        outcome = run(algorithm, ours, samples)
        expected = toy.run_toy(
            "multi-fedavg", theirs, samples, options={"exchange": ("projector", "lora", "soft_prompt")}
        )
        assert not toy.differing(toy.state_of(ours), toy.state_of(theirs))
        assert outcome.metrics["client"] == expected.metrics["client"]
        assert outcome.comm == expected.comm


def test_the_pull_and_the_sentence_each_change_the_adapters(profile, samples):
    ends = {}
    for name, options in {
        "plain": {"mu": 0.0, "prompt_suffix": ""},
        "pull": {"mu": 5.0, "prompt_suffix": ""},
        "sentence": {"mu": 0.0},
    }.items():
        algorithm = algorithm_of(**options)
        federation = federation_of(profile, samples, [("audio",)], algorithm)
        play(algorithm, federation, (1, 2))
        ends[name] = federation.devices[0].state()
    for one, other in [("plain", "pull"), ("plain", "sentence"), ("pull", "sentence")]:
        assert any("/lora/" in name for name in toy.differing(ends[one], ends[other]))


# --------------------------------------------------------------------------------------------------------- the prompt


def test_the_prompt_is_the_same_for_all_modalities_and_in_training_and_at_test(profile, samples, monkeypatch):
    seen: dict[str, set[str]] = {"loss": set(), "generate": set()}

    def listen(name):
        original = getattr(UnifiedModel, name)

        def spy(model, batch, prompt, *rest):
            seen[name].add(prompt)
            return original(model, batch, prompt, *rest)

        monkeypatch.setattr(UnifiedModel, name, spy)

    for name in seen:
        listen(name)
    algorithm = algorithm_of()
    federation = federation_of(profile, samples, algorithm=algorithm, rounds=1)
    assert {d.modalities for d in federation.devices} == {tuple(held) for held in SETS}
    run(algorithm, federation, samples)
    assert seen == {"loss": {f"Say it. {SUFFIX}"}, "generate": {f"Say it. {SUFFIX}"}}
    assert federation.server.prompt == f"Say it. {SUFFIX}"


def test_an_empty_sentence_leaves_the_datasets_prompt(profile, samples):
    options = build_options(FedMllmOptions, {"prompt_suffix": ""}, "fedmllm")
    federation = federation_of(profile, samples, algorithm=FedMllm(options))
    assert {party.prompt for party in (*federation.devices, federation.server)} == {"Say it."}


def test_the_sentence_names_no_modality():
    sentence = FedMllmOptions().prompt_suffix.lower()
    modalities = (*synthetic.MODALITIES, ur_fall.ACCE, ur_fall.DEPTH_FEATURES, ur_fall.RGB)
    for word in {m.name for m in modalities} | {
        "image",
        "picture",
        "text",
        "word",
        "sound",
        "video",
        "sensor",
        "modal",
        "frame",
    }:
        assert word not in sentence
    assert sentence.count(".") == 1
    assert sentence.endswith(".")


@pytest.fixture(scope="module")
def vast_summaries():
    slots = synthetic.benchmark_slots()
    texts = captions.write_captions(slots, rng(synthetic.DATA_SEED, "vast", "clips", "summaries"))
    return sorted(set(texts))


@pytest.mark.parametrize("side", ["slm", "llm"])
def test_the_sentence_fits_the_mini_models_beside_the_longest_answers(side, vast_summaries):
    folder = Path(getattr(MINI, side))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    positions = GPT2Config.from_pretrained(folder).n_positions

    def length(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    longest = max(max(map(length, [" " + text for text in vast_summaries])) + 1, synthetic.MAX_NEW_TOKENS)
    for prompt in (synthetic.PROMPT, ur_fall.PROMPT):
        asked = length(prompt_text(f"{prompt} {FedMllmOptions().prompt_suffix}"))
        assert MINI.soft_tokens + asked + longest <= positions


# ----------------------------------------------------------------------------------------------------------- the pull


def test_lambda_is_the_missing_rate_but_at_least_the_codes_constant(profile, samples):
    devices = federation_of(profile, samples, [toy.NAMES, ("audio", "text"), ("video",), ()]).devices
    for device, missing_rate in zip(devices, (0.1, 1 / 3, 2 / 3, 1.0), strict=True):
        assert algorithm_of(mu=1.0).strength(device) == pytest.approx(missing_rate)
        assert algorithm_of().strength(device) == pytest.approx(0.01 * missing_rate)
        assert algorithm_of(mu=1.0, lambda_mode="constant").strength(device) == 0.1
        assert algorithm_of(mu=2.0, lambda_mode="constant", lambda_constant=0.7).strength(device) == 1.4
        assert algorithm_of(mu=1.0, lambda_constant=0.5).strength(device) == pytest.approx(max(0.5, missing_rate))


def stub(n_layers):
    """Return a model with an adapter of n layers and nothing else."""
    lora = {f"transformer.h.{i}.attn.c_attn.lora_{ab}": torch.zeros(1) for i in range(n_layers) for ab in "AB"}
    return SimpleNamespace(part={"lora": lora}.__getitem__)


def layers(algorithm, n_layers):
    names = algorithm.pulled(stub(n_layers))
    found = sorted({int(name.split(".")[2]) for name in names})
    assert set(names) == {f"transformer.h.{i}.attn.c_attn.lora_{ab}" for i in found for ab in "AB"}
    return found


@pytest.mark.usefixtures("unchecked")  # the model is a stub
def test_the_layers_pulled_are_the_middle_ones_with_both_boundaries():
    cases = [(4, 28, 4, 23), (None, 28, 4, 23), (None, 36, 5, 30), (None, 2, 0, 1), (None, 4, 1, 2), (0, 28, 0, 27)]
    for margin, n_layers, first, last in cases:
        assert layers(algorithm_of(layer_margin=margin), n_layers) == list(range(first, last + 1))


@pytest.mark.usefixtures("unchecked")  # the model is a stub
def test_a_margin_of_half_the_layers_pulls_none():
    for n_layers in [1, 2, 5, 28]:
        assert layers(algorithm_of(layer_margin=math.ceil(n_layers / 2)), n_layers) == []


def test_a_margin_of_half_the_layers_is_training_without_pull_bit_for_bit(profile, samples):
    for held in [("text",), ()]:
        ends, logs = [], []
        for options in ({"layer_margin": 1, "mu": 50.0}, {"mu": 0.0}):
            algorithm = algorithm_of(**options)
            federation = federation_of(profile, samples, [held], algorithm)
            play(algorithm, federation, (1, 2))
            ends.append(federation.devices[0].state())
            logs.append(federation.devices[0].logs)
        assert not toy.differing(*ends)
        assert logs[0] == logs[1]
        assert logs[0]["private/proximal"] == 0


def trained(deep_profile, samples, held, steps, mu):
    """Return a device's state before and after some steps of a round, and the device; its adapter has B ≠ 0."""
    algorithm = algorithm_of(mu=mu)
    device = federation_of(deep_profile, samples, [held], algorithm, steps=steps).devices[0]
    generator = torch.Generator().manual_seed(1)
    lora = {name: 0.1 * torch.randn(p.shape, generator=generator) for name, p in device.model.part("lora").items()}
    device.model.load_part("lora", lora)
    start = device.state()
    algorithm.local_update(device, 1)
    return start, device.state(), device


@pytest.mark.parametrize(
    ("held", "lambda_"), [(toy.NAMES, 0.1), (("audio", "text"), 1 / 3), (("text",), 2 / 3), ((), 1.0)]
)
def test_the_pull_adds_mu_lambda_times_the_distance_on_the_middle_layers_and_nothing_elsewhere(
    held, lambda_, deep_profile, samples, monkeypatch
):
    """Two steps of gradient descent; the pull acts in the second, where w_1 - w_0 is known from a run of one step."""
    rate, mu = 0.5, 0.3

    def sgd(party, stage):
        return torch.optim.SGD([p for m, parts in stage.models for p in m.parameters(parts)], lr=rate), []

    monkeypatch.setattr(supervised, "_optimiser", sgd)
    start, one_step, _ = trained(deep_profile, samples, held, 1, 0.0)
    _, free, _ = trained(deep_profile, samples, held, 2, 0.0)
    _, pulled, device = trained(deep_profile, samples, held, 2, mu)
    middle = {f"model/lora/{name}" for name in device.model.part("lora") if 1 <= int(name.split(".")[2]) <= DEPTH - 2}
    assert len({name.split(".")[2] for name in middle}) == DEPTH - 2
    assert toy.differing(free, pulled) == middle
    for name in middle:
        expected = free[name] - rate * mu * lambda_ * (one_step[name] - start[name])
        torch.testing.assert_close(pulled[name], expected, rtol=1e-5, atol=1e-7, msg=name)
    distance = sum((one_step[name] - start[name]).double().square().sum().item() for name in middle)
    assert distance > 0
    term = mu / 2 * lambda_ * distance  # of the second step; that of the first is 0
    assert device.logs["private/proximal"] == pytest.approx(term / 2, rel=1e-4)
    assert device.logs["private"] > device.logs["private/proximal"] > 0
    terms = device.logs["private/supervised"] + device.logs["private/proximal"]
    assert device.logs["private"] == pytest.approx(terms, rel=1e-6)
    share = device.logs["private/proximal"] / device.logs["private"]
    assert device.logs["private/proximal_share"] == pytest.approx(share)


def test_the_pull_is_zero_at_the_start_of_every_round_since_it_is_towards_what_came_down(profile, samples):
    for t in [1, 2]:
        algorithm = algorithm_of(mu=100.0)
        federation = federation_of(profile, samples, algorithm=algorithm, steps=1)
        initial = federation.devices[0].model.backbone.adapter("d00")
        initial = {name: tensor.detach().clone() for name, tensor in initial.items()}
        for round_ in range(1, t + 1):
            receive(algorithm, federation, round_)
            now = federation.devices[0].model.part("lora")
            assert bool(toy.differing(initial, now)) == (round_ > 1)
            uploads = {device.id: update(algorithm, device, round_) for device in federation.devices}
            algorithm.aggregate(federation.server, uploads, round_)
        assert [device.logs["private/proximal"] for device in federation.devices] == [0.0] * len(SETS)


def test_a_strong_pull_keeps_the_adapter_near_and_leaves_the_rest_free(profile, samples):
    distances = []
    for mu in (0.0, 1e4):
        algorithm = algorithm_of(mu=mu)
        device = federation_of(profile, samples, [("audio",)], algorithm, steps=12).devices[0]
        start = device.state()
        algorithm.local_update(device, 1)
        moved = {name: (tensor - start[name]).norm() for name, tensor in device.state().items()}
        by_part = {
            part: max(v for k, v in moved.items() if k.startswith(f"model/{part}/")) for part in supervised.ALL_PARTS
        }
        assert all(by_part.values())
        distances.append(by_part["lora"])
    assert distances[1] < distances[0] / 2


def test_the_private_budget_is_taken_over_all_parts_and_no_other(profile, samples):
    algorithm = algorithm_of()
    federation = federation_of(profile, samples, algorithm=algorithm)
    before = [device.state() for device in federation.devices]
    play(algorithm, federation, (1,))
    for device, state in zip(federation.devices, before, strict=True):
        assert device.steps == {"private": device.training.budget.private} == {"private": 2}
        assert set(device.logs) == {"private", *(f"private/{x}" for x in ("supervised", "proximal", "proximal_share"))}
        changed = {name.split("/")[1] for name in toy.differing(state, device.state())}
        assert changed == (set(supervised.ALL_PARTS) if device.modalities else {"soft_prompt", "lora"})
    assert federation.server.steps == {}


def test_a_device_with_nothing_to_train_on_sends_what_it_has_and_logs_nothing(profile, samples):
    algorithm = algorithm_of()
    device = federation_of(profile, samples, [("text",)], algorithm).devices[0]
    device.train = PartyData(samples, [], ("text",), device.id)
    before = device.state()
    message = algorithm.local_update(device, 1)
    assert message.scalars == {"num_samples": 0}
    assert not toy.differing(before, device.state())
    assert device.logs == {}


# ------------------------------------------------------------------------------------------------- options and card


def test_an_option_outside_its_range_is_refused_by_name():
    cases = [
        ("mu", -0.01, "at least 0 and finite"),
        ("mu", math.inf, "at least 0 and finite"),
        ("mu", math.nan, "at least 0 and finite"),
        ("lambda_constant", -1.0, "at least 0 and finite"),
        ("layer_margin", -1, "at least 0, or none"),
        ("server_lr", 0.0, "above 0 and finite"),
        ("server_tau", 0.0, "above 0 and finite"),
        ("server_tau", math.nan, "above 0 and finite"),
        ("server_beta1", 1.0, "at least 0 and below 1"),
        ("server_beta2", -0.5, "at least 0 and below 1"),
    ]
    for name, value, wanted in cases:
        with pytest.raises(ValueError, match=f"option '{name}' must be {wanted}, got {value}"):
            FedMllmOptions(**{name: value})


def test_an_unknown_choice_is_refused():
    for name in ["lambda_mode", "server_opt"]:
        with pytest.raises(UsageError, match=f"option '{name}' of fedmllm must be one of"):
            build_options(FedMllmOptions, {name: "scaffold"}, "fedmllm")


def test_the_defaults_are_those_of_the_sources():
    options = build_options(FedMllmOptions, {"layer_margin": "none"}, "fedmllm")
    assert options == FedMllmOptions()
    assert (options.mu, options.lambda_constant) == (0.01, 0.1)
    assert (options.server_lr, options.server_tau, options.server_beta1, options.server_beta2) == (
        1e-3,
        1e-3,
        0.9,
        0.99,
    )


def test_the_card_asks_for_equal_shapes_of_what_is_averaged():
    needs = INFO.needs(FedMllmOptions())
    assert set(needs.same) == set(EXCHANGED)
    assert needs.prompt_suffix == FedMllmOptions().prompt_suffix != ""
    assert not needs.public_stage
    assert isinstance(INFO.build(FedMllmOptions()), FedMllm)
