"""Which checkpoint a tower is: its folder, its architecture, the width of its embeddings and its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mlecs_bench.api import UsageError

Kind = Literal["vision", "audio", "text"]
PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin")
DIGESTED = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "vocab.txt")
WEIGHTS = ("*.safetensors", "*.bin")


def _vision_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a configuration that is about pictures: all of it where nothing else is in it."""
    return dict(config.get("vision_config") or config)


WIDTHS: Mapping[Kind, Mapping[str, Callable[[Mapping[str, Any]], int]]] = {
    "vision": {
        "clip": lambda c: int(c.get("projection_dim", 512)),
        "clip_vision_model": lambda c: int(c.get("projection_dim", 512)),
        "siglip": lambda c: int(_vision_config(c).get("hidden_size", 768)),
        "siglip_vision_model": lambda c: int(_vision_config(c).get("hidden_size", 768)),
    },
    "audio": {
        "clap": lambda c: int(c.get("projection_dim", 512)),
        "whisper": lambda c: int(c.get("d_model", 384)),
    },
}
"""Supported architectures of pictures and sound, with the width of their embeddings; every text encoder is one."""


@dataclass(frozen=True)
class TowerCheckpoint:
    """A tower's checkpoint: what it encodes, as the user named it (folder or hub id), and the option that named it."""

    kind: Kind
    source: str
    option: str

    @property
    def name(self) -> str:
        """The last part of the source, as tables show it."""
        return Path(self.source).name

    @cached_property
    def folder(self) -> Path:
        """The folder that holds it; a hub id is fetched. Raises UsageError when it is not to be had."""
        path = Path(self.source).expanduser()
        if path.is_dir():
            return path
        if path.is_absolute() or self.source.startswith((".", "~")) or self.source.count("/") > 1:
            raise self.unusable("there is no such folder")
        return self._fetched()

    def _fetched(self) -> Path:
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(self.source, allow_patterns=list(PATTERNS[:-1])))
            if not any(folder.glob(WEIGHTS[0])):  # an older checkpoint
                folder = Path(snapshot_download(self.source, allow_patterns=list(PATTERNS)))
        except (OSError, ValueError) as error:
            raise self.unusable(f"the hub does not give it ({_first_line(error)})") from error
        return folder

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Its configuration as it is written. Raises UsageError when there is none, or of an unknown architecture."""
        path = self.folder / "config.json"
        try:
            config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self.unusable(f"config.json cannot be read ({type(error).__name__})") from error
        known = WIDTHS.get(self.kind)
        found = config.get("model_type")
        if known is not None and found not in known:
            raise self.unusable(f"its architecture '{found}' is none of {', '.join(sorted(known))}")
        return config

    @property
    def model_type(self) -> str:
        """The architecture."""
        return str(self.config.get("model_type"))

    @property
    def width(self) -> int:
        """The width d of its embeddings."""
        known = WIDTHS.get(self.kind)
        if known is not None:
            return known[self.model_type](self.config)
        return int(self.config.get("hidden_size") or self.config.get("dim") or self.config.get("d_model") or 0)

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
                with path.open("rb") as file:
                    digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def unusable(self, why: str) -> UsageError:
        """Return the error that says why it cannot be used, in one line."""
        return UsageError(
            f"cannot use the tower '{self.source}': {why}; give the folder of another one with "
            f"--data-option {self.option}=FOLDER, or run once with network"
        )


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.partition(". ")[0].rstrip(".")
