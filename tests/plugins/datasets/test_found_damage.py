"""What campaigns of generated damage found in files of data: each is refused in one line, or read and told."""

from __future__ import annotations

import json
import shutil

import av
import numpy as np
import pytest

from campaigns.damaged_media import chunks, coded, joined, png, wave
from jsonl_files import samples_in
from mlecs_bench.errors import DataError
from mlecs_plugins.datasets import jsonl, vast
from mlecs_plugins.datasets.jsonl.card import JsonlOptions
from mlecs_plugins.datasets.vast.media import MediaError, read_picture, read_waveform, sample_frames
from vast_files import open_samples, record, tone, verified, write_media, write_records

MANIFEST = "samples: rows.jsonl\nid: key\ntarget: says\nmodalities: {motion: {array: n}, picture: {image: file}}\n"


def refused(read) -> str:
    with pytest.raises(DataError) as caught:
        read()
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 700
    return line


RECORDS = {
    '[{"clip_id": ' + "7" * 5000 + ', "desc": "x"}]': "record 1 has a number of 5,000 digits, more than 4,300",
    '[{"clip_id": "a", "desc": "x", "url": ' + "7" * 5000 + "}]": "record 1 has a number of 5,000 digits",
    '[{"clip_id": "a", "clip_id": "b", "desc": "x"}]': "record 1 has the key 'clip_id' twice",
    '[{"clip_id": "a", "desc": "x", "tags": ' + "[" * 100 + "]" * 100 + "}]": "nested too deeply",
    '[{"clip_id": "a", "desc": "x", "tags": ' + "[" * 90_000 + "]" * 90_000 + "}]": "nested too deeply",
    json.dumps([record("x" * 5000)] * 2): "has the clip_id 'xxx",
    '[{"clip_id": "a\\u0000\\ud800", "desc": 3}]': "(clip a\\x00?) has a desc that is neither a text",
    '{"videos": [{"video_id": "a"}], "sentences": [{"video_id": "\\ud800", "caption": "x"}]}': "is about '\\ud800'",
    '{"videos": [{"video_id": ' + "7" * 5000 + '}], "sentences": []}': "has a number of 5,000 digits",
    '{"videos": [], "videos": [{"video_id": "a"}], "sentences": []}': "has the key 'videos' twice",
}


@pytest.mark.parametrize("content", RECORDS, ids=range(len(RECORDS)))
def test_odd_annotations_are_refused_in_one_line(content, tmp_path):
    (tmp_path / "vast").mkdir()
    (tmp_path / "vast" / "notes.json").write_text(content)
    assert RECORDS[content] in refused(lambda: open_samples(tmp_path / "vast", tmp_path / "cache"))
    assert RECORDS[content] in verified(tmp_path / "vast", tmp_path / "cache", view="captions").problems[0]


ROWS = {
    '{"key": "a", "says": "x", "n": ' + "7" * 5000 + "}": "line 1 has a number of 5,000 digits",
    '{"key": "a", "key": "b", "says": "x"}': "line 1 has the key 'key' twice",
    '{"key": "a", "says": "x", "n": ' + "[" * 500 + "1" + "]" * 500 + "}": "line 1 is not JSON (nested too deeply)",
    '{"key": "a", "says": "x", "n": [1e308], "file": null}': "column 'n' holds a number that is not finite",
    '{"key": "a", "says": "x", "file": "\\ud800"}': "column 'file' names '\\ud800', which is not inside",
    '{"key": "a", "says": "x", "file": "' + "x" * 300 + '"}': "and there is no such file",
    '{"a\\nb": 1, "' + "y" * 6000 + '": 2}': "column 'says' is missing",
}


@pytest.mark.parametrize("content", ROWS, ids=range(len(ROWS)))
def test_odd_rows_are_refused_in_one_line(content, tmp_path):
    (tmp_path / "rows.jsonl").write_text(content)
    (tmp_path / "dataset.yaml").write_text(MANIFEST)
    assert ROWS[content] in refused(lambda: samples_in(tmp_path, tmp_path / "cache"))


def test_columns_whose_names_are_no_line_are_named_in_one(tmp_path):
    (tmp_path / "rows.csv").write_text('key,says,file,"a\nb",' + "9" * 6000 + "\nk,s,,1,2\n")
    (tmp_path / "dataset.yaml").write_text(MANIFEST.replace("jsonl", "csv"))
    assert "has no column 'n'" in refused(lambda: samples_in(tmp_path, tmp_path / "cache"))


LAUGHS = "b0: &b0 [x]\n" + "".join(f"b{i + 1}: &b{i + 1} [{', '.join([f'*b{i}'] * 9)}]\n" for i in range(12))
MANIFESTS = {
    MANIFEST + "max_new_tokens: " + "7" * 5000: "is not YAML",
    "[" * 600: "is not YAML (nested too deeply)",
    MANIFEST + "title: 2001-99-99": "is not YAML",
    MANIFEST + "id: says": "'id' is there twice",
    MANIFEST.replace("{array: n}", "{array: n, array: m}"): "'array' is there twice",
    LAUGHS + MANIFEST.replace("id: key", "id: *b12"): "is unknown here",
    LAUGHS.replace("b12:", "title:") + MANIFEST: "is unknown here",
    "title: &t [" + "x, " * 100 + "]\n" + MANIFEST: "'title' must be a text, got",
    MANIFEST.replace("rows.jsonl", "'" + "x" * 5000 + "'"): "has no table 'xxx",
    MANIFEST.replace("rows.jsonl", '"\\ud800"'): "has no table '?'",
}


@pytest.mark.parametrize("text", MANIFESTS, ids=range(len(MANIFESTS)))
def test_odd_manifests_are_refused_in_one_line(text, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"key": "a", "says": "x"}')
    (tmp_path / "dataset.yaml").write_text(text)
    assert MANIFESTS[text] in refused(lambda: samples_in(tmp_path, tmp_path / "cache"))
    assert len(jsonl.check(tmp_path)) == 1


def test_a_lone_value_that_holds_itself_many_times_is_shown_cut(tmp_path):
    (tmp_path / "dataset.yaml").write_text(
        MANIFEST.replace(
            "rows.jsonl",
            "&b0 [x]\n" + "".join(f"b{i + 1}: &b{i + 1} [{', '.join([f'*b{i}'] * 9)}]\n" for i in range(12)),
        )
    )
    assert refused(lambda: jsonl.for_data(tmp_path, JsonlOptions()))


def test_media_that_end_between_two_packets_are_cut_short_wherever_that_is(tmp_path):
    """FFmpeg sees a packet that is cut, and takes the end between two of them for the end of the file."""
    sound = tone(1.0)
    (tmp_path / "a.wav").write_bytes(wave(sound))
    (tmp_path / "a.flac").write_bytes(coded(tmp_path / "a.flac", sound, "flac"))
    write_media(tmp_path / "a.mp4", n_frames=30)
    write_media(tmp_path / "a.mkv", sound=sound, n_frames=30)
    for name in ("a.wav", "a.flac", "a.mp4", "a.mkv"):
        content = (tmp_path / name).read_bytes()
        with av.open(str(tmp_path / name)) as container:
            starts = [p.pos for p in container.demux() if p.pos and p.pos < 0.7 * len(content)]
        cut = tmp_path / f"cut-{name}"
        for start in starts[2 :: max(1, len(starts) // 8)]:
            cut.write_bytes(content[:start])
            for read, amount in ((sample_frames, 4), (read_waveform, 16_000)):
                try:
                    assert read(cut, amount) is None, (name, start, len(content))
                except MediaError:
                    continue
        assert starts


def test_a_wave_file_with_parts_before_its_sound_is_whole(tmp_path):
    content = wave(tone(0.2))
    odd = b"LIST" + (5).to_bytes(4, "little") + b"INFOx\0"
    (tmp_path / "a.wav").write_bytes(content[:36] + odd + content[36:])
    assert len(read_waveform(tmp_path / "a.wav", 44_100)) == 8820


def test_a_picture_of_more_pixels_than_there_are_is_damaged_media(tmp_path):
    parts = chunks(png(np.zeros((4, 4, 3), np.uint8)))
    for width in (2**31 - 1, 2**32 - 1, 0, 40_000):
        parts[0] = (b"IHDR", width.to_bytes(4, "big") * 2 + parts[0][1][8:])
        folder = tmp_path / str(width)
        write_records(folder / "notes.json", [record("a")])
        (folder / "a.png").write_bytes(joined(parts))
        assert "a.png: is no whole picture" in verified(folder, tmp_path / "cache").problems[0]


def test_no_bit_and_no_byte_of_a_picture_is_lost_in_silence(tmp_path):
    """Bits of a compressed picture, and ends of it: Pillow alone reads other pixels from some."""
    slope = np.add.outer(np.arange(24) * 5, np.arange(32) * 3).astype(np.uint8)
    content = png(np.stack([slope, slope // 2, 255 - slope], axis=-1))
    damaged = [content[:end] for end in range(0, len(content), 5)]
    for bit in range(8 * content.index(b"IDAT"), 8 * len(content), 7):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    path = tmp_path / "a.png"
    for one in damaged:
        path.write_bytes(one)
        with pytest.raises(MediaError, match="is no whole picture"):
            read_picture(path)


def test_media_with_names_that_are_no_text_are_told_in_printable_lines(tmp_path):
    folder = tmp_path / "vast"
    write_records(folder / "notes.json", [record("a")])
    write_media(folder / "a.mp4", n_frames=3)
    try:
        shutil.copy(folder / "a.mp4", folder / "b\udc80\n.mp4")
    except OSError:
        pytest.skip("this file system takes no such name")
    notes = verified(folder, tmp_path / "cache").notes
    assert all(note.isprintable() for note in notes)
    assert any("b\\udc80\\n.mp4" in note for note in notes)
    assert vast.check(folder) == []
