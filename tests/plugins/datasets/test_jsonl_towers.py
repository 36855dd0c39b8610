"""Frozen towers before a table of a user's own: what each kind of column becomes, and what identifies it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tower_checkpoints
from jsonl_files import request, samples_in
from mlecs_bench.doors.options import identifying, plain
from mlecs_bench.errors import DataError, UsageError
from mlecs_plugins.datasets import jsonl
from mlecs_plugins.datasets.jsonl.card import JsonlOptions
from mlecs_plugins.datasets.towers.checkpoints import checkpoint_of
from mlecs_plugins.datasets.towers.encoders import open_tower
from mlecs_plugins.datasets.vast.media import read_picture, read_waveform, sample_frames
from vast_files import plain as plain_picture
from vast_files import tone, write_media

MANIFEST = """
samples: rows.jsonl
id: key
target: says
modalities:
  picture: {image: picture}
  sound: {audio: film}
  film: {video: film}
  note: {text: note}
  motion: {array: motion}
"""
ROWS = [
    {"key": "a", "says": "one", "picture": "a.png", "film": "a.mp4", "note": "a  red\nwall", "motion": [1, 2]},
    {"key": "b", "says": "two", "picture": None, "film": None, "note": " ", "motion": [3, 4]},
    {"key": "c", "says": "three", "picture": "bad.png", "film": "mute.mp4", "note": "?", "motion": None},
]


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    return {kind: getattr(tower_checkpoints, kind)(folder / kind) for kind in ("clip", "clap", "bert")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "dataset.yaml").write_text(MANIFEST)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    Image.fromarray(plain_picture(9)).save(folder / "a.png")
    (folder / "bad.png").write_bytes(b"no picture")
    write_media(folder / "a.mp4", sound=tone(0.5), n_frames=10)
    write_media(folder / "mute.mp4", n_frames=10)
    return folder


def options(towers: dict[str, str]) -> dict[str, object]:
    named = {"vision_tower": towers["clip"], "audio_tower": towers["clap"], "text_tower": towers["bert"]}
    return {"features": "towers", **named}


def test_each_kind_of_column_becomes_what_its_tower_makes_of_it(folder, towers, tmp_path):
    found = samples_in(folder, tmp_path / "cache", **options(towers))
    shapes = {m.name: (m.encoding, m.shape, m.standardise) for m in found.manifest.modalities}
    assert shapes == {
        "film": ("series", (8, 12), True),
        "motion": ("vector", (2,), True),
        "note": ("vector", (16,), True),
        "picture": ("vector", (12,), True),
        "sound": ("vector", (10,), True),
    }
    assert {name: has.tolist() for name, has in found.presence.items()} == {
        "film": [True, False, True],
        "motion": [True, True, False],
        "note": [True, False, True],
        "picture": [True, False, False],
        "sound": [True, False, False],
    }

    def embedded(kind: str, name: str, things: list) -> np.ndarray:
        return open_tower(checkpoint_of(kind, towers[name], "option"), "cpu").embed(things)

    oracles = {
        "picture": embedded("vision", "clip", [read_picture(folder / "a.png")])[0],
        "film": embedded("vision", "clip", sample_frames(folder / "a.mp4", 8)),
        "sound": embedded("audio", "clap", [read_waveform(folder / "a.mp4", 16_000)])[0],
        "note": embedded("text", "bert", ["a red wall"])[0],
        "motion": [1, 2],
    }
    for name, oracle in oracles.items():
        np.testing.assert_allclose(found.array(name)[0], oracle, atol=1e-6, err_msg=name)
    assert found.manifest.view.endswith(", through clap, clip, bert")
    assert any("bad.png" in note for note in found.manifest.notes)


def test_nothing_is_embedded_twice_and_other_weights_are_other_data(folder, towers, tmp_path, monkeypatch):
    first = samples_in(folder, tmp_path / "cache", **options(towers))
    other = {**options(towers), "vision_tower": tower_checkpoints.clip(tmp_path / "clip", seed=1)}
    assert samples_in(folder, tmp_path / "cache", **other).manifest.digest != first.manifest.digest
    assert samples_in(folder, tmp_path / "cache").manifest.digest != first.manifest.digest
    found = jsonl.verify(request(folder, tmp_path / "cache", **options(towers)))
    assert (found.digest, found.view) == (first.manifest.digest, first.manifest.view)

    def refused(*_: object) -> None:
        raise AssertionError("something is embedded again")

    monkeypatch.setattr("mlecs_plugins.datasets.towers.embedding.StoredTower.embed", refused)
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in folder.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    (changed / "dataset.yaml").write_text(MANIFEST + "prompt: What?")
    again = samples_in(changed, tmp_path / "cache", **options(towers))
    np.testing.assert_array_equal(again.array("film"), first.array("film"))


def test_results_without_towers_are_identified_as_before_there_were_any():
    assert identifying(JsonlOptions, plain(JsonlOptions())) == {"manifest": "dataset.yaml", "target_words": None}
    given = identifying(JsonlOptions, plain(JsonlOptions(features="towers", text_tower="/a/b", target_words=3)))
    assert given == {"manifest": "dataset.yaml", "target_words": 3, "features": "towers", "text_tower": "b"}


def test_towers_without_anything_to_encode_and_towers_that_are_none_are_refused(folder, towers, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "rows.jsonl").write_text((folder / "rows.jsonl").read_text())
    (own / "dataset.yaml").write_text("samples: rows.jsonl\ntarget: says\nmodalities: {motion: {array: motion}}")
    for at, given, told in (
        (own, options(towers), "no modality of jsonl is a text, image, audio or video"),
        (folder, {**options(towers), "text_tower": str(tmp_path)}, "it is no folder of a model"),
        (folder, {"vision_tower": towers["clip"]}, "option 'vision_tower' needs features=towers"),
        (None, options(towers), "are for your own table; give --data-dir"),
    ):
        with pytest.raises((UsageError, DataError), match=told) as caught:
            samples_in(at, tmp_path / "cache", **given)
        assert "\n" not in str(caught.value)
