"""Prepared data: what went in comes out, whole or not at all, and a party sees nothing but its own."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import datasets
import numpy as np
import pytest
import torch

from laws import for_all
from mlecs_bench.data.samples import (
    MANIFEST_FILE,
    DataRequest,
    Manifest,
    Modality,
    PartyData,
    PooledData,
    Prepared,
    Samples,
    features_of,
    open_prepared,
    save_prepared,
)
from mlecs_bench.errors import AccessError, DataError

N = 12
MODALITIES = (
    Modality("audio", (3, 4), "float32", "spectrogram"),
    Modality("text", (5,), "int64", "tokens"),
    Modality("video", (2, 3, 4, 3), "uint8", "frames"),
)


def values_of(modality, n=N, seed=0):
    """Return random values (n, *shape) that use the whole range of the modality's dtype."""
    generator = np.random.default_rng(seed)
    shape = (n, *modality.shape)
    if modality.dtype == "float32":
        return generator.normal(size=shape).astype(np.float32)
    info = np.iinfo(modality.dtype)
    return generator.integers(info.min, info.max, size=shape, dtype=modality.dtype, endpoint=True)


def manifest_of(modalities=MODALITIES, n=N, **changes):
    values = {
        "name": "small",
        "version": "1",
        "view": "synthetic",
        "synthetic": True,
        "task": "classification",
        "modalities": tuple(modalities),
        "prompt": "Which?",
        "labels": ("yes", "no"),
        "max_new_tokens": 4,
        "n_samples": n,
        "digest": "0" * 64,
        "licence": "Apache-2.0",
        "notes": ("made by a test",),
    }
    return Manifest(**(values | changes))


def table_of(modalities=MODALITIES, n=N):
    columns = {
        "id": [f"s{i}" for i in range(n)],
        "target": [("yes", "no")[i % 2] for i in range(n)],
        "group": [f"g{i // 3}" for i in range(n)],
        "stratum": ["a"] * n,
        "speaker": [i * i for i in range(n)],
    }
    for k, m in enumerate(modalities):
        columns[m.name] = values_of(m, n).reshape(n, -1).tolist()
        columns[f"has_{m.name}"] = [bool((i + k) % 3) for i in range(n)]
    return datasets.Dataset.from_dict(columns, features=features_of(modalities, {"speaker": datasets.Value("int64")}))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return save_prepared(table_of(), manifest_of(), tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(scope="module")
def samples(prepared):
    return Samples.open(prepared)


@pytest.fixture
def party(samples):
    """A device that holds rows 1, 4 and 7 through text and video."""
    return PartyData(samples, [4, 1, 7], ["video", "text"], "d00")


def entries(folder):
    return sorted(p.name for p in folder.iterdir())


# ---------------------------------------------------------------------------------------------------------- manifest


def test_a_manifest_survives_json():
    manifest = manifest_of()
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


@for_all("names", [("video", "audio"), ("audio", "audio"), ("Text", "audio", "text", "text")])
def test_modalities_are_listed_once_each_in_sorted_order(names):
    with pytest.raises(DataError, match="'small' must list its modalities once each in sorted order"):
        manifest_of([Modality(name, (1,), "float32", "vector") for name in names])


def test_a_modality_is_found_by_its_name():
    manifest = manifest_of()
    assert [manifest.modality(name) for name in manifest.modality_names] == list(MODALITIES)


# ------------------------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64"])
@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3), (4, 2, 3), (2, 3, 4, 3)])
def test_values_of_every_dtype_and_shape_survive_the_arrow_file(tmp_path, dtype, shape):
    modality = Modality("m", shape, dtype, "vector")
    saved = save_prepared(table_of([modality]), manifest_of([modality]), tmp_path / "one")
    array = Samples.open(saved).array("m")
    assert (array.dtype, array.shape) == (np.dtype(dtype), (N, *shape))
    assert np.array_equal(array, values_of(modality))


def test_a_table_in_several_pieces_reads_as_one():
    table = table_of()
    pieces = datasets.concatenate_datasets([table.select(range(start, start + 4)) for start in (0, 4, 8)])
    assert pieces.data.column("audio").num_chunks == 3
    for m in MODALITIES:
        assert np.array_equal(Samples(manifest_of(), pieces).array(m.name), values_of(m))


@pytest.mark.parametrize("rows", [[3, 0, 11], [5], list(range(11, -1, -1))])
def test_a_selection_is_saved_in_its_own_order(tmp_path, rows):
    saved = save_prepared(table_of().select(rows), manifest_of(n=len(rows)), tmp_path / "part")
    opened = Samples.open(saved)
    assert opened.ids == tuple(f"s{i}" for i in rows)
    assert np.array_equal(opened.array("text"), values_of(MODALITIES[1])[rows])


def test_columns_presence_and_targets_read_as_written(samples):
    assert len(samples) == N
    assert samples.targets == ["yes", "no"] * 6
    assert samples.column("speaker") == [i * i for i in range(N)]
    assert {"id", "target", "group", "stratum", "speaker", "audio", "has_audio"} <= set(samples.column_names)
    for k, m in enumerate(MODALITIES):
        assert samples.presence[m.name].tolist() == [(i + k) % 3 != 0 for i in range(N)]


def test_opening_a_folder_returns_the_manifest_it_was_saved_with(prepared):
    assert open_prepared(prepared.folder) == prepared


def test_a_folder_without_a_manifest_is_not_prepared(tmp_path):
    assert open_prepared(tmp_path / "absent") is None
    (tmp_path / "table").mkdir()
    assert open_prepared(tmp_path) is None


# --------------------------------------------------------------------------------------------------------- atomicity


class Crash(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.mark.parametrize("moment", ["table", "manifest", "rename"])
def test_a_crash_while_saving_leaves_nothing(tmp_path, monkeypatch, moment):
    folder = tmp_path / "small"
    rename, write_text = os.rename, type(folder).write_text

    def crash(*_args, **_kwargs):
        raise Crash

    with monkeypatch.context() as patched:
        if moment == "table":
            patched.setattr(datasets.Dataset, "save_to_disk", crash)
        if moment == "manifest":
            crash_on = lambda path, *a, **k: crash() if path.name == MANIFEST_FILE else write_text(path, *a, **k)  # noqa: E731
            patched.setattr(type(folder), "write_text", crash_on)
        if moment == "rename":
            for name in ("rename", "replace"):
                to_folder = lambda a, b, **k: crash() if str(b) == str(folder) else rename(a, b, **k)  # noqa: E731
                patched.setattr(os, name, to_folder)
        with pytest.raises(Crash):
            save_prepared(table_of(), manifest_of(), folder)
    assert open_prepared(folder) is None
    assert entries(tmp_path) == []
    assert open_prepared(save_prepared(table_of(), manifest_of(), folder).folder) is not None


def test_what_a_killed_writer_left_behind_disturbs_no_one(tmp_path):
    (tmp_path / ".small-abc123").mkdir()
    (tmp_path / ".small-abc123" / MANIFEST_FILE).write_text("{")
    assert open_prepared(tmp_path / "small") is None
    assert Samples.open(save_prepared(table_of(), manifest_of(), tmp_path / "small")).ids[0] == "s0"


def test_the_second_of_two_writers_gives_way(tmp_path):
    folder = tmp_path / "small"
    first = save_prepared(table_of(), manifest_of(view="first"), folder)
    second = save_prepared(table_of(n=3), manifest_of(n=3, view="second"), folder)
    assert second == first == open_prepared(folder)
    assert len(Samples.open(second)) == N
    assert entries(tmp_path) == ["small"]


def test_a_folder_that_holds_something_else_is_not_taken_over(tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "thesis.txt").write_text("years of work")
    with pytest.raises(OSError, match="small"):
        save_prepared(table_of(), manifest_of(), tmp_path / "small")
    assert entries(tmp_path) == ["small"]
    assert entries(tmp_path / "small") == ["thesis.txt"]


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "5", '"x"', "{}", '{"name": "small"}', '{"modalities": [1]}', "\x00\x01"]
)
def test_a_corrupt_manifest_is_named(tmp_path, text):
    (tmp_path / MANIFEST_FILE).write_text(text)
    with pytest.raises(DataError, match=MANIFEST_FILE) as caught:
        open_prepared(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", [f.name for f in dataclasses.fields(Manifest) if f.name != "notes"])
def test_a_manifest_without_one_of_its_fields_is_corrupt(tmp_path, key):
    values = {name: value for name, value in manifest_of().to_json().items() if name != key}
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(values))
    with pytest.raises(DataError, match=MANIFEST_FILE):
        open_prepared(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "garbage", "gone"])
@pytest.mark.parametrize("file", ["data-00000-of-00001.arrow", "state.json", "dataset_info.json"])
def test_a_damaged_table_is_named(prepared, tmp_path, file, damage):
    folder = tmp_path / "small"
    shutil.copytree(prepared.folder, folder)
    path = folder / "table" / file
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage == "cut" else b"abc")
    with pytest.raises(DataError, match="is not a table") as caught:
        Samples.open(Prepared(prepared.manifest, folder))
    assert str(folder / "table") in str(caught.value)
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------- parties


def test_a_batch_holds_the_rows_asked_for_through_the_held_modalities(samples, party):
    batch = party.batch(np.array([7, 4, 7]))
    assert (len(batch), batch.index.tolist()) == (3, [7, 4, 7])
    assert list(batch.inputs) == list(batch.present) == ["text", "video"]
    for m in MODALITIES[1:]:
        assert np.array_equal(batch.inputs[m.name].numpy(), values_of(m)[[7, 4, 7]])
        assert batch.present[m.name].tolist() == [bool(samples.presence[m.name][i]) for i in (7, 4, 7)]
        assert batch.present[m.name].dtype == torch.bool


def test_targets_and_ids_follow_the_rows(party):
    assert party.targets([7, 4, 4]) == ["no", "yes", "yes"]
    assert party.ids(np.array([1, 7])) == ["s1", "s7"]


def test_rows_keep_their_order_and_modalities_have_the_fixed_one(party):
    assert party.rows.tolist() == [4, 1, 7]
    assert party.modalities == ("text", "video")
    assert (len(party), party.manifest.name, party.owner) == (3, "small", "d00")


ACCESSES = {
    "batch": lambda party, rows: party.batch(rows),
    "modality": lambda party, rows: party.modality("text", rows),
    "targets": lambda party, rows: party.targets(rows),
    "ids": lambda party, rows: party.ids(rows),
    "check_rows": lambda party, rows: party.check_rows(rows),
}


@for_all("access", ACCESSES)
@for_all("rows", [[0], [4, 0], [1, 4, 7, 11], [-1], [-N + 4], [N], [10**9], range(N)])
def test_the_samples_of_others_are_refused_whatever_asks_for_them(party, access, rows):
    for form in (list(rows), np.array(rows)):
        with pytest.raises(AccessError, match=r"d00 asked for sample '.*', which is not in its data"):
            ACCESSES[access](party, form)


@for_all("access", ACCESSES)
@for_all("rows", [[True] * N, [1.0], [1.4, 4.2], [[1, 4]], ["s1"], 1])
def test_only_a_list_of_row_numbers_selects_samples(samples, access, rows):
    # This party owns rows 0 and 1, which is what the elements of a mask look like: a mask would fetch every row.
    party = PartyData(samples, [0, 1], ["text"], "d00")
    for form in (rows, np.array(rows)):
        with pytest.raises(AccessError, match="give a list of rows"):
            ACCESSES[access](party, form)


@for_all("access", [name for name in ACCESSES if name != "modality"])
def test_a_party_without_modalities_sees_no_samples_of_others_either(samples, access):
    party = PartyData(samples, [1], [], "d00")
    assert len(party.batch([1])) == 1
    with pytest.raises(AccessError, match="'s2'"):
        ACCESSES[access](party, [2])


def test_the_refusal_names_the_sample_by_its_id(party):
    with pytest.raises(AccessError, match="'s3'"):
        party.batch([4, 3])


@for_all("name", ["audio", "smell", "has_text", "speaker", "target"])
def test_a_modality_that_is_not_held_is_refused(party, name):
    with pytest.raises(AccessError, match=rf"d00 asked for modality '{name}' but holds only \['text', 'video'\]"):
        party.modality(name, [4])


def test_no_rows_give_an_empty_batch(party):
    batch = party.batch([])
    assert len(batch) == 0
    assert batch.inputs["video"].shape == (0, 2, 3, 4, 3)
    assert party.targets([]) == party.ids([]) == []


def test_changing_a_batch_does_not_change_the_data(party):
    batch = party.batch([4])
    for tensor in [*batch.inputs.values(), *batch.present.values()]:
        tensor.zero_()
    party.modality("text", [4])[:] = 0
    assert np.array_equal(party.modality("text", [4]), values_of(MODALITIES[1])[[4]])
    assert np.array_equal(party.batch([4]).inputs["video"].numpy(), values_of(MODALITIES[2])[[4]])


def test_the_rows_of_a_party_cannot_be_changed(party):
    with pytest.raises(ValueError, match="read-only"):
        party.rows[0] = 0


# ------------------------------------------------------------------------------------------------------------- pools

SHARES = {(4, 1): ("text", "video"), (0, 7): ("audio", "text"), (9,): ()}


@pytest.fixture
def pool(samples):
    """Rows of three parties in one place: one holds text and video, one audio and text, one nothing."""
    shares = [PartyData(samples, rows, modalities, "d00") for rows, modalities in SHARES.items()]
    return PooledData(samples, shares, "d00")


def test_a_pool_has_the_rows_of_all_parties_and_every_modality_that_one_of_them_holds(samples, pool):
    assert pool.rows.tolist() == [4, 1, 0, 7, 9]
    assert pool.modalities == ("audio", "text", "video")
    assert (len(pool), pool.owner, pool.manifest.name) == (5, "d00", "small")
    assert pool.targets([9, 0]) == ["no", "yes"]
    bare = PooledData(samples, [PartyData(samples, [2, 3], [], "d00")], "d00")
    assert (bare.modalities, bare.batch([3]).inputs, bare.targets([3])) == ((), {}, ["no"])


def test_a_sample_of_a_pool_is_seen_through_the_modalities_of_its_party_and_is_zero_elsewhere(samples, pool):
    held = {row: modalities for rows, modalities in SHARES.items() for row in rows}
    rows = [7, 4, 9, 0, 7, 1]
    batch = pool.batch(np.array(rows))
    assert batch.index.tolist() == rows
    for m in MODALITIES:
        for place, row in enumerate(rows):
            shown = m.name in held[row]
            expected = values_of(m)[row] if shown else np.zeros(m.shape)
            assert np.array_equal(batch.inputs[m.name][place].numpy(), expected), (m.name, row)
            assert np.array_equal(pool.modality(m.name, [row])[0], expected), (m.name, row)
            assert bool(batch.present[m.name][place]) == (shown and bool(samples.presence[m.name][row]))
        assert batch.inputs[m.name].numpy().dtype == np.dtype(m.dtype)
        assert batch.present[m.name].dtype == torch.bool


def test_a_pool_of_one_party_shows_what_the_party_sees(party, samples):
    alone = PooledData(samples, [party], "d00")
    one, other = alone.batch(party.rows), party.batch(party.rows)
    assert one.inputs.keys() == other.inputs.keys()
    for m in party.modalities:
        assert torch.equal(one.inputs[m], other.inputs[m])
        assert torch.equal(one.present[m], other.present[m])


@for_all("access", ACCESSES)
@for_all("rows", [[2], [4, 11], [-1], [N], range(N)])
def test_a_pool_refuses_samples_that_no_party_put_into_it(pool, access, rows):
    with pytest.raises(AccessError, match=r"d00 asked for sample '.*', which is not in its data"):
        ACCESSES[access](pool, rows)


def test_a_pool_refuses_a_modality_that_no_party_holds(samples):
    pool = PooledData(samples, [PartyData(samples, [4], ["text"], "d00"), PartyData(samples, [5], [], "d00")], "d00")
    with pytest.raises(AccessError, match=r"asked for modality 'audio' but holds only \['text'\]"):
        pool.modality("audio", [4])


def test_hiding_a_modality_in_a_pool_leaves_the_data_as_it_was(samples, pool):
    pool.batch(pool.rows)
    assert np.array_equal(samples.array("audio"), values_of(MODALITIES[0]))
    pool.batch([0]).inputs["audio"].zero_()
    assert np.array_equal(pool.batch([0]).inputs["audio"].numpy(), values_of(MODALITIES[0])[[0]])


def test_no_rows_of_a_pool_give_an_empty_batch(pool):
    batch = pool.batch([])
    assert (len(batch), batch.inputs["video"].shape) == (0, (0, 2, 3, 4, 3))


def test_a_request_shows_no_progress_unless_asked(tmp_path):
    seen = []
    DataRequest(None, tmp_path).progress(1, 2, "clips")
    request = DataRequest(None, tmp_path, progress=lambda *args: seen.append(args))
    request.progress(1, 2, "clips")
    assert seen == [(1, 2, "clips")]
    assert request == DataRequest(None, tmp_path), "how progress is shown is no part of what is asked for"
