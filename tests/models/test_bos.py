"""Laws of the BOS token: a model whose own tokenizer prepends one reads it first, everywhere; others read none."""

from __future__ import annotations

import dataclasses
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3TextConfig, GPT2Config, LlamaConfig
from transformers.models.gemma3 import Gemma3ForCausalLM
from transformers.models.gpt2 import GPT2LMHeadModel
from transformers.models.llama import LlamaForCausalLM

import toy
from laws import for_all
from mlecs_bench.blocks.mutual import pairs_between
from mlecs_bench.errors import UsageError
from mlecs_bench.models.sources import is_given_bos, prepends_bos
from mlecs_bench.models.unified import UnifiedModel, check_length
from mlecs_bench.plan.identity import model_identity
from mlecs_bench.seeds import torch_stream

PROMPT = "Say it."
TARGETS = ["a red", "a loud quiet thing thing", "sad"]
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 96,
}


def save(folder: Path, kind: str, *, prepends: bool) -> str:
    """Save a random model whose tokenizer has a BOS token, and prepends it or not; the weights are the same."""
    tokenizer = toy.byte_level_tokenizer(folder, 300)
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    if prepends:
        tokenizer._tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
        )
    tokenizer.save_pretrained(folder)
    ids = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": 0, "pad_token_id": 0}
    with torch_stream(4, "bos", kind):
        if kind == "llama":
            model = LlamaForCausalLM(LlamaConfig(**SIZES, **ids))
        elif kind == "gemma":
            extra = {"head_dim": 8, "num_key_value_heads": 1, "sliding_window": 4, "query_pre_attn_scalar": 8}
            model = Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, **ids, **extra))
        else:
            model = GPT2LMHeadModel(GPT2Config(n_positions=96, n_embd=16, n_layer=2, n_head=2, **ids))
        for parameter in model.parameters():
            if parameter.dim() == 2:  # wide, so that a random model heeds what it reads
                parameter.data.mul_(10)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Models by architecture and by whether their tokenizer prepends BOS."""
    root = tmp_path_factory.mktemp("bos")
    cases = [(kind, prepends) for kind in ("llama", "gemma", "gpt2") for prepends in (True, False)]
    return {case: save(root / f"{case[0]}-{case[1]}", case[0], prepends=case[1]) for case in cases}


@pytest.fixture(scope="module")
def model_of(folders, profile, samples):
    """Return the omni-modal device on one of the folders."""
    built = {}

    def build(folder: str):
        if folder not in built:
            own = dataclasses.replace(profile, slm=folder, llm=folder)
            built[folder] = toy.federation_of(own, samples, [toy.NAMES]).devices[0]
        return built[folder]

    return build


def soft_of(device, b: int = len(TARGETS)) -> torch.Tensor:
    device.model.switch(training=False)
    with torch.no_grad():
        return device.model.soft_prompt(device.model.represent(device.train.batch(device.train.rows[:b])), b)


@cache
def plain_model(folder: str):
    """Return model and tokenizer as transformers loads them."""
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def plain_inputs(folder: str, soft: torch.Tensor, text: list[int], *, bos: bool):
    """Return the plain model with its inputs [BOS ; soft tokens ; text] for one sample."""
    model, tokenizer = plain_model(folder)
    embed = model.get_input_embeddings()
    opening = embed(torch.tensor([[tokenizer.bos_token_id]])) if bos else soft[:, :0]
    return model, torch.cat([opening, soft, embed(torch.tensor([text]))], dim=1)


def ids_of(folder: str, text: str) -> list[int]:
    ids: list[int] = plain_model(folder)[1](text, add_special_tokens=False)["input_ids"]
    return ids


def head_of(folder: str) -> list[int]:
    return ids_of(folder, f"Instruction: {PROMPT} Output:")


@for_all("kind", ("llama", "gemma", "gpt2"))
def test_bos_is_given_exactly_where_the_models_own_tokenizer_prepends_it(kind, folders):
    for prepends in (True, False):
        assert prepends_bos(AutoTokenizer.from_pretrained(folders[kind, prepends])) is prepends
        assert is_given_bos(folders[kind, prepends]) is prepends


def test_no_bos_is_given_without_one_or_to_a_tokenizer_whose_text_begins_with_it(checkpoints, folders):
    assert not any(map(is_given_bos, checkpoints.values()))
    tokenizer = AutoTokenizer.from_pretrained(folders["llama", False])
    tokenizer.bos_token = tokenizer.convert_ids_to_tokens(tokenizer("x")["input_ids"])[0]
    assert not prepends_bos(tokenizer)


@for_all("prepends", (True, False))
@for_all("kind", ("llama", "gemma", "gpt2"))
def test_loss_is_that_of_the_plain_model_on_bos_soft_tokens_prompt_and_answer(kind, prepends, folders, model_of):
    folder = folders[kind, prepends]
    device = model_of(folder)
    soft, head, total, tokens = soft_of(device), head_of(folder), 0.0, 0
    for row, target in enumerate(TARGETS):
        answer = [*ids_of(folder, f" {target}"), 0]
        plain, inputs = plain_inputs(folder, soft[row : row + 1], [*head, *answer], bos=prepends)
        labels = torch.tensor([[-100] * (inputs.shape[1] - len(answer)) + answer])
        total += float(plain(inputs_embeds=inputs, labels=labels).loss.detach()) * len(answer)
        tokens += len(answer)
    ours = device.model.supervise(soft, PROMPT, TARGETS).loss
    assert float(ours.detach()) == pytest.approx(total / tokens, rel=1e-5)


def test_the_same_weights_lose_otherwise_without_bos(folders, model_of):
    given, without = (model_of(folders["llama", prepends]) for prepends in (True, False))
    soft = soft_of(given)
    assert torch.equal(soft, soft_of(without))
    one, other = (device.model.supervise(soft, PROMPT, TARGETS) for device in (given, without))
    assert torch.equal(one.answers.ids, other.answers.ids)
    assert not torch.isclose(one.loss, other.loss, rtol=1e-3)


@for_all("prepends", (True, False))
@for_all("kind", ("llama", "gemma", "gpt2"))
def test_answers_are_those_of_the_greedy_loop_that_begins_with_bos(kind, prepends, folders, model_of):
    folder = folders[kind, prepends]
    device = model_of(folder)
    batch = device.train.batch(device.train.rows[:3])
    soft, said = soft_of(device), []
    for row in range(3):
        plain, seen = plain_inputs(folder, soft[row : row + 1], head_of(folder), bos=prepends)
        ids: list[int] = []
        with torch.no_grad():
            while len(ids) < 6 and 0 not in ids:
                ids.append(int(plain(inputs_embeds=seen).logits[0, -1].argmax()))
                seen = torch.cat([seen, plain.get_input_embeddings()(torch.tensor([[ids[-1]]]))], dim=1)
        said.append(plain_model(folder)[1].decode(ids, skip_special_tokens=True).strip())
    assert device.model.generate(batch, PROMPT, 6) == said


def test_neither_prompt_nor_answer_has_a_bos_of_its_own(folders, model_of):
    texts = model_of(folders["llama", True]).model.texts
    bos = int(texts.opening[0])
    answers = texts.answers(TARGETS)
    assert len(texts.opening) == 1
    assert bos not in texts.prompt(PROMPT)
    assert bos not in answers.ids
    assert answers.texts == tuple(f" {target}" for target in TARGETS)
    assert texts.longest_answer(TARGETS) == answers.ids.shape[1]


@for_all("kind", ("gpt2", "gptj"))
def test_models_without_bos_compute_what_they_did_before_bit_for_bit(kind, checkpoints, model_of):
    device = model_of(checkpoints[kind])
    model: UnifiedModel = device.model
    soft = soft_of(device)
    answers = model.texts.answers(TARGETS)
    prompt = model.texts.prompt(PROMPT).expand(len(TARGETS), -1)
    before = torch.cat([soft, model.backbone.embed(torch.cat([prompt, answers.ids[:, :-1]], dim=1))], dim=1)
    found = model.supervise(soft, PROMPT, TARGETS)
    assert torch.equal(found.logits, model.backbone.logits(before, keep=answers.ids.shape[1]))
    assert not len(model.texts.opening)
    asked = torch.cat([soft, model.backbone.embed(prompt)], dim=1)
    batch = device.train.batch(device.train.rows[: len(TARGETS)])
    assert model.generate(batch, PROMPT, 6) == model.backbone.generate(asked, 6)


def test_bos_takes_one_of_the_positions(folders, model_of):
    for prepends in (True, False):
        model = model_of(folders["llama", prepends]).model
        room = 96 - len(model.texts.prompt(PROMPT)) - 3 - prepends
        check_length(model.backbone, model.texts, (PROMPT, room), 3)
        with pytest.raises(UsageError, match="96 positions but 97 are needed") as caught:
            check_length(model.backbone, model.texts, (PROMPT, room + 1), 3)
        assert ("BOS" in str(caught.value)) is prepends


@for_all("other", ("gpt2", "gptj"))
def test_rows_that_transfer_pairs_follow_the_same_text_with_and_without_bos(other, checkpoints, folders, model_of):
    sources = folders["llama", True], checkpoints[other]
    devices = [model_of(source) for source in sources]
    softs = [soft_of(device) for device in devices]
    found = [device.model.supervise(soft, PROMPT, TARGETS) for device, soft in zip(devices, softs, strict=True)]
    tokenizers = [device.model.backbone.tokenizer for device in devices]
    for row, text in enumerate(found[0].answers.texts):
        pairs = pairs_between(*tokenizers, text)
        assert len(pairs) > 1
        for pair in pairs:
            read = []
            for side, source in enumerate(sources):
                answer = ids_of(source, text)[: pair[side]]
                read.append(tokenizers[side].decode(answer))
                plain, inputs = plain_inputs(
                    source, softs[side][row : row + 1], [*head_of(source), *answer], bos=side == 0
                )
                with torch.no_grad():
                    following = plain(inputs_embeds=inputs).logits[0, -1]
                torch.testing.assert_close(
                    found[side].logits[row, pair[side]].detach(), following, rtol=1e-4, atol=1e-4
                )
            assert read[0] == read[1]


def test_only_the_identity_of_a_model_that_is_given_bos_says_so(folders, profile):
    plan = toy.toy_plan(profile)
    assert model_identity(plan, folders["llama", True])["bos"] is True
    for source in (folders["llama", False], profile.slm, profile.llm):
        assert set(model_identity(plan, source)) == {"name", "digest"}


def test_a_source_whose_tokenizer_cannot_be_loaded_is_refused_in_one_line(folders, tmp_path):
    folder = Path(shutil.copytree(folders["llama", True], tmp_path / "broken"))
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match="cannot load the tokenizer of") as caught:
        is_given_bos(str(folder))
    assert "\n" not in str(caught.value)
