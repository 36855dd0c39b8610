"""Profiles in YAML files: what they extend, what they say, and that a record knows them by what they hold."""

from __future__ import annotations

import pytest

from mlecs_bench.doors.profile_settings import setting_rows
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.plan.profiles import profile_named

REGISTRY = Registry.installed()
MINI = REGISTRY.profile("mini").info


def written(folder, name: str, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_file_extends_a_profile_or_another_file(tmp_path):
    written(tmp_path, "base.yaml", "extends: mini\nlora: {rank: 16}\nrounds: 3\nsources: {rounds: a guess}")
    path = written(tmp_path, "mine.yaml", "extends: base.yaml\nlearning_rates.lora: 1e-3\nsummary: Mine.\n")
    loaded = profile_named(path, REGISTRY)
    found = loaded.info
    assert (loaded.name, found.name, found.summary, loaded.distribution) == ("mine", "mine", "Mine.", path)
    assert (found.lora.rank, found.rounds, found.learning_rates.lora) == (16, 3, 1e-3)
    assert (found.learning_rates.encoder, found.slm, found.tiny) == (MINI.learning_rates.encoder, MINI.slm, True)
    sources = {row["name"]: row["source"] for row in setting_rows(found)}
    assert (sources["rounds"], sources["lora.rank"]) == ("a guess", "base.yaml")
    assert (sources["learning_rates.lora"], sources["steps"]) == ("mine.yaml", MINI.sources["steps"])


def test_a_file_that_extends_nothing_says_all_that_has_no_default(tmp_path, profile):
    text = f"""
slm: {profile.slm}
llm: {profile.llm}
soft_tokens: 3
encoder_width: 8
hidden_width: 8
fused_width: 8
learning_rates: {{encoder: 1e-3, connector: 0.001, lora: 2e-3}}
rounds: 2
batch_size: 4
bertscore_samples: 64
"""
    with pytest.raises(UsageError, match="the setting 'steps' is missing; give it, or extends: mini"):
        profile_named(written(tmp_path, "all.yaml", text), REGISTRY)
    found = profile_named(written(tmp_path, "all.yaml", text + "steps: 2\ntiny: true\n"), REGISTRY).info
    as_given = setting_rows(found)
    assert [(r["name"], r["value"]) for r in as_given] == [(r["name"], r["value"]) for r in setting_rows(profile)]
    assert all(row["source"] for row in as_given)


def test_paths_are_seen_from_the_files_folder_and_hub_ids_are_not_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "model").mkdir(parents=True)
    text = "extends: mini\nslm: model\nllm: ./other\nencoders: weights.safetensors\n"
    found = profile_named(written(tmp_path / "here", "p.yml", text), REGISTRY).info
    here = tmp_path / "here"
    assert (found.slm, found.llm, found.encoders) == (
        str(here / "model"), str(here / "other"), here / "weights.safetensors",
    )  # fmt: skip  # three paths
    assert not found.tiny  # other models are not tiny because mini's are
    hub = profile_named(written(tmp_path / "here", "h.yml", "extends: mini\nslm: OWNER/NAME\nencoders: null"), REGISTRY)
    assert (hub.info.slm, hub.info.encoders) == ("OWNER/NAME", None)


WRONG = (
    ("extends: mimi", "no profile 'mimi'. Did you mean 'mini'?"),
    ("extends: mini\nlora: {rnak: 4}", "a profile has no setting 'lora.rnak'. Did you mean 'lora.rank'?"),
    ("extends: mini\nextend: mini", "a profile has no setting 'extend'. Did you mean 'extends'?"),
    ("extends: mini\nname: x", "a profile has no setting 'name'."),
    ("extends: mini\nlora.rank: 0", "setting 'lora.rank' must be a whole number above 0, at most 65536, got 0"),
    ("extends: mini\nencoder_width: 32", "the pretrained encoders of profile 'mini' are 64 wide"),
    ("extends: mini\nsteps: 3\nlocal_epochs: 2", "steps and local-epochs exclude each other"),
    ("extends: mini\ntiny: perhaps", "tiny must be true or false, got perhaps"),
    ("extends: mini\nsources: {lora.rnak: x}", "sources names no setting 'lora.rnak'. Did you mean 'lora.rank'?"),
    ("extends: mini\nsources: ours", "sources must map names of settings to texts, got 'ours'"),
    ("extends: [mini]", "extends must be a profile or a file, got ['mini']"),
    ("extends: none.yaml", "none.yaml: No such file"),
    ("extends: p.yaml", "extends itself: p.yaml extends p.yaml"),
    ("extends: mini\nlora: {rank: 4}\nlora.rank: 4", "'lora.rank' is set twice"),
    ("- mini", "must hold settings as 'name: value', got list"),
    ("extends: [", "is not YAML"),
)


def test_a_wrong_file_is_refused_in_one_line_with_its_name(tmp_path):
    for text, expected in WRONG:
        with pytest.raises(UsageError) as caught:
            profile_named(written(tmp_path, "p.yaml", text), REGISTRY)
        assert expected in str(caught.value)
        assert str(tmp_path / "p.yaml") in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_longer_cycle_is_named(tmp_path):
    written(tmp_path, "b.yaml", "extends: c.yaml")
    written(tmp_path, "c.yaml", "extends: b.yaml")
    with pytest.raises(UsageError, match=r"extends itself: b.yaml extends c.yaml extends b.yaml; let one of them"):
        profile_named(written(tmp_path, "a.yaml", "extends: b.yaml"), REGISTRY)
