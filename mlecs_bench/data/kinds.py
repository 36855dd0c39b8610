"""Kinds: what laws that look at labels see of a sample or a sequence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mlecs_bench.data.clusters import clusters_of
from mlecs_bench.data.parts import Sequences


def sample_kinds(targets: Sequence[str], *, labels: bool, n_clusters: int) -> tuple[str, ...]:
    """Return the kind of every sample: its target where that is a label, else the cluster that it is in."""
    return tuple(targets) if labels else clusters_of(tuple(targets), n_clusters)


def sequence_kinds(targets: Sequence[str], sequences: Sequences, *, labels: bool, n_clusters: int) -> tuple[str, ...]:
    """Return for every sample the kind of its sequence.

    That is the stratum, where there are several; else the most frequent label, of several the first in alphabetical
    order; else, where there are no labels, the cluster of all targets together.
    """
    by_name = _kinds_of_sequences(targets, sequences, labels=labels, n_clusters=n_clusters)
    found = [""] * len(targets)
    for name, rows in sequences.rows.items():
        for row in rows:
            found[row] = by_name[name]
    return tuple(found)


def _kinds_of_sequences(
    targets: Sequence[str], sequences: Sequences, *, labels: bool, n_clusters: int
) -> Mapping[str, str]:
    if len(set(sequences.stratum.values())) > 1:
        return sequences.stratum
    if labels:
        return {name: _most_frequent([targets[row] for row in rows]) for name, rows in sequences.rows.items()}
    texts = tuple(" ".join(targets[row] for row in rows) for rows in sequences.rows.values())
    return dict(zip(sequences.rows, clusters_of(texts, n_clusters), strict=True))


def _most_frequent(labels: Sequence[str]) -> str:
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))
