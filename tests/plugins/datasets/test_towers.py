"""Laws of frozen towers: an embedding is a function of its item, and equals what the published model gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import tower_checkpoints
from laws import for_all
from mlecs_bench.errors import UsageError
from mlecs_plugins.datasets.store import Store
from mlecs_plugins.datasets.towers import encoders
from mlecs_plugins.datasets.towers.checkpoints import checkpoint_of
from mlecs_plugins.datasets.towers.embedding import StoredTower
from mlecs_plugins.datasets.towers.options import TowerOptions
from tower_checkpoints import COLOURS, COLOURS_PLUGIN, written

RATE = 16_000


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    kinds = ("clip", "siglip", "clap", "whisper", "bert")
    return {kind: getattr(tower_checkpoints, kind)(folder / kind) for kind in kinds}


def opened(kind: str, source: str, adapter: str | None = None):
    return encoders.open_tower(checkpoint_of(kind, source, f"{kind}_tower", adapter), "cpu")


def pictures(n: int = 3) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (n, 40, 60, 3), dtype=np.uint8))


def sounds() -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [generator.standard_normal(n).astype(np.float32) for n in (RATE, RATE // 3, RATE * 2)]


TEXTS = ["a cat", "the long tale of a dog and of a bird", "x"]
CASES = [("vision", "clip", pictures), ("vision", "siglip", pictures), ("audio", "clap", sounds),
         ("audio", "whisper", sounds), ("text", "bert", lambda: TEXTS)]  # fmt: skip


@for_all(("kind", "name", "items"), CASES)
def test_an_embedding_is_a_function_of_its_item_alone(kind, name, items, towers):
    tower = opened(kind, towers[name])
    together = tower.embed(items())
    alone = np.concatenate([tower.embed([item]) for item in items()])
    assert together.dtype == np.float32
    assert together.shape == (3, tower.width)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert len(np.unique(together.round(4), axis=0)) == 3


@torch.no_grad()
def test_clip_equals_the_whole_model(towers):
    from transformers import AutoImageProcessor, CLIPModel

    model = CLIPModel.from_pretrained(towers["clip"]).eval()
    pixels = AutoImageProcessor.from_pretrained(towers["clip"])(images=pictures(), return_tensors="pt")["pixel_values"]
    oracle = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    np.testing.assert_allclose(opened("vision", towers["clip"]).embed(pictures()), oracle.numpy(), atol=1e-5)


@torch.no_grad()
def test_whisper_hears_the_sound_and_not_the_silence_behind_it(towers):
    from transformers import AutoFeatureExtractor, WhisperModel

    model = WhisperModel.from_pretrained(towers["whisper"]).eval()
    extractor = AutoFeatureExtractor.from_pretrained(towers["whisper"])
    for sound in sounds():
        features = extractor(sound, sampling_rate=RATE, return_tensors="pt")["input_features"]
        states = model.encoder(features).last_hidden_state[0]
        oracle = states[: round(len(sound) / RATE * 50)].mean(0)
        np.testing.assert_allclose(opened("audio", towers["whisper"]).embed([sound])[0], oracle.numpy(), atol=1e-5)


@torch.no_grad()
def test_a_text_is_the_mean_of_its_tokens_with_length_one(towers):
    from transformers import AutoTokenizer, BertModel

    model, tokenizer = (c.from_pretrained(towers["bert"]) for c in (BertModel, AutoTokenizer))
    for text in [*TEXTS, "a" * 300]:
        tokens = tokenizer(text, truncation=True, max_length=40, return_tensors="pt")
        mean = model.eval()(**tokens).last_hidden_state[0].mean(0)
        found = opened("text", towers["bert"]).embed([text])[0]
        np.testing.assert_allclose(found, (mean / mean.norm()).numpy(), atol=1e-5)


def test_clap_hears_the_middle_of_a_long_sound_whatever_numpys_stream_says(towers):
    tower = opened("audio", towers["clap"])
    long = np.random.default_rng(2).standard_normal(3 * RATE).astype(np.float32)
    first = tower.embed([long])
    np.random.seed(5)  # noqa: NPY002  # the extractor of transformers draws from this stream
    np.testing.assert_array_equal(first, tower.embed([long]))
    np.testing.assert_allclose(first, tower.embed([long[RATE : 2 * RATE]]), atol=1e-5)


# Any image model of transformers


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: tower_checkpoints.image_model(folder / name, name) for name in tower_checkpoints.IMAGE_MODELS}


POOLED = ("ViT", "Dinov2", "ConvNext", "ResNet", "EfficientNet", "MobileNetV2")


def pixels_of(folder: str) -> torch.Tensor:
    """Return pictures as the folder's processor asks for, by Pillow and NumPy alone."""
    said = json.loads((Path(folder) / "preprocessor_config.json").read_text())
    resized = [np.asarray(Image.fromarray(p).resize((32, 32), Image.Resampling(said["resample"]))) for p in pictures()]
    scaled = (np.stack(resized) / 255 - np.array(said["image_mean"])) / np.array(said["image_std"])
    return torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32))


@torch.no_grad()
@for_all("name", POOLED)
def test_an_image_model_gives_its_pooled_output(name, models):
    import transformers

    model = getattr(transformers, f"{name}Model").from_pretrained(models[name]).eval()
    oracle = model(pixel_values=pixels_of(models[name])).pooler_output.flatten(1)
    tower = opened("vision", models[name])
    assert tower.width == oracle.shape[1]
    np.testing.assert_allclose(tower.embed(pictures()), oracle.numpy(), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_model_whose_pooling_has_no_weights_gives_the_mean_over_positions(models, tmp_path):
    from safetensors.torch import load_file
    from transformers import ViTModel

    folder = Path(shutil.copytree(models["ViT"], tmp_path / "vit"))
    weights = load_file(folder / "model.safetensors")
    kept = {key: t for key, t in weights.items() if not key.startswith("pooler.")}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    model = ViTModel.from_pretrained(models["ViT"]).eval()
    oracle = model(pixel_values=pixels_of(models["ViT"])).last_hidden_state.mean(1)
    np.testing.assert_allclose(opened("vision", str(folder)).embed(pictures()), oracle.numpy(), rtol=1e-3, atol=1e-4)


def test_a_model_that_masks_at_random_is_refused(models):
    with pytest.raises(UsageError, match="gives one picture two embeddings"):
        opened("vision", models["ViTMAE"])


def test_a_model_of_something_else_is_refused_before_its_weights_are_read(towers):
    for kind, folder, why in (
        ("vision", towers["bert"], "its architecture 'bert' reads input_ids, and no pictures"),
        ("vision", towers["whisper"], "its architecture 'whisper' reads input_features, and no pictures"),
        ("audio", towers["bert"], "its architecture 'bert' is none of clap, whisper"),
    ):
        with pytest.raises(UsageError, match=why):
            opened(kind, folder)


# Sound and texts


def test_a_whisper_without_preprocessing_or_decoder_hears_the_same(towers, tmp_path):
    from safetensors.torch import load_file

    folder = Path(shutil.copytree(towers["whisper"], tmp_path / "whisper"))
    (folder / "preprocessor_config.json").unlink()
    weights = {k: t for k, t in load_file(folder / "model.safetensors").items() if not k.startswith("decoder.")}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    np.testing.assert_array_equal(*(opened("audio", str(f)).embed(sounds()) for f in (folder, towers["whisper"])))


@torch.no_grad()
def test_a_sentence_encoder_pools_as_its_folder_says(towers, tmp_path):
    from transformers import AutoTokenizer, BertModel

    folder = Path(shutil.copytree(towers["bert"], tmp_path / "bge"))
    (folder / "1_Pooling").mkdir()
    modes = {"word_embedding_dimension": 16, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    model, tokenizer = (c.from_pretrained(towers["bert"]) for c in (BertModel, AutoTokenizer))
    first = torch.stack([model.eval()(**tokenizer(t, return_tensors="pt")).last_hidden_state[0, 0] for t in TEXTS])
    oracle = first / first.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(opened("text", str(folder)).embed(TEXTS), oracle.numpy(), atol=1e-5)
    assert checkpoint_of("text", str(folder), "x").digest != checkpoint_of("text", towers["bert"], "x").digest
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({**modes, "pooling_mode_max_tokens": True}))
    with pytest.raises(UsageError, match="it pools by cls_token and max_tokens"):
        opened("text", str(folder))


# Files of weights


@pytest.fixture
def colours(tmp_path, monkeypatch):
    return tower_checkpoints.install_colours(tmp_path, monkeypatch)


def by_hand(picture: np.ndarray) -> np.ndarray:
    """Return what `colours` makes of a picture, by loops over channels."""
    resized = np.asarray(Image.fromarray(picture).resize((8, 8), Image.Resampling.BICUBIC)) / 255
    means = [(resized[..., c].mean() - (0.1, 0.2, 0.3)[c]) / (0.5, 0.6, 0.7)[c] for c in range(3)]
    return np.array([sum(COLOURS["net.mix.weight"][o, c].item() * means[c] for c in range(3)) for o in range(4)])


def test_a_file_of_weights_fills_the_network_that_its_adapter_builds(colours, tmp_path):
    oracle = np.stack([by_hand(picture) for picture in pictures()])
    nested = {"epoch": 3, "state_dict": COLOURS}
    files = [colours, written(tmp_path / "a.safetensors", COLOURS), written(tmp_path / "b.pt", nested)]
    for file in files:
        tower = opened("vision", file, "colours")
        assert tower.width == 4
        np.testing.assert_allclose(tower.embed(pictures()), oracle, rtol=1e-4, atol=1e-5)
    digests = {checkpoint_of("vision", file, "x", "colours").digest for file in files}
    assert len(digests) == len(files)
    assert checkpoint_of("vision", colours, "x", "colours").name == "colours"


def test_another_adapter_is_another_tower(tmp_path, monkeypatch):
    digests = []
    for number, source in enumerate((COLOURS_PLUGIN, COLOURS_PLUGIN, COLOURS_PLUGIN.replace("0.1, 0.2", "0.2, 0.2"))):
        with monkeypatch.context() as patch:
            file = tower_checkpoints.install_colours(tmp_path / str(number), patch, source)
            digests.append(checkpoint_of("vision", file, "vision_tower", "colours").digest)
    assert digests[0] == digests[1] != digests[2]


class Evil:
    """What a pickle may hold: a call of anything."""

    def __reduce__(self):
        return print, ("run",)


MISFITS = {
    "lacking": ({"head.weight": torch.ones(2)}, r"it lacks 1 \(mix.weight\)"),
    "unknown": ({**COLOURS, "net.x": torch.ones(1), "net.y": torch.ones(1), "z": torch.ones(1)},
                r"has unknown 3 \(x, y, ...\)"),
    "shape": ({"net.mix.weight": torch.ones(4, 4)}, r"has of another shape 1 \(mix.weight\)"),
    "a list": ([torch.ones(1)], "it holds a list and no state dict"),
    "numbers": ({"net.mix.weight": 3}, "it holds a dict and no state dict"),
    "code": ({"net.mix.weight": Evil()}, "it cannot be read as weights alone"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_tensors_that_do_not_fit_are_named_in_one_line_and_no_code_runs(case, colours, tmp_path, capsys):
    values, match = MISFITS[case]
    with pytest.raises(UsageError, match=match) as caught:
        opened("vision", written(tmp_path / "bad.pth", values), "colours")
    assert "\n" not in str(caught.value)
    assert "--data-option vision_tower=FILE" in str(caught.value)
    assert capsys.readouterr().out == ""


def test_what_is_named_wrong_is_refused_with_what_to_name_instead(colours, towers, tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    (tmp_path / "weights").mkdir()
    shutil.copy(colours, tmp_path / "weights" / "net.pth")
    for source, adapter, match in (
        (colours, None, "vision_adapter=NAME"),
        (colours, "colour", "Did you mean 'colours'"),
        (colours, "bare", r"makes no tower of weights \(EncoderInfo.tower\)"),
        (str(tmp_path / "none.pth"), "colours", "there is no such file"),
        (str(tmp_path / "broken.pth"), "colours", "cannot be read as weights alone"),
        (towers["clip"], "colours", "leave the adapter out"),
        (str(tmp_path / "weights"), None, "no config.json in it, but net.pth: name the file itself, and its adapter"),
    ):
        with pytest.raises(UsageError, match=match) as caught:
            opened("vision", source, adapter).embed(pictures())
        assert "\n" not in str(caught.value)


def test_a_tower_that_gives_nan_is_refused_and_nothing_is_kept(colours, tmp_path):
    spoilt = written(tmp_path / "nan.pth", {"net.mix.weight": torch.full((4, 3), torch.nan)})
    stored = StoredTower(
        checkpoint_of("vision", spoilt, "vision_tower", "colours"), TowerOptions(features="towers"), Store(tmp_path)
    )
    with pytest.raises(UsageError, match="embeddings that are not finite"):
        stored.embed_groups({"a" * 64: pictures()})
    assert stored.known("a" * 64) is None


@for_all(("kind", "name", "file"), [("vision", "clip", "config.json"), ("vision", "clip", "preprocessor_config.json"),
                                    ("text", "bert", "config.json")])  # fmt: skip
def test_code_that_comes_with_a_checkpoint_is_neither_run_nor_asked_about(kind, name, file, towers, tmp_path):
    folder = Path(shutil.copytree(towers[name], tmp_path / f"{name} {file}"))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    values = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    classes = {"AutoConfig": "own.Own", "AutoImageProcessor": "own.Own", "AutoTokenizer": ["own.Own", None]}
    own = {"model_type": "strange", "image_processor_type": "Own", "tokenizer_class": "Own", "auto_map": classes}
    (folder / file).write_text(json.dumps(values | own))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
        with pytest.raises(UsageError, match=r"it needs code of its own \(auto_map\), which is never run") as caught:
            opened(kind, str(folder))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
