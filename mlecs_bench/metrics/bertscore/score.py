"""The rescaled F1 of pairs of texts: what a record calls bertscore."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlecs_bench.metrics.bertscore.baseline import baseline_f1, baseline_pairs, write_baseline
from mlecs_bench.metrics.bertscore.source import Source, find_source

if TYPE_CHECKING:
    from mlecs_bench.metrics.bertscore.encoder import Encoder

MAX_KNOWN_PAIRS = 50_000
"""Scored pairs that a process remembers, so that equal answers are scored once; some 20 MB."""


def open_bertscore(cache_dir: Path, model: str | None = None, device: str = "cpu") -> BertScore | None:
    """Return BERTScore on `model`; None for "none", and for the packaged model when it is not installed.

    `model` is None or "packaged", "none", a folder or a hub id, `device` a torch device. No model is loaded yet, but a
    hub id is fetched where it is not in the hub's cache. Raises UsageError for a model that cannot be used.
    """
    source = find_source(model)
    return None if source is None else BertScore(source, cache_dir, device)


def check_bertscore(model: str | None) -> None:
    """Raise UsageError, before anything is trained, unless the files of `model` are there; a hub id is fetched."""
    find_source(model)


class BertScore:
    """F1 of BERTScore on one model, rescaled with a baseline: unrelated sentences score 0, equal ones 1.

    The baseline is the library's own where it ships one for a hub id; else it is computed once and kept in
    `cache_dir`. The model is loaded at the first score.
    """

    def __init__(self, source: Source, cache_dir: Path, device: str = "cpu") -> None:
        self._source = source
        self._cache_dir = cache_dir
        self._device = device

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
        encoder = self._encoder
        if len(encoder.known) > MAX_KNOWN_PAIRS:
            encoder.known.clear()
        new = [pair for pair in dict.fromkeys(pairs) if pair not in encoder.known]
        spoken = [pair for pair in new if all(map(encoder.has_tokens, pair))]
        scores = dict.fromkeys(new, 0.0)
        if spoken:
            candidates, targets = zip(*spoken, strict=True)
            scores.update(zip(spoken, encoder.raw_scores(candidates, targets)[:, 2].tolist(), strict=True))
        encoder.known.update(scores)
        raw = torch.tensor([encoder.known[pair] for pair in pairs], dtype=torch.float32)
        # In single precision, as the library rescales.
        zero = torch.tensor(self._baseline, dtype=torch.float32)
        values: list[float] = ((raw - zero) / (1 - zero)).tolist()
        return values

    def sees(self, text: str) -> bool:
        """Return whether the model's vocabulary knows anything in `text`."""
        return self._encoder.sees(text)

    @property
    def _encoder(self) -> Encoder:
        return _load(self._source, self._device)

    @cached_property
    def _baseline(self) -> float:
        """The mean raw F1 of unrelated sentences, computed where the library ships none and the cache has none."""
        path = self._source.baseline
        if path is None:
            name = hashlib.sha256(self.identity.encode()).hexdigest()[:16]
            path = self._cache_dir / f"bertscore-baseline-{name}.tsv"
            if not path.is_file():
                write_baseline(path, _baseline_means(self._encoder))
        return baseline_f1(path, self._source.layer)


def _baseline_means(encoder: Encoder) -> list[list[float]]:
    """Return the mean P, R and F1 of unrelated pairs at every layer.

    The procedure is the one of the library's authors, on our own sentences.
    """
    candidates, references = zip(*baseline_pairs(), strict=True)
    means: list[list[float]] = encoder.raw_scores(candidates, references, all_layers=True).double().mean(dim=1).tolist()
    return means


@lru_cache(maxsize=2)
def _load(source: Source, device: str) -> Encoder:
    from mlecs_bench.metrics.bertscore.encoder import Encoder

    return Encoder(source.folder, source.layer, device)
