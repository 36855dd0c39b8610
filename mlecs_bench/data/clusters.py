"""Clusters of texts: what stands for labels where a dataset has none, so that label laws have something to look at."""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mlecs_bench.seeds import rng

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float64]

WIDTH = 256
"""Places that words are hashed to."""
ROUNDS = 20
"""Rounds of k-means: more move hardly a text."""


@lru_cache(maxsize=4)
def clusters_of(texts: tuple[str, ...], n_clusters: int) -> tuple[str, ...]:
    """Return the cluster of every text, "0" to `n_clusters` - 1 as text, by k-means of TF-IDF vectors.

    The same texts have the same clusters whatever the seed of a run: k-means++ begins with a stream of its own. Words
    are hashed to `WIDTH` places. Fewer different texts than clusters are each their own. (Lin et al., FedNLP, arXiv
    2104.08815, cluster sentence embeddings to the same end; those would need a model.)
    """
    different = sorted(set(texts))
    if len(different) <= n_clusters:
        names = {text: str(i) for i, text in enumerate(different)}
    else:
        found = _k_means(_vectors(different), n_clusters)
        names = {text: str(cluster) for text, cluster in zip(different, found, strict=True)}
    return tuple(names[text] for text in texts)


def _vectors(texts: Sequence[str]) -> Vectors:
    """Return hashed TF-IDF vectors (n, WIDTH) of length 1, with idf = ln(n / df) + 1."""
    import numpy as np

    counts = np.zeros((len(texts), WIDTH))
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text.lower()):
            counts[row, zlib.crc32(word.encode()) % WIDTH] += 1
    in_texts = np.maximum((counts > 0).sum(axis=0), 1)
    weighted = counts * (np.log(len(texts) / in_texts) + 1)
    lengths = np.linalg.norm(weighted, axis=1, keepdims=True)
    vectors: Vectors = weighted / np.where(lengths > 0, lengths, 1)
    return vectors


def _k_means(vectors: Vectors, n_clusters: int) -> NDArray[Any]:
    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")  # it keeps its centre
        _, found = kmeans2(vectors, _first_centres(vectors, n_clusters), iter=ROUNDS, minit="matrix")
    own: NDArray[Any] = found
    return own


def _first_centres(vectors: Vectors, n_clusters: int) -> Vectors:
    """Return some of the vectors, each drawn with its squared distance from those before (k-means++)."""
    import numpy as np

    stream = rng(0, "clusters")
    chosen = [int(stream.integers(len(vectors)))]
    distances = np.full(len(vectors), np.inf)
    while len(chosen) < n_clusters:
        distances = np.minimum(distances, ((vectors - vectors[chosen[-1]]) ** 2).sum(axis=1))
        total = float(distances.sum())
        weights = distances / total if total > 0 else None
        chosen.append(int(stream.choice(len(vectors), p=weights)))
    return vectors[chosen]
