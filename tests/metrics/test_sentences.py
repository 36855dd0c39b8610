"""Texts cut into sentences, and Rouge-LSum of them, against rouge-score on texts that were cut by hand."""

from __future__ import annotations

import statistics

import pytest
from rouge_score.rouge_scorer import RougeScorer

from installed import scorers_of
from mlecs_bench.errors import DataError
from mlecs_bench.metrics.rouge import Reading, rouge
from mlecs_bench.metrics.sentences import RULES, sentences


def rouge_lsum(predictions, references):
    """Rouge-LSum as records of ASCII texts hold it: stemmed words, a line is a sentence."""
    return rouge(predictions, references, "rouge_lsum", Reading())


def rouge_lsum_sentences(predictions, references):
    """Rouge-LSum of texts that are cut at their punctuation."""
    return rouge(predictions, references, "rouge_lsum_sentences", Reading(sentences="split"))


BY_HAND = (
    ["A man talks.", "He then walks!", "Does he?", "Yes."],
    ["Dr. Smith and Mr. J. K. Rowling met.", "It rained."],
    ["He lives in the U.S. Army base.", "See No. 5.", "He said no.", "Then he left."],
    ['He said "Stop."', "Then (slowly.)", "“Go on!”", "And he went…", "Gone."],
    ["a man is talking. he walks. no capital follows"],
    ["It costs 3.5 dollars.", "4 people pay."],
    ["Wait...", "What?!", "Émile came.", "É longe."],
    ["So do I.", "Then we go."],
    ["word by word, 1.2.3 and e.g. this i.e. that"],
    ["No end"],
)
PAIRS = (
    # prediction and reference, each as its sentences
    (["Two dogs play.", "Snow falls on the hill."], ["Snow falls.", "Two big dogs are playing."]),
    (["A woman cooks.", "She smiles."], ["A woman is cooking in a kitchen.", "Then she smiles."]),
    (["One sentence about a fox"], ["One sentence about a red fox."]),
    ([""], ["A cat sleeps."]),
)


def test_sentences_are_those_that_a_reader_finds():
    for expected in BY_HAND:
        assert sentences(" ".join(expected)) == expected
        assert sentences("\n".join(f"  {one} " for one in expected)) == expected
    assert sentences("") == sentences(" \n ") == []


def test_nothing_of_a_text_is_lost():
    for expected in BY_HAND:
        text = "  ".join(expected)
        assert " ".join(sentences(text)).split() == text.split()


def test_the_score_is_the_librarys_on_texts_that_were_cut_by_hand():
    scorer = RougeScorer(["rougeLsum"], use_stemmer=True)
    expected = [
        scorer.score(target="\n".join(reference), prediction="\n".join(prediction))["rougeLsum"].fmeasure
        for prediction, reference in PAIRS
    ]
    predictions, references = ([" ".join(pair[side]) for pair in PAIRS] for side in (0, 1))
    found = rouge_lsum_sentences(predictions, references)
    assert found.value == pytest.approx(statistics.mean(expected), abs=1e-12)
    assert (found.n, found.higher_is_better) == (4, True)
    assert found.value > rouge_lsum(predictions, references).value


def test_the_order_of_sentences_does_not_count_by_hand():
    # Every reference sentence finds its words in the other's sentence: precision and recall 1; as one sentence 3 of 5.
    prediction, reference = "Dogs play here. Snow falls.", "Snow falls. Dogs play here."
    assert rouge_lsum_sentences([prediction], [reference]).value == pytest.approx(1.0)
    assert rouge_lsum([prediction], [reference]).value == pytest.approx(3 / 5)


def test_one_sentence_scores_as_it_does_uncut():
    for prediction, reference in (("a red fox runs", "a red fox ran away"), ("", "a cat")):
        found, uncut = (metric([prediction], [reference]) for metric in (rouge_lsum_sentences, rouge_lsum))
        assert found == uncut


def test_its_identity_names_the_library_and_the_rules(tmp_path):
    (uncut, found) = scorers_of(["rouge_lsum", "rouge_lsum_sentences"], tmp_path)
    assert found.identity == f"{uncut.identity}, {RULES}"
    with pytest.raises(DataError, match="rouge_lsum_sentences got no samples"):
        found.score([], [])
