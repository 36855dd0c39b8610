"""Scores against independent oracles: rouge-score in a loop, scikit-learn."""

from __future__ import annotations

import re
from statistics import fmean

import numpy as np
import pytest
from sklearn.metrics import f1_score

from installed import Distribution, scorers_of
from laws import for_all
from mlecs_bench.doors.hookspecs import MetricRequest
from mlecs_bench.doors.registry import Registry
from mlecs_bench.doors.scoring import Metric, Scorer, each_of
from mlecs_bench.errors import DataError, PluginError, UsageError
from mlecs_bench.metrics.f1 import f1_macro, f1_weighted, label_of
from mlecs_bench.metrics.rouge import Reading, rouge
from mlecs_bench.metrics.scorers import check_metrics


def rouge_lsum(predictions, references):
    """Rouge-LSum as records of ASCII texts hold it: stemmed words, a line is a sentence."""
    return rouge(predictions, references, "rouge_lsum", Reading())


LABELS = ("not lying", "temporary pose", "lying on the ground")
PREDICTIONS = ["a red fox is running", "two dogs\nplay in the snow", "", "the runners ran fast"]
REFERENCES = ["a red fox runs", "in the snow\ntwo dogs are playing", "a cat", "fast running"]


def rouge_oracle(kind: str, *, stemmer: bool) -> float:
    from rouge_score import rouge_scorer

    total = 0.0
    for i in range(len(REFERENCES)):
        scorer = rouge_scorer.RougeScorer([kind], use_stemmer=stemmer)
        total += scorer.score(target=REFERENCES[i], prediction=PREDICTIONS[i])[kind].fmeasure
    return total / len(REFERENCES)


def test_rouge_lsum_is_the_library_with_a_stemmer():
    found = rouge_lsum(PREDICTIONS, REFERENCES)
    assert found == Metric(pytest.approx(rouge_oracle("rougeLsum", stemmer=True), abs=1e-12), 4, True)
    assert found.value != pytest.approx(rouge_oracle("rougeLsum", stemmer=False), abs=1e-3)


def test_rouge_lsum_by_hand():
    # LCS "a red fox run(s)" = 4 of 5 predicted and 4 of 4 true words: F = 2 * 0.8 * 1 / 1.8
    assert rouge_lsum(PREDICTIONS[:1], REFERENCES[:1]).value == pytest.approx(1.6 / 1.8)
    assert rouge_lsum(["", "a cat"], ["a cat", "a cat"]).value == 0.5


def test_rouge_lsum_takes_a_line_as_a_sentence():
    swapped = ["two dogs play\nin the snow"], ["in the snow\ntwo dogs play"]
    assert rouge_lsum(*swapped).value == pytest.approx(1.0)
    flat = [t.replace("\n", " ") for texts in swapped for t in texts]
    assert rouge_lsum(flat[:1], flat[1:]).value < 1.0


def test_label_of_ignores_case_and_outer_space_only():
    assert label_of("  Temporary POSE\n", LABELS) == "temporary pose"
    assert label_of("temporary  pose", LABELS) is None
    assert label_of("lying", LABELS) is None
    assert label_of("", LABELS) is None


@for_all("seed", range(6))
@for_all(("function", "average"), [(f1_macro, "macro"), (f1_weighted, "weighted")])
def test_f1_equals_sklearn(seed, function, average):
    random = np.random.default_rng(seed)
    # Seeds leave out labels now and then: a class without references, predictions or both.
    true = random.choice(LABELS[: 1 + seed % 3], 25).tolist()
    answers = random.choice([*LABELS[seed % 2 :], "I do not know", ""], 25).tolist()
    oracle = f1_score(true, answers, labels=list(LABELS), average=average, zero_division=0)
    found = function(answers, true, LABELS)
    assert found.value == pytest.approx(oracle, abs=1e-12)
    assert found.n == 25


def test_f1_counts_an_unknown_answer_as_a_miss_and_nobodys_false_alarm():
    a, b, _ = LABELS
    # a: TP 1, FN 1 (the unknown answer), FP 0 -> 2/3; b: 1; the third label is absent: 0.
    assert f1_macro([a, "?", b], [a, a, b], LABELS).value == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert f1_weighted([a, "?", b], [a, a, b], LABELS).value == pytest.approx((2 * 2 / 3 + 1) / 3)


def test_f1_is_zero_not_nan_when_nothing_is_right():
    assert f1_macro(["?"], [LABELS[0]], LABELS).value == 0.0
    assert f1_weighted(["?"], [LABELS[0]], LABELS).value == 0.0


def test_f1_refuses_a_reference_that_is_no_label():
    with pytest.raises(DataError, match="'flying' is none of the labels not lying, temporary pose"):
        f1_macro([LABELS[0]], ["flying"], LABELS)


@pytest.mark.parametrize("name", ["rouge_lsum", "f1_macro", "f1_weighted"])
def test_scores_refuse_unequal_lengths_and_no_samples(name, tmp_path):
    (scorer,) = scorers_of([name], tmp_path, LABELS)
    with pytest.raises(DataError, match="2 predictions for 1 references"):
        scorer.score([LABELS[0]] * 2, [LABELS[0]])
    with pytest.raises(DataError, match="no samples"):
        scorer.score([], [])


def test_scorers_come_in_the_order_asked_and_name_their_implementation(tmp_path):
    scorers = scorers_of(["f1_weighted", "rouge_lsum", "f1_macro"], tmp_path, LABELS)
    assert [s.name for s in scorers] == ["f1_weighted", "rouge_lsum", "f1_macro"]
    assert len({s.identity for s in scorers}) == 3
    assert scorers[1].identity == "rouge-score==0.1.2 rougeLsum F1 stemmer"
    answers, true = [LABELS[0], "?", LABELS[1]], [LABELS[0], LABELS[0], LABELS[1]]
    assert scorers[0].score(answers, true) == f1_weighted(answers, true, LABELS)
    assert scorers[2].score(answers, true) == f1_macro(answers, true, LABELS)
    assert scorers[0].score(answers, true) != scorers[2].score(answers, true)


def test_the_mean_over_single_samples_is_the_score_and_f1_has_no_score_of_one(tmp_path):
    names = ["rouge_lsum", "rouge_lsum_sentences", "f1_macro"]
    *means, f1 = scorers_of(names, tmp_path, LABELS)
    answers = ["the cat sat. The dog ran.", "a dog runs", "", "The cats are sitting"]
    targets = ["The cat sat down. A dog ran.", "a dog ran", "x", "the cat sits"]
    for scorer in means:
        each = each_of(scorer)(answers, targets)
        assert [Metric(value, 1) for value in each] == [
            scorer.score([answer], [target]) for answer, target in zip(answers, targets, strict=True)
        ]
        assert scorer.score(answers, targets).value == fmean(each)
    assert each_of(f1) is None


def test_an_unknown_metric_gets_the_nearest_name(tmp_path):
    with pytest.raises(UsageError, match=r"no metric 'rouge_lsun'\. Did you mean 'rouge_lsum'\?"):
        scorers_of(["rouge_lsun"], tmp_path, LABELS)


def test_f1_needs_labels(tmp_path):
    with pytest.raises(UsageError, match="f1_macro needs labels"):
        scorers_of(["f1_macro"], tmp_path)


METRIC = """
from mlecs_bench.api import FunctionScorer, Metric, MetricInfo, UsageError, check_pairs, hookimpl

def length(predictions, references):
    check_pairs(predictions, references, "length")
    return Metric(sum(map(len, predictions)) / len(predictions), len(predictions), higher_is_better=False)

def make(request):
    if request.model == "none":
        return None
    if request.model == "broken":
        raise KeyError("weights")
    return FunctionScorer("other" if request.model == "misnamed" else "length", "letters of the answer", length)

def check(request):
    if request.model == "absent":
        raise UsageError("no model 'absent'; use another")

@hookimpl
def mlecs_metric():
    return MetricInfo("Length", "letters of the answer", make, higher_is_better=False, check=check)
"""


@pytest.fixture
def acme(tmp_path, monkeypatch):
    """A metric of somebody else: installs it with this source, and returns its scorer for a request's model."""
    distribution = Distribution(tmp_path / "site", monkeypatch, "acme-metrics", "acme_length")

    def install(source: str = METRIC, model: str | None = None) -> list[Scorer]:
        distribution.install(source, {"mlecs_bench.metrics": {"length": "acme_length"}})
        return scorers_of(["length", "rouge_lsum"], tmp_path, model=model)

    return install


def test_a_metric_of_another_distribution_scores_beside_ours(acme):
    length, rouge = acme()
    assert length.name == "length"
    assert length.score(["abc", "a"], ["x", "y"]) == Metric(2.0, 2, higher_is_better=False)
    assert each_of(length) is None
    assert rouge.identity == "rouge-score==0.1.2 rougeLsum F1 stemmer", "what is our own goes by its version"


def test_the_identity_of_a_foreign_metric_names_its_distribution_and_follows_its_code(acme):
    first, again, edited = (acme(source)[0].identity for source in (METRIC, METRIC, METRIC + "EDITED = True\n"))
    assert re.fullmatch(r"letters of the answer \(acme-metrics 1\.0, code [0-9a-f]{16}\)", first)
    assert first == again
    assert first != edited


def test_a_metric_that_cannot_be_made_is_left_out(acme):
    assert [scorer.name for scorer in acme(model="none")] == ["rouge_lsum"]


def test_a_metric_may_refuse_its_model_before_anything_is_prepared(acme, tmp_path):
    acme()
    for names, model, says in (
        (["rouge_lsum", "length"], "absent", "no model 'absent'; use another"),
        (["rouge_lsum", "lenght"], None, "no metric 'lenght'. Did you mean 'length'?"),
    ):
        with pytest.raises(UsageError, match=re.escape(says)):
            check_metrics(names, MetricRequest((), tmp_path, model), Registry.installed())
    check_metrics(["length", "f1_macro"], MetricRequest((), tmp_path), Registry.installed())


def test_a_broken_metric_is_named_in_one_line(acme):
    for model, says in (
        ("broken", "metric 'length' of distribution 'acme-metrics' 1.0 failed: KeyError: 'weights'"),
        ("misnamed", "metric 'length' of distribution 'acme-metrics' makes a scorer called 'other'; give it the name"),
    ):
        with pytest.raises(PluginError, match=re.escape(says)) as caught:
            acme(model=model)
        assert "\n" not in str(caught.value)
