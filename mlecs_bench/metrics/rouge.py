"""Rouge-L and Rouge-LSum (Lin, 2004) of the library rouge-score, with words of any script.

rouge-score's own tokenizer knows nothing but a-z and 0-9: of two equal Chinese texts it finds no word, and scores 0.
It is used where all words of a dataset's targets are ASCII; for others the words are those of `metrics.words`, which
are the same in ASCII texts. Words are stemmed where the targets are English.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from statistics import fmean
from typing import Any, Literal

from mlecs_bench.data.writing import Writing
from mlecs_bench.doors.hookspecs import MetricInfo, MetricRequest, hookimpl
from mlecs_bench.doors.scoring import FunctionScorer, Metric, check_pairs
from mlecs_bench.metrics import words
from mlecs_bench.metrics.sentences import RULES, sentences

NAME = "rouge_lsum"
Sentences = Literal["newline", "split", "none"]
"""What a sentence is: a line, what `metrics.sentences` cuts, or the whole text (then Rouge-LSum is Rouge-L)."""
KINDS: dict[Sentences, str] = {"newline": "rougeLsum", "split": "rougeLsum", "none": "rougeL"}


@dataclass(frozen=True)
class Reading:
    """How Rouge reads texts: which words it finds, whether it stems them, what a sentence is.

    Stemming moves the score by up to 0.014. Texts are passed as they are: with "newline" a text without line breaks is
    one sentence, for which Rouge-LSum is Rouge-L.
    """

    unicode: bool = False
    stems: bool = True
    sentences: Sentences = "newline"

    @classmethod
    def of(cls, writing: Writing, sentences: Sentences) -> Reading:
        """Return the reading that suits texts."""
        return cls(not writing.ascii_words, writing.english, sentences)

    @property
    def identity(self) -> str:
        """The library with its version and how it is called."""
        version, stemmer = importlib.metadata.version("rouge-score"), "stemmer" if self.stems else "no stemmer"
        parts = [f"rouge-score=={version} {KINDS[self.sentences]} F1 {stemmer}"]
        parts += [f"{words.RULES}; {words.VERSION}"] if self.unicode else []
        return ", ".join([*parts, *([RULES] if self.sentences == "split" else [])])

    def sees(self, text: str) -> bool:
        """Return whether there is a word in a text."""
        return words.has_words(text) if self.unicode else re.search("[a-z0-9]", text.lower()) is not None


def rouge(predictions: Sequence[str], references: Sequence[str], name: str, reading: Reading) -> Metric:
    """Return the mean Rouge F1 of `rouge-score`.

    The library takes a line as a sentence and matches every reference sentence with the union of the prediction's.
    An empty prediction scores 0. Raises DataError without samples.
    """
    check_pairs(predictions, references, name)
    values = rouge_of_each(predictions, references, reading)
    return Metric(fmean(values), len(values), unseen=words.unseen(references, reading.sees))


def rouge_of_each(predictions: Sequence[str], references: Sequence[str], reading: Reading) -> list[float]:
    """Return the Rouge F1 of every pair."""
    text = _lines if reading.sentences == "split" else str
    pairs = zip(map(text, predictions), map(text, references), strict=True)
    kind = KINDS[reading.sentences]
    return [_f1(kind, reading.unicode, reading.stems, reference, prediction) for prediction, reference in pairs]


def _lines(text: str) -> str:
    return "\n".join(sentences(text))


@lru_cache(maxsize=1 << 12)
def _f1(kind: str, unicode: bool, stems: bool, reference: str, prediction: str) -> float:
    """Return the F1 of one pair; texts of one sentence are scored once for several metrics of this library."""
    return float(_rouge_scorer(kind, unicode, stems).score(reference, prediction)[kind].fmeasure)


@cache
def _rouge_scorer(kind: str, unicode: bool, stems: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], tokenizer=_Tokenizer(unicode=unicode, stems=stems))


class _Tokenizer:
    """rouge-score's own words or those of any script, with its own stemmer, which takes most of the time.

    A word is stemmed once.
    """

    def __init__(self, *, unicode: bool, stems: bool) -> None:
        self._unicode = unicode
        self._stemmer = self if stems else None
        self.stem: Callable[[str], str] = lru_cache(maxsize=1 << 16)(_porter_stem)

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of `text`, as `RougeScorer(use_stemmer=…)` makes them where its words are ASCII."""
        from rouge_score.tokenize import tokenize

        if not self._unicode or text.isascii():
            tokens: list[str] = tokenize(text, self._stemmer)
            return tokens
        found = words.words(text)
        if self._stemmer is None:
            return found
        return [self.stem(word) if word.isascii() and len(word) > 3 else word for word in found]


def _porter_stem(word: str) -> str:
    return str(_porter().stem(word))


@cache
def _porter() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


@dataclass(frozen=True)
class RougePlugin:
    """Rouge with one notion of a sentence, as an entry point names it."""

    name: str
    title: str
    summary: str
    sentences: Sentences
    reading: str
    real_texts: bool = False

    @hookimpl
    def mlecs_metric(self) -> MetricInfo:
        """Return the metric."""
        return MetricInfo(
            title=self.title,
            summary=self.summary,
            make=self._make,
            per="sample",
            range=(0.0, 1.0),
            real_texts=self.real_texts,
            reading=self.reading,
        )

    def _make(self, request: MetricRequest) -> FunctionScorer:
        reading = Reading.of(request.writing, self.sentences)

        def score(predictions: Sequence[str], references: Sequence[str]) -> Metric:
            return rouge(predictions, references, self.name, reading)

        def each(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
            return rouge_of_each(predictions, references, reading)

        return FunctionScorer(self.name, reading.identity, score, each)


BY_LINE = RougePlugin(
    NAME,
    "Rouge-LSum F1",
    "longest common subsequences of stemmed words, line by line; rouge-score",
    "newline",
    "sentences: a line is one (newline)",
)
BY_SENTENCE = RougePlugin(
    "rouge_lsum_sentences",
    "Rouge-LSum F1, sentence by sentence",
    "Rouge-LSum of texts cut into sentences at their punctuation; of one sentence it is rouge_lsum",
    "split",
    "sentences: cut at punctuation (split)",
    real_texts=True,
)
WHOLE = RougePlugin(
    "rouge_l",
    "Rouge-L F1",
    "the longest common subsequence of stemmed words of whole texts; rouge-score",
    "none",
    "sentences: the whole text is one (none)",
)
