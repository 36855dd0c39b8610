"""BERTScore (Zhang et al., 2020): an adapter around bert-score 0.3.13.

Modules, each importing only from those before it: `baseline` (the zero of the rescaled score), `source` (which model,
layer and baseline, without loading anything), `encoder` (model and tokenizer, and the library's raw scores), `score`
(the rescaled F1 of pairs) and `plugin` (the metric as its entry point names it).
"""

from mlecs_bench.metrics.bertscore.baseline import baseline_pairs
from mlecs_bench.metrics.bertscore.score import BertScore, check_bertscore, open_bertscore
from mlecs_bench.metrics.bertscore.source import packaged_model

__all__ = ["BertScore", "baseline_pairs", "check_bertscore", "open_bertscore", "packaged_model"]
