"""A table of a user's own with a manifest: rows in four kinds of files, what they may lack, and what is refused."""

from __future__ import annotations

import csv
import gzip
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cli_fakes import call_main
from jsonl_files import request, samples_in
from mlecs_bench.api import DataError
from mlecs_bench.doors.registry import Registry
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import RunSpec
from mlecs_plugins.datasets import jsonl
from mlecs_plugins.datasets.jsonl.card import JsonlOptions
from mlecs_plugins.datasets.jsonl.layout import MODALITY_NAME, OF_TORCH
from mlecs_plugins.datasets.vast.features import log_mel
from mlecs_plugins.datasets.vast.media import read_waveform
from mlecs_plugins.datasets.vast.texts import text_ids
from vast_files import shade, tone, truncate, write_media

MANIFEST = """
samples: {samples}
id: key
group: person
target: says
modalities:
  words: {{text: title, words: 4}}
  motion: {{array: numbers}}
"""
ROWS = [
    {"key": "a", "person": "p1", "says": ["one", "uno", "one"], "title": "Ein Satz, groß", "numbers": [1.0, 2.0, 3.5]},
    {"key": "b", "person": "p1", "says": "two", "title": None, "numbers": [0.0, -1.0, 2.0]},
    {"key": "c", "person": "p2", "says": "three", "title": "日本", "numbers": None},
    {"key": "d", "person": "p2", "says": "four", "title": " ", "numbers": [1.0, math.nan, 2.0]},
]


def write(folder: Path, manifest: str, rows: str | bytes, name: str = "rows.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.yaml").write_text(manifest.format(samples=name), encoding="utf-8")
    (folder / name).write_bytes(rows if isinstance(rows, bytes) else rows.encode())
    return folder


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_parquet(path: Path) -> bytes:
    plain = [{**row, "says": row["says"] if isinstance(row["says"], list) else [row["says"]]} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(plain), path)
    return path.read_bytes()


def test_every_kind_of_table_gives_the_same_samples(tmp_path):
    text = lines(ROWS)
    tables = {
        "rows.jsonl": text,
        "bom.ndjson": b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
        "wide.jsonl": text.encode("utf-16"),
        "packed.jsonl.gz": gzip.compress(text.encode()),
        "LIST.JSON": json.dumps(ROWS),
        "rows.parquet": as_parquet(tmp_path / "made.parquet"),
    }
    digests = set()
    for name, content in tables.items():
        found = samples_in(write(tmp_path / name.replace(".", "-"), MANIFEST, content, name))
        assert found.ids == ("a", "b", "c", "d")
        assert found.targets == ["one", "two", "three", "four"]
        assert found.references[:2] == [("one", "uno"), ("two",)]
        assert found.column("group") == ["p1", "p1", "p2", "p2"]
        assert found.presence["words"].tolist() == [True, False, True, False]
        assert found.presence["motion"].tolist() == [True, True, False, False]
        np.testing.assert_array_equal(found.array("motion")[:2], np.float32([[1, 2, 3.5], [0, -1, 2]]))
        np.testing.assert_array_equal(found.array("words")[0], text_ids("Ein Satz, groß", 4))
        assert [(m.name, m.encoding, m.standardise) for m in found.manifest.modalities] == [
            ("motion", "vector", True),
            ("words", "tokens", False),
        ]
        digests.add(found.manifest.digest)
    assert len(digests) == len(tables)


def test_the_digest_is_of_contents_and_of_what_the_manifest_asks_for(tmp_path):
    first = write(tmp_path / "one", MANIFEST, lines(ROWS))
    digest = samples_in(first).manifest.digest
    moved = write(tmp_path / "moved", "# a remark\ntitle: Mine\n" + MANIFEST, lines(ROWS))
    assert samples_in(moved).manifest.digest == digest
    for manifest, rows in (
        (MANIFEST, lines(ROWS).replace("two", "deux")),
        (MANIFEST + "prompt: What?", lines(ROWS)),
        (MANIFEST.replace("words: 4", "words: 5"), lines(ROWS)),
    ):
        assert (
            samples_in(write(tmp_path / str(len(manifest)) / rows[60:70].strip(), manifest, rows)).manifest.digest
            != digest
        )
    assert samples_in(first, target_words=1).manifest.digest != digest


SENSOR = """
samples: {samples}
group: who
target: doing
labels: {{0: standing, 1: walking}}
windows: {{rows: 4, step: 2}}
modalities:
  motion: {{array: [x, y]}}
"""


def test_windows_of_a_sensor_table_hold_one_person_doing_one_thing(tmp_path):
    table = [(who, doing) for who in ("p1", "p2") for doing in (0, 1) for _ in range(7)]
    rows = [{"who": who, "doing": doing, "x": i, "y": -i} for i, (who, doing) in enumerate(table)]
    path = tmp_path / "made.csv"
    for separator in (",", ";"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
        found = samples_in(write(tmp_path / f"s{ord(separator)}", SENSOR, path.read_bytes(), "rows.csv"))
        starts = [start for first in range(0, 28, 7) for start in (first, first + 2)]  # 7 rows hold two windows
        assert found.array("motion")[:, :, 0].tolist() == [list(range(start, start + 4)) for start in starts]
        assert found.array("motion")[:, :, 1].tolist() == [[-i for i in range(start, start + 4)] for start in starts]
        assert found.manifest.labels == ("standing", "walking")
        assert found.targets == [["standing", "walking"][rows[start]["doing"]] for start in starts]
        assert found.column("group") == [rows[start]["who"] for start in starts]
        assert found.manifest.modalities[0].encoding == "series"


MEDIA = """
samples: {samples}
target: says
modalities:
  film: {{video: clip}}
  picture: {{image: photo, size: 2}}
  sound: {{audio: clip}}
  trace: {{array: log, ticks: 3}}
"""


def media_folder(folder: Path) -> Path:
    rows = [
        {"says": "whole", "clip": "in\\deep\\a.mp4", "photo": "p.png", "log": "a.csv"},
        {"says": "nothing"},
        {"says": "cut", "clip": "cut.mp4", "photo": None, "log": "b.npy"},
    ]
    write(folder, MEDIA, lines(rows))
    write_media(folder / "in" / "deep" / "a.mp4", sound=tone(1.0))
    truncate(write_media(folder / "cut.mp4", sound=tone(1.0)), 0.5)
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    picture[:2] = 200
    Image.fromarray(picture).save(folder / "p.png")
    (folder / "a.csv").write_text("t;x\n0;1\n1;2\n")
    np.save(folder / "b.npy", np.arange(10).reshape(5, 2))
    return folder


def test_named_files_are_read_as_their_columns_say_and_damaged_ones_are_missing(tmp_path):
    folder = media_folder(tmp_path / "own")
    found = samples_in(folder)
    assert {m: has.tolist() for m, has in found.presence.items()} == {
        "film": [True, False, False],
        "picture": [True, False, False],
        "sound": [True, False, False],
        "trace": [True, False, True],
    }
    np.testing.assert_allclose(found.array("film")[0].mean(axis=(1, 2, 3)), [shade(f) for f in (3, 11, 18, 26)], atol=3)
    np.testing.assert_array_equal(found.array("sound")[0], log_mel(read_waveform(folder / "in/deep/a.mp4", 16_000)))
    assert found.array("picture")[0, :, :, 0].tolist() == [[200, 200], [0, 0]]
    assert found.array("trace")[[0, 2]].tolist() == [[[0, 1], [1, 2], [0, 0]], [[0, 1], [2, 3], [4, 5]]]
    verified = jsonl.verify(request(folder, tmp_path / "other"))
    assert verified.digest == found.manifest.digest
    assert [line.partition(":")[0] for line in verified.problems] == ["cut.mp4"]
    assert verified.missing["film"] == ["000002", "000003"]


def with_cell(**cells) -> str:
    return lines([ROWS[0], {**ROWS[1], **cells}])


WRONG_ROWS = {
    "cell": (with_cell(numbers=["1", "x", "2"]), "rows.jsonl, line 2: column 'numbers' holds no numbers"),
    "shape": (
        lines([*ROWS[:2], {**ROWS[0], "key": "z", "numbers": [1]}]),
        "line 3: column 'numbers' holds an array of 1",
    ),
    "infinite": (with_cell(numbers=[1, math.inf, 2]), "line 2: column 'numbers' holds a number that is not finite"),
    "target": (with_cell(says=" NaN "), "line 2: column 'says' is missing"),
    "name": (with_cell(key="a"), "line 2: column 'key' names 'a', as line 1 does"),
    "text": (with_cell(title={"a": 1}), "line 2: column 'title' is neither a text nor a list"),
    "json": (lines(ROWS[:1]) + "{", "line 2 is not JSON"),
    "list": ("[1]\n", "line 1 is no object with keys"),
    "column": (
        lines(ROWS).replace("title", "titel"),
        "has no column 'title', which the manifest wants for modality 'words'",
    ),
    "empty": ("", "rows.jsonl: holds no sample"),
    "bytes": (b"\xff\xfa{", "rows.jsonl: is not UTF-8 text"),
}


@pytest.mark.parametrize("name", WRONG_ROWS)
def test_a_wrong_row_is_refused_in_one_line_with_file_line_and_column(tmp_path, name):
    rows, told = WRONG_ROWS[name]
    folder = write(tmp_path / "own", MANIFEST, rows)
    with pytest.raises(DataError) as caught:
        samples_in(folder)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    found = jsonl.verify(request(folder, tmp_path / "cache"))
    assert found.digest is None
    assert any(told in line for line in found.problems)


def test_paths_in_a_table_never_leave_the_folder(tmp_path):
    folder = media_folder(tmp_path / "own")
    outside = write_media(tmp_path / "outside.mp4")
    (folder / "link.mp4").symlink_to(outside)
    for name in ("../outside.mp4", str(outside), "in/../../outside.mp4", "..\\outside.mp4", "C:\\a.mp4", "link.mp4"):
        write(folder, MEDIA, lines([{"says": "x", "clip": name, "photo": "p.png", "log": "a.csv"}]))
        with pytest.raises(DataError, match=r"line 1: column 'clip' names '.*', which is not inside the data folder"):
            samples_in(folder)
    write(folder, MEDIA, lines([{"says": "x", "clip": "gone.mp4", "photo": "p.png", "log": "a.csv"}]))
    with pytest.raises(DataError, match=r"line 1: column 'clip' names 'gone.mp4', and there is no such file"):
        samples_in(folder)
    write(folder, MEDIA.replace("{samples}", "../rows.jsonl"), "")
    with pytest.raises(DataError, match="is not inside"):
        samples_in(folder)


WRONG_MANIFESTS = {
    "samples: [": "is not YAML at line",
    "[]": "the manifest must be name: value pairs",
    "samples: rows.jsonl": "'modalities' must be name: value pairs",
    MANIFEST + "labls: all": "'labls' is unknown here; known are",
    MANIFEST.replace("array", "arrays"): "'modalities.motion' must name its column as one of text",
    MANIFEST.replace("target: says", ""): "'target' is missing",
    MANIFEST.replace("words: {{", "id: {{"): "'modalities.id' is no name of a modality",
    MANIFEST.replace("words: 4", "words: 0"): "'modalities.words.words' must be a whole number from 1",
    MANIFEST.replace("motion:", "forward:"): "'modalities.forward' is a word of torch's own",
    MANIFEST + "labels: [one]": "'labels' needs at least two labels",
}


@pytest.mark.parametrize("manifest", WRONG_MANIFESTS)
def test_a_wrong_manifest_is_refused_in_one_line_with_file_and_entry(tmp_path, manifest):
    folder = write(tmp_path / "own", "{samples}", lines(ROWS))
    (folder / "dataset.yaml").write_text(
        manifest.replace("{samples}", "rows.jsonl").replace("{{", "{").replace("}}", "}")
    )
    for ask in (samples_in, lambda at: jsonl.for_data(at, JsonlOptions())):
        with pytest.raises(DataError) as caught:
            ask(folder)
        assert WRONG_MANIFESTS[manifest] in str(caught.value)
        assert "dataset.yaml" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_no_modality_is_called_like_an_attribute_of_torchs_dictionaries():
    kinds = (torch.nn.ModuleDict, torch.nn.ParameterDict)
    taken = {name for kind in kinds for name in dir(kind()) if MODALITY_NAME.fullmatch(name)}
    assert taken <= OF_TORCH


def test_a_plan_takes_task_modalities_and_metrics_from_the_manifest(tmp_path):
    registry = Registry.installed()
    spec = {"algo": "standalone", "dataset": "jsonl", "rho": 0.5}
    free = resolve(RunSpec(**spec, data_dir=str(write(tmp_path / "free", MANIFEST, lines(ROWS)))), registry)
    assert (sorted(free.rates), free.metrics[0]) == (["motion", "words"], "rouge_lsum")
    classes = write(tmp_path / "classes", MANIFEST + "labels: all", lines(ROWS))
    assert resolve(RunSpec(**spec, data_dir=str(classes)), registry).metrics[0] == "f1_macro"
    assert sorted(resolve(RunSpec(**spec), registry).rates) == ["note", "reading"]


def test_own_data_are_verified_prepared_and_listed_by_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLECS_BENCH_CACHE", str(tmp_path / "cache"))
    folder = write(tmp_path / "own", "title: My table\n" + MANIFEST, lines(ROWS))
    for command in (("verify", "jsonl", "--data-dir", str(folder)), ("prepare", "jsonl", "--data-dir", str(folder))):
        code, out, _ = call_main(capsys, "data", *command)
        assert code == 0
        assert "My table (rows.jsonl): motion (array), words (text)" in out
        assert "words   2 of 4" in out
    assert "My table" in call_main(capsys, "data", "list")[1]
