"""The mini encoders: any shape of an encoding, plain averaging, and what each one may not depend on."""

import re
import time

import numpy as np
import pytest
import torch

from installed import Distribution, encoder_of
from laws import for_all
from mlecs_bench.data.samples import Modality
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import DataError, PluginError, UsageError
from mlecs_bench.models.encoders import TABLE_ROWS, encoder_origins, encoders_of, installed_encoder
from mlecs_bench.seeds import torch_stream

CASES = [
    ("frames", (4, 16, 16, 3), "uint8"),
    ("frames", (2, 9, 5, 1), "uint8"),
    ("image", (24, 32, 3), "uint8"),
    ("image", (64, 48, 1), "uint8"),
    ("spectrogram", (24, 24), "float32"),
    ("spectrogram", (5, 70), "float32"),
    ("tokens", (24,), "int64"),
    ("tokens", (3,), "int64"),
    ("series", (15, 3), "float32"),
    ("series", (4, 6), "float32"),
    ("vector", (8,), "float32"),
    ("vector", (1,), "float32"),
]


def modality(encoding, shape, dtype):
    return Modality("m", shape, dtype, encoding)


def batch(shape, dtype, n=8, seed=0):
    generator = np.random.default_rng(seed)
    if dtype == "float32":
        return torch.from_numpy(generator.normal(size=(n, *shape)).astype(np.float32))
    return torch.from_numpy(generator.integers(0, 256, size=(n, *shape)).astype(dtype))


def encoder(encoding, shape, dtype, dim=64):
    with torch_stream(0, "test", encoding):
        return encoder_of(modality(encoding, shape, dtype), dim)


@for_all(("encoding", "shape", "dtype"), CASES)
def test_every_shape_of_an_encoding_gives_finite_float32_features(encoding, shape, dtype):
    features = encoder(encoding, shape, dtype, dim=10)(batch(shape, dtype))
    assert features.shape == (8, 10)
    assert features.dtype == torch.float32
    assert torch.isfinite(features).all()
    assert features.std(dim=0).min() > 1e-4, "different samples must give different features"


@for_all(("encoding", "shape", "dtype"), CASES)
def test_a_sample_does_not_depend_on_the_others_in_its_batch(encoding, shape, dtype):
    network, x = encoder(encoding, shape, dtype), batch(shape, dtype)
    together = network(x)
    alone = torch.cat([network(x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@for_all(("encoding", "shape", "dtype"), CASES)
def test_every_parameter_learns_and_nothing_is_a_buffer(encoding, shape, dtype):
    network = encoder(encoding, shape, dtype)
    network(batch(shape, dtype)).square().sum().backward()
    assert not list(network.buffers())
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


@for_all(("encoding", "shape", "dtype"), CASES)
def test_an_empty_batch_gives_no_features(encoding, shape, dtype):
    assert encoder(encoding, shape, dtype, dim=6)(batch(shape, dtype, n=0)).shape == (0, 6)


def test_weights_follow_the_named_stream():
    first, second = (encoder("image", (24, 32, 3), "uint8").state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_bytes_are_scaled_to_minus_one_to_one():
    network = encoder("image", (8, 8, 3), "uint8")
    x = batch((8, 8, 3), "uint8")
    torch.testing.assert_close(network(x), network(x.float() / 127.5 - 1.0))


def test_padding_and_word_order_do_not_change_token_features():
    network = encoder("tokens", (6,), "int64")
    words = torch.tensor([[5, 9, 200, 0, 0, 0]])
    moved = torch.tensor([[0, 200, 0, 5, 9, 0]])
    torch.testing.assert_close(network(words), network(moved))
    torch.testing.assert_close(network(words), network(words[:, :3]))
    assert not torch.allclose(network(words), network(torch.tensor([[5, 9, 201, 0, 0, 0]])))


def test_token_features_are_the_mean_of_the_words_vectors():
    network = encoder("tokens", (4,), "int64")
    mean = (network.table.weight[7] + network.table.weight[7] + network.table.weight[3]) / 3
    torch.testing.assert_close(network(torch.tensor([[7, 0, 7, 3]]))[0], network.body(mean))


def test_any_vocabulary_fits_the_token_table():
    network = encoder("tokens", (2,), "int64")
    big = torch.tensor([[TABLE_ROWS + 4, 50_257]])
    torch.testing.assert_close(network(big), network(torch.tensor([[4, 50_257 % TABLE_ROWS]])))


def test_no_words_at_all_give_finite_features_and_gradients():
    network = encoder("tokens", (4,), "int64")
    features = network(torch.zeros(2, 4, dtype=torch.int64))
    features.sum().backward()
    assert torch.isfinite(features).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_the_order_of_frames_matters():
    network, x = encoder("frames", (4, 16, 16, 3), "uint8"), batch((4, 16, 16, 3), "uint8")
    assert not torch.allclose(network(x), network(x.flip(1)), atol=1e-3)


@for_all(
    ("encoding", "shape"),
    [("frames", (16, 16, 3)), ("image", (16, 16)), ("tokens", (4, 4)), ("vector", ()), ("series", (15,))],
)
def test_a_shape_that_does_not_fit_its_encoding_is_an_error_in_one_line(encoding, shape):
    with pytest.raises(DataError, match=r"needs \d axes") as error:
        encoder_of(modality(encoding, shape, "float32"), 8)
    assert "\n" not in str(error.value)


def test_an_unknown_encoding_is_an_error_that_lists_the_known_ones():
    with pytest.raises(DataError, match=r"waveform.*spectrogram"):
        encoder_of(modality("waveform", (100,), "float32"), 8)


def test_the_three_encoders_of_a_dataset_stay_small_and_fast():
    cases = [c for c in CASES if c[1] in ((4, 16, 16, 3), (24, 24), (24,))]
    networks = [encoder(*case) for case in cases]
    assert sum(p.numel() for network in networks for p in network.parameters()) < 200_000
    inputs = [batch(shape, dtype) for _, shape, dtype in cases]
    best = 1.0
    for _ in range(5):
        start = time.perf_counter()
        for network, x in zip(networks, inputs, strict=True):
            network(x).sum().backward()
        best = min(best, time.perf_counter() - start)
    assert best < 0.2


ENCODER = """
from torch import nn
from mlecs_bench.api import EncoderInfo, hookimpl

class Waveform(nn.Module):
    def __init__(self, n, dim):
        super().__init__()
        self.body = nn.Linear(n, dim)

    def forward(self, wave):
        return self.body(wave.float())

@hookimpl
def mlecs_encoder():
    return EncoderInfo("Waveform", "a line", axes=1, build=lambda modality, dim: Waveform(modality.shape[0], dim))
"""
WAVE = Modality("w", (100,), "float32", "waveform")


@pytest.fixture
def acme(tmp_path, monkeypatch):
    """An encoder of somebody else, installed with a source."""
    distribution = Distribution(tmp_path / "site", monkeypatch, "acme-waves", "acme_waveform")
    points = {"mlecs_bench.encoders": {"waveform": "acme_waveform"}}
    return lambda source=ENCODER: distribution.install(source, points)


def test_an_encoding_of_another_distribution_is_read_by_its_encoder(acme):
    with pytest.raises(DataError, match="waveform"):
        encoder_of(WAVE, 5)
    acme()
    registry = Registry.installed()
    assert encoder_of(WAVE, 5, registry)(batch((100,), "float32")).shape == (8, 5)
    with pytest.raises(DataError, match="needs 1 axes"):
        encoder_of(modality("waveform", (4, 4), "float32"), 5, registry)


def test_what_identifies_a_result_names_foreign_encoders_by_their_code_and_ours_not_at_all(acme):
    found = []
    for source in (ENCODER, ENCODER, ENCODER + "EDITED = True\n"):
        acme(source)
        found.append(encoder_origins([WAVE, modality("vector", (3,), "float32")], Registry.installed()))
    assert [set(origins) for origins in found] == [{"waveform"}] * 3
    assert re.fullmatch(r"acme-waves 1\.0, code [0-9a-f]{16}", found[0]["waveform"])
    assert found[0] == found[1] != found[2]


def test_an_installed_encoder_is_had_by_its_name(acme):
    acme()
    assert installed_encoder("waveform").info.title == "Waveform"
    assert installed_encoder("vector").origin == ""
    with pytest.raises(UsageError, match="Did you mean 'vector'"):
        installed_encoder("vecto")


def test_only_the_encoders_of_a_manifest_are_imported(acme):
    acme("raise RuntimeError('imported')")
    image = modality("image", (8, 8, 3), "uint8")
    assert set(encoders_of([image, image], Registry.installed())) == {"image"}
    with pytest.raises(PluginError, match=r"acme-waves' 1\.0 failed to import: RuntimeError: imported"):
        encoders_of([image, WAVE], Registry.installed())
