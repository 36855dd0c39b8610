"""Datasets without a plugin of their own: a table, and a manifest that says which of its columns are what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlecs_bench.api import DataRequest, DatasetInfo, Metric, Prepared, Verification, hookimpl, recall_by_label
from mlecs_plugins.datasets.jsonl.card import JsonlOptions

METRICS = {"classification": ("f1_macro", "f1_weighted"), "generation": ("rouge_lsum", "bertscore")}


def prepare(request: DataRequest) -> Prepared:
    """Return the prepared dataset of `request` (NumPy and Arrow are imported here, not by `mlecs-bench list`)."""
    from mlecs_plugins.datasets.jsonl.preparation import prepare as prepare_samples

    return prepare_samples(request)


def check(data_dir: Path) -> list[str]:
    """Return what is missing from `data_dir`, without reading the table."""
    from mlecs_plugins.datasets.jsonl.preparation import missing_files

    return missing_files(data_dir)


def verify(request: DataRequest) -> Verification:
    """Return what the user's table and files hold, lack and where they are damaged."""
    from mlecs_plugins.datasets.jsonl.preparation import verify as verify_files

    return verify_files(request)


def for_data(data_dir: Path, options: Any) -> DatasetInfo:
    """Return the card as the manifest in `data_dir` makes it: its task and modalities."""
    from mlecs_plugins.datasets.jsonl.layout import read_layout

    layout = read_layout(data_dir, options.manifest)
    names = tuple(source.name for source in layout.modalities)
    return replace(INFO, title=layout.title, task=layout.task, modalities=names, metrics=METRICS[layout.task])


def diagnose(columns: Mapping[str, Sequence[Any]], predictions: Sequence[str]) -> dict[str, Metric]:
    """Return the recall of every class; a table of free texts has no such column."""
    return recall_by_label(columns["label"], predictions)


INFO = DatasetInfo(
    title="A table of your own",
    summary="JSON lines, CSV or Parquet with a manifest that says which columns are modalities and which is the target",
    task="classification",
    modalities=("note", "reading"),
    prepare=prepare,
    check=check,
    verify=verify,
    metrics=METRICS["classification"],
    options=JsonlOptions,
    splits=("frame", "sequence"),
    diagnostic_columns=("label",),
    diagnose=diagnose,
    references={"copy-texts": "texts"},
    redistributable=False,  # whose data it is only the user knows
    where_to_get="your own: a table and dataset.yaml in a folder, as docs/own-data.md shows",
    notes=(
        "The manifest decides task, modalities, labels and prompt; those named here are the stand-in's.",
        "A field that is absent, null, NaN or blank is a modality that the sample lacks; so is an array that lacks one "
        "of its numbers, and a media file that cannot be decoded. The prepared data count them.",
        "Of a list of targets the first that is not blank is trained on; Rouge, BERTScore and other scores of single "
        "samples take the one that suits an answer best.",
        "Texts are lower-case words hashed to 2,047 ids; pictures, frames and sound become small inputs as in vast; "
        "arrays are standardised by the public training samples unless the manifest says otherwise.",
        "Files that the table names lie inside the data folder. In Parquet they may be cells of the table: bytes, or "
        "the bytes and path of Hugging Face's Image and Audio.",
        "features=towers puts frozen encoders of your own in front of texts, pictures, sound and videos; arrays stay "
        "what they are.",
        "Without a data folder 600 samples are generated: they test the harness and say nothing about anything.",
    ),
    for_data=for_data,
)


@hookimpl
def mlecs_dataset() -> DatasetInfo:
    """Return the card of the dataset."""
    return INFO
