"""The UR-FALL reader on small folders that the tests write: layouts, joins, modalities, cache, bad files."""

from __future__ import annotations

import csv
import io
import math
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from mlecs_plugins.datasets.ur_fall import card, files, mlecs_dataset, prepare
from PIL import Image

from mlecs_bench.data import DataRequest, Samples
from mlecs_bench.errors import DataError
from mlecs_bench.options import build_options

FRAME_MS = 1000 / 30
FEATURES = (2.0, 2.0, 0.5, 150.0, 0.9, 1500.0, 800.0, 0.2)
HEADER = "Sequence Name,Frame #,Label,HWRatio,MMRatio,BoundingBoxO,MaxStdXZ,HHMaxRatio,Actual Height,Distance,P40"
LABELS = {
    "fall-01": {1: -1, 2: -1, 3: 0, 4: 0, 5: 1, 6: 1},
    "adl-07": {4: -1, 5: -1, 7: 0, 9: 1},  # starts late and skips frames
}
N_FRAMES = 10


def shade(frame: int) -> int:
    return 20 * frame


def write_video(path: Path, draw, width: int = 320, n_frames: int = N_FRAMES) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, 240, "yuv420p", 4_000_000
        for frame in range(1, n_frames + 1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(draw(frame), format="rgb24")))
        container.mux(stream.encode())


def plain(frame: int) -> np.ndarray:
    return np.full((240, 320, 3), shade(frame), dtype=np.uint8)


def side_by_side(frame: int) -> np.ndarray:
    depth = np.full((240, 320, 3), 255 - shade(frame), dtype=np.uint8)
    return np.concatenate([depth, plain(frame)], axis=1)


def label_lines(strata: str) -> list[str]:
    return [
        ",".join([sequence, str(frame), str(label), *map(str, FEATURES)])
        for sequence, rows in LABELS.items()
        for frame, label in rows.items()
        if sequence.startswith(strata)
    ]


def acc_rows(until_ms: float = 400.0) -> list[tuple[float, ...]]:
    """A recording whose x axis is the time in seconds, so that interpolated values are known."""
    return [(t, math.sqrt((t / 1000) ** 2 + 1.04), t / 1000, -1.0, 0.2) for t in np.arange(-300.0, until_ms + 1, 20.0)]


def write_rows(path: Path, rows) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def write_zip(path: Path, images: dict[int, np.ndarray]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for frame, values in images.items():
            archive.writestr(f"{path.stem}/{path.stem}-{frame:03d}.png", png(values))


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ur-fall-original")
    for name in ("acc", "video"):
        (folder / name).mkdir()
    for stratum, word in card.STRATA.items():
        (folder / f"urfall-cam0-{word}.csv").write_text("\n".join(label_lines(stratum)) + "\n")
    for sequence in LABELS:
        write_rows(folder / "acc" / f"{sequence}-acc.csv", acc_rows())
        write_video(folder / "video" / f"{sequence}-cam0.mp4", plain)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "ur-fall"))


def open_samples(folder: Path | None, cache: Path, **options: str) -> Samples:
    request = DataRequest(folder, cache, build_options(card.UrFallOptions, options, "ur-fall"))
    return Samples.open(prepare(request))


def problems_of(folder: Path, cache: Path, **options: str) -> list[str]:
    with pytest.raises(DataError) as caught:
        open_samples(folder, cache, **options)
    return str(caught.value).splitlines()


def rows_of(samples: Samples, sequence: str) -> list[int]:
    return [row for row, group in enumerate(samples.column("group")) if group == sequence]


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


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("header", [True, False])
def test_header_order_of_rows_and_line_ends_do_not_matter(
    folder: Path, tmp_path: Path, newline: str, header: bool
) -> None:
    clean = open_samples(folder, tmp_path / "cache")
    path = folder / "urfall-cam0-falls.csv"
    lines = [HEADER] * header + label_lines("fall")[::-1]
    path.write_bytes((newline.join(lines) + newline).encode())
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
    true_digest = files.sha256_of
    monkeypatch.setattr(files, "sha256_of", lambda path: hashed.append(path.name) or true_digest(path))
    monkeypatch.setattr(files, "SETTLED_SECONDS", -1.0)  # the files of a test are too young to be trusted

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


def test_files_that_no_label_names_change_nothing(folder: Path, tmp_path: Path) -> None:
    clean = open_samples(folder, tmp_path / "cache").manifest
    (folder / "fall-99-acc.csv").write_text("not read")
    (folder / "notes.txt").write_text("not read")
    assert open_samples(folder, tmp_path / "cache").manifest == clean


# Bad files: each is named, with the line where there are lines


def replace_line(path: Path, number: int, old: str, new: str) -> None:
    lines = path.read_text().split("\n")
    assert old in lines[number - 1]
    lines[number - 1] = lines[number - 1].replace(old, new, 1)
    path.write_text("\n".join(lines))


def truncate(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def text_label(folder: Path) -> None:
    replace_line(folder / "urfall-cam0-falls.csv", 3, ",0,", ",lying,")


def text_label_in_first_row(folder: Path) -> None:
    replace_line(folder / "urfall-cam0-falls.csv", 1, ",-1,", ",lying,")


def text_feature(folder: Path) -> None:
    replace_line(folder / "urfall-cam0-adls.csv", 2, ",1500.0,", ",tall,")


def negative_feature(folder: Path) -> None:
    replace_line(folder / "urfall-cam0-adls.csv", 2, ",150.0,", ",-150.0,")


def wrong_frame(folder: Path) -> None:
    replace_line(folder / "urfall-cam0-adls.csv", 2, ",5,", ",0,")


def wrong_stratum(folder: Path) -> None:
    replace_line(folder / "urfall-cam0-adls.csv", 1, "adl-07", "fall-07")


def short_row(folder: Path) -> None:
    replace_line(folder / "urfall-cam0-falls.csv", 6, ",0.2", "")


def repeated_frame(folder: Path) -> None:
    replace_line(folder / "urfall-cam0-falls.csv", 4, ",4,", ",2,")


def empty_labels(folder: Path) -> None:
    (folder / "urfall-cam0-falls.csv").write_text("")


def only_a_header(folder: Path) -> None:
    (folder / "urfall-cam0-falls.csv").write_text(HEADER + "\r\n")


def binary_labels(folder: Path) -> None:
    (folder / "urfall-cam0-falls.csv").write_bytes(b"\xff\xfe\x00\xd8")


def no_labels(folder: Path) -> None:
    (folder / "urfall-cam0-falls.csv").unlink()


def text_acceleration(folder: Path) -> None:
    replace_line(folder / "acc" / "fall-01-acc.csv", 4, "-1.0", "down")
    replace_line(folder / "acc" / "fall-01-acc.csv", 7, "-1.0", "nan")


def shuffled_columns(folder: Path) -> None:
    write_rows(folder / "acc" / "fall-01-acc.csv", [(t, x, sv, y, z) for t, sv, x, y, z in acc_rows()])


def empty_acceleration(folder: Path) -> None:
    (folder / "acc" / "fall-01-acc.csv").write_text("\n\n")


def no_acceleration(folder: Path) -> None:
    (folder / "acc" / "fall-01-acc.csv").unlink()


def different_copies(folder: Path) -> None:
    (folder / "fall-01-acc.csv").write_text("0,1,0,1,0\n")


def lacking_sync(folder: Path) -> None:
    write_rows(folder / "fall-01-data.csv", [(frame, frame * 33, 1.0) for frame in (1, 2, 3, 4)])


def backward_sync(folder: Path) -> None:
    write_rows(folder / "fall-01-data.csv", [(frame, 500 - frame * 33, 1.0) for frame in range(1, 9)])


def truncated_video(folder: Path) -> None:
    truncate(folder / "video" / "fall-01-cam0.mp4")


def text_video(folder: Path) -> None:
    (folder / "video" / "fall-01-cam0.mp4").write_text("<html>404</html>")


def short_video(folder: Path) -> None:
    write_video(folder / "video" / "fall-01-cam0.mp4", plain, n_frames=4)


def odd_video(folder: Path) -> None:
    write_video(folder / "video" / "fall-01-cam0.mp4", lambda frame: np.zeros((240, 400, 3), np.uint8), width=400)


def no_video(folder: Path) -> None:
    (folder / "video" / "fall-01-cam0.mp4").unlink()


def rgb_archive(folder: Path) -> Path:
    path = folder / "fall-01-cam0-rgb.zip"
    write_zip(path, {frame: np.zeros((48, 64, 3), np.uint8) for frame in LABELS["fall-01"]})
    return path


def truncated_zip(folder: Path) -> None:
    truncate(rgb_archive(folder))


def damaged_zip(folder: Path) -> None:
    path = rgb_archive(folder)
    data = bytearray(path.read_bytes())
    start = data.index(b"IDAT")
    data[start : start + 8] = b"damaged!"
    path.write_bytes(bytes(data))


def zip_without_a_frame(folder: Path) -> None:
    write_zip(folder / "fall-01-cam0-rgb.zip", {f: np.zeros((48, 64, 3), np.uint8) for f in (1, 2, 3, 4, 6)})


def zip_of_another_sequence(folder: Path) -> None:
    shutil.move(rgb_archive(folder), folder / "adl-07-cam0-rgb.zip")


def zip_of_text(folder: Path) -> None:
    with zipfile.ZipFile(folder / "fall-01-cam0-rgb.zip", "w") as archive:
        archive.writestr("fall-01-cam0-rgb-001.png", "no picture")


def odd_picture(folder: Path) -> None:
    write_zip(folder / "fall-01-cam0-rgb.zip", {f: np.zeros((50, 64, 3), np.uint8) for f in LABELS["fall-01"]})


BAD_FILES = [
    (text_label, "urfall-cam0-falls.csv: line 3: label 'lying' is not -1, 0 or 1"),
    (text_label_in_first_row, "urfall-cam0-falls.csv: line 1: label 'lying' is not -1, 0 or 1"),
    (text_feature, "urfall-cam0-adls.csv: line 2: H 'tall' is not a number"),
    (negative_feature, "urfall-cam0-adls.csv: line 2: MaxStdXZ '-150.0' is not above 0"),
    (wrong_frame, "urfall-cam0-adls.csv: line 2: frame '0' is not a number from 1 on"),
    (wrong_stratum, "urfall-cam0-adls.csv: line 1: sequence 'fall-07' is not 'adl-' and a number"),
    (short_row, "urfall-cam0-falls.csv: line 6: has 10 columns instead of 11"),
    (repeated_frame, "urfall-cam0-falls.csv: line 4: frame 2 of fall-01 is already on line 2"),
    (empty_labels, "urfall-cam0-falls.csv: is empty"),
    (only_a_header, "urfall-cam0-falls.csv: is empty"),
    (binary_labels, "urfall-cam0-falls.csv: is not a CSV text file"),
    (no_labels, "urfall-cam0-falls.csv: not found (the labels of all its sequences)"),
    (text_acceleration, "acc/fall-01-acc.csv: line 4: y axis 'down' is not a number (and 1 more like it)"),
    (shuffled_columns, "acc/fall-01-acc.csv: SV_total is not the root of the squares of the axes"),
    (empty_acceleration, "acc/fall-01-acc.csv: is empty"),
    (no_acceleration, "fall-01-acc.csv: not found (the accelerometer of the sequence)"),
    (
        different_copies,
        "fall-01-acc.csv: is there 2 times with different content (acc/fall-01-acc.csv, fall-01-acc.csv)",
    ),
    (lacking_sync, "fall-01-data.csv: has no time for 2 labelled frames, the first of them frame 5"),
    (backward_sync, "fall-01-data.csv: line 2: the time of frame 2 is not after that of the frame before"),
    (truncated_video, "video/fall-01-cam0.mp4: cannot be decoded"),
    (text_video, "video/fall-01-cam0.mp4: cannot be decoded"),
    (short_video, "video/fall-01-cam0.mp4: lacks 2 of the frames that urfall-cam0-falls.csv labels, the first of them"),
    (odd_video, "video/fall-01-cam0.mp4: is 400x240, which is neither 4:3 nor"),
    (no_video, "fall-01-cam0.mp4 or fall-01-cam0-rgb.zip: not found (the video of the sequence)"),
    (truncated_zip, "fall-01-cam0-rgb.zip: is not a whole zip archive"),
    (damaged_zip, "fall-01-cam0-rgb.zip: is not a whole zip archive"),
    (zip_without_a_frame, "fall-01-cam0-rgb.zip: lacks 1 of the frames that urfall-cam0-falls.csv labels"),
    (zip_of_another_sequence, "adl-07-cam0-rgb.zip: lacks 4 of the frames that urfall-cam0-adls.csv labels"),
    (zip_of_text, "fall-01-cam0-rgb.zip: fall-01-cam0-rgb-001.png is not a whole PNG"),
    (odd_picture, "fall-01-cam0-rgb.zip: has a picture of 64x50, which is no multiple of 32x24"),
]


@pytest.mark.parametrize(("spoil", "expected"), BAD_FILES, ids=[spoil.__name__ for spoil, _ in BAD_FILES])
def test_bad_file_is_named(folder: Path, tmp_path: Path, spoil, expected: str) -> None:
    spoil(folder)
    summary, *lines = problems_of(folder, tmp_path / "cache")
    assert len(lines) == 1, lines
    assert lines[0].strip().startswith(expected)
    assert f"1 problem with the files in {folder}" in summary
    assert not list((tmp_path / "cache").rglob("manifest.json"))


def test_all_bad_files_are_named_at_once(folder: Path, tmp_path: Path) -> None:
    (folder / "acc" / "adl-07-acc.csv").unlink()
    text_video(folder)
    text_acceleration(folder)
    lacking_sync(folder)
    (folder / "fall-01-cam0-d.zip").write_text("no archive")
    (folder / "adl-07-cam0-d-004.png").write_bytes(png(np.zeros((48, 64), np.uint8)))
    summary, *lines = problems_of(folder, tmp_path / "cache", depth="image")
    assert "6 problems" in summary
    named = {line.split(":")[0].strip() for line in lines}
    assert named == {
        "adl-07-acc.csv",
        "acc/fall-01-acc.csv",
        "fall-01-data.csv",
        "video/fall-01-cam0.mp4",
        "fall-01-cam0-d.zip",
        str(folder),
    }
    assert any("adl-07-cam0-d-004.png is not a 16-bit depth image" in line for line in lines)


def test_a_damaged_tail_is_not_taken_for_frames(folder: Path, tmp_path: Path) -> None:
    """A video whose index comes first still opens when its end is lost."""
    path = folder / "video" / "fall-01-cam0.mp4"
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (N_FRAMES, 240, 320, 3), dtype=np.uint8)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 4_000_000
        for values in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(values, format="rgb24")))
        container.mux(stream.encode())
    open_samples(folder, tmp_path / "cache")
    truncate(path, 0.45)
    _, line = problems_of(folder, tmp_path / "cache")
    assert line.strip().startswith("video/fall-01-cam0.mp4: ")
    assert "damaged" in line or "cannot be decoded" in line or "lacks" in line


def test_a_long_list_of_problems_is_cut(folder: Path, tmp_path: Path) -> None:
    rows = [line.replace("fall-01", f"fall-{n:02d}") for n in range(1, 21) for line in label_lines("fall")[:1]]
    (folder / "urfall-cam0-falls.csv").write_text("\n".join(rows))
    summary, *lines = problems_of(folder, tmp_path / "cache")
    assert "38 problems" in summary  # fall-02..20 lack two files each
    assert len(lines) == 19
    assert lines[-1].strip() == "and 20 more"


@pytest.mark.parametrize("make", ["missing", "empty", "file"])
def test_wrong_folder_says_what_to_get_and_where(tmp_path: Path, make: str) -> None:
    folder = tmp_path / "somewhere"
    if make == "empty":
        folder.mkdir()
        (folder / "holiday.mp4").write_text("")
    if make == "file":
        folder.write_text("")
    (line,) = problems_of(folder, tmp_path / "cache")
    assert str(folder) in line
    assert card.PAGE in line
    if make == "empty":
        for name in (
            "urfall-cam0-falls.csv",
            "urfall-cam0-adls.csv",
            "SEQ-acc.csv",
            "SEQ-cam0.mp4",
            "SEQ-cam0-rgb.zip",
        ):
            assert name in line


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
