"""VAST: video clips with sound and subtitles, to be summarised.

With a data folder it reads the user's annotations and media; without one it generates a stand-in of the same shape.
"""

from __future__ import annotations

from pathlib import Path

from mlecs_bench.api import DataRequest, DatasetInfo, Prepared, Verification, hookimpl
from mlecs_plugins.datasets.vast.card import PAGE, VastOptions
from mlecs_plugins.datasets.vast.copies import REFERENCES
from mlecs_plugins.datasets.vast.diagnose import SLOT_COLUMNS, slot_scores


def prepare(request: DataRequest) -> Prepared:
    """Return the prepared dataset of `request` (NumPy and Arrow are imported here, not by `mlecs-bench list`)."""
    from mlecs_plugins.datasets.vast.preparation import prepare as prepare_samples

    return prepare_samples(request)


def check(data_dir: Path) -> list[str]:
    """Return what is missing from `data_dir`, without reading what is there."""
    from mlecs_plugins.datasets.vast.folder import missing_files

    return missing_files(data_dir)


def verify(request: DataRequest) -> Verification:
    """Return what the user's files hold, lack and where they are damaged."""
    from mlecs_plugins.datasets.vast.preparation import verify as verify_files

    return verify_files(request)


@hookimpl
def mlecs_dataset() -> DatasetInfo:
    """Return the card of the dataset."""
    return DatasetInfo(
        title="VAST clips",
        summary="Summarise a clip from its frames, its sound and its subtitle, or from captions of them.",
        task="generation",
        modalities=("audio", "subtitle", "vision"),
        prepare=prepare,
        check=check,
        verify=verify,
        metrics=("rouge_lsum", "bertscore", "rouge_lsum_sentences"),
        options=VastOptions,
        splits=("frame", "sequence"),
        diagnostic_columns=SLOT_COLUMNS,
        diagnose=slot_scores,
        references=REFERENCES,
        redistributable=False,  # captions and clips of VAST belong to their uploaders
        where_to_get=(
            f"{PAGE} (annotations of VAST-27M, research use): a JSON list or JSON lines, and, if you have them, "
            "CLIP.mp4 and CLIP.mp3 of each clip"
        ),
        notes=(
            "Without a data folder 9,680 clips are generated: 8 facts each, of which vision shows 5, audio 4 and "
            "subtitle 6. Six of the eight are shown by two or three modalities, and in every clip a modality leaves "
            "out or garbles some of its own, each others. slots_one, slots_two, slots_three: the share of the facts "
            "that so many modalities show which the summary names; slots_all: of all facts.",
            "With a data folder: the view media reads frames and sound, and leaves out clips without any media file; "
            "the view captions puts the annotators' captions in place of pictures and sound, and is named in every "
            "table.",
            "The target is vast_cap, else caption, else desc; of a list the first that is not empty is trained on, and "
            "Rouge, BERTScore and other scores of single samples take the one that suits an answer best. clip_id may "
            "also be called video_id. Captions of a list are read together. Texts are lower-case words hashed to 2,047 "
            "ids.",
            "MSR-VTT's own file (videos and sentences) is read, too, and files of lines may be compressed (.gz). "
            "Media are found by their names in any subfolder: CLIP.mp4, .m4v, .mp3, .jpg and their like, or a folder "
            "CLIP of frames; a clip_id may itself have a suffix. Video is turned upright.",
            "Media and annotations are read from .zip, .tar, .tar.gz and .tgz, too, also from shards such as "
            "00000.tar: samples and digest are those of loose files. Links in archives and names that lead out are not "
            "read.",
            "features=towers puts frozen encoders of your own in front of frames, sound and texts; embeddings are "
            "standardised by the public training samples.",
            "A field that is absent, null, NaN or empty, and a file that is absent or damaged, is a modality that the "
            "sample lacks. The manifest counts them.",
            "Tables show what copying the subtitle scores (copy-subtitle) and, where there are captions, copying "
            "vision_cap, audio_cap and subtitle, in this order (copy-all).",
            "--split sequence keeps the clips of one video at one party, by the names VIDEO.N (VAST) and "
            "VIDEO_START_END (VALOR) with an 11-character VIDEO; any other name is a video of its own.",
        ),
    )
