"""Laws of running at scale: sources, checks before loading, memory, checkpointing, 16 bits, and no hidden waiting."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPTJConfig

import toy
from mlecs_bench.doors.profile import LoraSettings
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import DataError, UsageError
from mlecs_bench.models import memory, sources
from mlecs_bench.models.backbone import Backbone
from mlecs_bench.models.loading import BaseSettings
from mlecs_bench.models.memory import MemoryEstimate, advice, estimate_memory
from mlecs_bench.models.outline import backbone_shape
from mlecs_bench.plan import preflight
from mlecs_bench.plan.plan import Plan
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import RunSpec

CPU = torch.device("cpu")
REGISTRY = Registry.installed()
VAST = dataclasses.replace(REGISTRY.dataset("vast").info, metrics=("rouge_lsum",))
MINI, SMALL, PAPER = (REGISTRY.profile(name).info for name in ("mini", "small", "paper"))


def plan_of(algo: str = "standalone", **changes: object) -> Plan:
    """Return a plan on VAST, on the CPU unless `changes` say otherwise."""
    return resolve(RunSpec(algo, "vast", 0.5, **({"device": "cpu"} | changes)), REGISTRY)


# Sources


def test_the_models_of_every_profile_are_known_without_a_hub():
    for profile in (SMALL, PAPER):
        for source in (profile.slm, profile.llm):
            assert backbone_shape(source, None).adapted


def test_published_sizes_are_those_of_the_architectures_own_presets():
    assert sources.configuration("EleutherAI/gpt-j-6b").to_dict() == GPTJConfig().to_dict()
    assert sources.configuration("openai-community/gpt2").to_dict() == GPT2Config().to_dict()


def hub_copy(root: Path, repository: str, checkpoint: str, commit: str) -> None:
    """Write a checkpoint as huggingface_hub's cache holds it."""
    folder = root / f"models--{repository.replace('/', '--')}"
    shutil.copytree(checkpoint, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)


@pytest.fixture
def hub(tmp_path, monkeypatch, checkpoints):
    """A cache of the hub that holds one model at one commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    hub_copy(tmp_path, "somebody/tiny", checkpoints["gpt2"], commit)
    import huggingface_hub.constants
    import huggingface_hub.file_download

    for module in (huggingface_hub.constants, huggingface_hub.file_download):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path), raising=False)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    sources._fetched_commit.cache_clear()
    yield commit
    sources._fetched_commit.cache_clear()


def test_a_hub_id_stands_for_the_commit_it_resolves_to(hub):
    assert sources.content_id("somebody/tiny") == f"somebody/tiny@{hub}"
    assert sources.content_id(f"somebody/tiny@{hub}") == f"somebody/tiny@{hub}"
    assert sources.pretrained("somebody/tiny") == ("somebody/tiny", {"revision": hub})


def test_a_folders_identity_changes_with_any_of_its_files_and_not_with_its_place(checkpoints, tmp_path):
    copy = Path(shutil.copytree(checkpoints["gpt2"], tmp_path / "copy"))
    before = sources.content_id(checkpoints["gpt2"])
    assert sources.content_id(str(copy)) == before
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        path = copy / name
        whole = path.read_bytes()
        path.write_bytes(whole + b" ")
        assert sources.content_id(str(copy)) != before
        path.write_bytes(whole)
    (copy / "model.safetensors").unlink()
    with pytest.raises(DataError, match="holds no weights"):
        sources.content_id(str(copy))


def write_index(folder: Path, text: str) -> None:
    (folder / "model.safetensors.index.json").write_text(text)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "config": (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    "weights": (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
    "tokenizer": (lambda f: [path.unlink() for path in f.glob("tokenizer*")], "holds no tokenizer"),
    "shard": (
        lambda f: write_index(f, json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})),
        "lacks model-00001-of-00002.safetensors, which model.safetensors.index.json names",
    ),
    "index": (lambda f: write_index(f, "{"), "is no index of weights"),
}


def test_a_model_that_is_not_whole_is_refused_before_anything_is_loaded(checkpoints, tmp_path):
    for damage, (harm, match) in DAMAGES.items():
        copy = Path(shutil.copytree(checkpoints["gpt2"], tmp_path / damage))
        harm(copy)
        with pytest.raises(UsageError, match=match) as caught:
            preflight.check_models(plan_of(slm=str(copy)), VAST)
        assert "\n" not in str(caught.value)


# Memory


def test_weights_are_counted_by_their_type(checkpoints):
    profile = dataclasses.replace(MINI, slm=checkpoints["gpt2"], llm=checkpoints["gptj"])
    sizes = [backbone_shape(s, None) for s in (profile.slm, profile.llm)]
    total, linear = sum(s.n_parameters for s in sizes), sum(s.quantised for s in sizes)
    assert estimate_memory(profile, 3, 3).weights == 4 * total
    half = dataclasses.replace(profile, dtype="bfloat16")
    assert estimate_memory(half, 3, 3).weights == 2 * total
    assert estimate_memory(dataclasses.replace(half, base_bits=8), 3, 3).weights == linear + 2 * (total - linear)
    four = estimate_memory(dataclasses.replace(half, base_bits=4), 3, 3).weights
    assert abs(four - (linear * 0.5625 + 2 * (total - linear))) <= len(sizes)


def test_devices_cost_their_adapters_and_connectors_but_no_backbone():
    few, many = (estimate_memory(PAPER, n, 3) for n in (3, 20))
    assert few.weights == many.weights
    adapter_and_prompt = 4_055_040 + 257 * 16 * 1280
    per_device = (many.trained - few.trained) / 17
    assert 4 * adapter_and_prompt < per_device < 1.05 * 4 * adapter_and_prompt


@pytest.fixture(scope="module")
def middle(tmp_path_factory):
    """A checkpoint wide enough for its activations to outweigh odds and ends."""
    folder = tmp_path_factory.mktemp("middle") / "gpt2"
    toy.byte_level_tokenizer(folder)
    from transformers import GPT2LMHeadModel

    sizes = {"n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": 256, "vocab_size": 330}
    config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)


def saved_bytes(backbone: Backbone, b: int, tokens: int) -> int:
    """Return the bytes that autograd keeps for the backward pass, each storage once, without weights."""
    weights = {p.untyped_storage().data_ptr() for p in backbone._base.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    embeds = torch.randn(b, tokens, backbone.hidden_size, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        logits = backbone.logits(embeds, keep=64)
    assert logits.requires_grad
    return sum(kept.values())


def test_the_estimate_of_activations_is_near_what_autograd_keeps(middle):
    for batch in (2, 4):
        for checkpointing in (False, True):
            estimated, measured = activations(middle, batch, checkpointing)
            assert 0.5 * measured < estimated < 2 * measured


def activations(middle: str, batch: int, checkpointing: bool) -> tuple[int, int]:
    """Return the bytes of activations that are estimated, and those that autograd keeps."""
    backbone = Backbone(middle, BaseSettings(CPU, checkpointing=checkpointing))
    backbone.add_adapter("d00", LoraSettings(), 1, "device")
    backbone.activate(("d00",), training=True)
    for p in backbone.adapter("d00").values():
        p.requires_grad_(True)
    profile = dataclasses.replace(PAPER, dtype="float32", batch_size=batch, gradient_checkpointing=checkpointing)
    shape = backbone_shape(middle, None)
    logits = memory.LOGIT_COPIES * 4 * batch * 64 * shape.vocab_size
    layer = 0
    if checkpointing:  # the one layer that is recomputed is not kept by the forward pass
        without = dataclasses.replace(profile, gradient_checkpointing=False)
        layer = (memory._activation_bytes(shape, without) - logits) // shape.n_layers
    estimated = memory._activation_bytes(shape, profile) - logits - layer
    return estimated, saved_bytes(backbone, batch, profile.soft_tokens + 2 * memory.ANSWER_TOKENS)


def test_the_advice_fits_or_says_that_nothing_does():
    profile = dataclasses.replace(PAPER, dtype="float32")
    for gib in (4, 8, 12, 16, 24, 48):
        text = advice(profile, 3, 3, gib * memory.GIB)
        flags = text.split(" would need")[0]
        if not text.startswith("--"):
            assert gib == 4
            assert "--slm" in text
            continue
        changes = {"gradient_checkpointing": True} if "--gradient-checkpointing" in flags else {}
        changes |= {"dtype": "bfloat16"} if "bfloat16" in flags else {}
        changes |= {"base_bits": int(flags.split("--base-bits ")[1][0])} if "--base-bits" in flags else {}
        changes |= {"batch_size": 1} if "--batch-size 1" in flags else {}
        assert estimate_memory(dataclasses.replace(profile, **changes), 3, 3).total <= gib * memory.GIB
        assert flags.count("--base-bits") <= 1


def test_a_run_that_cannot_fit_is_refused_and_one_that_may_not_is_warned(monkeypatch):
    plan = plan_of("ml-ecs", profile="paper")
    monkeypatch.setattr(preflight, "check_files", lambda _: None)
    for gib, refused, warned in ((10, True, True), (18, False, True), (80, False, False)):
        monkeypatch.setattr(memory, "available_memory", lambda _, gib=gib: gib * memory.GIB)
        if refused:
            with pytest.raises(UsageError, match=r"needs about 18\.\d GiB.*and cpu has 10\.0 GiB; --gradient"):
                preflight.check_models(plan, VAST)
        else:
            preflight.check_models(plan, VAST)
        assert (preflight.memory_warning(plan, VAST) is not None) == warned


def test_every_gpu_runs_one_cell_at_a_time_and_a_cpu_as_many_as_fit(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    plan = plan_of("ml-ecs", profile="paper")
    assert preflight.workers_that_fit(dataclasses.replace(plan, torch_device="cuda"), VAST, 8) == 1
    assert preflight.workers_that_fit(dataclasses.replace(plan, torch_device="cuda:1"), VAST, 8) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,1")
    assert preflight.workers_that_fit(dataclasses.replace(plan, torch_device="cuda"), VAST, 8) == 2
    monkeypatch.setattr(memory, "available_memory", lambda _: 60 * memory.GIB)
    assert preflight.workers_that_fit(plan, VAST, 8) == 3
    assert preflight.workers_that_fit(plan_of("ml-ecs"), VAST, 8) == 8


def test_the_estimate_reads_as_its_parts():
    text = str(MemoryEstimate(10 * memory.GIB, memory.GIB, 0))
    assert text == "12.1 GiB (weights 10.0, trained 1.0, activations 0.0)"


# Training


def trained(profile, samples, algo: str = "ml-ecs") -> dict[str, torch.Tensor]:
    federation = toy.toy_federation(profile, samples, needs=toy.needs_of(algo))
    toy.run_toy(algo, federation, samples)
    return toy.state_of(federation)


def test_checkpointing_changes_no_bit(profile, samples):
    plain = trained(profile, samples)
    recomputed = trained(dataclasses.replace(profile, gradient_checkpointing=True), samples)
    assert not toy.differing(plain, recomputed)


def test_checkpointing_recomputes_every_layer_in_training_alone(checkpoints):
    for folder in checkpoints.values():
        check_recomputation(folder)


def check_recomputation(folder: str) -> None:
    backbone = Backbone(folder, BaseSettings(CPU, checkpointing=True))
    backbone.add_adapter("d00", LoraSettings(), 1, "device")
    calls = []
    mlp = [m for n, m in backbone._base.named_modules() if n.endswith("mlp")]
    for module in mlp:
        module.register_forward_pre_hook(lambda *_: calls.append(2))
    for training, expected in ((True, 2), (False, 1)):
        calls.clear()
        backbone.activate(("d00",), training=training)
        for p in backbone.adapter("d00").values():
            p.requires_grad_(True)
        backbone.logits(torch.randn(2, 6, backbone.hidden_size), keep=2).sum().backward()
        assert calls.count(2) == expected * len(mlp)
    assert not any(m.training for n, m in backbone._base.named_modules() if isinstance(m, torch.nn.Dropout))


def test_bfloat16_is_near_float32_and_what_is_trained_stays_float32(profile, samples):
    full = trained(profile, samples)
    half = trained(dataclasses.replace(profile, dtype="bfloat16"), samples)
    assert {t.dtype for t in half.values() if t.is_floating_point()} == {torch.float32}
    moved = torch.cat([(full[k] - half[k]).flatten() for k in full if full[k].is_floating_point()])
    assert 0 < moved.abs().mean() < 1e-3


def test_a_quantised_base_trains_and_answers(middle, profile, samples):
    pytest.importorskip("bitsandbytes", reason="the extra 'quantised' is not installed")
    # On a CPU bitsandbytes packs 4-bit weights in blocks of 32 columns, which the toy models are too narrow for.
    profile = dataclasses.replace(profile, slm=middle, llm=middle)
    exact = trained(profile, samples, "standalone")
    for bits in (4, 8):
        quantised = trained(dataclasses.replace(profile, base_bits=bits), samples, "standalone")
        assert exact.keys() == quantised.keys()
        assert toy.differing(exact, quantised)
        assert all(torch.isfinite(t).all() for t in quantised.values())


# No waiting in the hot loop: on the meta device there are no values, so whatever would wait for one fails.


class StepTakenError(Exception):
    """One step of a stage has been computed."""


def on_meta(federation) -> None:
    """Move every model of a federation to the meta device."""
    meta = torch.device("meta")
    parties = (federation.server, *federation.devices)
    models = [federation.server.slm, *(p.model for p in parties), *(p._proxy for p in parties if p._proxy)]
    for model in models:
        backbone = model.backbone
        if backbone.torch_device != meta:
            backbone._peft.to(meta)
            backbone.torch_device = meta
            backbone._adapters = {name: backbone._find_adapter(name) for name in backbone._adapters}
        model.texts._torch_device = meta
        model.texts._prompts.clear()
        model.encoders.to(meta)
        model.connector.to(meta)


def take_one_step(party, data, stage, loss):
    """Compute loss and gradients of one batch of a stage, as `train_stage` does in its loop, and stop there."""
    for model, parts in stage.models:
        model.switch(training=True)
        for p in model.parameters(parts):
            p.requires_grad_(True)
    loss(data.rows[:4]).backward()
    raise StepTakenError


STAGES = {
    "private": ("standalone", "mlecs_bench.blocks.supervised", lambda a, s, d: a.local_update(d, 1)),
    "ccl": ("ml-ecs", "mlecs_plugins.ml_ecs.ccl", lambda a, s, d: a.align(d, 1)),
    "amt": ("ml-ecs", "mlecs_plugins.ml_ecs.amt", lambda a, s, d: a.tune(d, 1)),
    "se-ccl": ("ml-ecs", "mlecs_plugins.ml_ecs.se_ccl", lambda a, s, d: a.transfer(s, 1)),
    "dst": ("co-plms", "mlecs_baselines.co_plms", lambda a, s, d: a.tune(d, 1)),
    "saml": ("co-plms", "mlecs_baselines.co_plms", lambda a, s, d: a.learn_mutually(d, 1)),
    "fedmllm": ("fedmllm", "mlecs_baselines.fedmllm", lambda a, s, d: a.local_update(d, 1)),
}


@pytest.mark.parametrize("stage", STAGES)
def test_no_step_waits_for_a_value_of_the_device(stage, profile, samples, monkeypatch):
    algo, module, run = STAGES[stage]
    info = toy.ALGORITHMS[algo]
    federation = toy.toy_federation(profile, samples, needs=toy.needs_of(algo), rho=1.0)
    server, device = federation.server, federation.devices[0]
    algorithm = info.build(info.options())
    down = algorithm.broadcast(server, 1).get(device.id)
    if down is not None:
        algorithm.receive(device, down.copied(), 1)
    on_meta(federation)
    # transformers itself looks, once in a forward pass, whether sequences are packed; ours never are.
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda _: None)
    monkeypatch.setattr(f"{module}.train_stage", take_one_step)
    with pytest.raises(StepTakenError):
        run(algorithm, server, device)
