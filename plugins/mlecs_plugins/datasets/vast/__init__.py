"""The dataset plugin `vast`: video clips with sound and subtitles, to be summarised."""

from __future__ import annotations

from mlecs_bench.api import DataError, DataRequest, DatasetInfo, Prepared, hookimpl

from .diagnose import SLOT_COLUMNS, slot_scores


def prepare(request: DataRequest) -> Prepared:
    """Return the prepared synthetic clips; raises DataError when the user gives files of their own."""
    from .synthetic import prepare_synthetic

    if request.data_dir is not None:
        raise DataError(
            f"vast cannot read {request.data_dir}: the reader of the official annotations is not part of this "
            "version; run without --data-dir for the synthetic stand-in"
        )
    return prepare_synthetic(request)


@hookimpl
def mlecs_dataset() -> DatasetInfo:
    """Return the card of the dataset."""
    return DatasetInfo(
        title="VAST (synthetic stand-in)",
        summary="Summarise a clip from its frames, its spectrogram and its subtitle; each modality shows some facts.",
        task="generation",
        modalities=("audio", "subtitle", "vision"),
        prepare=prepare,
        metrics=("rouge_lsum", "bertscore"),
        splits=("frame",),
        diagnostic_columns=SLOT_COLUMNS,
        diagnose=slot_scores,
        where_to_get="generated on first use; the reader of the official annotations is not part of this version",
        notes=(
            "9,680 generated clips: 8 facts each, of which vision shows 4, audio 3 and subtitle 3 (place and voice "
            "are shown by two modalities each).",
            "slots_* = share of the facts of one source that the summary names.",
        ),
    )
