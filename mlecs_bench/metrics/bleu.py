"""Corpus BLEU (Papineni et al., 2002) of the library sacrebleu."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence

from mlecs_bench.data.writing import Writing
from mlecs_bench.doors.hookspecs import MetricInfo, MetricRequest, hookimpl
from mlecs_bench.doors.scoring import FunctionScorer, Metric, check_pairs
from mlecs_bench.errors import UsageError

NAME = "bleu"
CHARACTERS = frozenset({"Hiragana", "Katakana", "Bopomofo", "Yi", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan"})
"""Scripts without spaces for which sacrebleu has no tokenizer that needs no further package: characters are tokens."""


def tokenizer_of(writing: Writing) -> str:
    """Return which of sacrebleu's tokenizers suits texts: `zh` for Chinese, `char` for `CHARACTERS`, else `13a`."""
    scripts = frozenset(writing.scripts)
    if scripts & CHARACTERS:
        return "char"
    return "zh" if "Han" in scripts else "13a"


def bleu(predictions: Sequence[str], references: Sequence[str], tokenizer: str = "13a") -> Metric:
    """Return BLEU of all answers together as a fraction, with sacrebleu's smoothing (exp).

    n-grams of orders that no answer is long enough for are left out, so that answers of three words do not score 0
    whatever they say; where any answer has four words this is the usual BLEU-4. Raises DataError without samples.
    """
    from sacrebleu.metrics import BLEU

    check_pairs(predictions, references, NAME)
    library = BLEU(tokenize=tokenizer, effective_order=True)
    # One text a sample: a line break inside would be taken for the end of it by tools that read files.
    score = library.corpus_score(
        [" ".join(p.split()) for p in predictions], [[" ".join(r.split()) for r in references]]
    )
    return Metric(min(1.0, score.score / 100), len(references))


def _check(_request: MetricRequest) -> None:
    if importlib.util.find_spec("sacrebleu") is None:
        raise UsageError(f"{NAME} needs sacrebleu: pip install 'mlecs-bench[metrics]'")


def _make(request: MetricRequest) -> FunctionScorer:
    _check(request)
    tokenizer = tokenizer_of(request.writing)

    def score(predictions: Sequence[str], references: Sequence[str]) -> Metric:
        return bleu(predictions, references, tokenizer)

    version = importlib.metadata.version("sacrebleu")
    return FunctionScorer(
        NAME, f"sacrebleu=={version} BLEU tok:{tokenizer} case:mixed eff:yes smooth:exp, as a fraction", score
    )


@hookimpl
def mlecs_metric() -> MetricInfo:
    """Return the metric."""
    return MetricInfo(
        title="BLEU",
        summary="precision of n-grams of all answers together, with a brevity penalty; sacrebleu, as a fraction",
        make=_make,
        check=_check,
        per="corpus",
        range=(0.0, 1.0),
    )
