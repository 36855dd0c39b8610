"""What stands for labels: clusters that find the topics of texts, the same on every day, and kinds of sequences."""

from __future__ import annotations

from collections import Counter

import numpy as np

from mlecs_bench.data.clusters import clusters_of
from mlecs_bench.data.kinds import sample_kinds, sequence_kinds
from mlecs_bench.data.parts import Sequences

TOPICS = {
    "sea": ("ship", "wave", "harbour", "sail", "fish"),
    "sky": ("cloud", "bird", "wing", "storm", "star"),
    "town": ("street", "tram", "market", "bridge", "tower"),
}


def texts(n: int, seed: int = 0) -> tuple[tuple[str, ...], list[str]]:
    """Return texts of three topics with some common words, and their topics."""
    generator = np.random.default_rng(seed)
    topics = [list(TOPICS)[int(i)] for i in generator.integers(3, size=n)]
    found = []
    for topic in topics:
        words = [*generator.choice(TOPICS[topic], size=6), *generator.choice(["the", "and", "of", "a"], size=4)]
        found.append(" ".join(str(word) for word in generator.permutation(words)))
    return tuple(found), topics


def test_clusters_find_the_topics_of_texts():
    found, topics = texts(300)
    pairs = Counter(zip(clusters_of(found, 3), topics, strict=True))
    assert len(pairs) == 3, "every cluster is one topic"


def test_clusters_depend_on_the_texts_alone_and_not_on_their_order():
    found, _ = texts(200)
    order = np.random.default_rng(1).permutation(200)
    mixed = tuple(found[int(i)] for i in order)
    assert clusters_of(mixed, 5) == tuple(clusters_of(found, 5)[int(i)] for i in order)
    before = clusters_of(found, 5)
    clusters_of.cache_clear()
    assert clusters_of(found, 5) == before
    assert len(set(before)) == 5


def test_few_different_texts_are_a_cluster_each_and_empty_ones_are_no_trouble():
    assert clusters_of(("b", "a", "b", ""), 10) == ("2", "1", "2", "0")
    assert clusters_of((), 3) == ()
    many = tuple("" if i % 2 else f"word{i}" for i in range(60))
    assert len(set(clusters_of(many, 4))) == 4


def test_the_kind_of_a_sample_is_its_label_or_its_cluster():
    assert sample_kinds(["up", "down"], labels=True, n_clusters=5) == ("up", "down")
    found, _ = texts(50)
    assert sample_kinds(found, labels=False, n_clusters=3) == clusters_of(found, 3)


def test_the_kind_of_a_sequence_is_its_stratum_its_commonest_label_or_its_cluster():
    groups = ["a", "b", "a", "a", "b", "b", "c"]
    targets = ["up", "down", "up", "sit", "up", "down", "sit"]
    strata = ["fall" if group == "a" else "adl" for group in groups]
    kinds = sequence_kinds(targets, Sequences.of(groups, strata), labels=True, n_clusters=5)
    assert kinds == tuple(strata)
    alike = Sequences.of(groups, ["one"] * 7)
    kinds = sequence_kinds(targets, alike, labels=True, n_clusters=5)
    assert dict(zip(groups, kinds, strict=True)) == {"a": "up", "b": "down", "c": "sit"}
    kinds = sequence_kinds(targets, alike, labels=False, n_clusters=5)
    joined = clusters_of(("up up sit", "down up down", "sit"), 5)
    assert dict(zip(groups, kinds, strict=True)) == dict(zip("abc", joined, strict=True))
