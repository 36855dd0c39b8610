"""The UR-FALL reader on small folders that the tests write: layouts, joins, modalities, cache."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mlecs_bench.data.samples import DataRequest
from mlecs_plugins.datasets import user_files
from mlecs_plugins.datasets.ur_fall import card, mlecs_dataset, prepare
from ur_fall_files import (
    FRAME_MS,
    HEADER,
    LABELS,
    acc_rows,
    label_lines,
    make_folder,
    open_samples,
    png,
    problems_of,
    rows_of,
    shade,
    side_by_side,
    write_rows,
    write_video,
    write_zip,
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("original") / "ur-fall")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "ur-fall"))


# What the samples are


def test_every_labelled_frame_becomes_one_sample(folder: Path, tmp_path: Path) -> None:
    samples = open_samples(folder, tmp_path / "cache")
    expected = {
        f"{s}/{frame:04d}": card.WORDS[label + 1] for s, rows in LABELS.items() for frame, label in rows.items()
    }
    assert dict(zip(samples.ids, samples.targets, strict=True)) == expected
    assert len(samples.ids) == len(expected)
    assert [i.split("/")[0] for i in samples.ids] == samples.column("group")
    assert [i.split("-")[0] for i in samples.ids] == samples.column("stratum")
    manifest = samples.manifest
    assert (manifest.task, manifest.labels, manifest.synthetic) == ("classification", card.WORDS, False)
    assert manifest.view == "rgb, depth features, accelerometer"
    assert manifest.n_samples == len(expected)
    for m in manifest.modalities:
        assert samples.array(m.name).shape == (len(expected), *m.shape)
        assert samples.array(m.name).dtype == m.dtype
        assert samples.presence[m.name].all()


def test_digits_replace_the_label_words(folder: Path, tmp_path: Path) -> None:
    words = open_samples(folder, tmp_path / "cache")
    digits = open_samples(folder, tmp_path / "cache", labels="digits")
    assert [card.WORDS[int(t)] for t in digits.targets] == words.targets
    assert digits.manifest.labels == ("0", "1", "2")
    assert digits.manifest.digest != words.manifest.digest


def test_pictures_are_joined_by_frame_number(folder: Path, tmp_path: Path) -> None:
    samples = open_samples(folder, tmp_path / "cache")
    for sample, picture in zip(samples.ids, samples.array("rgb"), strict=True):
        assert np.abs(picture.astype(float) - shade(int(sample[-4:]))).max() <= 4  # the video loses a little


def test_windows_are_interpolated_in_time_around_the_frame(folder: Path, tmp_path: Path) -> None:
    samples = open_samples(folder, tmp_path / "cache")
    for sample, window in zip(samples.ids, samples.array("acce"), strict=True):
        steps = int(sample[-4:]) - 1 + np.arange(-7, 8)
        np.testing.assert_allclose(window[:, 0], np.clip(steps / 30, -0.3, 0.4), atol=1e-6)
        np.testing.assert_allclose(window[:, 1:], [[-1.0, 0.2]] * 15, rtol=1e-6)
    assert samples.manifest.notes == (
        "2 of 2 sequences have no SEQ-data.csv: their frames were timed at 30 per second",
    )


def test_synchronisation_gives_the_time_of_a_frame(folder: Path, tmp_path: Path) -> None:
    times = {frame: 40.0 * frame - 5 for frame in range(1, 8)}
    write_rows(folder / "fall-01-data.csv", [(frame, time, 1.0) for frame, time in times.items()])
    samples = open_samples(folder, tmp_path / "cache")
    for row in rows_of(samples, "fall-01"):
        centre = times[int(samples.ids[row][-4:])]
        expected = np.clip((centre + FRAME_MS * np.arange(-7, 8)) / 1000, -0.3, 0.4)
        np.testing.assert_allclose(samples.array("acce")[row][:, 0], expected, atol=1e-6)
    assert samples.manifest.notes[0].startswith("1 of 2 sequences")


def test_order_and_repeats_of_time_stamps_do_not_matter(folder: Path, tmp_path: Path) -> None:
    clean = open_samples(folder, tmp_path / "cache").array("acce")
    rows = acc_rows()
    write_rows(folder / "acc" / "fall-01-acc.csv", [*rows[10:], *rows[:10], rows[3], rows[20]])
    mixed = open_samples(folder, tmp_path / "cache")
    np.testing.assert_array_equal(mixed.array("acce"), clean)
    assert any("sorted: fall-01" in note for note in mixed.manifest.notes)


def test_frames_after_the_end_of_the_recording_have_no_acce(folder: Path, tmp_path: Path) -> None:
    write_rows(folder / "acc" / "fall-01-acc.csv", acc_rows(until_ms=100.0))  # frame 4 is at 100 ms
    samples = open_samples(folder, tmp_path / "cache")
    rows = rows_of(samples, "fall-01")
    assert samples.presence["acce"][rows].tolist() == [True] * 4 + [False] * 2
    assert not samples.array("acce")[rows[4:]].any()
    assert samples.presence["acce"][rows_of(samples, "adl-07")].all()
    assert any(note.startswith("2 frames") and "(fall-01 2)" in note for note in samples.manifest.notes)


def test_one_wrong_total_is_noted_and_changes_nothing(folder: Path, tmp_path: Path) -> None:
    clean = open_samples(folder, tmp_path / "cache").array("acce")
    rows = acc_rows()
    rows[5] = (rows[5][0], 9.9, *rows[5][2:])
    write_rows(folder / "acc" / "adl-07-acc.csv", rows)
    samples = open_samples(folder, tmp_path / "cache")
    np.testing.assert_array_equal(samples.array("acce"), clean)
    assert any("SV_total" in note and "adl-07" in note for note in samples.manifest.notes)


def test_depth_features_are_standardised_with_fixed_constants(folder: Path, tmp_path: Path) -> None:
    expected = [
        (2.0 - 1.807) / 0.9049,
        (math.log(2.0) - 0.8089) / 0.3854,
        (0.5 - 0.5485) / 0.09199,
        (math.log(150.0) - 5.112) / 0.3045,
        (0.9 - 0.6873) / 0.2703,
        (1500.0 - 1265.0) / 497.4,
        (800.0 - 729.6) / 268.7,
        (0.2 - 0.2634) / 0.2893,
    ]
    samples = open_samples(folder, tmp_path / "cache")
    np.testing.assert_allclose(samples.array("depth"), [expected] * len(samples), rtol=1e-5)


# Layouts


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order-mark"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("header", [True, False])
def test_header_order_of_rows_and_line_ends_do_not_matter(
    folder: Path, tmp_path: Path, newline: str, header: bool, mark: bytes
) -> None:
    clean = open_samples(folder, tmp_path / "cache")
    path = folder / "urfall-cam0-falls.csv"
    lines = [HEADER] * header + label_lines("fall")[::-1]
    path.write_bytes(mark + (newline.join(lines) + newline).encode())
    acc = folder / "acc" / "fall-01-acc.csv"
    acc.write_bytes((newline.join(["time,sv,x,y,z"] * header + acc.read_text().split()) + newline).encode())
    samples = open_samples(folder, tmp_path / "cache")
    assert (samples.ids, samples.targets) == (clean.ids, clean.targets)
    for modality in ("acce", "depth", "rgb"):
        np.testing.assert_array_equal(samples.array(modality), clean.array(modality))


def test_official_archives_are_averaged_exactly(folder: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    pictures = {frame: random.integers(0, 256, (480, 640, 3), dtype=np.uint8) for frame in LABELS["fall-01"]}
    write_zip(folder / "fall-01-cam0-rgb.zip", pictures)
    (folder / "video" / "fall-01-cam0.mp4").unlink()
    samples = open_samples(folder, tmp_path / "cache")
    for row, picture in zip(rows_of(samples, "fall-01"), pictures.values(), strict=True):
        oracle = np.array([[c.mean((0, 1)) for c in np.split(r, 32, axis=1)] for r in np.split(picture, 24)])
        np.testing.assert_array_equal(samples.array("rgb")[row], np.rint(oracle).astype(np.uint8))


def test_an_archive_of_windows_or_macos_gives_the_same_pictures(folder: Path, tmp_path: Path) -> None:
    pictures = {frame: np.full((48, 64, 3), 3 * frame, dtype=np.uint8) for frame in LABELS["fall-01"]}
    archive = folder / "fall-01-cam0-rgb.zip"
    write_zip(archive, pictures)
    plain_ = open_samples(folder, tmp_path / "plain").array("rgb")
    with zipfile.ZipFile(archive) as made:
        members = {name: made.read(name) for name in made.namelist()}
    for change in (lambda name: name.replace("/", "\\"), lambda name: name.replace(".png", ".PNG"), str):
        with zipfile.ZipFile(archive, "w") as made:
            for name, data in members.items():
                info = zipfile.ZipInfo()
                info.filename = change(name)  # set later, for ZipInfo itself turns what the system's separator is
                made.writestr(info, data)
                made.writestr(f"__MACOSX/{name.replace('/', '/._')}", b"attributes")
        np.testing.assert_array_equal(open_samples(folder, tmp_path / "cache").array("rgb"), plain_)


def test_flat_folder_gives_the_same_samples(folder: Path, tmp_path: Path) -> None:
    nested = open_samples(folder, tmp_path / "cache")
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        shutil.copy(path, flat / path.name)
    samples = open_samples(flat, tmp_path / "other-cache")
    assert samples.manifest == nested.manifest
    np.testing.assert_array_equal(samples.array("rgb"), nested.array("rgb"))


def test_right_half_of_a_side_by_side_video_is_rgb(folder: Path, tmp_path: Path) -> None:
    write_video(folder / "video" / "fall-01-cam0.mp4", side_by_side, width=640)
    samples = open_samples(folder, tmp_path / "cache")
    for row in rows_of(samples, "fall-01"):
        inner = samples.array("rgb")[row][:, 2:].astype(float)  # the codec blurs the seam
        assert np.abs(inner - shade(int(samples.ids[row][-4:]))).max() <= 4


def test_identical_copies_of_a_file_are_one_file(folder: Path, tmp_path: Path) -> None:
    clean = open_samples(folder, tmp_path / "cache")
    shutil.copytree(folder / "acc", folder / "backup")
    assert open_samples(folder, tmp_path / "cache").manifest == clean.manifest


# Depth images


def depth_codes(frame: int) -> np.ndarray:
    codes = np.full((480, 640), 3000 * frame, dtype=np.uint16)
    codes[:, 320:330] = 0  # half of cell 16 is not measured
    codes[:20, :20] = 0  # cell (0, 0) has no measurement at all
    return codes


def expected_depth(sequence: str, frame: int) -> int:
    full_scale = 6000 if sequence.startswith("fall") else 7000
    return round(full_scale * 3000 * frame / 65535 / 7000 * 255)


def test_depth_archive_is_scaled_by_the_kind_of_sequence(folder: Path, tmp_path: Path) -> None:
    for sequence, rows in LABELS.items():
        write_zip(folder / f"{sequence}-cam0-d.zip", {frame: depth_codes(frame) for frame in rows})
    samples = open_samples(folder, tmp_path / "cache", depth="image")
    assert samples.manifest.modality("depth") == card.DEPTH_IMAGE
    assert samples.manifest.view == "rgb, depth images, accelerometer"
    assert samples.presence["depth"].all()
    for row, image in enumerate(samples.array("depth")):
        expected = np.full((24, 32, 1), expected_depth(samples.column("group")[row], int(samples.ids[row][-4:])))
        expected[0, 0] = 0
        np.testing.assert_array_equal(image, expected)


def test_samples_without_a_depth_image_are_marked(folder: Path, tmp_path: Path) -> None:
    (folder / "depth").mkdir()
    for frame in (2, 3):
        (folder / "depth" / f"fall-01-cam0-d-{frame:03d}.png").write_bytes(png(depth_codes(frame)))
    samples = open_samples(folder, tmp_path / "cache", depth="image")
    present = samples.presence["depth"]
    assert [samples.ids[row] for row in np.flatnonzero(present)] == ["fall-01/0002", "fall-01/0003"]
    assert samples.array("depth")[samples.ids.index("fall-01/0003"), 5, 16, 0] == expected_depth("fall-01", 3)
    assert not samples.array("depth")[~present].any()
    assert f"{len(samples) - 2} frames have no depth image" in samples.manifest.notes


def test_left_half_of_a_side_by_side_video_is_depth(folder: Path, tmp_path: Path) -> None:
    write_video(folder / "video" / "adl-07-cam0.mp4", side_by_side, width=640)
    samples = open_samples(folder, tmp_path / "cache", depth="image")
    assert samples.presence["depth"].tolist() == [group == "adl-07" for group in samples.column("group")]
    for row in rows_of(samples, "adl-07"):
        inner = samples.array("depth")[row][:, :-2].astype(float)
        assert np.abs(inner - (255 - shade(int(samples.ids[row][-4:])))).max() <= 4


def test_depth_image_without_any_image_is_refused(folder: Path, tmp_path: Path) -> None:
    (line,) = problems_of(folder, tmp_path / "cache", depth="image")
    assert "depth=image" in line
    assert "SEQ-cam0-d.zip" in line
    assert card.PAGE in line


# Cache


class Calls:
    """A progress function that remembers what was in progress."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, str]] = []

    def __call__(self, done: int, total: int, what: str) -> None:
        self.seen.append((done, total, what))


def test_prepared_samples_are_used_again_until_a_file_changes(folder: Path, tmp_path: Path) -> None:
    def run() -> tuple[Path, set[str]]:
        calls = Calls()
        prepared = prepare(DataRequest(folder, tmp_path / "cache", None, calls))
        assert all(0 < done <= total for done, total, _ in calls.seen)
        return prepared.folder, {what for _, _, what in calls.seen}

    first, work = run()
    assert "reading sequences" in work
    assert run() == (first, work - {"reading sequences"})
    acc = folder / "acc" / "adl-07-acc.csv"
    acc.touch()
    assert run() == (first, work - {"reading sequences"})
    acc.write_text("\n".join(acc.read_text().split()[:-1]))
    second, again = run()
    assert second != first
    assert again == work


def test_digest_is_taken_once_per_file_version(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hashed: list[str] = []
    true_digest = user_files.sha256_of
    monkeypatch.setattr(user_files, "sha256_of", lambda path: hashed.append(path.name) or true_digest(path))
    monkeypatch.setattr(user_files, "SETTLED_SECONDS", -1.0)  # the files of a test are too young to be trusted

    prepare(DataRequest(folder, tmp_path / "cache"))
    everything = sorted(path.name for path in folder.rglob("*.*") if path.is_file())
    assert sorted(hashed) == everything
    hashed.clear()
    prepare(DataRequest(folder, tmp_path / "cache"))
    assert hashed == []
    with (folder / "urfall-cam0-adls.csv").open("a") as file:
        file.write("\n")
    prepare(DataRequest(folder, tmp_path / "cache"))
    assert hashed == ["urfall-cam0-adls.csv"]
    hashed.clear()
    (tmp_path / "cache" / "ur-fall" / "file-digests.json").write_text("{broken")
    prepare(DataRequest(folder, tmp_path / "cache"))
    assert sorted(hashed) == everything


def test_files_of_other_names_change_nothing(folder: Path, tmp_path: Path) -> None:
    clean = open_samples(folder, tmp_path / "cache").manifest
    (folder / "fall-99-other.csv").write_text("not read")
    (folder / "notes.txt").write_text("not read")
    assert open_samples(folder, tmp_path / "cache").manifest == clean


# The plugin


def test_card_names_what_prepared_data_has(folder: Path, tmp_path: Path) -> None:
    info = mlecs_dataset()
    samples = open_samples(folder, tmp_path / "cache")
    assert tuple(info.modalities) == samples.manifest.modality_names
    assert info.task == samples.manifest.task
    assert tuple(info.metrics) == ("f1_macro", "f1_weighted")
    assert tuple(info.splits) == ("frame", "sequence")
    assert card.PAGE in info.where_to_get
    assert "\n" not in info.where_to_get


def test_the_card_imports_nothing_heavy() -> None:
    code = (
        "import sys, mlecs_bench.api; before = set(sys.modules)\n"
        "from mlecs_plugins.datasets.ur_fall import mlecs_dataset; mlecs_dataset()\n"
        "heavy = {'numpy', 'torch', 'datasets', 'pyarrow', 'av', 'PIL', 'pandas'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
