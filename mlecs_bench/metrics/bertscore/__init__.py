"""BERTScore (Zhang et al., 2020): an adapter around bert-score 0.3.13.

Modules, each importing only from those before it: `baseline` (the zero of the rescaled score), `packaged` (the model
where none is named), `source` (which model, layer and baseline, without loading anything), `store` (embeddings on
disk), `encoder` (model and tokenizer, and the library's raw scores), `score` (the rescaled F1 of pairs) and `plugin`
(the metric as its entry point names it).
"""

from mlecs_bench.metrics.bertscore.baseline import baseline_pairs
from mlecs_bench.metrics.bertscore.packaged import packaged_model
from mlecs_bench.metrics.bertscore.score import BertScore, check_bertscore, open_bertscore

__all__ = ["BertScore", "baseline_pairs", "check_bertscore", "open_bertscore", "packaged_model"]
