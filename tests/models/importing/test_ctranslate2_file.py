"""Laws of reading a Whisper of CTranslate2: it hears what the one hears that was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

from laws import for_all
from mlecs_bench.errors import UsageError
from mlecs_bench.models.importing.ctranslate2_file import convert_whisper, read_variables
from mlecs_bench.models.importing.importer import Stated, import_model
from mlecs_plugins.datasets.towers.checkpoints import TowerCheckpoint
from mlecs_plugins.datasets.towers.encoders import open_tower
from model_files import tiny_whisper, whisper_variables, write_ctranslate2, write_wheel

ALIASES = {"decoder/projection/weight": "decoder/embeddings/weight"}


@pytest.fixture(scope="module")
def whisper():
    """A random Whisper."""
    return tiny_whisper()


def converted(tmp_path: Path, variables: dict[str, np.ndarray]):
    path = write_ctranslate2(tmp_path / "model.bin", variables, aliases=ALIASES)
    out = tmp_path / "out"
    out.mkdir()
    return convert_whisper(path, out), WhisperForConditionalGeneration.from_pretrained(out).eval()


def heard(model) -> torch.Tensor:
    """Return the logits of some sound and words."""
    mel = torch.randn(2, 80, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(input_features=mel, decoder_input_ids=torch.tensor([[1, 4, 7], [1, 2, 3]])).logits


def test_the_converted_model_has_the_logits_of_the_one_that_was_written(whisper, tmp_path):
    conversion, model = converted(tmp_path, whisper_variables(whisper))
    torch.testing.assert_close(heard(model), heard(whisper), rtol=0, atol=1e-6)
    assert conversion.n_parameters == sum(p.numel() for p in whisper.parameters())
    assert (conversion.architecture, conversion.quantisation, conversion.bos) == ("whisper", "float32", None)


def test_half_precision_is_widened_and_whole_numbers_are_divided_by_their_scales(whisper, tmp_path):
    variables = whisper_variables(whisper)
    name = "encoder/layer_1/ffn/linear_0/weight"
    scale = 127 / np.abs(variables[name]).max(axis=1)
    packed = np.rint(variables[name] * scale[:, None]).astype(np.int8)
    one_scale = np.float32(1024 / np.abs(variables["decoder/embeddings/weight"]).max())
    words = np.rint(variables["decoder/embeddings/weight"] * one_scale).astype(np.int16)
    half = variables["encoder/conv1/weight"].astype(np.float16)
    stored = variables | {
        name: packed,
        f"{name}_scale": scale.astype(np.float32),
        "decoder/embeddings/weight": words,
        "decoder/embeddings/weight_scale": one_scale,
        "encoder/conv1/weight": half,
    }
    conversion, model = converted(tmp_path, stored)
    found = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    np.testing.assert_allclose(found["model.encoder.layers.1.fc1.weight"], packed / scale[:, None], rtol=1e-6)
    np.testing.assert_allclose(found["model.decoder.embed_tokens.weight"], words / one_scale, rtol=1e-6)
    np.testing.assert_array_equal(found["model.encoder.conv1.weight"], half.astype(np.float32))
    assert conversion.quantisation == "float16, float32, int16, int8"


def test_an_alias_stands_for_its_variable(whisper, tmp_path):
    path = write_ctranslate2(tmp_path / "model.bin", whisper_variables(whisper), aliases=ALIASES)
    values = read_variables(path).values
    assert torch.equal(values["decoder/projection/weight"], values["decoder/embeddings/weight"])


def test_a_file_that_is_no_whole_whisper_is_refused_in_one_line(whisper, tmp_path):
    variables, path = whisper_variables(whisper), tmp_path / "model.bin"

    def refusal() -> str:
        with pytest.raises(UsageError, match="cannot be read as a Whisper of CTranslate2") as caught:
            convert_whisper(path, tmp_path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    write_ctranslate2(path, variables, specification="TransformerSpec")
    assert "it holds a TransformerSpec" in refusal()
    write_ctranslate2(path, variables, version=3)
    assert "its version is 3" in refusal()
    write_ctranslate2(path, variables, tail=b"x")
    assert "there is more behind its end" in refusal()
    write_ctranslate2(path, variables | {"decoder/activation": np.int8(0)})
    assert "its activation is not that of Whisper" in refusal()
    whole = write_ctranslate2(path, variables).read_bytes()
    for size in (0, 3, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert "it ends too early" in refusal()
    write_ctranslate2(path, {k: v for k, v in variables.items() if k != "encoder/layer_0/ffn/linear_1/bias"})
    assert "linear_1/bias" in refusal()


@for_all("packed", (False, True))
def test_the_audio_tower_takes_the_imported_folder(packed, tmp_path):
    model = tiny_whisper(positions=1500)
    work = tmp_path / str(packed)
    work.mkdir()
    path = write_ctranslate2(work / "model.bin", whisper_variables(model), aliases=ALIASES)
    data = path.read_bytes()
    files = (
        [write_wheel(work / f"{k}.whl", {f"model.bin.part{k}": d}) for k, d in ((2, data[99:]), (1, data[:99]))]
        if packed
        else [work]
    )
    out = work / "out"
    assert import_model(files, out, Stated("MIT"), lambda *_: None)["licence"] == "MIT"
    sound = np.sin(np.arange(16_000) / 20).astype(np.float32)
    ours = open_tower(TowerCheckpoint("audio", str(out), "audio_tower"), "cpu")
    original = open_tower(TowerCheckpoint("audio", str(out), "audio_tower"), "cpu")
    original._encoder = model.get_encoder()
    np.testing.assert_allclose(ours.embed([sound]), original.embed([sound]), atol=1e-6)
