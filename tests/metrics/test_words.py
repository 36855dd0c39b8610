"""Words of any script: rouge-score's own in ASCII texts, by hand elsewhere, and what Rouge makes of them."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize

from installed import at_start
from mlecs_bench.data.writing import writing_of
from mlecs_bench.doors.hookspecs import MetricRequest
from mlecs_bench.metrics.rouge import Reading, rouge
from mlecs_bench.metrics.scorers import make_scorers
from mlecs_bench.metrics.words import RULES, has_words, words
from mlecs_bench.testing.metric_checks import SCRIPTS


def rouge_lsum(predictions, references):
    """Rouge-LSum as records of ASCII texts hold it: stemmed words, a line is a sentence."""
    return rouge(predictions, references, "rouge_lsum", Reading())


def test_words_of_ascii_texts_are_those_of_rouge_score():
    for seed in range(300):
        text = "".join(map(chr, np.random.default_rng(seed).integers(1, 127, 60)))
        assert words(text) == tokenize(text, None)
        assert has_words(text) == bool(words(text))


def test_words_by_hand():
    for text, expected in (
        ("l’été à Paris", "l été à paris"),
        ("cafe\u0301 CAFÉ", "café café"),  # one spelling, however it is coded
        ("Straße STRASSE", "strasse strasse"),
        ("नमस्ते दुनिया", "नमस्ते दुनिया"),  # marks stay on their letters
        ("می\u200cشود", "میشود"),  # what is invisible separates nothing
        ("我有iPhone 15。", "我 有 iphone 15"),
        ("カーを", "カ ー を"),
        ("ส วัน", "ส วั น"),
        ("한국어 문장", "한국어 문장"),
        ("snake_case m² ｆｕｌｌ", "snake case m2 full"),
        ("🙂 ❤️ …", ""),
    ):
        assert words(text) == expected.split(), text


def scorer_of(name, references):
    request = MetricRequest((), None, writing=writing_of(references))
    (scorer,) = make_scorers([name], request, at_start())
    return scorer


def test_equal_texts_score_1_in_every_script_and_others_do_not():
    for script, texts in SCRIPTS.items():
        for name in ("rouge_lsum", "rouge_l"):
            scorer = scorer_of(name, texts)
            assert scorer.score(texts, texts).value == pytest.approx(1.0), script
            assert scorer.score([*texts[1:], texts[0]], texts).value < 0.5, script
            assert RULES in scorer.identity
            assert "no stemmer" in scorer.identity


def test_targets_of_ascii_words_score_with_the_librarys_own_words_whatever_answers_hold():
    references = ["a red fox – it “runs”", "two dogs 🙂"]
    predictions = ["a red fox rüns", "две собаки dogs"]
    scorer, library = scorer_of("rouge_lsum", references), RougeScorer(["rougeLsum"], use_stemmer=True)
    oracle = [library.score(r, p)["rougeLsum"].fmeasure for p, r in zip(predictions, references, strict=True)]
    assert scorer.score(predictions, references).value == statistics.fmean(oracle)
    assert scorer.identity == "rouge-score==0.1.2 rougeLsum F1 stemmer"


def test_a_loanword_changes_the_words_of_its_own_text_alone():
    plain = [("a fox is running", "foxes run"), ("dogs\nplayed", "the dogs\nplay in snow")]
    for prediction, reference in plain:
        ascii_, unicode = (rouge([prediction], [reference], "rouge_lsum", Reading(unicode=u)) for u in (False, True))
        assert ascii_ == unicode
    # "cafés" and "runs": the letters of "é" are kept, and English words are stemmed: 2 of 2 and 2 of 3.
    found = rouge(["running cafés"], ["he runs cafés"], "rouge_lsum", Reading(unicode=True))
    assert found.value == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))


def test_what_a_sentence_is_by_hand():
    # As lines, every line of the target finds its words; as one text the longest common subsequence is 3 of 5 words.
    prediction, reference = "dogs play here\nsnow falls", "snow falls\ndogs play here"
    for sentences, expected in (("newline", 1.0), ("none", 3 / 5), ("split", 1.0)):
        assert rouge([prediction], [reference], "r", Reading(sentences=sentences)).value == pytest.approx(expected)
    names = [Reading(sentences=s).identity for s in ("newline", "none", "split")]
    assert len(set(names)) == 3


def test_targets_without_a_word_are_counted():
    found = rouge_lsum(["🙂", "a", "b"], ["🙂", "", "b"])
    assert (found.value, found.n, found.unseen) == (pytest.approx(1 / 3), 3, 1)
    assert found.to_json() == {"value": found.value, "n": 3, "higher_is_better": True, "unseen": 1}
    assert "unseen" not in rouge_lsum(["b"], ["b"]).to_json()
    assert rouge(["кот"], ["кот"], "rouge_lsum", Reading()).unseen == 1, "what the library's own words do not see"
