"""Trivial references: worked by hand, against rouge-score and scikit-learn, their cache, and a real cell."""

from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from sklearn.dummy import DummyClassifier
from sklearn.metrics import f1_score

import toy
from installed import scorers_of
from mlecs_bench.data.partition import Part, partition
from mlecs_bench.data.samples import PartyData, Samples
from mlecs_bench.doors.hookspecs import DatasetInfo
from mlecs_bench.doors.registry import KINDS, Loaded, Registry
from mlecs_bench.doors.scoring import Metric
from mlecs_bench.errors import PluginError
from mlecs_bench.execution import cell
from mlecs_bench.execution.jobs import Execution, Job, cell_ref
from mlecs_bench.execution.references import most_frequent, reference_answers, reference_scores
from mlecs_bench.federation.evaluation import Evaluator
from mlecs_bench.plan.identity import identity
from mlecs_bench.plan.resolve import planned
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.records.results import identity_key, read_record
from mlecs_bench.testing import toy as made
from mlecs_plugins.datasets.vast import mlecs_dataset, synthetic
from mlecs_plugins.datasets.vast.words import SUBTITLE_WORDS
from vast_files import GAPS, gap_records, open_samples, record, tone, write_media, write_records

INFO = DatasetInfo(
    "Toy", "words", "generation", toy.NAMES, prepare=lambda _: None, metrics=("rouge_lsum",),
    references={"copy": "stratum", "copy-title": "title"},
)  # fmt: skip  # the column "stratum" holds what is copied; no table has titles
PARTS = {"server": Part((0, 1, 2), (3, 4)), "d00": Part((5, 6, 7), (8,)), "d01": Part((9,), (10, 11))}
TARGETS = ["a b", "c", "c", "a b c d", "x", "z", "y", "y", "y z", "q", "q", "r"]
COPIES = ["-", "-", "-", "a b", "x", "-", "-", "-", None, "-", "q r", ""]


def samples_of(targets, copies, labels=()) -> Samples:
    columns = {**made.make_columns(len(targets)), "target": targets, "stratum": copies}
    task = "classification" if labels else "generation"
    manifest = dataclasses.replace(made.make_manifest(len(targets)), task=task, labels=labels)
    return Samples(manifest, made.make_table(columns))


class Counting:
    """Scores the share of answers that equal their target, and remembers what it was given."""

    def __init__(self, name="exact", identity="exact 1"):
        self.name, self.identity = name, identity
        self.seen = []

    def score(self, predictions, references):
        self.seen.append((list(predictions), list(references)))
        return Metric(float(np.mean([p == r for p, r in zip(predictions, references, strict=True)])), len(references))


def evaluator_of(samples, *scorers, limits=None, info=INFO):
    return Evaluator(info, samples, scorers, 16, limits or {})


def values_of(scores):
    return {
        name: {m: {d: s["value"] for d, s in by.items()} | {"server": of["server"][m]["value"]} for m, by in client}
        for name, of in scores.items()
        for client in [of["client"].items()]
    }


@pytest.fixture
def hand():
    return samples_of(TARGETS, COPIES)


# What the references answer, and what that scores


def test_the_most_frequent_target_is_the_first_in_the_alphabet_of_several():
    for targets, expected in (("b a b", "b"), ("b a", "a"), ("B a", "B"), ("c", "c"), ("d d a a c", "a")):
        assert most_frequent(targets.split()) == expected
        assert most_frequent(targets.split()[::-1]) == expected


def test_answers_by_hand(hand):
    assert reference_answers(INFO, hand, PARTS) == {
        "copy": {"server": ["a b", "x"], "d00": [""], "d01": ["q r", ""]},
        "most-frequent": {"server": ["c", "c"], "d00": ["y"], "d01": ["q", "q"]},
    }


def test_scores_by_hand(hand, tmp_path):
    # "a b" for "a b c d": precision 1, recall 1/2, F1 2/3; "q r" for "q": 1/2, 1, 2/3; "y" for "y z": 2/3.
    evaluator = evaluator_of(hand, *scorers_of(["rouge_lsum"], tmp_path))
    scores = reference_scores(INFO, hand, PARTS, evaluator, tmp_path)
    assert values_of(scores) == {
        "copy": {"rouge_lsum": pytest.approx({"d00": 0.0, "d01": (2 / 3 + 0) / 2, "server": (2 / 3 + 1) / 2})},
        "most-frequent": {"rouge_lsum": pytest.approx({"d00": 2 / 3, "d01": 1 / 2, "server": (2 / 5 + 0) / 2})},
    }
    assert scores["copy"]["client"]["rouge_lsum"]["d01"].keys() == {"value", "n", "higher_is_better"}
    assert [scores["copy"]["client"]["rouge_lsum"][d]["n"] for d in ("d00", "d01")] == [1, 2]


def test_majority_equals_sklearns_dummy_classifier(tmp_path):
    for seed in (27, 34):
        check_majority(seed, tmp_path)


def check_majority(seed, tmp_path):
    labels = ("not lying", "temporary pose", "lying on the ground")
    targets = [labels[i] for i in np.random.default_rng(seed).choice(3, 300, p=[0.45, 0.15, 0.4])]
    info = dataclasses.replace(INFO, task="classification", references={})
    samples = samples_of(targets, [""] * 300, labels)
    cut = partition(samples.column("group"), [""] * 300, "frame", 3, seed)
    parts = {"server": cut.public, **{f"d{j:02d}": part for j, part in enumerate(cut.devices)}}
    scorers = scorers_of(["f1_macro", "f1_weighted"], tmp_path, labels)
    scores = reference_scores(info, samples, parts, evaluator_of(samples, *scorers, info=info), tmp_path)
    assert list(scores) == ["majority"]
    for party, part in parts.items():
        train, test = ([targets[row] for row in rows] for rows in (part.train, part.test))
        guesses = DummyClassifier(strategy="most_frequent").fit(train, train).predict(test)
        for average in ("macro", "weighted"):
            expected = f1_score(test, guesses, labels=list(labels), average=average, zero_division=0)
            assert values_of(scores)["majority"][f"f1_{average}"][party] == pytest.approx(expected, abs=1e-12)


def test_a_column_without_texts_is_refused_in_one_line(hand):
    info = dataclasses.replace(INFO, references={"copy": "has_audio"})
    with pytest.raises(PluginError, match="'copy' copies column 'has_audio', which holds a bool; store texts") as error:
        reference_answers(info, hand, PARTS)
    assert "\n" not in str(error.value)


class Silent:
    """A model that answers nothing."""

    def generate(self, batch, prompt, max_new_tokens):
        return [""] * len(batch)


def test_references_are_scored_on_the_samples_that_a_model_is_scored_on(tmp_path):
    targets = [f"t{i}" for i in range(40)]
    rows = tuple(np.random.default_rng(1).permutation(40).tolist())
    for limit in (None, 1, 3, 7):
        samples, model_scorer, own_scorer = samples_of(targets, targets), Counting(), Counting()
        test = PartyData(samples, rows[10:], toy.NAMES, "d00")
        model = evaluator_of(samples, model_scorer, limits={"exact": limit}).score(Silent(), test, "")["exact"]
        evaluator = evaluator_of(samples, own_scorer, limits={"exact": limit})
        scores = reference_scores(INFO, samples, {"d00": Part(rows[:10], rows[10:])}, evaluator, tmp_path)
        assert [targets for _, targets in own_scorer.seen] == [model_scorer.seen[0][1]] * 2
        assert scores["copy"]["client"]["exact"]["d00"] == {"value": 1.0, "n": model.n, "higher_is_better": True}


# The cache


def test_the_second_computation_scores_nothing(hand, tmp_path):
    scorer = Counting()
    first = reference_scores(INFO, hand, PARTS, evaluator_of(hand, scorer), tmp_path)
    assert len(scorer.seen) == 6
    again = reference_scores(INFO, samples_of(TARGETS, COPIES), PARTS, evaluator_of(hand, scorer), tmp_path)
    assert again == first
    assert list(again) == list(first) == ["copy", "most-frequent"]
    assert len(scorer.seen) == 6
    assert [path.suffix for path in (tmp_path / "references").iterdir()] == [".json"]


CHANGES = {
    "scorer": lambda case: case | {"scorer": Counting(identity="exact 2")},
    "limit": lambda case: case | {"limits": {"exact": 1}},
    "partition": lambda case: case | {"parts": {**PARTS, "d00": Part((5, 6, 7), (8, 0))}},
    "training part": lambda case: case | {"parts": {**PARTS, "d00": Part((5,), (8,))}},
    "a copied text": lambda case: case | {"samples": samples_of(TARGETS, [*COPIES[:-1], "r"])},
    "a target": lambda case: case | {"samples": samples_of([*TARGETS[:-1], "s"], COPIES)},
    "a name": lambda case: case | {"info": dataclasses.replace(INFO, references={"copy-stratum": "stratum"})},
    "labels": lambda case: case | {"samples": samples_of(TARGETS, COPIES, ("q", "r"))},
}


def test_whatever_decides_a_score_decides_the_key(hand, tmp_path):
    case = {"info": INFO, "samples": hand, "parts": PARTS, "scorer": Counting(), "limits": {}}
    for what, change in CHANGES.items():
        for number, now in enumerate((case, change(case)), start=1):
            evaluator = evaluator_of(now["samples"], now["scorer"], limits=now["limits"])
            reference_scores(now["info"], now["samples"], now["parts"], evaluator, tmp_path / what)
            assert len(list((tmp_path / what / "references").iterdir())) == number


DAMAGES = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a list": lambda text: "[]",
    "no scores": lambda text: '{"sha256": "x"}',
    "another number": lambda text: text.replace('"value": 0.5', '"value": 0.25', 1),
    "no number": lambda text: text.replace('"value": 0.5', '"value": NaN', 1),
    "no text": lambda text: b"\xff\xfe",
}


def test_a_damaged_file_is_made_again(hand, tmp_path):
    scorer = Counting()
    first = reference_scores(INFO, hand, PARTS, evaluator_of(hand, scorer), tmp_path)
    (path,) = (tmp_path / "references").iterdir()
    whole = path.read_text()
    for damage in DAMAGES.values():
        damaged = damage(whole)
        assert damaged != whole
        path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
        scorer.seen.clear()
        assert reference_scores(INFO, hand, PARTS, evaluator_of(hand, scorer), tmp_path) == first
        assert len(scorer.seen) == 6
        assert path.read_text() == whole


# In a cell


class Toys(Registry):
    """The installed plugins, and any name of a dataset stands for one card."""

    def __init__(self, card) -> None:
        super().__init__(entry for kind in KINDS for entry in Registry.installed().entries(kind))
        self._card = card

    def dataset(self, name):
        return Loaded(name, self._card, "toys", "1")


@pytest.fixture(scope="module")
def cells(profile, prepared, tmp_path_factory):
    """Cells of two algorithms at two rates with one cache, one of them without references at all."""
    root = tmp_path_factory.mktemp("cells")
    registry = Toys(dataclasses.replace(INFO, references={"copy-group": "group"}))
    found = {}
    for name, algo, rho in (
        ("alone", "standalone", 0.4), ("averaged", "multi-fedavg", 1.0), ("plain", "standalone", 0.4),
    ):  # fmt: skip  # three cells
        spec = RunSpec(algo, "toy", rho, rounds=1, steps=1, seeds=(27,))
        plan = planned(spec, registry.algorithm(algo), registry.dataset("toy"), Loaded("toy", profile, "toys", "1"))
        execution = Execution(root / name, root / "cache")
        own = identity(plan, 27, prepared.manifest, {"rouge_lsum": "1"})
        job = Job(plan, 27, prepared.folder, execution, own, cell_ref(plan, 27, identity_key(own)))
        with pytest.MonkeyPatch.context() as patch:
            if name == "plain":
                patch.setattr(cell, "reference_scores", lambda *_: {})
            found[name] = read_record(cell.run_cell(job, registry, lambda _: None))
    return found, root / "cache"


def test_a_record_has_the_references_of_every_party_and_says_what_they_took(cells):
    alone = cells[0]["alone"]
    references = alone["metrics"]["references"]
    assert list(references) == ["copy-group", "most-frequent"]
    for scores in references.values():
        assert list(scores["client"]["rouge_lsum"]) == ["d00", "d01", "d02"]
        counts = {**{d: s["n"] for d, s in scores["client"]["rouge_lsum"].items()}, "server": scores["server"]}
        counts["server"] = counts["server"]["rouge_lsum"]["n"]
        assert counts == {party: sizes["test"] for party, sizes in alone["realised"]["samples"].items()}
    assert alone["cost"]["seconds"]["references"] > 0


def test_references_depend_on_neither_algorithm_nor_rate_and_are_computed_once(cells):
    (alone, averaged), cache = (cells[0][name] for name in ("alone", "averaged")), cells[1]
    assert alone["identity"]["rho"] != averaged["identity"]["rho"]
    assert alone["metrics"]["references"] == averaged["metrics"]["references"]
    assert len(list((cache / "references").iterdir())) == 1


def test_references_change_no_other_number_of_a_record(cells):
    with_them, without = cells[0]["alone"], cells[0]["plain"]
    assert without["metrics"]["references"] == {}
    for name in ("client", "server", "rounds"):
        assert with_them["metrics"][name] == without["metrics"][name]
    assert (with_them["realised"], with_them["comm"]) == (without["realised"], without["comm"])


def test_no_random_stream_is_consumed(hand, tmp_path):
    evaluator = evaluator_of(hand, *scorers_of(["rouge_lsum"], tmp_path))
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    reference_scores(INFO, hand, PARTS, evaluator, tmp_path)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002


# The texts that VAST gives to copy

ALL_TEXTS = {
    "a.1": "a cat sleeps the cat is asleep a cat purrs she has slept all day",
    "b.1": "a cat sleeps the cat is asleep she has slept all day",
    "c.1": "a cat sleeps the cat is asleep a cat purrs",
    "d.1": "a cat purrs ...",
    "e.1": "",
}


def test_the_columns_hold_the_raw_subtitle_and_all_texts_in_order(tmp_path):
    folder = write_records(tmp_path / "data" / "notes.json", gap_records()).parent
    samples = open_samples(folder, tmp_path / "cache")
    assert samples.column("subtitle_text") == ["she has slept all day", "she has slept all day", "", "...", ""]
    assert dict(zip(GAPS, samples.column("all_text"), strict=True)) == ALL_TEXTS


def test_the_view_media_has_all_texts_only_with_captions(tmp_path):
    for there, captions in ((True, {}), (False, {"vision_cap": None, "audio_cap": []})):
        folder = write_records(tmp_path / str(there) / "notes.json", [record("a.1", **captions)]).parent
        write_media(folder / "a.1.mp4", sound=tone(1.0))
        samples = open_samples(folder, tmp_path / "cache")
        assert samples.manifest.view.startswith("media")
        assert samples.column("subtitle_text") == ["she has slept all day"]
        assert ("all_text" in samples.column_names) == there


def test_copying_the_subtitle_of_annotated_clips_scores_what_rouge_says(tmp_path):
    words = ["a", "cat", "sleeps", "while", "the", "dog", "is", "barking", "at", "two", "birds"]
    made_up = [" ".join(np.random.default_rng(i).choice(words, 6)) for i in range(80)]
    records = [record(f"c{i:02d}", subtitle=made_up[i], vast_cap=made_up[i + 40]) for i in range(40)]
    samples = open_samples(write_records(tmp_path / "data" / "a.json", records).parent, tmp_path / "cache")
    parts = {"d00": Part(tuple(range(20)), tuple(range(20, 40)))}
    evaluator = evaluator_of(samples, *scorers_of(["rouge_lsum"], tmp_path))
    scores = reference_scores(mlecs_dataset(), samples, parts, evaluator, tmp_path)
    assert list(scores) == ["copy-subtitle", "copy-all", "most-frequent"]
    oracle = RougeScorer(["rougeLsum"], use_stemmer=True)
    pairs = zip(made_up[60:], made_up[20:40], strict=True)
    expected = math.fsum(oracle.score(t, p)["rougeLsum"].fmeasure for t, p in pairs) / 20
    assert scores["copy-subtitle"]["client"]["rouge_lsum"]["d00"]["value"] == pytest.approx(expected, abs=1e-12)
    assert 0.1 < expected < 0.9


def test_the_stand_in_spells_its_subtitles():
    table = synthetic.to_table(synthetic.benchmark(50))
    ids = np.array(table["subtitle"]).tolist()
    assert [[SUBTITLE_WORDS.index(w) for w in text.split()] for text in table["subtitle_text"]] == [
        [i for i in row if i] for row in ids
    ]
    assert "all_text" not in table.column_names
