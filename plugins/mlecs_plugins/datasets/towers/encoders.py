"""Towers at work: batches of pictures, sounds or texts in, float32 embeddings out. Nothing is trained here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from mlecs_plugins.datasets.towers.checkpoints import Checkpoint, TowerCheckpoint, WeightFile
from mlecs_plugins.datasets.towers.loading import array, loaded_model, loaded_processor, quiet_transformers
from mlecs_plugins.datasets.towers.pictures import VisionTower, WeightTower

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

WHISPER_SECONDS = 0.02
"""What one position of Whisper's encoder stands for."""


class Tower(Protocol):
    """Embeds items of one kind, (n, d) float32; d is its width."""

    width: int

    def embed(self, items: Sequence[Any]) -> Array:
        """Return the embedding of each item."""
        ...


def open_tower(checkpoint: Checkpoint, device: str) -> Tower:
    """Load a tower; raises UsageError in one line for a checkpoint that cannot be loaded whole."""
    where = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    if isinstance(checkpoint, WeightFile):
        return WeightTower(checkpoint, where)
    assert isinstance(checkpoint, TowerCheckpoint)  # noqa: S101
    with quiet_transformers():
        if checkpoint.kind == "vision":
            return VisionTower(checkpoint, where)
        if checkpoint.kind == "text":
            return TextTower(checkpoint, where)
        return WhisperTower(checkpoint, where) if checkpoint.model_type == "whisper" else ClapTower(checkpoint, where)


class ClapTower:
    """CLAP's projected embeddings of sounds (T,) at `rate`; of a longer sound the middle is heard."""

    def __init__(self, checkpoint: TowerCheckpoint, device: torch.device) -> None:
        from transformers import AutoFeatureExtractor, ClapAudioModelWithProjection

        audio = checkpoint.config.get("audio_config") or {}
        if audio.get("enable_fusion"):
            raise checkpoint.unusable("it fuses random cuts of a sound; take an unfused CLAP")
        self._model, _ = loaded_model(checkpoint, ClapAudioModelWithProjection, device)
        self._extractor = loaded_processor(checkpoint, AutoFeatureExtractor.from_pretrained)
        self._device = device
        self.rate: int = self._extractor.sampling_rate
        self.width = int(self._model.config.projection_dim)

    @torch.inference_mode()
    def embed(self, items: Sequence[Any]) -> Array:
        """Return the embeddings (n, d) of sounds."""
        # The extractor would cut a long sound at a random place, from NumPy's global stream.
        sounds = [_middle(sound, int(self._extractor.nb_max_samples)) for sound in items]
        features = self._extractor(
            sounds, sampling_rate=self.rate, truncation="rand_trunc", padding="repeatpad", return_tensors="pt"
        )["input_features"]
        return array(self._model(input_features=features.to(self._device)).audio_embeds)


class WhisperTower:
    """Whisper's encoder on sounds (T,) at `rate`: the mean of its states over the time of the sound, 30 s at most.

    A folder without preprocessor_config.json is heard as every published Whisper is, with as many bands as it has.
    """

    def __init__(self, checkpoint: TowerCheckpoint, device: torch.device) -> None:
        from transformers import WhisperFeatureExtractor, WhisperModel

        model, _ = loaded_model(checkpoint, WhisperModel, device, unused="decoder.")
        self._encoder = model.get_encoder()
        if (checkpoint.folder / "preprocessor_config.json").is_file():
            self._extractor = loaded_processor(checkpoint, WhisperFeatureExtractor.from_pretrained)
        else:
            self._extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
        self._device = device
        self.rate: int = self._extractor.sampling_rate
        self.width = int(model.config.d_model)

    @torch.inference_mode()
    def embed(self, items: Sequence[Any]) -> Array:
        """Return the embeddings (n, d) of sounds."""
        features = self._extractor(list(items), sampling_rate=self.rate, return_tensors="pt")["input_features"]
        states = self._encoder(features.to(self._device)).last_hidden_state
        heard = torch.tensor([max(1, round(len(sound) / self.rate / WHISPER_SECONDS)) for sound in items])
        inside = (torch.arange(states.shape[1])[None] < heard[:, None]).to(self._device)[..., None]
        return array((states * inside).sum(1) / inside.sum(1))


class TextTower:
    """A sentence encoder: the mean of the last states over the tokens, of length 1.

    Where its folder says that the first token stands for the text (1_Pooling/config.json), that is taken instead.
    """

    def __init__(self, checkpoint: TowerCheckpoint, device: torch.device) -> None:
        from transformers import AutoModel, AutoTokenizer

        self._model, _ = loaded_model(checkpoint, AutoModel, device)
        self._tokenizer = loaded_processor(checkpoint, AutoTokenizer.from_pretrained)
        self._first = _takes_first_token(checkpoint)
        self._device = device
        positions = getattr(self._model.config, "max_position_embeddings", None)
        self._longest = min(int(n) for n in (positions, self._tokenizer.model_max_length, 512) if n)
        self.width = int(self._model.config.hidden_size)

    @torch.inference_mode()
    def embed(self, items: Sequence[Any]) -> Array:
        """Return the embeddings (n, d) of texts; what exceeds the encoder's positions is cut."""
        tokens = self._tokenizer(
            list(items), padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
        ).to(self._device)
        states = self._model(**tokens).last_hidden_state
        known = tokens["attention_mask"][..., None].to(states.dtype)
        pooled = states[:, 0] if self._first else (states * known).sum(1) / known.sum(1)
        return array(torch.nn.functional.normalize(pooled, dim=-1))


def _takes_first_token(checkpoint: TowerCheckpoint) -> bool:
    """Return whether a folder of sentence-transformers pools by its first token; raises UsageError for other ways."""
    path = checkpoint.folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return False
    try:
        pooling = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise checkpoint.unusable(f"1_Pooling/config.json cannot be read ({type(error).__name__})") from error
    if not isinstance(pooling, dict):
        raise checkpoint.unusable("1_Pooling/config.json holds no settings")
    modes = [
        name.removeprefix("pooling_mode_") for name, on in pooling.items() if name.startswith("pooling_mode_") and on
    ]
    if modes not in (["cls_token"], ["mean_tokens"]):
        raise checkpoint.unusable(
            f"it pools by {' and '.join(modes) or 'nothing'}; mean_tokens and cls_token are known"
        )
    return modes == ["cls_token"]


def _middle(sound: Array, longest: int) -> Array:
    start = max(0, (len(sound) - longest) // 2)
    return sound[start : start + longest]
