"""The zoo: every causal family of transformers runs as it should, or is refused before anything is prepared."""

from __future__ import annotations

import dataclasses

import pytest

import toy
import zoo
from mlecs_bench.doors.profile import LoraSettings
from mlecs_bench.models.outline import backbone_shape
from mlecs_bench.models.projections import LORA_TARGETS
from mlecs_bench.plan.identity import model_identity
from tools.models_page import PAGE, row

FEW = ("opt", "falcon", "mamba")
"""A subclass of the linear layer, a layer with dropout of its own, and a model without positions and attention."""
SOME = ("bloom", "mpt", "opt-350m", "mixtral", "qwen3", "gemma3", "openai-gpt", "rwkv")
"""One of a kind each: no positions, its own name for them, narrow inputs, experts, attention wider than H, a tower of
pictures, no cache, targets of PEFT's and a cache that cannot be trusted in batches."""


def test_families_of_few_kinds_compute_as_they_should(tmp_path):
    for name in FEW:
        assert zoo.examine(name, tmp_path / name).cache


def test_every_family_of_the_table_is_in_the_zoo_and_every_target_names_layers(tmp_path):
    families = {family for family, _ in zoo.FAMILIES.values()}
    families |= {"gemma3_text"}  # the text part of gemma3
    assert set(LORA_TARGETS) <= families
    shape = backbone_shape(zoo.save("gemma3", tmp_path / "gemma3"), None)
    assert shape.n_parameters < shape.n_loaded, "the tower of pictures is no part of the language model"
    assert all(".language_model." in name for name in shape.adapted)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
def test_a_family_of_a_kind_of_its_own_computes_and_runs_a_round(name, tmp_path, profile, samples):
    finding = zoo.examine(name, tmp_path / name)
    assert finding.cache == (name not in ("gemma3", "openai-gpt", "rwkv"))
    zoo.run_round(str(tmp_path / name), profile, samples)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("name", zoo.FAMILIES)
def test_every_family_computes_runs_a_round_and_stands_on_the_page_or_is_refused(name, tmp_path, profile, samples):
    finding = zoo.examine(name, tmp_path / name)
    assert bool(finding.refusal) == (name in zoo.REFUSED)
    if not finding.refusal:
        source = str(tmp_path / name)
        zoo.run_round(source, profile, samples)
        pytest.importorskip("bitsandbytes", reason="the extra 'quantised' is not installed")
        finding = dataclasses.replace(finding, bits=tuple(bits for bits in (8, 4) if zoo.quantises(source, bits)))
    assert row(finding) in PAGE.read_text(encoding="utf-8").splitlines()


def test_the_identity_of_a_model_names_what_is_adapted_in_families_where_it_was_not_always_so(tmp_path, profile):
    opt = zoo.save("opt", tmp_path / "opt")
    plan = toy.toy_plan(profile)
    assert model_identity(plan, opt)["lora"] == ["fc2", "k_proj", "out_proj", "q_proj", "v_proj"]
    named = dataclasses.replace(profile, lora=LoraSettings(targets=("fc1",)), slm=opt, llm=opt)
    assert "lora" not in model_identity(toy.toy_plan(named), opt)
    assert "lora" not in model_identity(plan, profile.slm)
