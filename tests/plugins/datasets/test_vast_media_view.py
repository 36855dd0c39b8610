"""The media of VAST: which file a modality comes from, what is missing, the cache and its digest, and `verify`."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from mlecs_bench.errors import DataError
from mlecs_plugins.datasets import store
from mlecs_plugins.datasets.vast import inputs
from mlecs_plugins.datasets.vast.features import log_mel
from mlecs_plugins.datasets.vast.media import read_waveform, sample_frames
from mlecs_plugins.datasets.vast.preparation import prepare
from vast_files import (
    WITHOUT,
    gap_records,
    make_clips,
    missing_of,
    open_samples,
    plain,
    record,
    request,
    shade,
    verified,
    write_media,
    write_records,
)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("original") / "vast")


@pytest.fixture
def clips(original, tmp_path):
    return shutil.copytree(original, tmp_path / "vast")


@pytest.fixture
def captions(tmp_path):
    return write_records(tmp_path / "data" / "notes.json", gap_records()).parent


# The media view


def test_media_are_used_when_there_are_any(clips, captions, tmp_path):
    assert open_samples(clips, tmp_path / "cache").manifest.view == "media: frames, audio, subtitle"
    assert open_samples(clips, tmp_path / "cache", view="captions").manifest.view.startswith("captions: ")
    assert open_samples(captions, tmp_path / "cache").manifest.view.startswith("captions: ")
    assert open_samples(clips, tmp_path / "cache", view="captions").ids != open_samples(clips, tmp_path / "cache").ids


def test_media_have_the_shapes_of_the_stand_in(clips, tmp_path):
    from mlecs_plugins.datasets.vast.synthetic import MODALITIES

    modalities = open_samples(clips, tmp_path / "cache").manifest.modalities
    for real, synthetic in zip(modalities, MODALITIES, strict=True):
        assert (real.name, real.dtype, real.encoding) == (synthetic.name, synthetic.dtype, synthetic.encoding)
        assert real.shape == synthetic.shape or real.name == "subtitle"


def test_what_the_files_of_a_clip_lack_its_sample_lacks(clips, tmp_path):
    samples = open_samples(clips, tmp_path / "cache")
    assert set(samples.ids) == {"both", "video", "mute", "sound", "cut", "mixed"}
    assert missing_of(samples) == {
        "audio": {"mute", "cut"},
        "vision": {"sound", "cut", "mixed"},
        "subtitle": {"mute"},
    }
    assert samples.manifest.notes == (
        "1 of 7 annotated clips have no media file and are left out",
        "2 of 6 clips have no sound",
        "1 of 6 clips have no subtitle",
        "3 of 6 clips have no pictures",
        "2 media files cannot be decoded, and what they hold is missing: cut.mp4, mixed.mp4",
    )


def test_sound_comes_from_the_sound_file_and_else_from_the_video(clips, tmp_path):
    samples = open_samples(clips, tmp_path / "cache")
    for name, file in {"both": "both.mp3", "video": "video.mp4", "mixed": "mixed.mp3"}.items():
        expected = log_mel(read_waveform(clips / "media" / file, 16_000))
        np.testing.assert_array_equal(samples.array("audio")[samples.ids.index(name)], expected)
    silent = samples.ids.index("sound")
    assert samples.presence["audio"][silent]
    assert np.abs(samples.array("audio")[silent]).max() < 0.01


def test_pictures_come_from_the_video(clips, tmp_path):
    samples = open_samples(clips, tmp_path / "cache")
    for name in ("both", "video", "mute"):
        for picture, position in zip(samples.array("vision")[samples.ids.index(name)], (3, 11, 18, 26), strict=True):
            assert np.abs(picture.astype(float) - shade(position)).max() <= 4


def test_names_of_files_decide_nothing_but_the_order(clips, tmp_path):
    media = clips / "media"
    before = open_samples(clips, tmp_path / "cache")
    (media / "video.mp4").rename(media / "video.MKV")
    (media / "sound.mp3").rename(media / "sound.mp4")
    (media / "deep").mkdir()
    (media / "mute.mp4").rename(media / "deep" / "mute.mp3")
    after = open_samples(clips, tmp_path / "cache")
    assert missing_of(after) == missing_of(before)
    for modality in ("audio", "vision"):
        np.testing.assert_array_equal(after.array(modality), before.array(modality))


def test_a_clip_is_not_given_the_files_of_another_with_a_similar_name(tmp_path):
    names = ["aB.1", "ab.1", "ab.10", "ab"]
    folder = write_records(tmp_path / "data" / "a.json", [record(name) for name in names]).parent
    write_media(folder / "ab.1.mp4")
    assert open_samples(folder, tmp_path / "cache").ids == ("ab.1",)


def test_a_limit_counts_clips_with_media(clips, tmp_path):
    samples = open_samples(clips, tmp_path / "cache", limit=6)
    assert len(samples) == 6
    assert "none" not in samples.ids
    assert not any("chosen" in note for note in samples.manifest.notes)


def test_the_media_view_without_media_is_refused(captions, tmp_path):
    with pytest.raises(
        DataError, match=r"view=media, but .* no media file of any of the 5 clips in notes.json"
    ) as caught:
        open_samples(captions, tmp_path / "cache", view="media")
    assert "\n" not in str(caught.value)


def test_data_that_shows_nothing_is_refused(tmp_path):
    folder = write_records(tmp_path / "data" / "a.json", [{"video_id": "a", "caption": "Hens cluck."}]).parent
    with pytest.raises(DataError, match=r"a\.json: no clip has a vision_cap, an audio_cap or a subtitle"):
        open_samples(folder, tmp_path / "cache")
    (folder / "a.mp4").write_text("no media")
    with pytest.raises(DataError, match=r"none of the media files .* \(a\.mp4: cannot be read"):
        open_samples(folder, tmp_path / "cache")
    for found in (verified(folder, tmp_path / "cache"), verified(folder, tmp_path / "cache", view="captions")):
        assert found.problems
        assert found.digest is None


# Cache and digest


class Calls:
    """A progress function that remembers what was in progress."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, str]] = []

    def __call__(self, done: int, total: int, what: str) -> None:
        self.seen.append((done, total, what))


def test_prepared_clips_are_used_again_until_a_file_changes(clips, tmp_path):
    def run():
        calls = Calls()
        made = prepare(dataclasses.replace(request(clips, tmp_path / "cache"), progress=calls))
        assert all(0 < done <= total for done, total, _ in calls.seen)
        return made.folder, [what for _, _, what in calls.seen].count("decoding clips")

    first, decoded = run()
    assert decoded == 6
    assert run() == (first, 0)
    os.utime(clips / "media" / "video.mp4", (1, 1))
    assert run() == (first, 0)
    write_media(clips / "media" / "mute.mp4", n_frames=20)
    second, decoded = run()
    assert second != first
    assert decoded == 6


@pytest.mark.parametrize("change", ["annotations", "media", "limit", "subset_seed", "view", "target_words"])
def test_the_digest_follows_everything_that_makes_the_samples(clips, tmp_path, change):
    before = open_samples(clips, tmp_path / "cache").manifest.digest
    options = {"limit": {"limit": 3}, "subset_seed": {"subset_seed": 9}, "view": {"view": "captions"},
               "target_words": {"target_words": 3}}.get(change, {})  # fmt: skip  # one line of a table
    if change == "annotations":
        write_records(clips / "notes.json", [record(name) for name in ("both", "video")])
    if change == "media":
        shutil.copy(clips / "media" / "both.mp3", clips / "media" / "video.mp3")
    after = open_samples(clips, tmp_path / "cache", **options).manifest.digest
    assert re.fullmatch(r"[0-9a-f]{64}", after)
    assert after != before


def test_the_digest_ignores_places_and_files_of_no_clip(clips, tmp_path):
    before = open_samples(clips, tmp_path / "cache").manifest
    shutil.copy(clips / "media" / "both.mp3", clips / "media" / "stranger.mp3")
    (clips / "readme.txt").write_text("not read")
    shutil.move(clips, tmp_path / "moved")
    (tmp_path / "moved" / "media").rename(tmp_path / "moved" / "other")
    assert open_samples(tmp_path / "moved", tmp_path / "other-cache").manifest == before


def test_an_interrupted_preparation_decodes_only_what_is_left(clips, tmp_path, monkeypatch):
    decoded: list[str] = []
    true = inputs.sample_frames

    def watched(path, n):
        if len(decoded) == 2:
            raise KeyboardInterrupt
        decoded.append(path.name)
        return true(path, n)

    monkeypatch.setattr(inputs, "sample_frames", watched)
    with pytest.raises(KeyboardInterrupt):
        open_samples(clips, tmp_path / "cache")
    done = list(decoded)
    decoded.clear()
    monkeypatch.setattr(inputs, "sample_frames", lambda path, n: decoded.append(path.name) or true(path, n))
    samples = open_samples(clips, tmp_path / "cache")
    assert "both.mp4" in done
    assert "both.mp4" not in decoded
    fresh = open_samples(clips, tmp_path / "fresh")
    assert fresh.manifest == samples.manifest
    for modality in ("audio", "vision"):
        np.testing.assert_array_equal(samples.array(modality), fresh.array(modality))


def test_a_stored_array_that_is_damaged_is_made_again(tmp_path):
    kept = store.Store(tmp_path)
    assert kept.load("ab12", "x") is None
    kept.save("ab12", "x", np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(kept.load("ab12", "x"), np.arange(6).reshape(2, 3))
    assert kept.load("ab12", "y") is None
    (file,) = [p for p in tmp_path.rglob("*") if p.is_file()]
    for content in (b"", b"nonsense", file.read_bytes()[:-4]):
        file.write_bytes(content)
        assert kept.load("ab12", "x") is None


# Verify


def test_verify_names_damage_and_counts_as_prepare_does(clips, tmp_path):
    found = verified(clips, tmp_path / "cache")
    samples = open_samples(clips, tmp_path / "cache")
    assert (found.view, found.n_samples, found.digest) == (samples.manifest.view, 6, samples.manifest.digest)
    assert found.notes == samples.manifest.notes
    assert {m: set(ids) for m, ids in found.missing.items()} == missing_of(samples)
    assert [line.partition(": ")[0] for line in found.problems] == ["media/cut.mp4", "media/mixed.mp4"]


def test_verify_decodes_again_what_was_prepared(clips, tmp_path, monkeypatch):
    open_samples(clips, tmp_path / "cache")
    decoded: list[str] = []
    true = inputs.sample_frames
    monkeypatch.setattr(inputs, "sample_frames", lambda path, n: decoded.append(path.name) or true(path, n))
    verified(clips, tmp_path / "cache")
    assert {"both.mp4", "video.mp4", "mute.mp4", "cut.mp4"} <= set(decoded)


def test_verify_lists_every_broken_record_and_looks_at_the_others(captions, tmp_path):
    write_records(captions / "notes.json", [*gap_records(), {}, record("a.1"), record("z", vast_cap=None)])
    found = verified(captions, tmp_path / "cache")
    assert [re.search(r"record \d+", line).group() for line in found.problems] == ["record 6", "record 7", "record 8"]
    assert (found.n_samples, found.digest) == (5, None)
    assert {m: set(ids) for m, ids in found.missing.items()} == WITHOUT


def test_verify_counts_the_problems_that_it_does_not_list(captions, tmp_path, monkeypatch):
    from mlecs_plugins.datasets import problems as problems_module

    monkeypatch.setattr(problems_module, "MAX_PROBLEMS", 2)
    write_records(captions / "notes.json", [*gap_records(), *[{}] * 5])
    problems = verified(captions, tmp_path / "cache").problems
    assert len(problems) == 3
    assert problems[-1] == "notes.json: and 3 more such records"


def test_verify_of_whole_files_has_no_problem(captions, tmp_path):
    found = verified(captions, tmp_path / "cache", limit=3)
    assert found.problems == []
    assert found.digest == open_samples(captions, tmp_path / "cache", limit=3).manifest.digest
    assert found.n_samples == 3


# Names and forms of other systems and tools


def test_media_are_found_under_the_names_that_other_tools_give_them(tmp_path):
    folder = tmp_path / "own"
    ids = ["video0.mp4", "videos/video1.mp4", "video2", "caf\u00e9", "video4", "video5", "none"]
    write_records(folder / "notes.json", [record(name) for name in ids])
    write_media(folder / "a/b/c/d/e/video0.M4V", form="mp4")
    write_media(folder / "video1.mp4")
    write_media(folder / "video2.mov")
    write_media(folder / "cafe\u0301.mp4")  # as macOS takes the letter apart
    for frame in range(12):
        (folder / "frames/video4").mkdir(parents=True, exist_ok=True)
        Image.fromarray(plain(frame)).save(folder / f"frames/video4/frame_{frame}.JPG")
    Image.fromarray(plain(9)).save(folder / "video5.png")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX/video2.mp4").write_bytes(b"attributes")
    (folder / "._video2.mp4").write_bytes(b"attributes")
    samples = open_samples(folder, tmp_path / "cache")
    assert set(samples.ids) == set(ids) - {"none"}
    assert samples.presence["vision"].all()
    levels = {id_: array.mean(axis=(1, 2, 3)) for id_, array in zip(samples.ids, samples.array("vision"), strict=True)}
    np.testing.assert_allclose(levels["video4"], [shade(k) for k in (1, 4, 7, 10)], atol=3)
    np.testing.assert_allclose(levels["video5"], [shade(9)] * 4, atol=1)
    assert verified(folder, tmp_path / "cache").problems == []


def test_media_that_belong_to_no_record_are_counted_and_named(tmp_path):
    write_records(tmp_path / "own/notes.json", [record("a"), record("b")])
    for name in ("a", "stranger", "sub/other"):
        write_media(tmp_path / f"own/{name}.mp4")
    (note,) = [n for n in verified(tmp_path / "own", tmp_path / "cache").notes if "belong to no record" in n]
    assert note == "2 media files belong to no record and are not read: stranger.mp4, sub/other.mp4"
    (tmp_path / "own/a.mp4").rename(tmp_path / "own/renamed.mp4")
    with pytest.raises(DataError, match=r"none of the 3 media files .* is called like a clip of notes.json"):
        open_samples(tmp_path / "own", tmp_path / "cache")
    assert len(open_samples(tmp_path / "own", tmp_path / "cache", view="captions")) == 2


def test_a_rotated_video_is_turned_upright(tmp_path):
    """The matrix of a track's header (ISO 14496-12, 8.3.2) turns clockwise; a phone held upright writes the second."""
    picture = np.zeros((48, 64, 3), dtype=np.uint8)
    picture[:24, :32] = 255  # the upper left quarter
    whole = write_media(tmp_path / "film.mp4", draw=lambda _: picture).read_bytes()
    at = whole.index(b"tkhd") + 44
    for turns, (a, b, c, d) in enumerate([(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]):
        matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
        (tmp_path / "turned.mp4").write_bytes(whole[:at] + matrix + whole[at + len(matrix) :])
        (frame,) = sample_frames(tmp_path / "turned.mp4", 1)
        np.testing.assert_allclose(frame, np.rot90(picture, -turns), atol=40)
