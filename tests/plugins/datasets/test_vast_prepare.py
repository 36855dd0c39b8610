"""Preparing the annotations of VAST: the captions view, presence, subsets, options and errors."""

from __future__ import annotations

import pytest

from laws import for_all
from mlecs_bench.doors.options import build_options
from mlecs_bench.errors import DataError, UsageError
from mlecs_plugins.datasets.vast import card, check, mlecs_dataset
from mlecs_plugins.datasets.vast.preparation import prepare
from mlecs_plugins.datasets.vast.texts import text_ids
from vast_files import (
    GAPS,
    WITHOUT,
    gap_records,
    make_clips,
    missing_of,
    open_samples,
    record,
    request,
    verified,
    write_records,
)


@pytest.fixture
def captions(tmp_path):
    return write_records(tmp_path / "data" / "notes.json", gap_records()).parent


@pytest.fixture
def clips(tmp_path):
    return make_clips(tmp_path / "vast")


# The captions view


def test_every_record_becomes_a_sample_with_its_target(captions, tmp_path):
    samples = open_samples(captions, tmp_path / "cache")
    assert samples.ids == tuple(GAPS)
    assert samples.targets == [f"the target of {name}" for name in GAPS]
    manifest = samples.manifest
    assert (manifest.task, manifest.labels, manifest.synthetic, manifest.n_samples) == ("generation", (), False, 5)
    assert manifest.prompt == "Summarize the clip."


def test_what_a_record_lacks_its_sample_lacks_and_nothing_else(captions, tmp_path):
    samples = open_samples(captions, tmp_path / "cache")
    assert missing_of(samples) == WITHOUT
    for modality, names in WITHOUT.items():
        rows = [samples.ids.index(name) for name in names]
        assert not samples.array(modality)[rows].any()
    assert samples.manifest.notes == (
        "2 of 5 clips have no audio_cap",
        "3 of 5 clips have no subtitle",
        "2 of 5 clips have no vision_cap",
        "1 of 5 clips have no modality at all",
    )


def test_captions_are_the_hashed_words_of_all_captions_of_their_own_key(captions, tmp_path):
    samples = open_samples(captions, tmp_path / "cache")
    texts = {"audio": "a cat purrs", "subtitle": "she has slept all day", "vision": "a cat sleeps the cat is asleep"}
    for modality, text in texts.items():
        shape = samples.manifest.modality(modality)
        assert (shape.encoding, shape.vocabulary) == ("tokens", 2048)
        assert samples.array(modality)[0].tolist() == text_ids(text, shape.shape[0])
        assert samples.array(modality).max() < shape.vocabulary


def test_the_view_is_named_in_manifest_and_meanings(captions, tmp_path):
    manifest = open_samples(captions, tmp_path / "cache").manifest
    assert manifest.view == "captions: vision_cap, audio_cap, subtitle as text"
    assert manifest.modality_names == ("audio", "subtitle", "vision") == tuple(mlecs_dataset().modalities)
    assert manifest.modality("audio").meaning.startswith("captions: the words of audio_cap, not sound")
    assert manifest.modality("vision").meaning.startswith("captions: the words of vision_cap, not pictures")
    assert "caption" not in manifest.modality("subtitle").meaning


def test_clips_of_one_video_are_one_group(tmp_path):
    names = ["abcdefghijk.1", "abcdefghijk.2", "ABCDEFGHIJK.1", "abcdefghijk_10.000_20.000", "video7"]
    folder = write_records(tmp_path / "data" / "a.json", [record(name) for name in names]).parent
    samples = open_samples(folder, tmp_path / "cache")
    groups = dict(zip(samples.ids, samples.column("group"), strict=True))
    assert groups == {name: {"v": name}.get(name[0], name[:11]) for name in names}
    assert len(set(samples.column("stratum"))) == 1


def test_a_word_of_any_script_is_read(tmp_path):
    changes = {"vast_cap": "Ein Kätzchen schläft 😀 日本", "subtitle": "日本 語", "audio_cap": "ÜBER"}
    folder = write_records(tmp_path / "data" / "a.json", [record("ünï-日.1", **changes), record("b")]).parent
    samples = open_samples(folder, tmp_path / "cache")
    row = samples.ids.index("ünï-日.1")
    assert samples.targets[row] == "Ein Kätzchen schläft 😀 日本"
    assert samples.array("subtitle")[row, :3].tolist() == text_ids("日本 語", 3)
    assert samples.array("audio")[row, :2].tolist() == text_ids("über", 2)


def test_targets_are_cut_only_when_asked_for_and_the_view_says_so(captions, tmp_path):
    samples = open_samples(captions, tmp_path / "cache", target_words=2)
    assert set(samples.targets) == {"the target"}
    assert samples.manifest.view.endswith("as text; targets cut after 2 words")
    assert "5 targets were cut after 2 words" in samples.manifest.notes
    whole = open_samples(captions, tmp_path / "cache", target_words=4)
    assert not any("cut" in note for note in whole.manifest.notes)


# Subsets


@pytest.fixture
def many(tmp_path):
    return write_records(tmp_path / "many" / "a.json", [record(f"clip{i:02d}") for i in range(40)]).parent


def test_the_same_seed_chooses_the_same_clips_in_any_order_of_records(many, tmp_path):
    ids = open_samples(many, tmp_path / "cache", limit=10).ids
    assert (len(ids), list(ids)) == (10, sorted(ids))
    write_records(many / "a.json", [record(f"clip{i:02d}") for i in reversed(range(40))])
    again = open_samples(many, tmp_path / "cache", limit=10)
    assert again.ids == ids
    assert "10 of 40 clips are used, chosen by name with subset_seed 2602" in again.manifest.notes
    assert open_samples(many, tmp_path / "cache", limit=10, subset_seed=3).ids != ids


@pytest.mark.parametrize("limit", [40, 41, "none", 9680])
def test_a_limit_beyond_the_data_takes_everything_and_notes_nothing(many, tmp_path, limit):
    samples = open_samples(many, tmp_path / "cache", limit=limit)
    assert len(samples) == 40
    assert samples.manifest.notes == ()


def test_the_limit_is_the_papers_by_default():
    assert card.VastOptions().limit == 9680


@for_all("option", ["limit", "target_words"])
@for_all("value", ["0", "-3", "ten"])
def test_options_that_are_no_counts_are_refused(option, value):
    with pytest.raises(UsageError, match=option):
        build_options(card.VastOptions, {option: value}, "dataset 'vast'")


# Errors


def test_a_broken_record_is_named_with_its_file_in_one_line(captions, tmp_path):
    write_records(captions / "notes.json", [*gap_records(), {"vast_cap": "v"}, record("a.1"), "text"])
    with pytest.raises(DataError) as caught:
        open_samples(captions, tmp_path / "cache")
    message = str(caught.value)
    assert message.startswith("vast: notes.json: record 6 has no clip_id (and 2 more problems); ")
    assert "mlecs-bench data verify vast --data-dir" in message
    assert "\n" not in message


@pytest.mark.parametrize(("text", "reason"), [("", "is empty"), ("{", "is not JSON"), ("[]", "holds no record")])
def test_a_file_that_holds_no_records_is_refused(captions, tmp_path, text, reason):
    (captions / "notes.json").write_text(text)
    with pytest.raises(DataError, match=f"notes.json: .*{reason}"):
        open_samples(captions, tmp_path / "cache")
    found = verified(captions, tmp_path / "cache")
    assert (found.n_samples, found.digest, len(found.problems)) == (0, None, 1)


def test_one_of_several_annotation_files_has_to_be_chosen(captions, tmp_path):
    write_records(captions / "sub" / "more.jsonl", [record("z")])
    with pytest.raises(
        DataError, match=r"2 annotation files; choose .* annotations=NAME from notes.json, sub/more.jsonl"
    ):
        open_samples(captions, tmp_path / "cache")
    for name in ("more.jsonl", "sub/more.jsonl"):
        assert open_samples(captions, tmp_path / "cache", annotations=name).ids == ("z",)
    with pytest.raises(DataError, match=r"no annotation file 'other\.json'; choose"):
        open_samples(captions, tmp_path / "cache", annotations="other.json")


def test_folders_without_annotations_are_refused_in_one_line_by_all_three(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, reason in {
        "empty": "no annotation file (*.json",
        "none": "does not exist",
        "file": "is not a folder",
    }.items():
        folder = tmp_path / name
        assert [reason in line for line in check(folder)] == [True]
        for use in (open_samples, verified):
            with pytest.raises(DataError) as caught:
                use(folder, tmp_path / "cache")
            assert reason in str(caught.value)
            assert "\n" not in str(caught.value)


def test_check_finds_nothing_wrong_with_any_annotation_file(captions):
    assert check(captions) == []
    (captions / "more.json").touch()
    assert check(captions) == []


def test_a_link_to_nowhere_is_no_file(captions, tmp_path):
    (captions / "a.1.mp4").symlink_to(captions / "gone.mp4")
    (captions / "other.json").symlink_to(captions / "gone.json")
    assert open_samples(captions, tmp_path / "cache").manifest.view.startswith("captions")


def test_a_file_that_cannot_be_read_is_named(clips, tmp_path, monkeypatch):
    from mlecs_plugins.datasets import user_files

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(user_files, "sha256_of", refuse)
    with pytest.raises(DataError, match=r"notes\.json cannot be read \(Permission denied\)|\.mp. cannot be read"):
        open_samples(clips, tmp_path / "cache")


@pytest.mark.parametrize("options", [{"view": "captions"}, {"limit": "10"}, {"subset_seed": "1"}])
def test_the_stand_in_takes_no_options(tmp_path, options):
    with pytest.raises(UsageError, match="give --data-dir"):
        prepare(request(None, tmp_path / "cache", **options))
    assert not (tmp_path / "cache").exists()
