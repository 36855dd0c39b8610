"""Accuracy, exact match, recall and BLEU against scikit-learn, sacrebleu and hand values."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import sacrebleu
from sklearn.metrics import accuracy_score, recall_score

from installed import at_start
from mlecs_bench.data.writing import writing_of
from mlecs_bench.doors.hookspecs import MetricRequest
from mlecs_bench.doors.scoring import Metric
from mlecs_bench.errors import UsageError
from mlecs_bench.metrics.bleu import bleu, tokenizer_of
from mlecs_bench.metrics.exact_match import exact_match
from mlecs_bench.metrics.labels import label_of, recall_by_label
from mlecs_bench.metrics.scorers import check_metrics, make_scorers

LABELS = ("not lying", "temporary pose", "lying on the ground")
FRENCH = ("debout", "à terre", "tombé")


def scorer_of(name, folder, labels=()):
    (scorer,) = make_scorers([name], MetricRequest(labels, folder), at_start())
    return scorer


def test_accuracy_and_recall_equal_scikit_learn(tmp_path):
    accuracy = scorer_of("accuracy", tmp_path, LABELS)
    for seed in range(5):
        random = np.random.default_rng(seed)
        true = random.choice(LABELS, 30).tolist()
        answers = random.choice([*LABELS, "I do not know", ""], 30).tolist()
        shouted = [answer.upper() for answer in answers]
        assert accuracy.score(shouted, true) == Metric(pytest.approx(accuracy_score(true, answers)), 30)
        present = sorted(set(true))
        oracle = recall_score(true, answers, labels=present, average=None, zero_division=0)
        found = recall_by_label(true, shouted)
        assert [score.value for score in found.values()] == pytest.approx(list(oracle))
        assert list(found) == [f"recall_{label.replace(' ', '_')}" for label in present]
        assert sum(score.n for score in found.values()) == 30
    with pytest.raises(UsageError, match="accuracy needs labels"):
        scorer_of("accuracy", tmp_path)


def test_labels_match_in_every_unicode_form_and_the_identity_says_so_where_it_matters(tmp_path):
    for label in FRENCH:
        for form in ("NFC", "NFD"):
            assert label_of(f" {unicodedata.normalize(form, label.upper())}\n", FRENCH) == label
    assert label_of("a terre", FRENCH) is None, "an accent is not case"
    plain, accented = (scorer_of("f1_macro", tmp_path, labels) for labels in (LABELS, FRENCH))
    assert plain.identity == "f1_macro of 3 labels, other answers are misses"
    assert accented.identity.startswith(f"{plain.identity}, answers match labels without case")
    decomposed = [unicodedata.normalize("NFD", label) for label in FRENCH]
    assert accented.score(decomposed, FRENCH).value == 1.0


def test_exact_match_by_hand(tmp_path):
    for answer, target, expected in (
        (" a red car\n", "a red car", 1),
        ("A red car", "a red car", 0),
        ("a  red car", "a red car", 0),
        ("cafe\u0301", "café", 1),
        ("", "a", 0),
    ):
        assert exact_match(answer, target) == expected
    scorer = scorer_of("exact_match", tmp_path)
    assert scorer.score(["a", "b", "c d"], ["a", "a", "c d"]) == Metric(pytest.approx(2 / 3), 3)


def test_bleu_is_sacrebleus_where_answers_have_four_words():
    references = ["a red fox runs over the hill", "two dogs play in the deep snow", "rain falls on the old town"]
    predictions = ["a red fox is running over the hill", "two dogs play in snow", "rain on the town"]
    assert bleu(predictions, references).value == sacrebleu.corpus_bleu(predictions, [references]).score / 100
    assert bleu(references, references).value == pytest.approx(1.0)
    chinese = ["红色的猫跑回家", "蓝房子很安静"]
    answers = ["红色的猫回家", "房子很安静"]
    oracle = sacrebleu.corpus_bleu(answers, [chinese], tokenize="zh").score / 100
    assert bleu(answers, chinese, "zh").value == pytest.approx(oracle)


def test_short_answers_are_not_0_in_bleu_whatever_they_say():
    assert sacrebleu.corpus_bleu(["a cat"], [["a cat"]]).score == 0, "why orders that no answer has are left out"
    assert bleu(["a cat"], ["a cat"]).value == pytest.approx(1.0)
    assert bleu(["a dog"], ["a cat"]).value < 1


def test_bleu_takes_the_tokenizer_of_the_script_and_names_it(tmp_path, monkeypatch):
    for text, tokenizer in (
        ("a cat", "13a"),
        ("une forêt", "13a"),
        ("红色的猫", "zh"),
        ("赤い猫", "char"),
        ("แมว", "char"),
    ):
        writing = writing_of([text])
        assert tokenizer_of(writing) == tokenizer
        scorer = at_start().metric("bleu").info.make(MetricRequest((), tmp_path, writing=writing))
        assert (
            scorer.identity
            == f"sacrebleu=={sacrebleu.__version__} BLEU tok:{tokenizer} case:mixed eff:yes smooth:exp, as a fraction"
        )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"bleu needs sacrebleu: pip install 'mlecs-bench\[metrics\]'"):
        check_metrics(["bleu"], MetricRequest((), tmp_path), at_start())
