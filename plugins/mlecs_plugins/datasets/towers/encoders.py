"""Towers at work: batches of pictures, sounds or texts in, float32 embeddings out. Nothing is trained here."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from mlecs_plugins.datasets.towers.checkpoints import TowerCheckpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

WHISPER_SECONDS = 0.02
"""What one position of Whisper's encoder stands for."""


class Tower(Protocol):
    """Embeds items of one kind, (n, d) float32."""

    def embed(self, items: Sequence[Any]) -> Array:
        """Return the embedding of each item."""
        ...


def open_tower(checkpoint: TowerCheckpoint, device: str) -> Tower:
    """Load a tower; raises UsageError in one line for a checkpoint that cannot be loaded whole."""
    where = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    with _quiet_transformers():
        if checkpoint.kind == "vision":
            return VisionTower(checkpoint, where)
        if checkpoint.kind == "text":
            return TextTower(checkpoint, where)
        return WhisperTower(checkpoint, where) if checkpoint.model_type == "whisper" else ClapTower(checkpoint, where)


class _quiet_transformers:  # noqa: N801  # it is used like a function
    """Keep transformers from reporting weights of the other half of a checkpoint, which are not needed."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._verbosity, self._bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self._verbosity)
        if self._bar:
            logging.enable_progress_bar()


def _loaded(
    checkpoint: TowerCheckpoint, model_class: Any, part: Any, device: torch.device, **settings: Any
) -> tuple[Any, Any]:
    """Return model and preprocessing; `part` is the processor's class. Weights that are missing are refused."""
    from safetensors import SafetensorError

    try:
        model, report = model_class.from_pretrained(
            checkpoint.folder, local_files_only=True, dtype=torch.float32, output_loading_info=True, **settings
        )
        with warnings.catch_warnings():
            # Without torchvision pictures go through Pillow, which gives what the checkpoints were published with.
            warnings.filterwarnings("ignore", message=".*torchvision.*")
            processor = part.from_pretrained(checkpoint.folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise checkpoint.unusable(f"it cannot be loaded ({first})") from error
    # A text encoder's pooler is not used; checkpoints of masked language models come without one.
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise checkpoint.unusable(f"it lacks {len(missing)} weights, such as {missing[0]}")
    return model.requires_grad_(False).eval().to(device), processor


class VisionTower:
    """CLIP (projected) or SigLIP (pooled) embeddings of pictures (H, W, 3) uint8."""

    def __init__(self, checkpoint: TowerCheckpoint, device: torch.device) -> None:
        from transformers import AutoImageProcessor, CLIPVisionModelWithProjection, SiglipVisionModel

        self._projects = checkpoint.model_type.startswith("clip")
        model_class = CLIPVisionModelWithProjection if self._projects else SiglipVisionModel
        # A whole CLIP names the width of its projection outside of the part about pictures.
        settings = {"projection_dim": checkpoint.width} if self._projects else {}
        self._model, self._processor = _loaded(checkpoint, model_class, AutoImageProcessor, device, **settings)
        self._device = device

    @torch.inference_mode()
    def embed(self, items: Sequence[Any]) -> Array:
        """Return the embeddings (n, d) of pictures."""
        pixels = self._processor(images=list(items), return_tensors="pt")["pixel_values"]
        output = self._model(pixel_values=pixels.to(self._device))
        return _array(output.image_embeds if self._projects else output.pooler_output)


class ClapTower:
    """CLAP's projected embeddings of sounds (T,) at `rate`; of a longer sound the middle is heard."""

    def __init__(self, checkpoint: TowerCheckpoint, device: torch.device) -> None:
        from transformers import AutoFeatureExtractor, ClapAudioModelWithProjection

        audio = checkpoint.config.get("audio_config") or {}
        if audio.get("enable_fusion"):
            raise checkpoint.unusable("it fuses random cuts of a sound; take an unfused CLAP")
        self._model, self._extractor = _loaded(checkpoint, ClapAudioModelWithProjection, AutoFeatureExtractor, device)
        self._device = device
        self.rate: int = self._extractor.sampling_rate

    @torch.inference_mode()
    def embed(self, items: Sequence[Any]) -> Array:
        """Return the embeddings (n, d) of sounds."""
        # The extractor would cut a long sound at a random place, from NumPy's global stream.
        sounds = [_middle(sound, int(self._extractor.nb_max_samples)) for sound in items]
        features = self._extractor(
            sounds, sampling_rate=self.rate, truncation="rand_trunc", padding="repeatpad", return_tensors="pt"
        )["input_features"]
        return _array(self._model(input_features=features.to(self._device)).audio_embeds)


class WhisperTower:
    """Whisper's encoder on sounds (T,) at `rate`: the mean of its states over the time of the sound, 30 s at most."""

    def __init__(self, checkpoint: TowerCheckpoint, device: torch.device) -> None:
        from transformers import AutoFeatureExtractor, WhisperModel

        model, self._extractor = _loaded(checkpoint, WhisperModel, AutoFeatureExtractor, device)
        self._encoder = model.get_encoder()
        self._device = device
        self.rate: int = self._extractor.sampling_rate

    @torch.inference_mode()
    def embed(self, items: Sequence[Any]) -> Array:
        """Return the embeddings (n, d) of sounds."""
        features = self._extractor(list(items), sampling_rate=self.rate, return_tensors="pt")["input_features"]
        states = self._encoder(features.to(self._device)).last_hidden_state
        heard = torch.tensor([max(1, round(len(sound) / self.rate / WHISPER_SECONDS)) for sound in items])
        inside = (torch.arange(states.shape[1])[None] < heard[:, None]).to(self._device)[..., None]
        return _array((states * inside).sum(1) / inside.sum(1))


class TextTower:
    """A sentence encoder: the mean of the last states over the tokens, of length 1."""

    def __init__(self, checkpoint: TowerCheckpoint, device: torch.device) -> None:
        from transformers import AutoModel, AutoTokenizer

        self._model, self._tokenizer = _loaded(checkpoint, AutoModel, AutoTokenizer, device)
        self._device = device
        positions = getattr(self._model.config, "max_position_embeddings", None)
        self._longest = min(int(n) for n in (positions, self._tokenizer.model_max_length, 512) if n)

    @torch.inference_mode()
    def embed(self, items: Sequence[Any]) -> Array:
        """Return the embeddings (n, d) of texts; what exceeds the encoder's positions is cut."""
        tokens = self._tokenizer(
            list(items), padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
        ).to(self._device)
        states = self._model(**tokens).last_hidden_state
        known = tokens["attention_mask"][..., None].to(states.dtype)
        mean = (states * known).sum(1) / known.sum(1)
        return _array(torch.nn.functional.normalize(mean, dim=-1))


def _middle(sound: Array, longest: int) -> Array:
    start = max(0, (len(sound) - longest) // 2)
    return sound[start : start + longest]


def _array(embeddings: torch.Tensor) -> Array:
    values: Array = embeddings.float().cpu().numpy().astype(np.float32)
    return values
