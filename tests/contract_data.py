"""A correct minimal dataset, and for each check one that breaks it."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from contract_toys import Unexplained
from mlecs_bench.api import DataError, DataRequest, DatasetInfo, Metric, Prepared, open_prepared, option, save_prepared
from mlecs_bench.data.samples import MANIFEST_FILE
from mlecs_bench.testing import toy

N = 64
Columns = dict[str, Any]
COUNTER = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Options:
    gaps: bool = option(True, help="Do samples lack their audio?", source="ours")


def made(
    change: Callable[[Columns], Columns] = lambda columns: columns, *, afresh: bool = False, **manifest: Any
) -> Callable[[DataRequest], Prepared]:
    """Return what prepares the toy dataset with other columns or fields of the manifest."""

    def prepare(request: DataRequest) -> Prepared:
        if request.data_dir is not None:
            raise DataError(f"toy has no files, and cannot read {request.data_dir}; leave --data-dir out")
        folder = request.cache_dir / "toy"
        ready = open_prepared(folder)
        if ready is not None and afresh:
            (folder / MANIFEST_FILE).write_text(json.dumps(ready.manifest.to_json()))
        table = toy.make_table(change(toy.make_columns(N, getattr(request.options, "gaps", True))))
        return ready or save_prepared(table, dataclasses.replace(toy.make_manifest(N), **manifest), folder)

    return prepare


def reading(raised: Exception | None) -> Callable[[DataRequest], Prepared]:
    """Return what prepares the toy dataset, and meets a user's folder with an error or not at all."""

    def prepare(request: DataRequest) -> Prepared:
        if request.data_dir is not None and raised is not None:
            raise raised
        return made()(dataclasses.replace(request, data_dir=None))

    return prepare


def elsewhere(request: DataRequest) -> Prepared:
    return made()(dataclasses.replace(request, cache_dir=toy.process_folder() / "elsewhere"))


CARD = DatasetInfo(
    title="Toy data",
    summary="two words to be named",
    task="generation",
    modalities=toy.NAMES,
    prepare=made(),
    metrics=("rouge_lsum",),
    options=Options,
    splits=("frame", "sequence"),
    where_to_get="made on the spot",
    check=lambda folder: [f"{folder}: nothing is ever found"],
    references={"copy-group": "group", "copy-title": "title"},  # its table has no titles
)


def card(**changes: Any) -> DatasetInfo:
    return dataclasses.replace(CARD, **changes)


def with_column(name: str, change: Callable[[Any], Any]) -> Callable[[Columns], Columns]:
    return lambda columns: {**columns, name: change(columns[name])}


def without_audio(columns: Columns) -> Columns:
    return {**columns, "has_audio": np.zeros(N, bool)}


def louder_each_time(columns: Columns) -> Columns:
    return {**columns, "audio": columns["audio"] + np.float32(next(COUNTER))}


def to_nan(values: np.ndarray) -> np.ndarray:
    return values * np.float32("nan")


def diagnose(rows: Any, predictions: Any) -> dict[str, Metric]:
    return {"depth": Metric(float("nan"), len(predictions))}


LABELS = {"task": "classification", "labels": ("loud", "quiet")}
IMAGE = tuple(dataclasses.replace(m, encoding="image") if m.name == "video" else m for m in toy.MODALITIES)

BROKEN: dict[str, tuple[DatasetInfo, str]] = {
    "card": (card(where_to_get=""), "the card needs its 'where_to_get'"),
    "options": (card(options=Unexplained), "'rate' lacks help"),
    "stand-in": (card(prepare=made(synthetic=False)), "does not say synthetic"),
    "metrics": (card(metrics=("rouge",)), "no metric 'rouge'. Did you mean 'rouge_l'?"),
    "manifest": (card(prepare=made(digest="1.0")), "the digest is a sha256, but it is '1.0'"),
    "columns": (card(diagnostic_columns=("place",), diagnose=lambda *_: {}), "'place' is missing"),
    "references": (card(references={"copy-audio": "has_audio"}), "'has_audio' is bool and not string"),
    "samples": (card(prepare=made(with_column("id", lambda ids: [*ids[1:], ids[1]]))), "'s1' stands for 2 samples"),
    "values": (card(prepare=made(without_audio)), "'audio' is in none"),
    "same-elsewhere": (card(prepare=made(louder_each_time)), "column 'audio' differs"),
    "cached": (card(prepare=made(afresh=True)), "manifest.json was written again"),
    "splits": (card(prepare=made(with_column("group", lambda names: ["one"] * N))), "the split 'sequence' serves 3"),
    "bad-folders": (card(prepare=reading(None)), "a data folder that is missing is refused in one line, but"),
    "federated-round": (card(prepare=made(modalities=IMAGE)), "is encoded as image, which needs 3 axes"),
}
"""Check → the card of a dataset that breaks it, and what its reason says."""

BROKEN_OTHERWISE: list[tuple[str, DatasetInfo, str]] = [
    ("card", card(modalities=()), "name at least one"),
    ("card", card(modalities=("video", "text", "audio")), "sort them"),
    ("card", card(metrics="rouge_lsum"), "'metrics' of the card is a tuple of texts"),
    ("card", card(splits=("random",)), "the card names 'random'"),
    ("card", card(diagnostic_columns=("id",)), "give both or neither"),
    ("references", card(references={"majority": "group"}), "'majority' is one of mlecs-bench's"),
    ("references", card(references=("group",)), "they are ('group',)"),
    ("references", card(references={"copy-group": ""}), "the card needs its 'references['copy-group']' in one line"),
    ("stand-in", card(prepare=elsewhere), "save it below cache_dir"),
    ("stand-in", card(prepare=lambda _: None), "it gave NoneType"),
    ("metrics", card(metrics=("f1_macro",)), "f1_macro needs labels"),
    ("manifest", card(prepare=made(n_samples=N + 1)), "'n_samples' is 65 there and 64"),
    ("manifest", card(modalities=("audio", "text")), "'modalities' is ('audio', 'text', 'video') there"),
    ("manifest", card(prepare=made(name="Toy")), "'name' is 'Toy' there and 'toy'"),
    ("manifest", card(prepare=made(prompt="")), "the card needs its 'prompt'"),
    ("manifest", card(prepare=made(labels=("loud",))), "a classification has labels"),
    ("manifest", card(prepare=made(max_new_tokens=0)), "max_new_tokens is 0"),
    ("samples", card(prepare=made(with_column("target", lambda texts: ["", *texts[1:]]))), "that of row 0 is empty"),
    ("samples", card(task="classification", prepare=made(**LABELS)), "is none of ('loud', 'quiet')"),
    (
        "samples",
        card(task="classification", prepare=made(with_column("target", lambda _: ["loud"] * N), **LABELS)),
        "'quiet' has none",
    ),
    ("values", card(prepare=made(with_column("video", to_nan))), "'video' holds NaN"),
    ("values", card(prepare=made(with_column("text", lambda ids: ids - 9))), "'text' holds -8"),
    ("bad-folders", card(prepare=reading(FileNotFoundError("labels.csv"))), "raised FileNotFoundError: labels.csv"),
    ("bad-folders", card(prepare=reading(DataError("two\nlines"))), "has several lines"),
    ("bad-folders", card(check=lambda _: []), "it named nothing"),
    ("federated-round", card(diagnostic_columns=("id",), diagnose=diagnose), "depth of d00 is nan"),
]
"""More ways to break a check."""
