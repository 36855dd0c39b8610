"""Scores of saved models on prepared data, as runs score them and without any training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.data.samples import Modality, PartyData, Samples, Sight
from mlecs_bench.doors.hookspecs import MetricRequest
from mlecs_bench.errors import RecordError, UsageError
from mlecs_bench.execution.kept import scores_of
from mlecs_bench.federation.evaluation import Evaluator, spread
from mlecs_bench.federation.processes import use_exact_kernels, use_threads
from mlecs_bench.federation.saved import DESCRIPTION, Bases, Description, load_model, read_description
from mlecs_bench.federation.scoring import score_values
from mlecs_bench.metrics.scorers import make_scorers
from mlecs_bench.records.names import MODELS_SUFFIX
from mlecs_bench.records.predictions import metrics_digest
from mlecs_bench.records.results import FOLDER, read_record

if TYPE_CHECKING:
    from mlecs_bench.doors.hookspecs import DatasetInfo
    from mlecs_bench.doors.registry import Registry


@dataclass(frozen=True)
class SavedScores:
    """What a saved model scores: on the test samples of its run (`same`) or on other data.

    `scores` are as a record holds them; `recorded` those of the record beside the model, None where it is not there.
    """

    folder: Path
    description: Description
    same: bool
    n: int
    scores: Mapping[str, Mapping[str, Any]]
    recorded: Mapping[str, Mapping[str, Any]] | None

    @property
    def read(self) -> tuple[str, ...]:
        """The modalities that it read: of its run's samples those that it held when it was scored there."""
        held = self.description.held if self.same else None
        return self.description.modality_names if held is None else held


@dataclass(frozen=True)
class How:
    """How saved models are scored: where scorers keep what is costly, on which device, on how many samples at most."""

    cache_dir: Path
    torch_device: str | None = None
    limit: int | None = None


def model_folders(folder: Path) -> list[Path]:
    """Return the folders of all saved models in `folder`: itself, those of a record, or those of a study's records.

    Raises UsageError when there are none.
    """
    patterns = (
        DESCRIPTION,
        f"*/{DESCRIPTION}",
        *(f"{at}*{MODELS_SUFFIX}/*/{DESCRIPTION}" for at in ("", f"{FOLDER}/")),
    )
    found = dict.fromkeys(path.parent for pattern in patterns for path in sorted(folder.glob(pattern)))
    if not found:
        raise UsageError(
            f"{folder} holds no saved model; run with --save-models and give what it leaves beside a record"
        )
    return [path for path in found if not path.parent.name.startswith(".")]


def score_saved(
    folders: Sequence[Path], info: DatasetInfo, samples: Samples, how: How, registry: Registry
) -> list[SavedScores]:
    """Return what the models in `folders` score on `samples`, in their order.

    A model meets the test samples of its run where the data are the same, else all samples. Raises UsageError, before
    any model is loaded, for data that lack what a model reads.
    """
    descriptions = [read_description(folder) for folder in folders]
    for description in descriptions:
        check_compatible(description, samples)
    shared: Bases = {}
    pairs = zip(folders, descriptions, strict=True)
    return [_scored(folder, description, info, samples, how, registry, shared) for folder, description in pairs]


def check_compatible(description: Description, samples: Samples) -> None:
    """Raise UsageError unless data have the modalities that a model reads, in the same form."""
    manifest = samples.manifest
    there = {modality.name: modality for modality in manifest.modalities}
    for modality in description.modalities:
        other = there.get(modality.name)
        if other is None or _form(other) != _form(modality):
            has = "no such modality" if other is None else f"it as {_form_text(other)}"
            raise UsageError(
                f"{description.party} reads {modality.name} as {_form_text(modality)}, and dataset '{manifest.name}' "
                f"has {has}; give data with the modalities that it was trained on"
            )


def _form(modality: Modality) -> tuple[Any, ...]:
    return (modality.shape, modality.dtype, modality.encoding, modality.vocabulary, modality.standardise)


def _form_text(modality: Modality) -> str:
    shape = "x".join(map(str, modality.shape))
    words = f" of {modality.vocabulary} ids" if modality.vocabulary else ""
    return f"{modality.encoding} {shape} {modality.dtype}{words}{', standardised' * modality.standardise}"


def _scored(  # noqa: PLR0913, PLR0917  # a model, the data, and the means
    folder: Path,
    description: Description,
    info: DatasetInfo,
    samples: Samples,
    how: How,
    registry: Registry,
    shared: Bases,
) -> SavedScores:
    use_threads(description.threads)
    use_exact_kernels()
    saved = load_model(folder, device=how.torch_device, shared=shared)
    same = samples.manifest.digest == description.data
    rows = list(description.test) if same else list(range(len(samples)))
    rows = [rows[i] for i in spread(len(rows), how.limit)]
    data = samples.scaled(saved.scalings) if saved.scalings else samples
    request = MetricRequest(
        data.manifest.labels, how.cache_dir, description.bertscore, str(saved.model.backbone.torch_device)
    )
    scorers = make_scorers(info.metrics, request, registry)
    limits = {"bertscore": description.bertscore_samples}
    evaluator = Evaluator(info, data, scorers, description.generation_batch, limits)
    sight = Sight(saved.modalities, description.held if same else None)
    party = PartyData(data, rows, sight, description.party)
    own = f"{data.manifest.prompt} {description.prompt_suffix}".strip()
    found = evaluator.score(saved.model, party, description.prompt if same else own)
    scores = score_values(found, description.party)
    return SavedScores(folder, description, same, len(rows), scores, _recorded(folder, description))


def _recorded(folder: Path, description: Description) -> Mapping[str, Mapping[str, Any]] | None:
    """Return the scores that the record beside a model has of it, None where there is no such record."""
    models = folder.resolve().parent
    path = models.with_name(models.name.removesuffix(MODELS_SUFFIX) + ".json")
    if not models.name.endswith(MODELS_SUFFIX) or not path.is_file():
        return None
    try:
        record = read_record(path)
    except RecordError:
        return None
    bound = (record["key"], metrics_digest(record)) == (description.key, description.metrics)
    return scores_of(record, description.party) if bound else None


def as_json(one: SavedScores) -> dict[str, Any]:
    """Return scores as JSON values."""
    description = one.description
    return {
        "folder": str(one.folder),
        **{name: getattr(description, name) for name in ("algo", "seed", "key", "eval_point")},
        "device": description.party,
        "modalities": list(one.read),
        "same_data": one.same,
        "n": one.n,
        "scores": json.loads(json.dumps(one.scores)),
        "recorded": one.recorded and {name: dict(score) for name, score in one.recorded.items()},
    }
