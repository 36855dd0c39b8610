"""A table of a user's own in Parquet: files as bytes in its cells, lists and tensors of numbers, texts as bytes."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jsonl_files import request, samples_in
from mlecs_bench.errors import DataError
from mlecs_plugins.datasets import jsonl, parquet_cells
from vast_files import tone, write_media

MANIFEST = """
samples: rows.parquet
id: key
target: says
modalities:
  picture: {image: image, size: 8}
  sound: {audio: audio}
  film: {video: film}
"""


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def averages(content: bytes, size: int) -> np.ndarray:
    """Return a picture reduced by area averages, computed by a loop over exact weights of rows and columns."""
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(float)

    def weights(n: int) -> np.ndarray:
        edges = np.linspace(0, n, size + 1)
        return np.array(
            [[max(0.0, min(b, k + 1) - max(a, k)) / (b - a) for k in range(n)] for a, b in itertools.pairwise(edges)]
        )

    return np.einsum("ih,jw,hwc->ijc", weights(pixels.shape[0]), weights(pixels.shape[1]), pixels)


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes | None]]:
    """Eight rows, of which the second has nothing."""
    folder = tmp_path_factory.mktemp("media")
    sound = write_media(folder / "a.mp3", draw=None, sound=tone(0.3), form="mp4").read_bytes()
    film = write_media(folder / "a.mp4", n_frames=6).read_bytes()
    n = 8
    return {
        "image": [None if k == 1 else png(k) for k in range(n)],
        "audio": [None if k == 1 else sound for k in range(n)],
        "film": [None if k == 1 else film for k in range(n)],
    }


def write(folder: Path, columns: dict, manifest: str = MANIFEST, **settings) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    n = len(next(iter(columns.values())))
    named = {"key": [f"k{i:03d}" for i in range(n)], "says": [f"it is {i}" for i in range(n)]}
    table = columns if isinstance(columns, pa.Table) else pa.table({**named, **columns})
    pq.write_table(table, folder / "rows.parquet", **settings)
    (folder / "dataset.yaml").write_text(manifest)
    return folder


def structs(values: list[bytes | None], suffix: str) -> pa.Array:
    """Return what Hugging Face's Image and Audio write."""
    rows = [None if value is None else {"bytes": value, "path": f"some/{k}{suffix}"} for k, value in enumerate(values)]
    return pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()}))


def as_bytes(contents, kind=None):
    return {name: pa.array(values, kind or pa.binary()) for name, values in contents.items()}


def test_files_in_cells_are_read_as_loose_files_are(contents, tmp_path, monkeypatch):
    """In all layouts: binary and large binary columns, structs of datasets, and names of files as the oracle."""
    monkeypatch.setattr(parquet_cells, "ROWS", 3)  # batches that end inside of groups of rows
    n = len(contents["image"])
    loose: dict[str, list[str | None]] = {}
    for name, suffix in (("image", ".png"), ("audio", ".mp3"), ("film", ".mp4")):
        (tmp_path / "loose").mkdir(exist_ok=True)
        loose[name] = []
        for k, content in enumerate(contents[name]):
            loose[name].append(None if content is None else f"{name}{k}{suffix}")
            if content is not None:
                (tmp_path / "loose" / f"{name}{k}{suffix}").write_bytes(content)
    layouts = {
        "binary": as_bytes(contents),
        "large": as_bytes(contents, pa.large_binary()),
        "structs": {
            name: structs(contents[name], suffix)
            for name, suffix in (("image", ".PNG"), ("audio", ".mp3"), ("film", ".mp4"))
        },
    }
    wanted = samples_in(write(tmp_path / "loose", loose), tmp_path / "cache")
    assert [int(wanted.presence[m].sum()) for m in ("picture", "sound", "film")] == [n - 1] * 3
    for k in (0, n - 1):
        assert np.abs(wanted.array("picture")[k] - averages(contents["image"][k], 8)).max() <= 0.5 + 1e-6
    for layout, columns in layouts.items():
        found = samples_in(write(tmp_path / layout, columns, row_group_size=4), tmp_path / f"cache-{layout}")
        for name in ("picture", "sound", "film"):
            np.testing.assert_array_equal(found.presence[name], wanted.presence[name])
            np.testing.assert_array_equal(found.array(name), wanted.array(name))


def test_a_table_that_datasets_wrote_is_read(tmp_path):
    pictures = [Image.open(io.BytesIO(png(k))) for k in range(3)]
    features = datasets.Features(
        {
            "key": datasets.Value("string"),
            "says": datasets.Value("string"),
            "image": datasets.Image(),
            "grid": datasets.Array2D((2, 3), "float32"),
        }
    )
    grids = np.arange(18, dtype=np.float32).reshape(3, 2, 3)
    made = datasets.Dataset.from_dict(
        {"key": list("abc"), "says": list("xyz"), "image": pictures, "grid": grids.tolist()}, features=features
    )
    datasets.disable_progress_bars()
    folder = tmp_path / "own"
    folder.mkdir()
    made.to_parquet(folder / "rows.parquet")
    (folder / "dataset.yaml").write_text(
        "samples: rows.parquet\nid: key\ntarget: says\nmodalities: {p: {image: image, size: 8}, g: {array: grid}}"
    )
    found = samples_in(folder)
    np.testing.assert_array_equal(found.array("g"), grids)
    assert found.presence["p"].all()


def test_struct_cells_without_bytes_name_files(tmp_path):
    folder = write(
        tmp_path / "own",
        {"image": pa.array([{"bytes": None, "path": "a.png"}, {"bytes": png(1), "path": None}])},
        "samples: rows.parquet\nid: key\ntarget: says\nmodalities: {p: {image: image, size: 8}}",
    )
    (folder / "a.png").write_bytes(png(0))
    found = samples_in(folder)
    assert np.abs(found.array("p")[0] - averages(png(0), 8)).max() <= 0.5 + 1e-6
    assert found.presence["p"].all()
    (folder / "a.png").unlink()
    with pytest.raises(DataError, match=r"row 1: column 'image' names 'a\.png', and there is no such file"):
        samples_in(folder)


def test_lists_and_tensors_of_numbers_are_arrays_in_their_own_order(tmp_path):
    cube = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(cube)
    turned = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), (3, 2), permutation=[1, 0]),
        pa.array([part.T.reshape(-1).tolist() for part in cube], pa.list_(pa.float32(), 6)),
    )
    columns = {
        "lists": cube.tolist(),
        "halves": pa.array([[np.float16(x) for x in part[0]] for part in cube], pa.list_(pa.float16())),
        "fixed": pa.array([part[0].tolist() for part in cube], pa.list_(pa.float64(), 3)),
        "tensor": tensor,
        "turned": turned,
    }
    named = ", ".join(f"{name}: {{array: {name}}}" for name in columns)
    folder = write(tmp_path / "own", columns, f"samples: rows.parquet\ntarget: says\nmodalities: {{{named}}}")
    found = samples_in(folder)
    oracles = {"lists": cube, "tensor": cube, "turned": cube, "fixed": cube[:, 0], "halves": cube[:, 0]}
    for name, oracle in oracles.items():
        np.testing.assert_array_equal(found.array(name), oracle, err_msg=name)


def test_texts_that_are_stored_as_bytes_are_texts(tmp_path):
    """Spark and Impala mark no column of texts as one."""
    columns = {"note": pa.array(["Größe".encode(), None, b"two"], pa.binary())}
    manifest = "samples: rows.parquet\ntarget: note\nmodalities: {note: {text: says}}"
    with pytest.raises(DataError, match="row 2: column 'note' is missing"):
        samples_in(write(tmp_path / "gap", columns, manifest))
    columns = {"note": pa.array(["Größe".encode(), b"two"], pa.binary())}
    assert samples_in(write(tmp_path / "own", columns, manifest)).targets == ["Größe", "two"]
    columns = {"note": pa.array([b"\xff\xfe\xfd", b"two"], pa.binary())}
    with pytest.raises(DataError, match=r"rows\.parquet: is not UTF-8 text"):
        samples_in(write(tmp_path / "damaged", columns, manifest))


def test_damage_in_cells_is_named_by_column_and_row_and_counts_as_missing(contents, tmp_path):
    columns = as_bytes({name: values[:3] for name, values in contents.items()})
    cut = [contents["image"][0][:-20], contents["image"][0], b"no picture"]
    folder = write(tmp_path / "own", {**columns, "image": pa.array(cut, pa.binary())})
    found = jsonl.verify(request(folder, tmp_path / "cache"))
    assert [line.partition(" is no")[0] for line in found.problems] == [
        "rows.parquet/image/00000000:",
        "rows.parquet/image/00000002:",
    ]
    assert found.missing["picture"] == ["k000", "k002"]
    assert samples_in(folder, tmp_path / "cache").presence["picture"].tolist() == [False, True, False]


def test_bytes_where_a_text_belongs_and_damaged_tables_are_refused_in_one_line(contents, tmp_path):
    columns = as_bytes({name: values[:3] for name, values in contents.items()})
    for change, told in (
        (("id: key", "id: image"), "column 'image' is no text"),
        (("target: says", "target: image"), "column 'image' is neither a text"),
    ):
        with pytest.raises(DataError, match=told) as caught:
            samples_in(write(tmp_path / change[1], columns, MANIFEST.replace(*change)), tmp_path / "cache")
        assert "\n" not in str(caught.value)
    folder = write(tmp_path / "checked", columns, write_page_checksum=True, compression="none")
    whole = (folder / "rows.parquet").read_bytes()
    for content in (whole[:-100], whole[: len(whole) // 2], whole[:900] + bytes([whole[900] ^ 1]) + whole[901:]):
        (folder / "rows.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"rows\.parquet: is no whole Parquet file"):
            samples_in(folder, tmp_path / "cache")
