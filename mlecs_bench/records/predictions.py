"""Predictions: what every party answered to its test samples, as Parquet beside the record, bound to it.

One row is one answer: of a device at the evaluation point "local" or "received", or of the server. A row holds the key
of the record and a digest of the record's scores, so that answers of another run are never taken for those of this one.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.errors import RecordError
from mlecs_bench.files import write_bytes
from mlecs_bench.records.results import canonical_json

if TYPE_CHECKING:
    import pandas as pd

SUFFIX = ".predictions.parquet"
SCORE = "score/"
"""What a column of a score begins with; the rest is the metric's name."""
TEXTS = ("key", "metrics", "eval_point", "device", "sample", "prompt", "answer", "target")
"""The columns of texts, in their order; `sample` is the id in the dataset, `metrics` the digest of the scores."""
HELD = "held"
"""The column of the modalities that the party read of the sample."""


def predictions_path(record: Path) -> Path:
    """Return where the answers behind a record lie, or would."""
    return record.with_name(record.name.removesuffix(".json") + SUFFIX)


def metrics_digest(record: Mapping[str, Any]) -> str:
    """Return what tells the scores of one run from those of another: the sha256 of a record's metrics."""
    return hashlib.sha256(canonical_json(record["metrics"]).encode()).hexdigest()


def write_predictions(path: Path, rows: Mapping[str, Sequence[Any]]) -> None:
    """Write rows, given by column, in one step, replacing what was there; scores may lack (None)."""
    import datasets

    scores = [name for name in rows if name.startswith(SCORE)]
    columns = {
        **{name: datasets.Value("string") for name in TEXTS},
        HELD: datasets.List(datasets.Value("string")),
        **{name: datasets.Value("float64") for name in scores},
    }
    datasets.disable_progress_bars()
    table = datasets.Dataset.from_dict({name: list(rows[name]) for name in columns}, datasets.Features(columns))
    content = io.BytesIO()
    table.to_parquet(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content.getvalue())


def has_predictions(record: Path) -> bool:
    """Say whether there are answers beside a record."""
    return predictions_path(record).is_file()


def read_predictions(path: Path, record: Mapping[str, Any]) -> pd.DataFrame:
    """Return the answers behind the record whose file is `path`, a row each, with the columns of the file.

    Raises RecordError when there are none, or none of this record.
    """
    import pandas as pd

    file = predictions_path(path)
    if not file.is_file():
        raise RecordError(f"{path.name} has no answers beside it; {how_to_get(path)}")
    try:
        frame = pd.read_parquet(file)
        bound = set(zip(frame["key"], frame["metrics"], strict=True))
    except (OSError, ValueError, KeyError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise RecordError(f"{file} cannot be read ({cause}); delete it") from error
    if bound != {(record["key"], metrics_digest(record))}:
        raise RecordError(f"{file} holds the answers of another run than {path.name}; delete it")
    return frame


def how_to_get(path: Path) -> str:
    """Return what to do for the answers behind a record that has none."""
    return f"run the same with --save-predictions into another --out, or again after deleting {path.name}"


def score_columns(frame: pd.DataFrame) -> list[str]:
    """Return the metrics of single samples that a table of answers has."""
    return [name.removeprefix(SCORE) for name in frame.columns if name.startswith(SCORE)]
