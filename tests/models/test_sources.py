"""Where language models come from: folders, the hub, and what identifies them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPTJConfig

from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import DataError
from mlecs_bench.models import sources
from mlecs_bench.models.backbone import Backbone
from mlecs_bench.models.loading import BaseSettings
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
    assert sources.pretrained("somebody/tiny") == (str(folder), {"local_files_only": True, "trust_remote_code": False})


OTHER_FILES = ("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model")
"""Files that some tokenizers are loaded from."""


def test_a_folders_identity_changes_with_any_of_its_files_and_not_with_its_place(checkpoints, tmp_path):
    copy = Path(shutil.copytree(checkpoints["gpt2"], tmp_path / "copy"))
    before = sources.content_id(checkpoints["gpt2"])
    assert sources.content_id(str(copy)) == before
    for name in ("config.json", "tokenizer.json", "model.safetensors", *OTHER_FILES):
        path = copy / name
        whole = path.read_bytes() if path.exists() else None
        path.write_bytes((whole or b"{}") + b" ")
        assert sources.content_id(str(copy)) != before, name
        path.unlink() if whole is None else path.write_bytes(whole)
    assert sources.content_id(str(copy)) == before
    (copy / "model.safetensors").unlink()
    with pytest.raises(DataError, match="holds no weights"):
        sources.content_id(str(copy))


def test_the_settings_of_a_tokenizer_enter_the_identity_unless_they_only_repeat_other_files(checkpoints, tmp_path):
    copy = Path(shutil.copytree(checkpoints["gpt2"], tmp_path / "copy"))
    settings = copy / "tokenizer_config.json"
    values, before = json.loads(settings.read_text()), sources.content_id(str(copy))
    settings.write_text(json.dumps(values | {"padding_side": "left", "model_max_length": 7}))
    assert sources.content_id(str(copy)) == before
    other = json.loads((copy / "tokenizer.json").read_text())["model"]["vocab"]
    for changes in (
        {"eos_token": max(other, key=other.get)},
        {"pad_token": "<pad>"},
        {"tokenizer_class": "GPT2Tokenizer"},
        {"add_bos_token": True},
        {"clean_up_tokenization_spaces": True},
        {"added_tokens_decoder": {}},
    ):
        settings.write_text(json.dumps(values | changes))
        assert sources.content_id(str(copy)) != before, changes
    settings.write_text("{")
    assert sources.content_id(str(copy)) != before


def test_the_models_that_ship_are_called_what_they_were_before_their_tokenizers_settings_counted():
    for folder in {MINI.slm, MINI.llm, REGISTRY.profile("mini-split").info.llm}:
        digest = hashlib.sha256()
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            content = (Path(folder) / name).read_bytes()
            digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
        assert sources.content_id(folder) == digest.hexdigest()


def test_loading_opens_nothing_but_what_the_identity_holds(checkpoints, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(checkpoints["llama"], tmp_path / "copy"))
    for name in ("special_tokens_map.json", "added_tokens.json", "tokenizer_config.json"):
        (copy / name).write_text((copy / name).read_text() if (copy / name).exists() else "{}")
    for name in ("generation_config.json", "preprocessor_config.json", "vocab.json"):
        (copy / name).write_text("{")  # damaged: whoever read it would fail
    opened, plain_open = set(), open

    def recorded(file, *args, **kwargs):
        if isinstance(file, str | Path) and Path(file).parent == copy:
            opened.add(Path(file).name)
        return plain_open(file, *args, **kwargs)

    monkeypatch.setattr("builtins.open", recorded)
    monkeypatch.setattr("io.open", recorded)
    Backbone(str(copy), BaseSettings(torch.device("cpu")))
    monkeypatch.undo()
    assert {"config.json", "tokenizer_config.json"} <= opened
    assert opened <= {path.name for path in sources.digested_files(copy)} | {"tokenizer_config.json"}
