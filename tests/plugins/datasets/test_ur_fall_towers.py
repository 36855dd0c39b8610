"""Laws of UR-FALL through a tower: every frame's own embedding, made once; what is no picture stays as it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import tower_checkpoints
from mlecs_bench.data.samples import DataRequest, Samples
from mlecs_bench.doors.options import build_options
from mlecs_bench.errors import DataError, UsageError
from mlecs_plugins.datasets.towers import pictures
from mlecs_plugins.datasets.ur_fall import card
from mlecs_plugins.datasets.ur_fall.verification import verify
from ur_fall_files import LABELS, make_folder, open_samples, png, rows_of, shade, side_by_side, write_video, write_zip

N = sum(map(len, LABELS.values()))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("original") / "ur-fall")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "ur-fall"))


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The options of a tower that mixes the mean colours of a picture."""
    file = tower_checkpoints.install_colours(tmp_path, monkeypatch)
    return {"features": "towers", "vision_tower": file, "vision_adapter": "colours"}


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of the tower embeds; the first of a tower is the one that it is opened with."""
    counts: list[int] = []
    embed = pictures.WeightTower.embed

    def counting(self, items):
        counts.append(len(items))
        return embed(self, items)

    monkeypatch.setattr(pictures.WeightTower, "embed", counting)
    return counts


def mixed(grey: float) -> np.ndarray:
    """Return the embedding of a grey picture."""
    channels = [(grey / 255 - mean) / std for mean, std in zip((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), strict=True)]
    return tower_checkpoints.COLOURS["net.mix.weight"].numpy() @ np.array(channels)


def frame_of(samples: Samples, row: int) -> int:
    return int(samples.ids[row][-4:])


def test_frames_become_embeddings_and_other_modalities_stay_bit_for_bit(folder, tmp_path, colours):
    raw, through = open_samples(folder, tmp_path / "cache"), open_samples(folder, tmp_path / "cache", **colours)
    rgb = through.manifest.modality("rgb")
    assert (rgb.shape, rgb.dtype, rgb.encoding, rgb.standardise) == ((4,), "float32", "vector", True)
    assert through.manifest.view == "rgb, depth features, accelerometer, through colours"
    assert through.ids == raw.ids
    for row, values in enumerate(through.array("rgb")):
        np.testing.assert_allclose(values, mixed(shade(frame_of(through, row))), atol=0.5)  # the video loses a little
    for name in ("acce", "depth"):
        assert through.manifest.modality(name) == raw.manifest.modality(name)
        np.testing.assert_array_equal(through.array(name), raw.array(name))


def test_depth_images_are_shown_in_grey_and_what_is_missing_stays_missing(folder, tmp_path, colours):
    codes = {frame: np.full((480, 640), 3000 * frame, dtype=np.uint16) for frame in (2, 3)}
    write_zip(folder / "fall-01-cam0-d.zip", codes)
    samples = open_samples(folder, tmp_path / "cache", depth="image", **colours)
    assert samples.manifest.modality("depth").shape == (4,)
    assert samples.manifest.modality("depth").standardise
    present = samples.presence["depth"]
    assert [samples.ids[row] for row in np.flatnonzero(present)] == ["fall-01/0002", "fall-01/0003"]
    assert not samples.array("depth")[~present].any()
    for row in np.flatnonzero(present):
        grey = round(6000 * 3000 * frame_of(samples, row) / 65535 / 7000 * 255)
        np.testing.assert_allclose(samples.array("depth")[row], mixed(grey), rtol=1e-4)


def test_both_halves_of_a_side_by_side_video_are_embedded(folder, tmp_path, colours):
    write_video(folder / "video" / "adl-07-cam0.mp4", side_by_side, width=640)
    samples = open_samples(folder, tmp_path / "cache", depth="image", **colours)
    for row in rows_of(samples, "adl-07"):
        grey = shade(frame_of(samples, row))
        np.testing.assert_allclose(samples.array("rgb")[row], mixed(grey), atol=1.0)
        np.testing.assert_allclose(samples.array("depth")[row], mixed(255 - grey), atol=1.0)


def test_no_frame_is_embedded_twice(folder, tmp_path, colours, embedded):
    open_samples(folder, tmp_path / "cache", **colours)
    assert sum(embedded) == 1 + N
    embedded.clear()
    again = open_samples(folder, tmp_path / "cache", labels="digits", **colours)
    assert embedded == []
    assert set(again.targets) <= set(card.DIGITS)
    write_video(folder / "video" / "adl-07-cam0.mp4", side_by_side, width=640)
    open_samples(folder, tmp_path / "cache", **colours)
    assert sum(embedded) == 1 + len(LABELS["adl-07"])


def test_an_interrupted_preparation_goes_on_at_the_sequence_where_it_was(folder, tmp_path, colours, monkeypatch):
    seen: list[int] = []
    embed = pictures.WeightTower.embed

    class PulledPlugError(Exception):
        pass

    def pulled(self, items):
        seen.append(len(items))
        if sum(seen) > 1 + len(LABELS["fall-01"]):
            raise PulledPlugError
        return embed(self, items)

    with monkeypatch.context() as patch:
        patch.setattr(pictures.WeightTower, "embed", pulled)
        with pytest.raises(PulledPlugError):
            open_samples(folder, tmp_path / "cache", **colours)
    seen.clear()
    monkeypatch.setattr(
        pictures.WeightTower, "embed", lambda self, items: seen.append(len(items)) or embed(self, items)
    )
    open_samples(folder, tmp_path / "cache", **colours)
    assert sum(seen) == 1 + len(LABELS["adl-07"])


def test_batches_change_no_identity_and_other_weights_do(folder, tmp_path, colours):
    one, other = (open_samples(folder, tmp_path / n, tower_batch=n, **colours) for n in ("2", "32"))
    assert one.manifest == other.manifest
    np.testing.assert_array_equal(one.array("rgb"), other.array("rgb"))
    doubled = {name: 2 * t for name, t in tower_checkpoints.COLOURS.items()}
    file = tower_checkpoints.written(tmp_path / "doubled.pth", doubled)
    third = open_samples(folder, tmp_path / "2", **{**colours, "vision_tower": file})
    assert third.manifest.digest != one.manifest.digest
    np.testing.assert_allclose(third.array("rgb"), 2 * one.array("rgb"), rtol=1e-5)


def test_verification_gives_the_digest_and_the_view_of_preparation(folder, tmp_path, colours):
    request = DataRequest(folder, tmp_path / "cache", build_options(card.UrFallOptions, colours, "ur-fall"))
    verified, prepared = verify(request), open_samples(folder, tmp_path / "cache", **colours).manifest
    assert (verified.digest, verified.view) == (prepared.digest, prepared.view)


def test_a_frame_that_is_not_there_is_named_as_without_a_tower(folder, tmp_path, colours):
    write_video(folder / "video" / "fall-01-cam0.mp4", lambda frame: side_by_side(frame)[:, :320], n_frames=4)
    with pytest.raises(DataError, match=r"lacks 2 of the frames that urfall-cam0-falls\.csv labels"):
        open_samples(folder, tmp_path / "cache", **colours)


def test_a_damaged_picture_is_named(folder, tmp_path, colours):
    (folder / "fall-01-cam0-rgb.zip").write_bytes(png(np.zeros((4, 4, 3), dtype=np.uint8)))
    with pytest.raises(DataError, match=r"fall-01-cam0-rgb\.zip: is not a whole zip archive"):
        open_samples(folder, tmp_path / "cache", **colours)


def test_what_cannot_be_embedded_is_refused(tmp_path, colours):
    with pytest.raises(UsageError, match="give --data-dir"):
        open_samples(None, tmp_path / "cache", **colours)
    with pytest.raises(UsageError, match="'vision_tower' needs features=towers"):
        build_options(card.UrFallOptions, {"vision_tower": "/models/vit"}, "dataset 'ur-fall'")
