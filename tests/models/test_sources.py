"""Where language models come from: folders, the hub, and what identifies them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import GPT2Config, GPTJConfig

from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import DataError
from mlecs_bench.models import sources
from mlecs_bench.models.outline import backbone_shape

REGISTRY = Registry.installed()
MINI, SMALL, PAPER, POCKET = (REGISTRY.profile(name).info for name in ("mini", "small", "paper", "pocket"))


def test_the_models_of_every_profile_are_known_without_a_hub():
    for profile in (SMALL, PAPER, POCKET):
        for source in (profile.slm, profile.llm):
            assert backbone_shape(source, None).adapted


def test_published_sizes_are_those_of_the_architectures_own_presets():
    assert sources.configuration("EleutherAI/gpt-j-6b").to_dict() == GPTJConfig().to_dict()
    assert sources.configuration("openai-community/gpt2").to_dict() == GPT2Config().to_dict()


def test_the_published_size_of_smollm2_is_that_of_its_package():
    shape = backbone_shape(POCKET.slm, None)
    assert (shape.n_parameters, shape.vocab_size, shape.max_positions) == (134_515_008, 49_152, 8_192)


def hub_copy(root: Path, repository: str, checkpoint: str, commit: str) -> None:
    """Write a checkpoint as huggingface_hub's cache holds it."""
    folder = root / f"models--{repository.replace('/', '--')}"
    shutil.copytree(checkpoint, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)


@pytest.fixture
def hub(tmp_path, monkeypatch, checkpoints):
    """A cache of the hub that holds one model at one commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    hub_copy(tmp_path, "somebody/tiny", checkpoints["gpt2"], commit)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return commit


def test_a_hub_id_stands_for_the_commit_that_the_cache_has(hub, tmp_path):
    assert sources.content_id("somebody/tiny") == f"somebody/tiny@{hub}"
    assert sources.content_id(f"somebody/tiny@{hub}") == f"somebody/tiny@{hub}"
    folder = tmp_path / "models--somebody--tiny" / "snapshots" / hub
    assert sources.pretrained("somebody/tiny") == (str(folder), {"local_files_only": True})


def test_a_folders_identity_changes_with_any_of_its_files_and_not_with_its_place(checkpoints, tmp_path):
    copy = Path(shutil.copytree(checkpoints["gpt2"], tmp_path / "copy"))
    before = sources.content_id(checkpoints["gpt2"])
    assert sources.content_id(str(copy)) == before
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        path = copy / name
        whole = path.read_bytes()
        path.write_bytes(whole + b" ")
        assert sources.content_id(str(copy)) != before
        path.write_bytes(whole)
    (copy / "model.safetensors").unlink()
    with pytest.raises(DataError, match="holds no weights"):
        sources.content_id(str(copy))
