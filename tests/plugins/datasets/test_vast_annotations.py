"""The annotations of VAST: records one by one, clips of them, subsets by seed, texts as hashed words."""

from __future__ import annotations

import gzip
import hashlib
import io
import json

import numpy as np
import pytest
import torch

from installed import encoder_of
from laws import for_all
from mlecs_bench.data.samples import Modality
from mlecs_bench.models.encoders import TABLE_ROWS
from mlecs_plugins.datasets import problems as problems_module
from mlecs_plugins.datasets.problems import Problems
from mlecs_plugins.datasets.vast import records
from mlecs_plugins.datasets.vast.card import VOCABULARY
from mlecs_plugins.datasets.vast.clips import Clip, Subset, clip_of, read_clips
from mlecs_plugins.datasets.vast.folder import Folder
from mlecs_plugins.datasets.vast.records import RecordsError, read_records
from mlecs_plugins.datasets.vast.texts import text_ids, word_id, words_of
from vast_files import record, write_records

VALUES = [
    [],
    [1],
    [12, 345, -6.5e3],
    [{"a": [1, {"b": "] } , [ {"}], "c": None}, "tail, ]", True],
    ['\\"', "ü 日本", "\u2028", "😀", ""],
    [[[[]]], {}, ""],
]


def read_text(tmp_path, text: str | bytes) -> list:
    path = tmp_path / "records.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_records(path))


# Records


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("style", [{}, {"indent": 2}, {"ensure_ascii": False, "separators": (",", ":")}])
def test_a_list_is_read_as_json_reads_it_wherever_the_chunks_end(tmp_path, monkeypatch, values, chunk, style):
    monkeypatch.setattr(records, "CHUNK", chunk)
    text = json.dumps(values, **style)
    assert read_text(tmp_path, text) == json.loads(text)
    assert read_text(tmp_path, f"\n \ufeff{text}\r\n\t".replace("\n \ufeff", "\ufeff\n ")) == json.loads(text)


@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
@pytest.mark.parametrize("between", ["\n", "\r\n", "\n\n", " ", ""])
def test_json_lines_are_read_like_a_list(tmp_path, monkeypatch, between, chunk):
    monkeypatch.setattr(records, "CHUNK", chunk)
    objects = [{"a": 1}, {"b": "}{"}, {"c": [{"d": 2}]}]
    assert read_text(tmp_path, between.join(map(json.dumps, objects)) + between) == objects


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("hello", "is no list of JSON records: it starts with 'h'"),
        ('"[]"', "is no list of JSON records"),
        ("[1, 2", "the file ends where a comma or ']' belongs after record 2"),
        ("[1, 2,", "record 3 is not JSON (Expecting value)"),
        ('[1, "ab', "record 2 is not JSON (Unterminated string"),
        ("[1 2]", "'2' follows where a comma or ']' belongs after record 1"),
        ("[1}", "'}' follows where"),
        ("[,]", "record 1 is not JSON"),
        ("[1, nonsense]", "record 2 is not JSON (Expecting value)"),
        ('[{"a": 1,}]', "record 1 is not JSON"),
        ("[1] [2]", "goes on after the end of its list"),
        ("[]x", "goes on after the end of its list"),
        ('{"a": 1}\n{"a": ', "record 2 is not JSON"),
        ('{"a": 1}\nx', "record 2 is not JSON"),
        (b"[\xff\xfe]", "is not UTF-8 text"),
        ("[" * 100_000, "record 1 is not JSON (nested too deeply)"),
    ],
)
def test_what_is_no_file_of_records_is_named(tmp_path, text, reason):
    with pytest.raises(RecordsError) as caught:
        read_text(tmp_path, text)
    assert reason in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RecordsError, match="cannot be read"):
        list(read_records(tmp_path / "none.json"))


def test_records_before_the_damage_are_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[1, 2, {"a"')
    found = []
    with pytest.raises(RecordsError):
        found.extend(read_records(path))
    reader = read_records(path)
    assert [next(reader), next(reader)] == [1, 2]


def test_damage_at_the_start_of_a_long_file_is_found_without_reading_it_all(monkeypatch):
    monkeypatch.setattr(records, "CHUNK", 10)
    monkeypatch.setattr(records, "MAX_RECORD", 100)
    file = io.StringIO('[{"a": oops' + " " * 100_000 + "}]")
    with pytest.raises(RecordsError, match="record 1 is not JSON"):
        list(records._records(records._Text(file)))
    assert file.tell() < 200


def test_a_long_list_is_read_with_a_small_window(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "CHUNK", 64)
    path = write_records(tmp_path / "a.json", [record(f"clip{i}") for i in range(300)])
    with path.open() as file:
        text = records._Text(file)
        widest = 0
        for _ in records._records(text):
            widest = max(widest, len(text._window))
    assert widest < 1000


# Clips


def problems_of(path) -> list[str]:
    problems = Problems()
    list(read_clips(path, problems))
    assert problems.count == len(problems.lines)
    return problems.lines


def test_a_record_of_vast_has_all_texts():
    clip = clip_of(record())
    assert (clip.id, clip.target) == ("abcdefghijk.1", "A cat purrs in its sleep.")
    assert clip.texts == {
        "audio": "a cat purrs",
        "subtitle": "she has slept all day",
        "vision": "a cat sleeps the cat is asleep",
    }


def test_a_record_of_valor_has_none():
    clip = clip_of({"video_id": "abcdefghijk_10.000_20.000", "caption": "Hens cluck.", "subtitle": ""})
    assert (clip.target, set(clip.texts.values())) == ("Hens cluck.", {""})


@for_all("absent", [None, "", " \n\t", [], [None], ["", " "], "missing"])
@for_all(("key", "modality"), [("audio_cap", "audio"), ("subtitle", "subtitle"), ("vision_cap", "vision")])
def test_an_absent_field_is_an_absent_text_and_touches_no_other(key, modality, absent):
    full, given = clip_of(record()), record(**{key: absent})
    if absent == "missing":
        del given[key]
    clip = clip_of(given)
    assert clip.texts == {**full.texts, modality: ""}
    assert clip.target == full.target


@for_all(
    ("keys", "target"),
    [
        ({"vast_cap": "v", "caption": "c", "desc": "d"}, "v"),
        ({"caption": "c", "desc": "d"}, "c"),
        ({"desc": ["", "d1", "d2"]}, "d1"),
        ({"vast_cap": " ", "caption": [" c1\n line ", "c2"]}, "c1 line"),
        ({"vast_cap": None, "caption": "c"}, "c"),
    ],
)
def test_the_first_summary_that_is_not_empty_is_the_target(keys, target):
    assert clip_of({"clip_id": "a", **keys}).target == target


@for_all(
    ("keys", "id_"),
    [({"clip_id": "a", "video_id": "b"}, "a"), ({"video_id": "b"}, "b"), ({"clip_id": None, "video_id": 7}, "7"),
     ({"clip_id": "", "video_id": "b"}, "b"), ({"clip_id": 0}, "0")],
)  # fmt: skip  # one case each
def test_a_clip_is_called_by_clip_id_or_video_id(keys, id_):
    assert clip_of({"vast_cap": "v", **keys}).id == id_


@for_all(
    ("id_", "group"),
    [
        ("abcdefghijk.12", "abcdefghijk"),
        ("-_.defghi.k.3", "-_.defghi.k"),
        ("abcdefghijk_40.000_50.000", "abcdefghijk"),
        ("abcdefghijk_40_50", "abcdefghijk"),
        ("video9770", "video9770"),
        ("abcdefghijk", "abcdefghijk"),
        ("abcdefghij.12", "abcdefghij.12"),
        ("abcdefghijk.x", "abcdefghijk.x"),
    ],
)
def test_clips_of_one_video_are_one_group(id_, group):
    assert Clip(id_, "t", {}).group == group


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"vast_cap": "v"}, "record 2 has no clip_id"),
        ({"clip_id": " ", "vast_cap": "v"}, "record 2 has no clip_id"),
        ({"clip_id": ["a"], "vast_cap": "v"}, "record 2 has no clip_id"),
        ({"clip_id": True, "vast_cap": "v"}, "record 2 has no clip_id"),
        (record("first"), "record 2 has the clip_id 'first' of record 1"),
        (record(" first "), "record 2 has the clip_id 'first' of record 1"),
        (record(vast_cap=""), "record 2 (clip abcdefghijk.1) has no target: one of vast_cap, caption, desc must"),
        (record(vast_cap=None), "record 2 (clip abcdefghijk.1) has no target"),
        (record(vast_cap=3), "(clip abcdefghijk.1) has a vast_cap that is neither a text nor a list of texts: 3"),
        (record(audio_cap={"a": 1}), "has a audio_cap that is neither"),
        (record(subtitle=["a", 5]), "has a subtitle that is neither a text nor a list of texts: ['a', 5]"),
        ("text", "record 2 is no object with keys, but 'text'"),
        (["a"] * 50, "record 2 is no object with keys, but ['a', 'a', "),
    ],
)
def test_a_broken_record_is_one_line_with_file_and_number(tmp_path, broken, reason):
    path = write_records(tmp_path / "notes.json", [record("first"), broken, record("last")])
    (line,) = problems_of(path)
    assert line.startswith("notes.json: ")
    assert reason in line
    assert len(line) < 160
    assert [clip.id for clip in read_clips(path, Problems())] == ["first", "last"]


def test_a_file_without_a_record_is_a_problem(tmp_path):
    assert problems_of(write_records(tmp_path / "a.json", [])) == ["a.json: holds no record"]


def test_a_damaged_file_is_a_problem_after_its_clips(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([record("one"), record("two")])[:-9])
    problems = Problems()
    assert [clip.id for clip in read_clips(path, problems)] == ["one"]
    assert len(problems.lines) == 1
    assert "record 2 is not JSON" in problems.lines[0]


def test_a_file_full_of_problems_keeps_some_lines_and_counts_all(tmp_path, monkeypatch):
    monkeypatch.setattr(problems_module, "MAX_PROBLEMS", 3)
    problems = Problems()
    list(read_clips(write_records(tmp_path / "a.json", [{}] * 10), problems))
    assert (problems.count, len(problems.lines)) == (10, 3)


def test_half_a_surrogate_pair_can_be_stored(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([record("a", vast_cap="x \ud83d y", subtitle="\udc00")]))
    (clip,) = read_clips(path, Problems())
    assert (clip.target, clip.texts["subtitle"]) == ("x ? y", "?")


# Subsets


def chosen(names, limit, seed=1) -> list[str]:
    subset = Subset(limit, seed)
    for name in names:
        subset.offer(Clip(name, "t", {}))
    assert subset.offered == len(names)
    return [clip.id for clip in subset.clips()]


NAMES = [f"clip{i:03d}" for i in range(200)]


def test_the_order_of_records_does_not_matter():
    expected = chosen(NAMES, 20)
    for seed in range(5):
        mixed = np.random.default_rng(seed).permutation(NAMES).tolist()
        assert chosen(mixed, 20) == expected


@for_all("limit", [200, 201, 10_000, None])
def test_a_limit_beyond_the_clips_takes_all(limit):
    assert chosen(NAMES, limit) == NAMES


@for_all("limit", [1, 2, 57, 199])
def test_as_many_as_the_limit_are_chosen_and_a_larger_limit_keeps_them(limit):
    assert len(chosen(NAMES, limit)) == limit
    assert set(chosen(NAMES, limit)) < set(chosen(NAMES, limit + 1))


def test_seeds_choose_different_clips_and_each_clip_as_often():
    assert chosen(NAMES, 20, seed=3) == chosen(NAMES, 20, seed=3)
    picks = [chosen(NAMES, 20, seed) for seed in range(200)]
    assert len({tuple(pick) for pick in picks}) == 200
    counts = [sum(name in pick for pick in picks) for name in NAMES]
    assert sum(counts) == 200 * 20
    assert min(counts) > 3
    assert max(counts) < 45  # 20 expected, sd 4.2


def test_the_chosen_are_the_least_hashes():
    order = sorted(NAMES, key=lambda name: hashlib.sha256(f"9/{name}".encode()).hexdigest())
    assert chosen(NAMES, 15, seed=9) == sorted(order[:15])


# Texts


@for_all(
    ("text", "words"),
    [
        ("A man's café, 2 DOGS!", ["a", "man", "s", "café", "2", "dogs"]),
        ("cafe\u0301 CAFÉ", ["café", "café"]),
        ("日本 Über-cool", ["日本", "über", "cool"]),
        (" ... !? ", []),
        ("", []),
    ],
)
def test_words_are_letters_and_digits_in_lower_case(text, words):
    assert words_of(text) == words


def test_ids_are_hashes_of_the_words_in_order_and_then_padding():
    words = ["the", "quick", "brown", "fox", "sees", "the", "café"]
    expected = [1 + int(hashlib.sha256(w.encode()).hexdigest()[:16], 16) % 2047 for w in words]
    assert text_ids("The quick, brown fox sees THE café.", 10) == [*expected, 0, 0, 0]
    assert text_ids("The quick, brown fox sees THE café.", 3) == expected[:3]
    assert text_ids("?", 4) == [0, 0, 0, 0]


def test_ids_use_the_whole_range_and_never_the_padding():
    ids = {word_id(f"word{i}") for i in range(40_000)}
    assert ids == set(range(1, VOCABULARY))


def test_words_that_differ_modulo_the_default_table_differ_for_the_encoder():
    modality = Modality("m", (1,), "int64", "tokens", vocabulary=VOCABULARY)
    torch.manual_seed(1)
    encoder = encoder_of(modality, 8)
    with torch.no_grad():
        out = encoder(torch.tensor([[3], [3 + TABLE_ROWS], [3 + VOCABULARY]]))
    assert not torch.equal(out[0], out[1])
    assert torch.equal(out[0], out[2])
    plain = encoder_of(Modality("m", (1,), "int64", "tokens"), 8)
    assert {k: t.shape[0] for k, t in plain.state_dict().items() if k.startswith("table")} == {
        "table.weight": TABLE_ROWS
    }


# Files as MSR-VTT has them, and as other tools write them


def msrvtt_file(videos: list[str], sentences: list[tuple[str, str]]) -> dict:
    return {
        "info": {"year": "2016"},
        "videos": [{"category": 9, "video_id": name, "split": "train", "id": i} for i, name in enumerate(videos)],
        "sentences": [{"caption": text, "video_id": name, "sen_id": i} for i, (name, text) in enumerate(sentences)],
    }


def test_msrvtts_own_file_gives_a_clip_per_video_with_its_sentences(tmp_path):
    pairs = [("video1", "a dog"), ("video0", "a cat"), ("video1", "dogs run"), ("video1", "a dog")]
    for indent in (None, 2):
        path = tmp_path / "train_val_videodatainfo.json"
        path.write_text(json.dumps(msrvtt_file(["video0", "video1"], pairs), indent=indent))
        problems = Problems()
        found = list(read_clips(path, problems))
        assert [(clip.id, clip.target, clip.references) for clip in found] == [
            ("video0", "a cat", ("a cat",)), ("video1", "a dog", ("a dog", "dogs run"))
        ]  # fmt: skip
        assert problems.count == 0
    for wrong, told in (
        (msrvtt_file(["video0"], pairs), "sentence 1 is about 'video1', which is none of its videos"),
        ({"videos": [], "sentences": 3}, "has no list of objects under 'sentences'"),
        (msrvtt_file(["video0"], []), "record 1 (clip video0) has no target"),
    ):
        path.write_text(json.dumps(wrong))
        problems = Problems()
        assert list(read_clips(path, problems)) == []
        assert told in problems.lines[0]


def test_annotations_are_read_as_other_tools_write_them(tmp_path):
    records_ = [
        record(f"clip{i}", subtitle=float("nan") if i else "words", audio_cap=[float("nan"), "rain"]) for i in range(3)
    ]
    as_lines = "".join(json.dumps(one) + "\r\n" for one in records_)
    files = {
        "a.jsonl": b"\xef\xbb\xbf" + as_lines.encode(),
        "b.json": json.dumps(records_).encode("utf-16"),
        "c.jsonl.gz": gzip.compress(as_lines.encode()),
        "D.NDJSON": as_lines.encode(),
    }
    for name, content in files.items():
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_bytes(content)
        problems = Problems()
        found = list(read_clips(Folder(folder).annotations(None), problems))
        assert [clip.id for clip in found] == ["clip0", "clip1", "clip2"]
        assert [clip.texts["subtitle"] for clip in found] == ["words", "", ""]
        assert {clip.texts["audio"] for clip in found} == {"rain"}
        assert problems.count == 0
    (tmp_path / "cut.jsonl.gz").write_bytes(files["c.jsonl.gz"][:-9])
    problems = Problems()
    list(read_clips(tmp_path / "cut.jsonl.gz", problems))
    assert "cannot be read" in problems.lines[0]


def test_all_summaries_of_a_clip_are_references_and_the_first_is_the_target():
    clip = clip_of(record("a", vast_cap=[None, " ", "first one", "second", "first one"]))
    assert (clip.target, clip.references) == ("first one", ("first one", "second"))
    assert clip_of(record("a", vast_cap=float("nan"), caption="x", desc="y")).references == ("x",)
