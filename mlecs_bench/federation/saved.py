"""Saved models: what a party has trained, in the formats of others, and what it takes to build the party's model again.

A folder holds one party: the adapter as PEFT writes it (`adapter_config.json`, `adapter_model.safetensors`), the
encoders and the connector as safetensors, and `model.json`. The frozen language model is named, not copied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from mlecs_bench.data.samples import Batch, Modality
from mlecs_bench.data.scaling import Scaling
from mlecs_bench.doors.options import plain, rebuilt
from mlecs_bench.doors.profile import BaseBits, Dtype, LoraSettings
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import DataError, UsageError
from mlecs_bench.federation.turns import FinalModel
from mlecs_bench.files import write_bytes, write_text
from mlecs_bench.models.backbone import Backbone
from mlecs_bench.models.connector import Connector, ConnectorSizes
from mlecs_bench.models.encoders import build_encoder, encoders_of
from mlecs_bench.models.loading import BaseSettings
from mlecs_bench.models.placement import torch_device
from mlecs_bench.models.sources import content_id, is_folder
from mlecs_bench.models.texts import Texts
from mlecs_bench.models.unified import UnifiedModel
from mlecs_bench.seeds import torch_stream

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

FORMAT: Literal["mlecs-bench/model/1"] = "mlecs-bench/model/1"
DESCRIPTION = "model.json"
ADAPTER_SETTINGS = "adapter_config.json"
ADAPTER = "adapter_model.safetensors"
ENCODERS = "encoders.safetensors"
CONNECTOR = "connector.safetensors"
SCALINGS = "scalings.safetensors"
PEFT_PREFIX = "base_model.model."
"""What PEFT puts before the name of an adapted module."""
ADAPTER_PART, ENCODER_PART = "lora", "encoder"

Sample = Mapping[str, "ArrayLike"]
"""Modality to value, of the modality's shape; what is left out is missing from the sample."""
Bases = dict[tuple[str, BaseSettings], tuple[Backbone, Texts]]
"""Language models that are loaded, which saved models may share."""


@dataclass(frozen=True)
class Description:
    """What it takes to build a saved model again, and where it comes from.

    `key` and `metrics` are the key of the record and the digest of its scores; `eval_point` is when this model was
    scored in it, "received" for a device. `base` is the language model and `base_id` its content. `data` is the digest
    of the prepared data, `test` the rows of the party's test samples in it. `modalities` are those that the model is
    built for, `held` those that the party held when it was scored, None for all. `prompt` is put to the model; behind a
    prompt of other data comes `prompt_suffix`.
    """

    format: str
    party: str
    eval_point: str
    key: str
    metrics: str
    algo: str
    seed: int
    dataset: str
    data_options: Mapping[str, Any]
    data: str
    test: tuple[int, ...]
    base: str
    base_id: str
    dtype: Dtype
    base_bits: BaseBits | None
    torch_device: str
    threads: int
    lora: LoraSettings
    encoder_width: int
    sizes: ConnectorSizes
    modalities: tuple[Modality, ...]
    prompt: str
    prompt_suffix: str
    max_new_tokens: int
    generation_batch: int
    bertscore: str
    bertscore_samples: int | None
    held: tuple[str, ...] | None = None

    @property
    def modality_names(self) -> tuple[str, ...]:
        """The modalities that the model is built for, in their fixed order."""
        return tuple(modality.name for modality in self.modalities)


def final_model(model: UnifiedModel) -> FinalModel:
    """Return all that a party has trained, with the settings of its adapter as PEFT writes them."""
    return FinalModel(model.state(), model.backbone.adapter_settings(model.adapters[ADAPTER_PART]))


def save_model(folder: Path, model: FinalModel, description: Description, scalings: Mapping[str, Scaling]) -> None:
    """Write a model into `folder`, which is there; `scalings` are those of its standardised modalities."""
    parts: dict[str, dict[str, torch.Tensor]] = {ADAPTER: {}, ENCODERS: {}, CONNECTOR: {}}
    for name, tensor in model.tensors.items():
        part, _, key = name.partition("/")
        if part == ADAPTER_PART:
            parts[ADAPTER][f"{PEFT_PREFIX}{key}.weight"] = tensor.contiguous()
        else:
            parts[ENCODERS if part == ENCODER_PART else CONNECTOR][name] = tensor.contiguous()
    held = {name: one for name, one in scalings.items() if name in description.modality_names}
    if held:
        values = {f"{name}/{what}": getattr(one, what) for name, one in held.items() for what in ("mean", "scale")}
        parts[SCALINGS] = {name: torch.from_numpy(value) for name, value in values.items()}
    for name, tensors in parts.items():
        write_bytes(folder / name, save(tensors, metadata={"format": "pt"}))
    for name, written in ((ADAPTER_SETTINGS, model.adapter), (DESCRIPTION, plain(description))):
        write_text(folder / name, json.dumps(written, indent=1, ensure_ascii=False) + "\n")


def read_description(folder: Path) -> Description:
    """Return what a folder says of its model; raises DataError unless it is a saved model of this version."""
    path = folder / DESCRIPTION
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values["format"]
        description: Description = rebuilt(Description, {"held": None, **values, "format": FORMAT})
    except OSError as error:
        raise DataError(
            f"{folder} is no saved model ({DESCRIPTION}: {error.strerror}); run with --save-models"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} does not describe a model ({type(error).__name__}: {error}); save it again") from error
    if found != FORMAT:
        raise DataError(f"{path} has format '{found}'; this version reads {FORMAT}")
    return description


def load_model(
    folder: str | Path, *, device: str | None = None, base: str | None = None, shared: Bases | None = None
) -> SavedModel:
    """Return the model that a run has saved in `folder`, ready to answer.

    `device` is where it computes (default: where it was trained), `base` the folder or hub id of its language model
    where that is not at its old place. Models that are loaded with the same `shared` share language models. Raises
    DataError for a folder that holds no whole model, UsageError for a language model that is not there or another one.
    """
    folder = Path(folder).expanduser()
    description = read_description(folder)
    tensors, scalings = _tensors(folder)
    settings = BaseSettings(
        torch_device(device or description.torch_device), getattr(torch, description.dtype), description.base_bits
    )
    backbone, texts = _base(description, base, settings, {} if shared is None else shared)
    registry = Registry.installed()
    encoders = {}
    for modality in description.modalities:
        with torch_stream(description.seed, "init", "encoder", modality.name):  # for what is drawn and not trained
            info = encoders_of([modality], registry)[modality.encoding]
            encoders[modality.name] = build_encoder(modality, description.encoder_width, info)
    connector = Connector(description.modality_names, description.sizes, lambda _part: nullcontext())
    name = f"{description.key[:16]}-{description.party}"
    backbone.add_adapter(name, description.lora, description.seed, "saved")
    model = UnifiedModel({ADAPTER_PART: name}, backbone, texts, nn.ModuleDict(encoders), connector)
    try:
        model.load_state(tensors)
    except DataError as error:
        raise DataError(f"the tensors in {folder} do not fit {DESCRIPTION}: {error}") from error
    return SavedModel(description, model, scalings)


def _tensors(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Scaling]]:
    """Return the tensors of a model by ``part/name``, and the scalings of its modalities."""
    try:
        tensors = {**load_file(folder / ENCODERS), **load_file(folder / CONNECTOR)}
        for name, tensor in load_file(folder / ADAPTER).items():
            tensors[f"{ADAPTER_PART}/{name.removeprefix(PEFT_PREFIX).removesuffix('.weight')}"] = tensor
        kept = load_file(folder / SCALINGS) if (folder / SCALINGS).exists() else {}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder} holds no whole model ({' '.join(str(error).split())}); save it again") from error
    names = dict.fromkeys(name.rpartition("/")[0] for name in kept)
    scalings = {name: Scaling(kept[f"{name}/mean"].numpy(), kept[f"{name}/scale"].numpy()) for name in names}
    return tensors, scalings


def _base(description: Description, base: str | None, settings: BaseSettings, shared: Bases) -> tuple[Backbone, Texts]:
    source = base or description.base
    if (source, settings) not in shared:
        try:
            found = content_id(source)
        except UsageError as error:
            raise UsageError(f"the language model of {description.party} is not there: {error}") from error
        if found != description.base_id:
            raise UsageError(
                f"'{source}' is not the language model that {description.party} was trained on (content {found[:24]}, "
                f"expected {description.base_id[:24]}); name it with base"
            )
        backbone = Backbone(source, settings)
        texts = Texts(backbone.tokenizer, backbone.eos_id, backbone.torch_device)
        shared[source, settings] = backbone, texts
    return shared[source, settings]


def base_source(source: str) -> str:
    """Return a language model as a description names it: a whole path, or a hub id with its commit."""
    return str(Path(source).expanduser().resolve()) if is_folder(source) else content_id(source)


class SavedModel:
    """A party's model that answers: raw samples with `answer`, prepared ones with `generate`.

    `description` says where it comes from, `model` is the unified model, `scalings` are those of its standardised
    modalities.
    """

    def __init__(self, description: Description, model: UnifiedModel, scalings: Mapping[str, Scaling]) -> None:
        self.description = description
        self.model = model
        self.scalings = dict(scalings)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that it reads."""
        return self.description.modality_names

    def answer(
        self, samples: Sample | Sequence[Sample], prompt: str | None = None, max_new_tokens: int | None = None
    ) -> str | list[str]:
        """Return the greedy answer to one sample, or the answers to several.

        A sample maps names of modalities to values of the shapes in `description.modalities`, as a dataset prepares
        them and before they are standardised; what it lacks is taken as missing. `prompt` None is that of training.
        Raises UsageError for a modality that the model does not read, or a value of another shape.
        """
        if isinstance(samples, Mapping):
            return self.answer([samples], prompt, max_new_tokens)[0]
        size = self.description.generation_batch
        chunks = [samples[start : start + size] for start in range(0, len(samples), size)]
        return [text for chunk in chunks for text in self.generate(self.batch(chunk), prompt, max_new_tokens)]

    def generate(self, batch: Batch, prompt: str | None = None, max_new_tokens: int | None = None) -> list[str]:
        """Return the greedy answers to a batch as parties see it, such as `batch` makes."""
        limit = max_new_tokens or self.description.max_new_tokens
        return self.model.generate(batch, self.description.prompt if prompt is None else prompt, limit)

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Return raw samples as a batch: what is standardised in training is standardised, what lacks is masked."""
        import numpy as np

        strange = sorted({name for sample in samples for name in sample} - set(self.modalities))
        if strange:
            reads = ", ".join(self.modalities) or "no modality"
            raise UsageError(f"{self.description.party} has no modality '{strange[0]}'; it reads {reads}")
        inputs, present = {}, {}
        for modality in self.description.modalities:
            name, scaling = modality.name, self.scalings.get(modality.name)
            values = np.zeros((len(samples), *modality.shape), dtype=modality.dtype)
            for i, sample in enumerate(samples):
                if name in sample:
                    values[i] = _checked(sample[name], modality)
            inputs[name] = torch.from_numpy(values if scaling is None else scaling.apply(values))
            present[name] = torch.tensor([name in sample for sample in samples], dtype=torch.bool)
        return Batch(np.arange(len(samples)), inputs, present)


def _checked(value: Any, modality: Modality) -> Any:
    import numpy as np

    array = np.asarray(value)
    if array.shape != modality.shape:
        raise UsageError(f"'{modality.name}' has shape {array.shape}, the model reads {modality.shape}")
    return array.astype(modality.dtype)
