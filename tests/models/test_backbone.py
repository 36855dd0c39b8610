"""Laws of the backbone: the frozen Hugging Face model it came from, with adapters that do not touch each other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config
from transformers.models.gpt2 import GPT2LMHeadModel

import toy
from laws import for_all
from mlecs_bench.doors.profile import LoraSettings
from mlecs_bench.errors import DataError, UsageError
from mlecs_bench.models import projections
from mlecs_bench.models.backbone import Backbone, load_adapter
from mlecs_bench.models.loading import BaseSettings
from mlecs_bench.models.outline import backbone_shape
from mlecs_bench.models.projections import LORA_TARGETS

ON_CPU = BaseSettings(torch.device("cpu"))
KINDS = ("gpt2", "gptj", "llama")


def adapted(folder: str | Path, names: tuple[str, ...] = ("d00",), seed: int = 3, **settings: object) -> Backbone:
    """Return a backbone with fresh adapters, the first of them active in evaluation mode."""
    backbone = Backbone(str(folder), ON_CPU)
    for name in names:
        backbone.add_adapter(name, LoraSettings(**settings), seed, "device")  # type: ignore[arg-type]
    backbone.activate((names[0],), training=False)
    return backbone


def randomise(backbone: Backbone, name: str = "d00", seed: int = 0, scale: float = 1.0) -> None:
    """Give lora_B random values, so that the adapter acts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in sorted(backbone.adapter(name).items()):
            if key.endswith("lora_B"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def embeds_of(backbone: Backbone, b: int = 3, length: int = 7, seed: int = 1) -> torch.Tensor:
    return torch.randn(b, length, backbone.hidden_size, generator=torch.Generator().manual_seed(seed))


def plain_logits(folder: str, embeds: torch.Tensor, changed: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
    """Return the logits of the checkpoint as transformers loads it, with some weights replaced."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.load_state_dict(changed or {}, strict=False)
    with torch.no_grad():
        return model(inputs_embeds=embeds).logits


def merged_weights(folder: str, backbone: Backbone, name: str) -> dict[str, torch.Tensor]:
    """Return W + alpha / r (B A) of every adapted module (paper Eq. 1-2), with the rank and alpha of LoraSettings."""
    weights = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    settings, merged = LoraSettings(), {}
    phi = {k: v.detach() for k, v in backbone.adapter(name).items()}
    for path in {key.rpartition(".")[0] for key in phi}:
        delta = settings.alpha / settings.rank * phi[f"{path}.lora_B"] @ phi[f"{path}.lora_A"]
        w = weights[f"{path}.weight"]
        # GPT-2's Conv1D stores (in, out), a linear layer (out, in).
        merged[f"{path}.weight"] = w + (delta.T if backbone.model_type == "gpt2" else delta)
    return merged


@for_all("kind", KINDS)
def test_logits_with_a_new_adapter_are_those_of_the_plain_model(kind, checkpoints):
    backbone = adapted(checkpoints[kind])
    embeds = embeds_of(backbone)
    ours = backbone.logits(embeds, keep=7)
    torch.testing.assert_close(ours, plain_logits(checkpoints[kind], embeds), rtol=1e-5, atol=1e-6)


@for_all("kind", KINDS)
def test_adapter_acts_as_if_its_product_were_added_to_the_weights(kind, checkpoints):
    backbone = adapted(checkpoints[kind])
    randomise(backbone)
    embeds = embeds_of(backbone)
    oracle = plain_logits(checkpoints[kind], embeds, merged_weights(checkpoints[kind], backbone, "d00"))
    assert not torch.allclose(oracle, plain_logits(checkpoints[kind], embeds), atol=1e-2)
    torch.testing.assert_close(backbone.logits(embeds, keep=7), oracle, rtol=1e-4, atol=1e-5)


@for_all("kind", KINDS)
def test_kept_logits_are_those_of_the_last_positions(kind, checkpoints):
    backbone = adapted(checkpoints[kind])
    embeds = embeds_of(backbone)
    full = backbone.logits(embeds, keep=7)
    for keep in (1, 3):
        torch.testing.assert_close(backbone.logits(embeds, keep=keep), full[:, -keep:])


def test_bfloat16_backbone_takes_float32_soft_tokens_and_returns_float32_logits(checkpoints):
    backbone = Backbone(checkpoints["gpt2"], BaseSettings(torch.device("cpu"), torch.bfloat16))
    backbone.add_adapter("d00", LoraSettings(), 3, "device")
    backbone.activate(("d00",), training=False)
    embeds = embeds_of(backbone)
    logits = backbone.logits(embeds, keep=7)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, plain_logits(checkpoints["gpt2"], embeds), rtol=0.1, atol=0.02)
    assert len(backbone.generate(embeds, 2)) == 3


@for_all("kind", KINDS)
def test_two_adapters_on_one_backbone_are_independent(kind, checkpoints):
    backbone = adapted(checkpoints[kind], ("d00", "d01"))
    randomise(backbone, "d01", seed=5)
    embeds = embeds_of(backbone)
    backbone.activate(("d01",), training=False)
    before = backbone.logits(embeds, keep=7).detach()
    kept = {k: v.detach().clone() for k, v in backbone.adapter("d01").items()}
    backbone.activate(("d00",), training=True)
    optimiser = torch.optim.AdamW(list(backbone.adapter("d00").values()), lr=0.1)
    for _ in range(2):
        backbone.logits(embeds, keep=7).square().mean().backward()
        optimiser.step()
    backbone.activate(("d01",), training=False)
    assert torch.equal(backbone.logits(embeds, keep=7), before)
    assert all(torch.equal(v, kept[k]) for k, v in backbone.adapter("d01").items())
    backbone.activate(("d00",), training=False)
    assert not torch.allclose(backbone.logits(embeds, keep=7), before)


def test_base_weights_stay_frozen_and_in_evaluation_mode(checkpoints):
    backbone = adapted(checkpoints["gpt2"], dropout=0.0)
    embeds = embeds_of(backbone)
    quiet = backbone.logits(embeds, keep=7).detach()
    backbone.activate(("d00",), training=True)
    loud = backbone.logits(embeds, keep=7)
    assert torch.equal(loud, quiet), "the base's own dropout (0.1 in GPT-2) must not act"
    loud.sum().backward()
    with_gradient = [k for k, p in backbone._base.named_parameters() if p.grad is not None]
    assert with_gradient
    assert all("lora_" in key for key in with_gradient)


def test_adapter_dropout_acts_in_training_only(checkpoints):
    backbone = adapted(checkpoints["gpt2"], dropout=0.5)
    randomise(backbone)
    embeds = embeds_of(backbone)
    assert torch.equal(backbone.logits(embeds, 7), backbone.logits(embeds, 7))
    backbone.activate(("d00",), training=True)
    assert not torch.equal(backbone.logits(embeds, 7), backbone.logits(embeds, 7))


@pytest.mark.parametrize(("targets", "count"), [(("c_attn",), 1_024), (("c_attn", "c_proj"), 2_816), (None, 2_816)])
def test_lora_parameter_count_is_rank_times_the_widths(targets, count, tmp_path):
    tokenizer = toy.byte_level_tokenizer(tmp_path)
    save_gpt2(tmp_path, vocab_size=len(tokenizer))
    backbone = adapted(tmp_path, rank=4, targets=targets)
    assert sum(p.numel() for p in backbone.adapter("d00").values()) == count


@for_all("kind", KINDS)
def test_adapted_projections_are_those_of_the_architecture(kind, checkpoints):
    backbone = adapted(checkpoints[kind])
    modules = {key.rpartition(".")[0] for key in backbone.adapter("d00")}
    assert {m.rpartition(".")[2] for m in modules} == set(LORA_TARGETS[kind])
    per_layer = {"gpt2": 3, "gptj": 5, "llama": 5}[kind]
    assert len(modules) == 2 * per_layer


def test_a_family_without_an_entry_gets_pefts_own_targets_or_is_refused_in_one_line(checkpoints, monkeypatch):
    monkeypatch.setattr(projections, "LORA_TARGETS", {})
    borrowed = backbone_shape(checkpoints["llama"], None).adapted
    assert {name.rpartition(".")[2] for name in borrowed} == {"q_proj", "v_proj"}
    monkeypatch.setattr(projections, "borrowed_targets", lambda _: None)
    with pytest.raises(UsageError, match=r"--set lora.targets=\.\.\., such as q_proj,k_proj") as caught:
        backbone_shape(checkpoints["llama"], None)
    assert "\n" not in str(caught.value)


def test_targets_that_a_user_names_are_adapted_and_one_that_names_nothing_is_refused(checkpoints):
    for targets, endings in ((("v_proj",), {"v_proj"}), (("mlp.up_proj", "o_proj"), {"up_proj", "o_proj"})):
        found = {name.rpartition(".")[2] for name in backbone_shape(checkpoints["llama"], targets).adapted}
        adapted_ones = {key.rpartition(".")[0] for key in adapted(checkpoints["llama"], targets=targets).adapter("d00")}
        assert found == endings == {name.rpartition(".")[2] for name in adapted_ones}
    everything = set(backbone_shape(checkpoints["llama"], ("all-linear",)).adapted)
    model = AutoModelForCausalLM.from_pretrained(checkpoints["llama"])
    assert everything == {n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}
    with pytest.raises(UsageError, match=r"lora.targets names c_attn, and no linear layer.*it has q_proj"):
        backbone_shape(checkpoints["llama"], ("v_proj", "c_attn"))


def test_initial_adapter_depends_on_the_seed_alone(checkpoints):
    backbone = Backbone(checkpoints["gpt2"], ON_CPU)
    for name, seed, drawn in (("d00", 3, 0), ("d01", 3, 17), ("d02", 4, 0)):
        torch.rand(drawn)  # the global generator must not matter
        backbone.add_adapter(name, LoraSettings(), seed, "device")
    one, same, other = (backbone.adapter(f"d0{j}") for j in range(3))
    for key, parameter in one.items():
        assert torch.equal(parameter, same[key])
        if key.endswith("lora_B"):
            assert not parameter.any()
        else:
            assert not torch.equal(parameter, other[key])
            bound = parameter.shape[1] ** -0.5
            assert 0.8 * bound < parameter.abs().max() <= bound


def test_load_adapter_refuses_other_names_and_shapes(checkpoints):
    backbone = adapted(checkpoints["gpt2"])
    own = {k: v.detach() + 1 for k, v in backbone.adapter("d00").items()}
    load_adapter(backbone, "d00", own)
    assert all(torch.equal(v, own[k]) for k, v in backbone.adapter("d00").items())
    first = min(own)
    with pytest.raises(DataError, match="differ in"):
        load_adapter(backbone, "d00", {k: v for k, v in own.items() if k != first})
    with pytest.raises(DataError, match="differ in"):
        load_adapter(backbone, "d00", own | {"stranger.lora_A": own[first]})
    with pytest.raises(DataError, match="has shape"):
        load_adapter(backbone, "d00", own | {first: own[first][:, :1]})


@torch.no_grad()
def greedy(backbone: Backbone, embeds: torch.Tensor, steps: int) -> list[list[int]]:
    """Return greedy token ids row by row, every step a full forward pass without a cache."""
    rows = []
    for row in embeds:
        seen, ids = row[None], []
        while len(ids) < steps and backbone.eos_id not in ids:
            ids.append(int(backbone.logits(seen, keep=1)[0, -1].argmax()))
            seen = torch.cat([seen, backbone.embed(torch.tensor([[ids[-1]]]))], dim=1)
        rows.append(ids)
    return rows


END_ROW = {"gpt2": 2, "llama": 1, "gptj": 1}
"""A row whose third token other rows lack."""


def swap_tokens(backbone: Backbone, a: int, b: int) -> None:
    """Exchange two tokens' rows in all embedding and output weights."""
    for key, p in backbone._base.named_parameters():
        if p.shape[0] == backbone.vocab_size and "lora_" not in key:
            p.data[[a, b]] = p.data[[b, a]]


@for_all("kind", KINDS)
def test_generate_is_the_greedy_loop_without_a_cache_and_stops_at_the_end_token(kind, checkpoints):
    backbone = adapted(checkpoints[kind])
    randomise(backbone)  # without it a random model repeats one token
    embeds = embeds_of(backbone, b=6, length=5)
    # The end token takes another's place, so that it comes up.
    swap_tokens(backbone, greedy(backbone, embeds, 8)[END_ROW[kind]][2], backbone.eos_id)
    rows = greedy(backbone, embeds, 8)
    lengths = [len(ids) for ids in rows]
    assert min(lengths) < max(lengths) == 8, "some answers must end early"
    texts = [backbone.tokenizer.decode([i for i in ids if i != backbone.eos_id]).strip() for ids in rows]
    assert backbone.generate(embeds, 8) == texts
    assert [backbone.generate(row[None], 8)[0] for row in embeds] == texts


def test_generate_ignores_the_decoding_settings_of_the_checkpoint(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["gpt2"], tmp_path / "model")
    settings = {"do_sample": True, "temperature": 0.3, "repetition_penalty": 9.0, "suppress_tokens": [1, 2, 3]}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    one, other = adapted(checkpoints["gpt2"]), adapted(folder)
    for backbone in (one, other):
        randomise(backbone)
    embeds = embeds_of(one, b=6, length=5)
    assert one.generate(embeds, 8) == other.generate(embeds, 8)


def edit_json(path: Path, **changes: object) -> None:
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def edit_weights(folder: Path, keep) -> None:
    path = folder / "model.safetensors"
    tensors = {k: keep(k, t) for k, t in load_file(path).items()}
    save_file({k: t.contiguous() for k, t in tensors.items() if t is not None}, path, metadata={"format": "pt"})


def save_gpt2(folder: Path, **settings: int) -> None:
    GPT2LMHeadModel(GPT2Config(n_positions=16, n_embd=32, n_layer=2, n_head=2, **settings)).save_pretrained(folder)


BROKEN = {
    "no-config": (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    "bad-config": (lambda f: (f / "config.json").write_text("{"), "cannot read"),
    "unknown-type": (lambda f: edit_json(f / "config.json", model_type="nonsense"), "cannot read"),
    "no-weights": (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
    "corrupt-weights": (lambda f: (f / "model.safetensors").write_bytes(b"hello"), "cannot load"),
    "wrong-shape": (lambda f: edit_weights(f, lambda k, t: t[:4] if "wte" in k else t), "cannot load"),
    "half-the-weights": (lambda f: edit_weights(f, lambda k, t: None if ".h.1." in k else t), "lacks 12 weights"),
    "no-tokenizer": (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "holds no tokenizer"),
    "no-eos": (lambda f: edit_json(f / "tokenizer_config.json", eos_token=None), "no end-of-sequence token"),
    "foreign-tokenizer": (lambda f: save_gpt2(f, vocab_size=300), "has 307 tokens, its model 300"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_checkpoint_is_refused_in_one_line(fault, checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["gpt2"], tmp_path / "model")
    damage, match = BROKEN[fault]
    damage(folder)
    with pytest.raises(UsageError, match=match) as caught:
        Backbone(str(folder), ON_CPU)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_slow_tokenizer_is_refused_in_one_line(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["gpt2"], tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    with pytest.raises(UsageError, match="no character offsets") as caught:
        Backbone(str(folder), ON_CPU)
    assert "\n" not in str(caught.value)


def test_model_that_is_neither_folder_nor_reachable_is_refused_in_one_line():
    with pytest.raises(UsageError, match=r"'no/such' (is not in the hub's cache|has not been fetched)") as caught:
        Backbone("no/such", ON_CPU)
    assert "\n" not in str(caught.value)


@for_all("seed", [3, 27])
@for_all(("small", "large"), [(1, 8), (8, 24), (3, 4)])
def test_smaller_rank_starts_as_the_first_rows_of_a_larger_one(checkpoints, seed, small, large):
    backbone = Backbone(checkpoints["gpt2"], ON_CPU)
    for name, rank in (("d00", small), ("d01", large)):
        backbone.add_adapter(name, LoraSettings(rank=rank), seed, "device")
    for key, tensor in backbone.adapter("d00").items():
        other = backbone.adapter("d01")[key]
        assert torch.equal(tensor, other[:small] if key.endswith("lora_A") else other[:, :small])


def test_adapters_of_different_roles_start_differently(checkpoints):
    backbone = Backbone(checkpoints["gpt2"], ON_CPU)
    for role in ("device", "proxy-lora"):
        backbone.add_adapter(role, LoraSettings(), 3, role)
    one, other = (backbone.adapter(role) for role in ("device", "proxy-lora"))
    assert all(not torch.equal(one[key], other[key]) for key in one if key.endswith("lora_A"))


def test_two_active_adapters_add_their_updates(checkpoints):
    backbone = adapted(checkpoints["gpt2"], ("d00", "d01"))
    randomise(backbone, "d00", seed=0)
    randomise(backbone, "d01", seed=1)
    embeds = embeds_of(backbone)
    weights = AutoModelForCausalLM.from_pretrained(checkpoints["gpt2"]).state_dict()
    one, other = (merged_weights(checkpoints["gpt2"], backbone, name) for name in ("d00", "d01"))
    both = {key: one[key] + other[key] - weights[key] for key in one}
    backbone.activate(("d00", "d01"), training=False)
    with torch.no_grad():
        found = backbone.logits(embeds, keep=7)
    torch.testing.assert_close(found, plain_logits(checkpoints["gpt2"], embeds, both), rtol=1e-4, atol=1e-4)
    backbone.activate(("d01",), training=False)
    with torch.no_grad():
        alone = backbone.logits(embeds, keep=7)
    torch.testing.assert_close(alone, plain_logits(checkpoints["gpt2"], embeds, other), rtol=1e-4, atol=1e-4)


@for_all("kind", KINDS)
def test_shape_read_from_the_configuration_is_that_of_the_adapters(checkpoints, kind):
    shape = backbone_shape(str(checkpoints[kind]), None)
    backbone = adapted(checkpoints[kind], rank=3)
    adapters = backbone.adapter("d00")
    found = {
        key.removesuffix(".lora_A"): (tensor.shape[1], adapters[key.replace("lora_A", "lora_B")].shape[0])
        for key, tensor in adapters.items()
        if key.endswith("lora_A")
    }
    assert shape.adapted == found
    assert (shape.model_type, shape.hidden_size) == (backbone.model_type, backbone.hidden_size)
