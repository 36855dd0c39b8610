"""Trivial references: what answers made without a model score on the test samples that the algorithms are scored on.

A dataset names text columns of its prepared table to copy (`DatasetInfo.references`); for every dataset the harness
adds the most frequent target of the party's own training samples. References ignore modality masks, because they are a
property of the test samples: a device without subtitles is compared with what copying them would give, too.

They are the same for every algorithm, rate and number of rounds of a seed, and some scorers are slow. So they are kept
in the cache under a hash of all texts and settings that decide them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.errors import PluginError, RecordError
from mlecs_bench.files import write_text
from mlecs_bench.records.results import canonical_json

if TYPE_CHECKING:
    from mlecs_bench.data.partition import Part
    from mlecs_bench.data.samples import Samples, Task
    from mlecs_bench.doors.hookspecs import DatasetInfo
    from mlecs_bench.federation.evaluation import Evaluator

SERVER = "server"
MOST_FREQUENT: Mapping[Task, str] = {"generation": "most-frequent", "classification": "majority"}
"""What the reference of the harness is called, by task."""
CACHE_FOLDER = "references"

Answers = dict[str, dict[str, list[str]]]
Scores = dict[str, Any]


def reference_scores(
    info: DatasetInfo, samples: Samples, parts: Mapping[str, Part], evaluator: Evaluator, cache_dir: Path
) -> Scores:
    """Return the references' scores as `metrics.references` of a record holds them.

    {reference: {"client": {metric: {device: score}}, "server": {metric: score}}} for the parties of `parts`, which
    maps the id of every device, and "server", to its rows. Scored by `evaluator`, so on as many samples as a model is;
    taken from `cache_dir` where they have been computed before. Raises PluginError for a column that holds no texts.
    """
    answers = reference_answers(info, samples, parts)
    targets = {party: [samples.targets[row] for row in part.test] for party, part in parts.items()}
    several = _references(samples, parts)
    texts = {"targets": targets} | ({"texts": several} if samples.references is not None else {})
    key = _sha256({"answers": answers, **texts, **evaluator.settings})
    path = cache_dir / CACHE_FOLDER / f"{key}.json"
    scores = _load(path)
    if scores is None:
        scores = {name: _scored(by_party, targets, several, evaluator) for name, by_party in answers.items()}
        _save(path, scores)
    return scores


def reference_answers(info: DatasetInfo, samples: Samples, parts: Mapping[str, Part]) -> Answers:
    """Return reference → party → its answers to the party's test samples, in their order; an absent text is ""."""
    columns = {name: _texts(info, samples, name) for name, column in info.references.items() if _has(samples, column)}
    answers = {
        name: {party: [texts[row] for row in part.test] for party, part in parts.items()}
        for name, texts in columns.items()
    }
    constant = {party: most_frequent([samples.targets[row] for row in part.train]) for party, part in parts.items()}
    own = {party: [constant[party]] * len(part.test) for party, part in parts.items()}
    return answers | {MOST_FREQUENT[samples.manifest.task]: own}


def most_frequent(targets: Sequence[str]) -> str:
    """Return the most frequent of `targets`; of several the first in alphabetical order."""
    counts = Counter(targets)
    return min(counts, key=lambda target: (-counts[target], target))


def _has(samples: Samples, column: str) -> bool:
    return column in samples.column_names


def _texts(info: DatasetInfo, samples: Samples, name: str) -> list[str]:
    column = info.references[name]
    texts = ["" if text is None else text for text in samples.column(column)]
    stranger = next((text for text in texts if not isinstance(text, str)), None)
    if stranger is not None:
        raise PluginError(
            f"reference '{name}' copies column '{column}', which holds a {type(stranger).__name__}; store texts there"
        )
    return texts


def _references(samples: Samples, parts: Mapping[str, Part]) -> dict[str, list[tuple[str, ...]] | None]:
    """Return all texts that are right for the parties' test samples; None where there are but targets."""
    texts = samples.references
    return {party: None if texts is None else [texts[row] for row in part.test] for party, part in parts.items()}


def _scored(
    answers: Mapping[str, list[str]],
    targets: Mapping[str, list[str]],
    references: Mapping[str, list[tuple[str, ...]] | None],
    evaluator: Evaluator,
) -> Scores:
    """Return one reference's scores by metric: of the devices by their id, and of the server."""
    client: dict[str, dict[str, Any]] = {}
    server: dict[str, Any] = {}
    for party in answers:
        for metric, score in evaluator.score_texts(answers[party], targets[party], references[party]).items():
            if party == SERVER:
                server[metric] = score.to_json()
            else:
                client.setdefault(metric, {})[party] = score.to_json()
    return {"client": client, "server": server}


def _load(path: Path) -> Scores | None:
    """Return the scores in a file of the cache, or None when it is not there or damaged."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        scores: Scores = kept["scores"]
        whole = kept["sha256"] == _sha256(scores)
    except (OSError, ValueError, TypeError, KeyError, RecordError):
        return None
    return scores if whole else None


def _save(path: Path, scores: Scores) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"sha256": _sha256(scores), "scores": scores}, allow_nan=False, indent=1) + "\n")


def _sha256(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
