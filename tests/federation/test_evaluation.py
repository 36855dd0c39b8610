"""What a party's answers score: written ones, and beside them the labels that the model finds most likely."""

from __future__ import annotations

import dataclasses

import pytest

import toy
from installed import at_start
from mlecs_bench.data.partition import Part
from mlecs_bench.data.samples import PartyData, Samples
from mlecs_bench.doors.hookspecs import DatasetInfo
from mlecs_bench.doors.scoring import FunctionScorer, Metric
from mlecs_bench.errors import UsageError
from mlecs_bench.execution.references import reference_scores
from mlecs_bench.federation.evaluation import RANKING, Evaluator, scorer_identities, scorers_of
from mlecs_bench.metrics.labels import recall_by_label
from mlecs_bench.plan.identity import identity
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.settings import spec_of
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.testing import toy as made

LABELS = ("red", "blue", "happy sad")
TARGETS = ["red", "blue", "happy sad", "blue"]
INFO = DatasetInfo(
    "Toy", "", "classification", toy.NAMES, prepare=lambda _: None, metrics=("exact",), references={},
    diagnostic_columns=("target",), diagnose=lambda columns, answers: recall_by_label(columns["target"], answers),
)  # fmt: skip  # a card


class Parrot:
    """A model that writes nothing of use, and ranks the label of a sample's row first."""

    def __init__(self):
        self.ranked = []

    def generate(self, batch, prompt, max_new_tokens):
        return ["?"] * len(batch)

    def rank(self, batch, prompt, labels):
        self.ranked.append(len(batch))
        return [labels[row % len(labels)] for row in batch.index]


def exact() -> FunctionScorer:
    def score(predictions, references):
        return Metric(
            sum(p == r for p, r in zip(predictions, references, strict=True)) / len(references), len(references)
        )

    return FunctionScorer("exact", "exact 1", score)


@pytest.fixture(scope="module")
def classes() -> Samples:
    columns = {**made.make_columns(4), "target": TARGETS}
    manifest = dataclasses.replace(made.make_manifest(4), task="classification", labels=LABELS)
    return Samples(manifest, made.make_table(columns))


def evaluator(samples, *, ranks: bool, batch_size: int = 6) -> Evaluator:
    return Evaluator(INFO, samples, [exact()], batch_size, ranks=ranks)


def test_ranked_labels_score_under_names_of_their_own_and_change_nothing_else(classes):
    data, model = PartyData(classes, range(4), toy.NAMES, "d00"), Parrot()
    written = evaluator(classes, ranks=False).score(model, data, "?")
    assert model.ranked == []
    both = evaluator(classes, ranks=True).score(model, data, "?")
    assert {name: both[name] for name in written} == written
    # Rows 0 to 3 rank red, blue, happy sad, red: three of four are right, and of two blue ones one.
    assert {name: score.value for name, score in both.items() if name not in written} == {
        "exact_rank": 3 / 4, "recall_blue_rank": 1 / 2, "recall_happy_sad_rank": 1.0, "recall_red_rank": 1.0
    }  # fmt: skip  # by hand
    assert model.ranked == [2, 2], "as many sequences at a time as answers are generated"


def test_scores_of_single_samples_are_the_best_over_references_and_all_others_take_the_target():
    texts = [["red", "blue"], ["blue"], ["happy sad", "red", "happy"], ["blue"]]
    answers = ["blue", "red", "happy", "blue"]
    table = made.make_table({**made.make_columns(4), "target": TARGETS}).add_column("references", texts)
    samples = Samples(made.make_manifest(4), table)
    party = PartyData(samples, range(4), toy.NAMES, "d00")
    assert party.references([2, 1]) == [("happy sad", "red", "happy"), ("blue",)]
    for sign, best in ((1, max), (-1, min)):

        def each(predictions, references, sign=sign):
            return [
                sign * (len(set(a) & set(b)) / len(set(a) | set(b)))
                for a, b in zip(predictions, references, strict=True)
            ]

        def mean(predictions, references, each=each, sign=sign):
            return Metric(sum(each(predictions, references)) / len(references), len(references), sign > 0)

        single, whole = FunctionScorer("single", "s", mean, each), FunctionScorer("whole", "w", mean)
        info = dataclasses.replace(INFO, diagnostic_columns=(), diagnose=None)
        scored = Evaluator(info, samples, [single, whole], 4)
        wanted = [best(each([a] * len(t), t)) for a, t in zip(answers, texts, strict=True)]
        found = scored.compare(answers, party.targets(party.rows), party.references(party.rows))
        assert found["single"].value == pytest.approx(sum(wanted) / 4)
        assert found["whole"].value == pytest.approx(sum(each(answers, TARGETS)) / 4)
        alone = scored.single_scores(answers, TARGETS, party.references(party.rows))
        assert alone["single"] == pytest.approx(wanted)
        assert alone["exact_match"] == [1.0, 0.0, 1.0, 1.0]
        assert "references" in scored.settings
    told = scorer_identities(toy.toy_plan(made.profile()), [single, whole], several=True)
    assert told["single"] != "s"
    assert told["whole"] == "w"


def test_a_reference_scores_the_same_either_way(classes, tmp_path):
    parts = {"server": Part((0, 1), (2,)), "d00": Part((1, 3), (1, 3))}
    found = {
        ranks: reference_scores(INFO, classes, parts, evaluator(classes, ranks=ranks), tmp_path)["majority"]
        for ranks in (False, True)
    }
    assert found[True]["client"]["exact_rank"] == found[True]["client"]["exact"] == found[False]["client"]["exact"]
    assert found[True]["server"] == {**found[False]["server"], "exact_rank": found[False]["server"]["exact"]}


def test_ranks_and_further_metrics_change_nothing_of_an_identity_but_the_scorers(profile, samples):
    plain, more = toy.toy_plan(profile), toy.toy_plan(profile, metrics=("rouge_l", "loss"))
    ranked = dataclasses.replace(plain, answer="rank")
    told = {}
    for name, plan in (("plain", plain), ("more", more), ("ranked", ranked)):
        scorers = scorer_identities(plan, [FunctionScorer(m, f"{m} 1", exact) for m in plan.metrics])
        told[name] = identity(plan, 27, samples.manifest, scorers)
    assert told["plain"].pop("scorers") == {"loss": "loss 1"}
    assert told["more"].pop("scorers") == {"loss": "loss 1", "rouge_l": "rouge_l 1"}
    assert told["ranked"].pop("scorers") == {"loss": "loss 1", "loss_rank": f"loss 1, {RANKING}"}
    assert told["plain"] == told["more"] == told["ranked"]


def test_the_scorers_of_a_cell_are_made_for_the_writing_of_its_targets(profile, tmp_path):
    plan = toy.toy_plan(profile, metrics=("rouge_l",))
    plan = dataclasses.replace(plan, metrics=("rouge_l",))
    for targets, told in ((["a cat"] * 4, "F1 stemmer"), (["кот"] * 4, "no stemmer, words of")):
        columns = {**made.make_columns(4), "target": targets}
        samples = Samples(made.make_manifest(4), made.make_table(columns))
        (scorer,) = scorers_of(plan, samples, at_start(), tmp_path)
        assert told in scorer.identity


def test_labels_cannot_be_ranked_nor_counted_where_there_are_none():
    spec = RunSpec("standalone", "vast", 0.5)
    for changes, says in (
        ({"answer": "rank"}, "answer rank needs labels to rank, and dataset 'vast' has none"),
        ({"metrics": ("accuracy",)}, "metric 'accuracy' needs labels, and dataset 'vast' has none"),
        ({"metrics": ("blue",)}, r"no metric 'blue'\. Did you mean 'bleu'"),
        ({"answer": "most"}, "answer must be generate or rank, got most"),
    ):
        with pytest.raises(UsageError, match=says):
            resolve(dataclasses.replace(spec, **changes), at_start())
    plan = resolve(dataclasses.replace(spec, dataset="ur-fall", answer="rank", metrics=("accuracy",)), at_start())
    assert plan.scores == ("f1_macro", "f1_weighted", "accuracy", "f1_macro_rank", "f1_weighted_rank", "accuracy_rank")


def test_metrics_are_written_with_commas_or_as_a_list():
    for given in ("accuracy, bleu", ["accuracy", "bleu"], "accuracy,bleu,accuracy"):
        spec = spec_of({"algo": "a", "dataset": "d", "rho": 1, "metrics": given})
        assert spec.metrics == ("accuracy", "bleu")
        assert RunSpec.from_json(spec.to_json()) == spec
    for given in ("", "a,,b", 3, ["a", 1]):
        with pytest.raises(UsageError, match="metrics must be names with commas, such as accuracy,bleu, got"):
            spec_of({"algo": "a", "dataset": "d", "rho": 1, "metrics": given})
