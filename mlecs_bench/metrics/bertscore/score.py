"""The rescaled F1 of pairs of texts: what a record calls bertscore."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlecs_bench.doors.events import SILENT, Telling
from mlecs_bench.metrics.bertscore.baseline import baseline_f1, baseline_pairs, write_baseline
from mlecs_bench.metrics.bertscore.source import Source, find_source
from mlecs_bench.metrics.bertscore.store import EmbeddingStore, store_path

if TYPE_CHECKING:
    from mlecs_bench.metrics.bertscore.encoder import Encoder, Progress

MAX_KNOWN_PAIRS = 50_000
"""Scored pairs that a process remembers, so that equal answers are scored once; some 20 MB."""


def open_bertscore(
    cache_dir: Path, model: str | None = None, device: str = "cpu", progress: Progress | None = None
) -> BertScore | None:
    """Return BERTScore on `model`; None for "none", and for the packaged model where it is not on this machine.

    `model` is None or "packaged", "none", a folder or a hub id, `device` a torch device. No model is loaded yet, and
    none is fetched. Raises UsageError for a model that cannot be used.
    """
    source = find_source(model, cache_dir)
    return None if source is None else BertScore(source, cache_dir, device, progress)


def check_bertscore(cache_dir: Path, model: str | None, telling: Telling = SILENT) -> None:
    """Raise UsageError, before anything is trained, unless `model` can be used; what is not here is fetched."""
    find_source(model, cache_dir, telling)


class BertScore:
    """F1 of BERTScore on one model, rescaled with a baseline: unrelated sentences score 0, equal ones 1.

    The baseline is the library's own where it ships one for a hub id; else it is computed once and kept in
    `cache_dir`, as are embeddings of texts. The model is loaded at the first score whose texts are not there;
    `progress` is told how far it is with many texts.
    """

    def __init__(self, source: Source, cache_dir: Path, device: str = "cpu", progress: Progress | None = None) -> None:
        self._source = source
        self._cache_dir = cache_dir
        self._device = device
        self._progress = progress

    @cached_property
    def identity(self) -> str:
        """Everything that can change a score: versions, model, tokenizer, layer, baseline, an accelerator; no paths."""
        kind = self._device.partition(":")[0]
        return self._source.identity + ("" if kind == "cpu" else f" device={kind}")

    def f1(self, predictions: Sequence[str], references: Sequence[str]) -> list[float]:
        """Return the rescaled F1 of each prediction; it may be negative.

        A pair with a side that has no token has the raw score 0, which is -b / (1 - b) after rescaling with the
        baseline b.
        """
        import torch

        pairs = list(zip(predictions, references, strict=True))
        baseline = self._baseline  # first, since it is what takes long, and shows how far it is, where it is not known
        encoder = self._encoder
        if len(encoder.known) > MAX_KNOWN_PAIRS:
            encoder.known.clear()
        new = [pair for pair in dict.fromkeys(pairs) if pair not in encoder.known]
        spoken = [pair for pair in new if all(map(encoder.has_tokens, pair))]
        scores = dict.fromkeys(new, 0.0)
        if spoken:
            candidates, targets = zip(*spoken, strict=True)
            raw = encoder.raw_scores(candidates, targets, progress=self._progress)[:, 2].tolist()
            scores.update(zip(spoken, raw, strict=True))
        encoder.known.update(scores)
        known = torch.tensor([encoder.known[pair] for pair in pairs], dtype=torch.float32)
        # In single precision, as the library rescales.
        zero = torch.tensor(baseline, dtype=torch.float32)
        values: list[float] = ((known - zero) / (1 - zero)).tolist()
        return values

    def sees(self, text: str) -> bool:
        """Return whether the model's vocabulary knows anything in `text`."""
        return self._encoder.sees(text)

    @property
    def _encoder(self) -> Encoder:
        return _load(self._source, self._device, self._cache_dir)

    @cached_property
    def _baseline(self) -> float:
        """The mean raw F1 of unrelated sentences, computed where the library ships none and the cache has none."""
        path = self._source.baseline
        if path is None:
            name = hashlib.sha256(self.identity.encode()).hexdigest()[:16]
            path = self._cache_dir / f"bertscore-baseline-{name}.tsv"
            if not path.is_file():
                write_baseline(path, self._baseline_means())
        return baseline_f1(path, self._source.layer)

    def _baseline_means(self) -> list[list[float]]:
        """Return the mean P, R and F1 of unrelated pairs at every layer.

        The procedure is the one of the library's authors, on our own sentences.
        """
        candidates, references = zip(*baseline_pairs(), strict=True)
        scores = self._encoder.raw_scores(candidates, references, all_layers=True, progress=self._progress)
        means: list[list[float]] = scores.double().mean(dim=1).tolist()
        return means


@lru_cache(maxsize=2)
def _load(source: Source, device: str, cache_dir: Path) -> Encoder:
    from mlecs_bench.metrics.bertscore.encoder import Encoder

    store = EmbeddingStore(store_path(cache_dir, source.identity, device))
    return Encoder(source.folder, source.layer, device, store)
