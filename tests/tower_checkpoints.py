"""Tiny random towers, saved the way published ones are, and an adapter of somebody else for files of weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from installed import Distribution


def _save(model, folder: Path, *others) -> str:
    for part in (model, *others):
        part.save_pretrained(folder)
    return str(folder)


def clip(folder: Path, seed: int = 0) -> str:
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(seed)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config={**small, "image_size": 32, "patch_size": 16}, text_config={**small, "vocab_size": 50},
        projection_dim=12,
    )  # fmt: skip
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return _save(CLIPModel(config), folder, processor)


def siglip(folder: Path) -> str:
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        vision_config={**small, "image_size": 32, "patch_size": 16}, text_config={**small, "vocab_size": 50}
    )
    return _save(SiglipModel(config), folder, SiglipImageProcessorPil(size={"height": 32, "width": 32}))


def image_model(folder: Path, name: str, seed: int = 0, **changes: object) -> str:
    """Save a tiny random image model of another architecture, with a processor to 32 x 32."""
    import transformers
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**{**IMAGE_MODELS[name], **changes})
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    return _save(getattr(transformers, f"{name}Model")(config), folder, processor)


_SMALL_TRANSFORMER = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32,
    "patch_size": 16,
}  # fmt: skip
IMAGE_MODELS: dict[str, dict[str, object]] = {
    "ViT": _SMALL_TRANSFORMER,
    "Dinov2": _SMALL_TRANSFORMER,
    "ViTMAE": _SMALL_TRANSFORMER,
    "ConvNext": {"hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2},
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 20], "depths": [1, 1], "layer_type": "basic"},
    "EfficientNet": {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320, "image_size": 32},
    "MobileNetV2": {"depth_multiplier": 0.1, "image_size": 32},
}


def clap(folder: Path, **audio: object) -> str:
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ClapConfig(
        audio_config={
            "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2], "hidden_size": 16,
            "spec_size": 64, "patch_size": 4, "patch_stride": [4, 4], "window_size": 4, "num_mel_bins": 16, **audio,
        },
        text_config={**small, "vocab_size": 50}, projection_dim=10,
    )  # fmt: skip
    extractor = ClapFeatureExtractor(
        feature_size=16, sampling_rate=16_000, max_length_s=1, hop_length=160, frequency_max=8_000
    )
    return _save(ClapModel(config), folder, extractor)


def whisper(folder: Path) -> str:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, vocab_size=50, num_mel_bins=16, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    return _save(WhisperModel(config), folder, WhisperFeatureExtractor(feature_size=16))


def bert(folder: Path, seed: int = 0) -> str:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40,
    )  # fmt: skip
    tokenizer = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), model_max_length=40)
    return _save(BertModel(config), folder, tokenizer)


COLOURS_PLUGIN = """
import torch
from torch import nn
from mlecs_bench.api import EncoderInfo, TowerInfo

class Colours(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(3, 4, bias=False)

    def forward(self, pictures):
        return self.mix(pictures.mean((2, 3)))

def key(name):
    return None if name.startswith("head.") else name.removeprefix("net.")

COLOURS = EncoderInfo("Colours", "mixed mean colours", 3, lambda modality, dim: nn.Flatten(),
                      TowerInfo(Colours, 8, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), key))
BARE = EncoderInfo("Bare", "no tower", 3, lambda modality, dim: nn.Flatten())
"""
COLOURS = {"net.mix.weight": torch.arange(12.0).reshape(4, 3), "head.weight": torch.ones(2)}


def install_colours(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str = COLOURS_PLUGIN) -> str:
    """Install an encoder `colours` whose network can be a tower, and one, `bare`, without; return a file of weights."""
    folder.mkdir(exist_ok=True)
    distribution = Distribution(folder / "site", monkeypatch, "acme-colours", "acme_colours")
    points = {"colours": "acme_colours:COLOURS", "bare": "acme_colours:BARE"}
    distribution.install(source, {"mlecs_bench.encoders": points})
    return written(folder / "colours.pth", COLOURS)


def written(path: Path, values: object) -> str:
    """Save values the way the suffix asks for."""
    if path.suffix == ".safetensors":
        save_file(values, path)
    else:
        torch.save(values, path)
    return str(path)
