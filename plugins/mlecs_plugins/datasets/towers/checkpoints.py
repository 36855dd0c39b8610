"""Which checkpoint a tower is: a folder of transformers, or a file of weights with its adapter, and its digest."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mlecs_bench.api import TowerInfo, UsageError, fetched_encoder, installed_encoder
from mlecs_plugins.datasets.user_files import sha256_of

Kind = Literal["vision", "audio", "text"]
Progress = Callable[[int, int, str], None]
PREPROCESSING = ("preprocessor_config.json", "processor_config.json", "1_Pooling/config.json")
"""Small files that a tower reads beside configuration and tokenizer, where there are any."""
DIGESTED = (
    *("config.json", "preprocessor_config.json", "processor_config.json", "1_Pooling/config.json"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt"),
)
WEIGHTS = ("*.safetensors", "*.bin")
WEIGHT_FILES = (".pth", ".pt", ".bin", ".safetensors")
"""How files of weights end."""
AUDIO = ("clap", "whisper")
"""Architectures of sound that are known. Every image model and every text encoder of transformers may be a tower."""


@dataclass(frozen=True)
class Checkpoint(ABC):
    """What a tower encodes, where it comes from as the user wrote it, and the option that named it."""

    kind: Kind
    source: str
    option: str

    @property
    def name(self) -> str:
        """The last part of the source, as tables show it."""
        return Path(self.source).name

    @property
    @abstractmethod
    def digest(self) -> str:
        """The sha256 over everything that decides an embedding."""

    def unusable(self, why: str) -> UsageError:
        """Return the error that says why it cannot be used, in one line."""
        return UsageError(f"cannot use the tower '{self.source}': {why}; {self._instead}")

    @property
    def _instead(self) -> str:
        return f"give the folder of another one with --data-option {self.option}=FOLDER"


def untold(_done: int, _total: int, _what: str) -> None:
    """Tell nobody."""


def checkpoint_of(
    kind: Kind, source: str, option: str, adapter: str | None = None, progress: Progress = untold
) -> Checkpoint:
    """Return the checkpoint that options name; raises UsageError for an adapter that fits no file, or is lacking.

    `progress` is told of what is fetched from a hub, when the checkpoint is first used.
    """
    path = Path(source).expanduser()
    if path.is_dir() or path.suffix not in WEIGHT_FILES:
        if adapter is not None:
            raise UsageError(
                f"{kind}_adapter={adapter} reads a file of weights ({', '.join(WEIGHT_FILES)}), and '{source}' is a "
                f"folder or a hub id; leave the adapter out, or give the file with --data-option {option}=FILE"
            )
        return TowerCheckpoint(kind, source, option, progress)
    if adapter is None:
        raise UsageError(
            f"'{source}' is a file of weights, which does not say which network it belongs to; name the encoder plugin "
            f"that does with --data-option {kind}_adapter=NAME, such as efficientnet-lite0"
        )
    return WeightFile(kind, source, option, adapter)


@dataclass(frozen=True)
class WeightFile(Checkpoint):
    """A state dict in a file, and the encoder plugin that knows its network."""

    adapter: str

    @property
    def name(self) -> str:
        """The adapter's name, which says more than the file's."""
        return self.adapter

    @property
    def _instead(self) -> str:
        return f"give another file with --data-option {self.option}=FILE, or another adapter"

    @property
    def path(self) -> Path:
        """The file. Raises UsageError when it is not there."""
        path = Path(self.source).expanduser()
        if not path.is_file():
            raise self.unusable("there is no such file")
        return path

    @cached_property
    def tower(self) -> TowerInfo:
        """How the network is built and what it is shown. Raises UsageError for an encoder without a tower."""
        found = installed_encoder(self.adapter).info.tower
        if found is None:
            raise self.unusable(f"the encoder '{self.adapter}' makes no tower of weights (EncoderInfo.tower)")
        return found

    @cached_property
    def digest(self) -> str:
        """The sha256 over the file and what its adapter says."""
        shown = [self.tower.size, list(self.tower.mean), list(self.tower.std)]
        made_from = [self.adapter, installed_encoder(self.adapter).origin, shown, sha256_of(self.path)]
        return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


@dataclass(frozen=True)
class TowerCheckpoint(Checkpoint):
    """A checkpoint of transformers: a folder, or the id of one on the hub; `progress` is told what is fetched of it."""

    progress: Progress = field(default=untold, compare=False, repr=False)

    @cached_property
    def folder(self) -> Path:
        """The folder that holds it; a hub id is fetched. Raises UsageError when it is not to be had."""
        path = Path(self.source).expanduser()
        if path.is_dir():
            return path
        if path.is_absolute() or self.source.startswith((".", "~")) or self.source.count("/") > 1:
            raise self.unusable("there is no such folder")
        try:
            return fetched_encoder(self.source, PREPROCESSING, self.progress)
        except UsageError as error:
            raise self.unusable(str(error)) from error

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Its configuration as it is written. Raises UsageError when there is none, or of an unknown architecture."""
        path = self.folder / "config.json"
        if not path.is_file():
            raise self.unusable(self._no_model())
        try:
            config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise self.unusable(f"config.json cannot be read ({type(error).__name__})") from error
        if not isinstance(config, dict):
            raise self.unusable("config.json holds no settings")
        if self.kind == "audio" and config.get("model_type") not in AUDIO:
            raise self.unusable(f"its architecture '{config.get('model_type')}' is none of {', '.join(AUDIO)}")
        return config

    def _no_model(self) -> str:
        files = sorted(path.name for path in self.folder.iterdir() if path.suffix in WEIGHT_FILES)
        hint = f", but {files[0]}: name the file itself, and its adapter" if files else ""
        return f"it is no folder of a model: there is no config.json in it{hint}"

    @property
    def model_type(self) -> str:
        """The architecture."""
        return str(self.config.get("model_type"))

    @cached_property
    def digest(self) -> str:
        """The sha256 over everything that decides an embedding: configuration, preprocessing, tokenizer, weights."""
        _ = self.config
        weights = sorted({path for pattern in WEIGHTS for path in self.folder.glob(pattern)})
        if not weights:
            raise self.unusable("it holds no weights")
        digest = hashlib.sha256()
        for path in [self.folder / name for name in DIGESTED] + weights:
            if path.is_file():
                name = path.relative_to(self.folder).as_posix()
                digest.update(name.encode() + b"\0" + bytes.fromhex(sha256_of(path)))
        return digest.hexdigest()
