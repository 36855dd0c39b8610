"""The embedded profiles: they load offline in silence, share a tokenizer or do not, and soft tokens can steer them."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel, GPTJForCausalLM

from installed import encoder_of
from laws import for_all
from mlecs_bench.blocks.alignment import agreement
from mlecs_bench.models.texts import prompt_text
from mlecs_bench.seeds import torch_generator
from mlecs_plugins.datasets.ur_fall import card, synthetic
from mlecs_plugins.datasets.vast import signals
from mlecs_plugins.datasets.vast import synthetic as vast
from mlecs_plugins.datasets.vast.diagnose import slot_scores
from mlecs_plugins.datasets.vast.words import SHOWN_BY, SLOT_NAMES, SLOTS
from mlecs_plugins.profiles import mini, mini_split

MINI, SPLIT = Path(mini.FOLDER), Path(mini_split.FOLDER)
MODELS = {
    "slm": mini.MINI.slm,
    "llm": mini.MINI.llm,
    "split-slm": mini_split.MINI_SPLIT.slm,
    "split-llm": mini_split.MINI_SPLIT.llm,
}
MODALITIES = {"vast": vast.MODALITIES, "ur-fall": (card.ACCE, card.DEPTH_FEATURES, card.RGB)}
ODD_TEXTS = ["", " ", "Zoë walks 漢字 😀", "tabs\tand\nlines", "1,234.5%", "<|unknown|> token", "\x00\x7f"]


@pytest.fixture(scope="module", params=["slm", "llm", "split-llm"])
def loaded(request):
    folder = MODELS[request.param]
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="module")
def tokenizers():
    return {name: AutoTokenizer.from_pretrained(folder, local_files_only=True) for name, folder in MODELS.items()}


@pytest.fixture(scope="module")
def clips():
    return vast.benchmark(900)


@pytest.fixture(scope="module")
def weights():
    return load_file(MINI / "encoders.safetensors")


def test_the_two_models_are_of_two_architectures_and_sizes():
    for names in (("slm", "llm"), ("split-slm", "split-llm")):
        slm, llm = (AutoModelForCausalLM.from_pretrained(MODELS[name], local_files_only=True) for name in names)
        assert isinstance(slm, GPT2LMHeadModel)
        assert isinstance(llm, GPTJForCausalLM)
        assert (slm.config.n_embd, slm.config.n_layer, slm.config.n_head, slm.config.n_positions) == (96, 2, 6, 256)
        assert (llm.config.n_embd, llm.config.n_layer, llm.config.n_head, llm.config.n_positions) == (128, 4, 4, 256)
        assert llm.config.rotary_dim == 16
        assert llm.num_parameters() > 2 * slm.num_parameters()


def test_loading_says_nothing(capfd):
    for folder in MODELS.values():
        AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        AutoTokenizer.from_pretrained(folder, local_files_only=True)
    said = capfd.readouterr()
    assert said.out == ""
    assert not re.search(r"warn|error|missing|unexpected|newly", said.err, flags=re.IGNORECASE)


def test_the_vocabulary_is_the_models(loaded):
    model, tokenizer = loaded
    assert len(tokenizer) == model.config.vocab_size == model.get_input_embeddings().num_embeddings
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == model.config.eos_token_id == 0
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


@for_all("text", ODD_TEXTS)
def test_any_text_survives_the_tokenizer(loaded, text):
    _, tokenizer = loaded
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_offsets_cut_the_text_into_its_tokens(loaded, clips):
    _, tokenizer = loaded
    for text in clips.summaries[:50]:
        encoded = tokenizer(f" {text}", return_offsets_mapping=True)
        pieces = [f" {text}"[start:end] for start, end in encoded["offset_mapping"]]
        assert pieces == [tokenizer.decode([i]) for i in encoded["input_ids"]]
        assert "".join(pieces) == f" {text}"


def tokens_of(tokenizer, text):
    return [tokenizer.decode([i]) for i in tokenizer(text)["input_ids"]]


def test_the_two_models_of_mini_read_the_same_tokens_under_the_same_ids(tokenizers):
    assert tokenizers["slm"].get_vocab() == tokenizers["llm"].get_vocab()
    assert agreement(tokenizers["llm"], tokenizers["slm"]) == 1.0
    for text in [*ODD_TEXTS, prompt_text(vast.PROMPT), prompt_text(card.PROMPT)]:
        assert tokenizers["slm"](text)["input_ids"] == tokenizers["llm"](text)["input_ids"]


def test_the_two_models_of_mini_split_split_most_words_differently_and_agree_in_a_third_of_their_ids(tokenizers, clips):
    slm, llm = tokenizers["split-slm"], tokenizers["split-llm"]
    words = sorted({f" {word}" for text in clips.summaries for word in re.findall(r"[a-z]+", text)})
    different = [word for word in words if tokens_of(slm, word) != tokens_of(llm, word)]
    assert len(different) > 0.4 * len(words)
    one, other = set(slm.get_vocab()), set(llm.get_vocab())
    bytes_ = {token for token in one & other if len(token) == 1}
    assert len(bytes_) == 256, "any text can be encoded"
    assert agreement(llm, slm) == pytest.approx(1 / 3, abs=0.02), "of their ids"
    assert max(len(token) for token in other - {llm.eos_token}) <= 6 < max(len(token) for token in one)


def test_summaries_and_prompts_are_short_in_tokens(tokenizers, clips):
    for name, tokenizer in tokenizers.items():
        bound = vast.MAX_NEW_TOKENS if name == "split-llm" else 24
        assert max(len(ids) + 1 for ids in tokenizer([f" {t}" for t in clips.summaries])["input_ids"]) <= bound
        for prompt in (vast.PROMPT, card.PROMPT):
            assert len(tokenizer(prompt_text(prompt))["input_ids"]) <= 20
        assert max(len(ids) + 1 for ids in tokenizer([f" {w}" for w in card.WORDS])["input_ids"]) <= card.MAX_NEW_TOKENS


def steer(model, tokenizer, prompt, target, steps=80):
    """Fit eight soft tokens to one target and return what the frozen model then says."""
    generator = torch_generator(0, "test", "steer")
    soft = (torch.randn(1, 8, model.config.n_embd, generator=generator) * 0.1).requires_grad_()
    asked = torch.tensor([tokenizer(prompt_text(prompt))["input_ids"]])
    answer = torch.tensor([tokenizer(f" {target}")["input_ids"] + [tokenizer.eos_token_id]])
    embed = model.get_input_embeddings()
    optimizer = torch.optim.Adam([soft], lr=0.05)
    for _ in range(steps):
        embeds = torch.cat([soft, embed(asked), embed(answer[:, :-1])], dim=1)
        logits = model(inputs_embeds=embeds, use_cache=False).logits[0, -answer.shape[1] :]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, answer[0]).backward()
        optimizer.step()
    embeds = torch.cat([soft.detach(), embed(asked)], dim=1)
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    ids = model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=32, do_sample=False, pad_token_id=0)
    return tokenizer.decode(ids[0], skip_special_tokens=True).strip()


def test_eight_soft_tokens_alone_make_a_frozen_model_tell_a_clip(loaded, clips):
    model, tokenizer = loaded
    said = [steer(model, tokenizer, vast.PROMPT, clips.summaries[0])]
    columns = {f"slot_{name}": [SLOTS[name][clips.slots[name][0]][0]] for name in SLOT_NAMES}
    assert slot_scores(columns, said)["slots_all"].value >= 7 / 8


@for_all("label", [card.WORDS[1], card.DIGITS[2]])
def test_eight_soft_tokens_alone_make_a_frozen_model_name_a_posture(loaded, label):
    model, tokenizer = loaded
    assert steer(model, tokenizer, card.PROMPT, label, steps=40) == label


def test_encoder_weights_are_those_of_the_six_encoders(weights):
    names = set()
    for dataset, modalities in MODALITIES.items():
        for modality in modalities:
            state = pretrained(weights, dataset, modality).state_dict()
            names |= {f"{dataset}/{modality.name}/{name}" for name in state}
    assert set(weights) == names
    assert all(tensor.dtype == torch.float32 and torch.isfinite(tensor).all() for tensor in weights.values())


def pretrained(weights, dataset, modality):
    prefix = f"{dataset}/{modality.name}/"
    encoder = encoder_of(modality, 64)
    encoder.load_state_dict({name[len(prefix) :]: t for name, t in weights.items() if name.startswith(prefix)})
    return encoder.eval().requires_grad_(False)


def probe_accuracy(features, answers):
    """Fit a linear probe to two thirds of the samples, return its accuracy on the rest."""
    half = len(features) * 2 // 3
    probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(features[:half], answers[:half])
    return probe.score(features[half:], answers[half:])


def test_texts_are_as_likely_at_the_last_positions_as_at_the_first(loaded, clips):
    model, tokenizer = loaded
    losses = []
    for first in (0, 200):
        total = 0.0
        for text in clips.summaries[:20]:
            ids = torch.tensor([tokenizer(f"{prompt_text(vast.PROMPT)} {text}")["input_ids"]])
            positions = torch.arange(first, first + ids.shape[1])[None]
            total += float(model(ids, position_ids=positions, labels=ids, use_cache=False).loss)
        losses.append(total)
    assert losses[1] == pytest.approx(losses[0], rel=0.25)


def test_clip_encoders_read_most_of_their_own_slots_less_than_perfectly_and_nothing_of_the_others(weights):
    """They were pretrained without labels, so a slot may be there and not be read by a linear probe."""
    clips = vast.benchmark(2_400)
    n_tested = 800
    for modality in vast.MODALITIES:
        features = pretrained(weights, "vast", modality)(torch.from_numpy(clips.inputs[modality.name])).numpy()
        read = {name: probe_accuracy(features, clips.slots[name]) for name in SLOT_NAMES}
        chance = {name: 1 / len(values) for name, values in SLOTS.items()}
        own = SHOWN_BY[modality.name]
        for name in set(SLOT_NAMES) - set(own):
            spread = np.sqrt(chance[name] * (1 - chance[name]) / n_tested)
            assert abs(read[name] - chance[name]) < 4.5 * spread, (modality.name, name)
        assert sum(read[name] > 1.5 * chance[name] for name in own) >= len(own) - 1
        assert 0.45 < np.mean([read[name] for name in own]) < 0.8
        if modality.name != "subtitle":
            hidden = signals.HIDDEN[modality.name]
            best = {name: 1 - hidden * (1 - chance[name]) for name in own}  # the rest can only be guessed
            assert all(read[name] < best[name] + 4.5 * np.sqrt(0.16 / n_tested) for name in own)


@for_all("modality", MODALITIES["ur-fall"])
def test_posture_encoders_know_something_of_the_label(weights, modality):
    arrays, labels = synthetic.synthetic_pool(99, 12)
    features = pretrained(weights, "ur-fall", modality)(torch.from_numpy(arrays[modality.name])).numpy()
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[:1200], order[1200:]
    probe = RidgeClassifier(class_weight="balanced").fit(features[train], labels[train])
    assert balanced_accuracy_score(labels[test], probe.predict(features[test])) > 0.5  # chance is 1/3


@for_all("dataset", MODALITIES)
def test_encoder_outputs_have_mean_zero_and_size_one_on_new_data(weights, clips, dataset):
    arrays = clips.inputs if dataset == "vast" else synthetic.synthetic_pool(98, 12)[0]
    for modality in MODALITIES[dataset]:
        features = pretrained(weights, dataset, modality)(torch.from_numpy(arrays[modality.name]))
        assert features.mean().abs() < 0.15
        assert features.square().mean().sqrt() == pytest.approx(1.0, abs=0.25)


@for_all("folder", [MINI, SPLIT])
def test_a_profile_is_small_and_holds_only_data(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert sum(path.stat().st_size for path in files) <= 6_500_000
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"} | ({".txt"} if folder == MINI else set())


@for_all(("folder", "name"), [(MINI, "mini"), (SPLIT, "mini-split")])
def test_the_card_states_licence_seed_versions_and_gate(folder, name):
    text = (folder / "CARD.md").read_text()
    for word in (
        "Apache-2.0",
        "Seed 1",
        "torch ",
        "transformers ",
        "gate: slots",
        "disjoint",
        f"python -m tools.build_mini --profile {name}",
    ):
        assert word in text
    gates = [float(value) for value in re.findall(r"\| (\d\.\d{3}) \| (?=\d\.\d{3} \|$)", text, flags=re.MULTILINE)]
    assert 1 <= len(gates) <= 2
    assert min(gates) >= 0.95


def test_mini_split_differs_from_mini_in_its_language_models_alone():
    own = {
        f.name
        for f in dataclasses.fields(mini.MINI)
        if getattr(mini.MINI, f.name) != getattr(mini_split.MINI_SPLIT, f.name)
    }
    assert {"name", "summary", "llm"} <= own <= {"name", "summary", "slm", "llm", "sources"}
