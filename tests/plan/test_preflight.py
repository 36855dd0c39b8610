"""Before anything is prepared: models that are not whole, and runs that do not fit into memory, are refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import zoo
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.models import memory
from mlecs_bench.models.backbone import Backbone
from mlecs_bench.models.loading import BaseSettings
from mlecs_bench.plan import preflight
from mlecs_bench.plan.plan import Plan
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import RunSpec

REGISTRY = Registry.installed()


def plan_of(algo: str = "standalone", **changes: object) -> Plan:
    """Return a plan on VAST, on the CPU unless `changes` say otherwise."""
    return resolve(RunSpec(algo, "vast", 0.5, **({"device": "cpu"} | changes)), REGISTRY)


def write_index(folder: Path, text: str) -> None:
    (folder / "model.safetensors").rename(folder / "model-00002-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(text)


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "config": (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    "weights": (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
    "tokenizer": (lambda f: [path.unlink() for path in f.glob("tokenizer*")], "holds no tokenizer"),
    "shard": (
        lambda f: write_index(f, json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})),
        "lacks model-00001-of-00002.safetensors, which model.safetensors.index.json names",
    ),
    "index": (lambda f: write_index(f, "{"), "is no index of weights"),
    "names": (lambda f: (f / "model.safetensors").rename(f / "weights.safetensors"), "holds weights under other names"),
    "adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "merge it into its model"),
    "code": (
        lambda f: edit_config(f, model_type="strange", auto_map={"AutoModelForCausalLM": "strange.Model"}),
        "needs code of its own .* which is never run, whatever the flags",
    ),
    "tokenizer's code": (
        lambda f: (f / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["strange.Own", null]}}'),
        "tokenizer of",
    ),
    "field": (lambda f: edit_config(f, n_layer="two"), "Validation error for field 'n_layer': TypeError"),
    "both directions": (
        lambda f: edit_config(f, model_type="xlnet", summary_activation="tanh"),
        "reads a text in both directions",
    ),
    "no end": (lambda f: (f / "tokenizer_config.json").write_text("{}"), "tokenizer of"),
    "encoder": (lambda f: edit_config(f, model_type="bert"), "says is_decoder false"),
}


def test_a_model_that_is_not_whole_is_refused_before_anything_is_loaded(checkpoints, tmp_path):
    for damage, (harm, match) in DAMAGES.items():
        copy = Path(shutil.copytree(checkpoints["gpt2"], tmp_path / damage))
        harm(copy)
        with pytest.raises(UsageError, match=match) as caught:
            preflight.check_models(plan_of(slm=str(copy)))
        assert "\n" not in str(caught.value)


def test_what_another_save_left_beside_whole_weights_does_no_harm(checkpoints, tmp_path):
    copy = Path(shutil.copytree(checkpoints["gpt2"], tmp_path / "model"))
    for name in ("pytorch_model.bin.index.json", "model.safetensors.index.json"):
        (copy / name).write_text(json.dumps({"weight_map": {"a": "gone"}}))
    size = json.loads((copy / "config.json").read_text())["vocab_size"]
    edit_config(copy, auto_map={"AutoModelForCausalLM": "own.Model"}, pad_token_id=size)  # transformers has the family
    preflight.check_models(plan_of(slm=str(copy)))
    assert Backbone(str(copy), BaseSettings(torch.device("cpu"))).vocab_size == size


def test_bits_that_would_quantise_nothing_are_refused(tmp_path):
    falcon = zoo.save("falcon", tmp_path / "falcon")
    preflight.check_models(plan_of(slm=falcon))
    with pytest.raises(UsageError, match=r"\(falcon\) has no layers that bitsandbytes quantises"):
        preflight.check_models(plan_of(slm=falcon, base_bits=8))


def test_a_family_whose_targets_are_pefts_own_is_named(tmp_path):
    rwkv = zoo.save("rwkv", tmp_path / "rwkv")
    (note,) = preflight.family_notes(plan_of(slm=rwkv))
    assert "'rwkv' are adapted where PEFT does by default (key, value, receptance, output)" in note
    assert not preflight.family_notes(plan_of())


def test_a_run_that_cannot_fit_is_refused_and_one_that_may_not_is_warned(monkeypatch):
    plan = plan_of("ml-ecs", profile="paper")
    monkeypatch.setattr(preflight, "check_files", lambda _: None)
    for gib, refused, warned in ((10, True, True), (24, False, True), (80, False, False)):
        monkeypatch.setattr(memory, "available_memory", lambda _, gib=gib: gib * memory.GIB)
        if refused:
            with pytest.raises(UsageError, match=r"needs about 24\.\d GiB.*and cpu has 10\.0 GiB; --gradient"):
                preflight.check_models(plan)
        else:
            preflight.check_models(plan)
        assert (preflight.memory_warning(plan) is not None) == warned


def test_every_gpu_runs_one_cell_at_a_time_and_a_cpu_as_many_as_fit(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    plan = plan_of("ml-ecs", profile="paper")
    assert preflight.workers_that_fit(dataclasses.replace(plan, torch_device="cuda"), 8) == 1
    assert preflight.workers_that_fit(dataclasses.replace(plan, torch_device="cuda:1"), 8) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-1a2b")
    assert preflight.visible_gpus() == ["5", "GPU-1a2b"]
    assert preflight.workers_that_fit(dataclasses.replace(plan, torch_device="cuda"), 8) == 2
    monkeypatch.setattr(memory, "available_memory", lambda _: 80 * memory.GIB)
    assert preflight.workers_that_fit(plan, 8) == 3
    assert preflight.workers_that_fit(plan_of("ml-ecs"), 8) == 8
