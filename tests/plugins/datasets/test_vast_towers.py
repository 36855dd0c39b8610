"""Laws of frozen towers before VAST: embeddings are made once, and what is missing stays missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import tower_checkpoints
from installed import encoder_of
from mlecs_bench.data.samples import DataRequest, Samples
from mlecs_bench.doors.options import build_options, identifying
from mlecs_bench.errors import UsageError
from mlecs_plugins.datasets.towers import encoders
from mlecs_plugins.datasets.towers.checkpoints import checkpoint_of
from mlecs_plugins.datasets.vast.card import VastOptions
from mlecs_plugins.datasets.vast.preparation import prepare, verify
from vast_files import record, tone, write_media, write_records


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    kinds = ("clip", "siglip", "clap", "whisper", "bert")
    return {kind: getattr(tower_checkpoints, kind)(folder / kind) for kind in kinds}


# Preparation


@pytest.fixture
def media(tmp_path):
    """Three clips: one with pictures and sound, one silent, one damaged; the second lacks a subtitle."""
    folder = tmp_path / "vast"
    records = [record("a"), record("b", subtitle=""), record("c", subtitle="she has slept all day")]
    write_records(folder / "annotations.json", records)
    write_media(folder / "a.mp4", sound=tone(1.0))
    write_media(folder / "b.mp4")
    (folder / "c.mp4").write_bytes(b"no film")
    return folder


def asked(folder: Path, cache: Path, towers: dict[str, str], **options: object) -> DataRequest:
    named = {"vision_tower": towers["clip"], "audio_tower": towers["clap"], "text_tower": towers["bert"]}
    given = build_options(VastOptions, {"features": "towers", **named, **options}, "vast")
    return DataRequest(folder, cache, given)


@pytest.fixture
def embedded(monkeypatch):
    """How many items every tower embeds, by its class."""
    counts: dict[str, int] = {}
    for tower in (encoders.VisionTower, encoders.ClapTower, encoders.TextTower):
        embed = tower.embed

        def counting(self, items, embed=embed, name=tower.__name__):
            counts[name] = counts.get(name, 0) + len(items)
            return embed(self, items)

        monkeypatch.setattr(tower, "embed", counting)
    return counts


def test_media_become_embeddings_and_what_is_missing_stays_missing(media, tmp_path, towers):
    prepared = prepare(asked(media, tmp_path / "cache", towers))
    samples = Samples.open(prepared)
    assert {m.name: (m.shape, m.encoding) for m in prepared.manifest.modalities} == {
        "audio": ((10,), "vector"), "subtitle": ((16,), "vector"), "vision": ((8, 12), "series"),
    }  # fmt: skip
    assert {m: has.tolist() for m, has in samples.presence.items()} == {
        "audio": [True, False, False], "subtitle": [True, False, True], "vision": [True, True, False],
    }  # fmt: skip
    assert prepared.manifest.view == "media: frames, audio, subtitle, through clip, clap, bert"
    assert any("cannot be decoded" in note for note in prepared.manifest.notes)
    assert all(m.standardise for m in prepared.manifest.modalities)
    raw = prepare(DataRequest(media, tmp_path / "cache", VastOptions())).manifest
    assert not any(m.standardise for m in raw.modalities)
    for m in prepared.manifest.modalities:
        row = samples.array(m.name)[~samples.presence[m.name]]
        assert not row.any()
        encoder = encoder_of(m, 6)
        assert encoder(torch.from_numpy(samples.array(m.name).copy())).shape == (3, 6)


def test_captions_go_through_the_text_tower_alone(media, tmp_path, towers):
    named = {"vision_tower": "nobody/nothing", "audio_tower": "nobody/nothing"}
    prepared = prepare(asked(media, tmp_path / "cache", towers, view="captions", **named))
    samples = Samples.open(prepared)
    text = encoders.open_tower(checkpoint_of("text", towers["bert"], "text_tower"), "cpu")
    np.testing.assert_allclose(samples.array("audio")[0], text.embed(["a cat purrs"])[0], atol=1e-6)
    assert samples.presence["subtitle"].tolist() == [True, False, True]
    assert prepared.manifest.view.endswith("through bert")


def test_a_second_preparation_embeds_only_what_is_new(media, tmp_path, towers, embedded):
    cache = tmp_path / "cache"
    prepare(asked(media, cache, towers, limit=2))
    first = dict(embedded)
    assert first["VisionTower"] in (8, 16)
    prepare(asked(media, cache, towers))
    whole = dict(embedded)
    assert whole["VisionTower"] == 16
    assert whole["TextTower"] == 1  # two clips have the same subtitle, one has none
    shutil.rmtree(next(p for p in (cache / "vast").iterdir() if len(p.name) == 32))
    prepare(asked(media, cache, towers))
    prepare(asked(media, cache, towers))
    assert embedded == whole


def test_an_interrupted_preparation_goes_on_where_it_was(media, tmp_path, towers, embedded, monkeypatch):
    cache = tmp_path / "cache"

    class PulledPlugError(Exception):
        pass

    def pull(*_):
        raise PulledPlugError

    with monkeypatch.context() as patch:
        patch.setattr(encoders.VisionTower, "embed", pull)
        with pytest.raises(PulledPlugError):
            prepare(asked(media, cache, towers))
    assert embedded == {"ClapTower": 1, "TextTower": 1}
    prepare(asked(media, cache, towers))
    assert embedded == {"ClapTower": 1, "TextTower": 1, "VisionTower": 16}


def test_the_size_of_batches_changes_neither_identity_nor_values(media, tmp_path, towers):
    one, other = (prepare(asked(media, tmp_path / str(b), towers, tower_batch=b)) for b in (32, 5))
    assert one.manifest == other.manifest
    for m in one.manifest.modality_names:
        values = [Samples.open(p).array(m) for p in (one, other)]
        np.testing.assert_allclose(*values, atol=1e-5)


def test_other_weights_are_other_data(media, tmp_path, towers):
    another = tower_checkpoints.bert(tmp_path / "bert", seed=1)
    one = prepare(asked(media, tmp_path / "cache", towers))
    two = prepare(asked(media, tmp_path / "cache", {**towers, "bert": another}))
    assert one.manifest.view == two.manifest.view
    assert one.manifest.digest != two.manifest.digest
    assert not np.allclose(*(Samples.open(p).array("subtitle")[0] for p in (one, two)))


def test_the_place_of_a_tower_is_no_part_of_an_identity(towers, tmp_path):
    copy = shutil.copytree(towers["bert"], tmp_path / "elsewhere" / "bert")
    given = [
        build_options(VastOptions, {"features": "towers", "text_tower": str(t)}, "vast") for t in (towers["bert"], copy)
    ]
    kept = [identifying(VastOptions, vars(options)) for options in given]
    assert kept[0] == kept[1]
    assert kept[0]["text_tower"] == "bert"
    assert not {"tower_device", "tower_batch"} & kept[0].keys()


# Errors


def spoil_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "visual_projection" not in k}, path, {"format": "pt"})


DAMAGES = {
    "no config": (lambda f: (f / "config.json").unlink(), "it is no folder of a model: there is no config.json in it"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "it holds no weights"),
    "half the weights": (drop_weights, "it lacks 1 weights, such as visual_projection.weight"),
    "corrupt": (lambda f: (f / "model.safetensors").write_bytes(b"x"), "it cannot be loaded"),
    "architecture": (lambda f: spoil_config(f, model_type="bert"), "its architecture 'bert' reads input_ids"),
    "no preprocessing": (lambda f: (f / "preprocessor_config.json").unlink(), "write a preprocessor_config.json into"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_tower_that_is_not_whole_is_refused_in_one_line(damage, media, tmp_path, towers):
    copy = shutil.copytree(towers["clip"], tmp_path / "clip")
    harm, match = DAMAGES[damage]
    harm(copy)
    with pytest.raises(UsageError, match=match) as caught:
        prepare(asked(media, tmp_path / "cache", {**towers, "clip": str(copy)}))
    text = str(caught.value)
    assert "\n" not in text
    assert "--data-option vision_tower=FOLDER" in text


def test_a_clap_that_draws_cuts_at_random_is_refused(media, tmp_path, towers):
    fused = tower_checkpoints.clap(tmp_path / "fused", enable_fusion=True)
    with pytest.raises(UsageError, match="unfused"):
        prepare(asked(media, tmp_path / "cache", {**towers, "clap": fused}))


@pytest.mark.parametrize(
    ("source", "match"), [("/no/such", "no such folder"), ("nobody/nothing", "cannot use the tower")]
)
def test_a_tower_that_is_not_there_is_named(source, match, media, tmp_path, towers):
    for step in (prepare, verify):
        with pytest.raises(UsageError, match=match):
            step(asked(media, tmp_path / "cache", {**towers, "clip": source}))


def test_a_tower_without_features_towers_is_refused():
    with pytest.raises(UsageError, match="needs features=towers"):
        build_options(VastOptions, {"text_tower": "/models/bert"}, "dataset 'vast'")
