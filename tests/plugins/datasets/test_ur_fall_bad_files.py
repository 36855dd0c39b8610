"""Bad files of UR-FALL: each is named, with the line where there are lines, and all of them at once."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mlecs_plugins.datasets.ur_fall import card
from ur_fall_files import (
    HEADER,
    LABELS,
    acc_rows,
    label_lines,
    make_folder,
    open_samples,
    plain,
    png,
    problems_of,
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


def endless_feature(folder: Path) -> None:
    replace_line(folder / "urfall-cam0-adls.csv", 2, ",1500.0,", ",1e300,")


def wrong_frame(folder: Path) -> None:
    replace_line(folder / "urfall-cam0-adls.csv", 2, ",5,", ",0,")


def endless_frame(folder: Path) -> None:
    replace_line(folder / "urfall-cam0-adls.csv", 2, ",5,", f",{'7' * 5000},")


def fractional_frame(folder: Path) -> None:
    replace_line(folder / "urfall-cam0-adls.csv", 2, ",5,", ",5.0,")


def endless_sequence(folder: Path) -> None:
    replace_line(folder / "urfall-cam0-adls.csv", 1, "adl-07", f"adl-{'7' * 5000}")


def climbing_sequence(folder: Path) -> None:
    replace_line(folder / "urfall-cam0-adls.csv", 1, "adl-07", "adl-07/../../etc")


def feature_that_is_none(folder: Path) -> None:
    replace_line(folder / "urfall-cam0-adls.csv", 2, ",1500.0,", ",NaN,")


def frame_twice_in_a_zip(folder: Path) -> None:
    path = folder / "video" / "fall-01-cam0-rgb.zip"
    write_zip(path, {1: np.zeros((24, 32, 3), np.uint8)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("zz/fall-01-cam0-rgb-0001.png", b"another")


def bomb_in_a_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "video" / "fall-01-cam0-rgb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fall-01-cam0-rgb-001.png", bytes(2**26 + 1))


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


def labels_cut_short(folder: Path) -> None:
    write_rows(folder / "acc" / "adl-09-acc.csv", acc_rows())


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


def noise(frame: int) -> np.ndarray:
    return np.random.default_rng(frame).integers(0, 256, (240, 320, 3), dtype=np.uint8)


def overwritten_video(folder: Path) -> None:
    path = folder / "video" / "fall-01-cam0.mp4"
    write_video(path, noise)
    data = bytearray(path.read_bytes())
    start = len(data) // 3
    data[start : start + 2000] = bytes(2000)
    path.write_bytes(bytes(data))


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
    (labels_cut_short, "urfall-cam0-adls.csv: has no row of 1 sequences that have files here (adl-09)"),
    (text_label, "urfall-cam0-falls.csv: line 3: label 'lying' is not -1, 0 or 1"),
    (text_label_in_first_row, "urfall-cam0-falls.csv: line 1: label 'lying' is not -1, 0 or 1"),
    (text_feature, "urfall-cam0-adls.csv: line 2: H 'tall' is not a number"),
    (negative_feature, "urfall-cam0-adls.csv: line 2: MaxStdXZ '-150.0' is not above 0"),
    (endless_feature, "urfall-cam0-adls.csv: line 2: H '1e300' is far too large"),
    (wrong_frame, "urfall-cam0-adls.csv: line 2: frame '0' is not a number from 1 to 999999999"),
    (endless_frame, "urfall-cam0-adls.csv: line 2: frame '7777777777777777777777777777777777777777' is not a number"),
    (fractional_frame, "urfall-cam0-adls.csv: line 2: frame '5.0' is not a number from 1"),
    (endless_sequence, "urfall-cam0-adls.csv: line 1: sequence 'adl-777777777777777777777777777777777777' is not"),
    (climbing_sequence, "urfall-cam0-adls.csv: line 1: sequence 'adl-07/../../etc' is not"),
    (feature_that_is_none, "urfall-cam0-adls.csv: line 2: H 'NaN' is not a number"),
    (frame_twice_in_a_zip, "video/fall-01-cam0-rgb.zip: holds frame 1 twice (fall-01"),
    (bomb_in_a_zip, "video/fall-01-cam0-rgb.zip: has fall-01-cam0-rgb-001.png of 67,108,865 bytes"),
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
    (overwritten_video, "video/fall-01-cam0.mp4: is damaged at frame "),
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


@pytest.mark.parametrize("share", [0.2, 0.3, 0.4, 0.5])
def test_video_with_a_lost_end_is_named_even_when_it_opens(folder: Path, tmp_path: Path, share: float) -> None:
    path = folder / "video" / "fall-01-cam0.mp4"
    write_video(path, noise, options={"movflags": "faststart"})  # the index comes first
    open_samples(folder, tmp_path / "cache")
    truncate(path, share)
    _, line = problems_of(folder, tmp_path / "cache")
    assert line.strip().startswith("video/fall-01-cam0.mp4: ")


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


def test_names_that_climb_or_are_endless_in_a_zip_are_no_pictures_and_leave_nothing(
    folder: Path, tmp_path: Path
) -> None:
    path = folder / "video" / "fall-01-cam0-rgb.zip"
    write_zip(path, {frame: np.full((24, 32, 3), frame, np.uint8) for frame in range(1, 40)})
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../../climbs.png", "/absolute.png", f"fall-01-cam0-rgb-{'7' * 5000}.png"):
            archive.writestr(name, b"no picture")
    before = set(tmp_path.rglob("*"))
    open_samples(folder, tmp_path / "cache")
    assert {p for p in set(tmp_path.rglob("*")) - before if tmp_path / "cache" not in (p, *p.parents)} == set()


def test_a_pipe_called_like_a_file_is_not_waited_for(folder: Path, tmp_path: Path) -> None:
    path = folder / "acc" / "adl-07-acc.csv"
    path.unlink()
    os.mkfifo(path)
    _, line = problems_of(folder, tmp_path / "cache")
    assert line.strip().startswith("adl-07-acc.csv: not found")
