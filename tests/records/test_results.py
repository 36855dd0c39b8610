"""Records: identity, schema, and files that appear whole, once, or not at all."""

from __future__ import annotations

import copy
import json
import os
import random
import threading
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest

from hand_made import make_record, with_identity
from mlecs_bench.errors import MlecsError, RecordError, UsageError
from mlecs_bench.files import writable
from mlecs_bench.records import results
from mlecs_bench.records.results import (
    canonical_json,
    check_record,
    find_record,
    group_key,
    identity_key,
    plain,
    read_folder,
    read_record,
    read_records,
    record_files,
    record_name,
    write_record,
)


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def leaves(value, path=()):
    """Yield the path of every leaf of nested objects."""
    for name, item in value.items():
        if isinstance(item, dict) and item:
            yield from leaves(item, (*path, name))
        else:
            yield (*path, name)


def test_key_is_the_sha256_of_the_identity_in_sorted_compact_json():
    import hashlib

    identity = {"b": [1, 2.5, None, True], "a": {"z": "é", "y": 0.1}}
    text = '{"a":{"y":0.1,"z":"é"},"b":[1,2.5,null,true]}'
    assert canonical_json(identity) == text
    assert identity_key(identity) == hashlib.sha256(text.encode()).hexdigest()


def test_equal_values_have_equal_keys():
    a = {"rho": 1, "x": (1, 2), "y": np.float64(0.5), "z": -0.0}
    b = {"z": 0, "y": 0.5, "x": [1.0, 2], "rho": 1.0}
    assert identity_key(a) == identity_key(b)
    assert identity_key({"x": 1}) != identity_key({"x": "1"})
    assert identity_key({"x": 1}) != identity_key({"x": True})


def test_every_leaf_of_an_identity_changes_its_key():
    identity = make_record()["identity"]
    keys = {identity_key(identity)}
    paths = list(leaves(identity))
    for path in paths:
        changed = copy.deepcopy(identity)
        inner = changed
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = "changed"
        keys.add(identity_key(changed))
    assert len(keys) == len(paths) + 1 > 30


def test_group_key_ignores_the_seed_and_nothing_else():
    a, b = (make_record(seed=seed)["identity"] for seed in (27, 34))
    assert group_key(a) == group_key(b)
    assert identity_key(a) != identity_key(b)
    assert group_key(a) != group_key(make_record(rho=0.7)["identity"])


def test_numpy_scalars_become_numbers():
    for value in (np.float32(0.25), np.float64(0.25), np.array(0.25)):
        found = plain({"x": value})["x"]
        assert type(found) is float
        assert found == 0.25
    assert type(plain(np.int64(3))) is int
    assert plain(np.bool_(True)) is True


def test_numbers_that_are_not_finite_are_refused_by_place():
    for value in (float("nan"), float("inf"), np.float32("nan"), -np.inf):
        with pytest.raises(
            RecordError, match=r"^record\.metrics\.x\[1\] is (nan|inf|-inf); a record holds finite"
        ) as error:
            plain({"metrics": {"x": [0, value]}})
        one_line(error)


def test_what_is_no_json_is_refused():
    for value in ({1: 2}, {"x": {1}}, {"x": Path("a")}, {"x": np.zeros(2)}):
        with pytest.raises(RecordError):
            canonical_json(value)


def test_a_record_survives_the_disk(tmp_path):
    record = make_record()
    path = write_record(tmp_path / "new" / "folder", record)
    assert path == tmp_path / "new" / "folder" / "records" / record_name(record["identity"])
    assert read_record(path) == record
    assert list(read_record(path)["identity"]["scorers"]) == ["rouge_lsum", "bertscore"], "headline first"
    assert [p.name for p in path.parent.iterdir()] == [path.name], "nothing else is left"
    assert find_record(tmp_path / "new" / "folder", record["identity"]) == path
    assert find_record(tmp_path / "new" / "folder", make_record(seed=34)["identity"]) is None


def test_a_record_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    path = write_record(tmp_path, make_record())
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_numpy_values_may_be_written(tmp_path):
    record = make_record()
    record["metrics"]["server"]["rouge_lsum"]["value"] = np.float32(0.5)
    assert read_record(write_record(tmp_path, record))["metrics"]["server"]["rouge_lsum"]["value"] == 0.5


def test_the_same_numbers_again_leave_the_first_record(tmp_path):
    record = make_record()
    path = write_record(tmp_path, record)
    before = path.read_bytes()
    again = copy.deepcopy(record)
    again["cost"]["seconds"]["rounds"] = 99.0
    again["provenance"]["started"] = "2031-01-01T00:00:00Z"
    assert write_record(tmp_path, again) == path
    assert path.read_bytes() == before


def test_other_numbers_never_overwrite_a_record(tmp_path):
    record = make_record()
    path = write_record(tmp_path, record)
    before = path.read_bytes()
    record["metrics"]["server"]["rouge_lsum"]["value"] += 1e-9
    with pytest.raises(RecordError, match="already holds other numbers") as error:
        write_record(tmp_path, record)
    assert path.name in one_line(error)
    assert path.read_bytes() == before


def write_in_turn(folder: str, barrier, value: float, queue) -> None:
    record = make_record()
    record["metrics"]["server"]["rouge_lsum"]["value"] = value
    barrier.wait()
    try:
        write_record(Path(folder), record)
        queue.put(value)
    except RecordError:
        queue.put(None)


def test_of_two_that_write_at_once_one_wins(tmp_path):
    # Threads share the file system calls that matter (link fails if the name exists) and start at once.
    for turn in range(20):
        folder, barrier, queue = tmp_path / str(turn), threading.Barrier(4), SimpleQueue()
        folder.mkdir()
        threads = [
            threading.Thread(target=write_in_turn, args=(str(folder), barrier, v, queue)) for v in (0.1, 0.2, 0.3, 0.4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [v for v in (queue.get() for _ in threads) if v is not None]
        (path,) = folder.glob("records/*")
        assert [read_record(path)["metrics"]["server"]["rouge_lsum"]["value"]] == winners


def test_a_file_system_without_hard_links_works_too(tmp_path, monkeypatch):
    def no_link(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", no_link)
    path = write_record(tmp_path, make_record())
    assert read_record(path) == make_record()
    other = make_record()
    other["metrics"]["server"]["rouge_lsum"]["value"] = 0.99
    with pytest.raises(RecordError, match="already holds other numbers"):
        write_record(tmp_path, other)
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MlecsError, match=r"cannot write .*\.json: No space left on device; make room"):
        write_record(tmp_path, make_record())
    assert list((tmp_path / "records").iterdir()) == []


def test_contents_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    steps = []
    fsync, link = os.fsync, os.link
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "link", lambda a, b: (steps.append("link"), link(a, b)))
    write_record(tmp_path, make_record())
    assert steps == ["fsync", "link"]


DAMAGES = [
    ("is cut off; delete it", lambda text: text[: len(text) // 2]),
    ("is cut off; delete it", lambda text: ""),
    ("is not JSON (Expecting ',' delimiter, line 1); delete it", lambda text: text.replace(",", " ", 1)),
    ("has schema 'mlecs-bench/record/2'; this version reads", lambda text: text.replace("record/1", "record/2")),
    ("is no record; this version reads mlecs-bench/record/1", lambda text: "[1, 2]"),
    ("is invalid at $.identity: 'seed' is a required", lambda text: text.replace('"seed":', '"sead":', 1)),
    ("key that does not fit its identity: it was edited", lambda text: text.replace('"seed":27', '"seed":28')),
    ("holds NaN, which is no JSON number; delete it", lambda text: text.replace('"value":0.3,', '"value":NaN,', 1)),
    ("holds 1e999, which is no JSON number", lambda text: text.replace('"value":0.3,', '"value":1e999,', 1)),
    ("holds a number that is too long", lambda text: text.replace('"value":0.3,', f'"value":{"7" * 5000},', 1)),
    ("is nested too deeply", lambda text: "[" * 200_000),
    ("holds half a character", lambda text: text.replace("2030-01-01", "\\ud800")),
    (
        "the digests in its provenance do not fit its metrics;",
        lambda text: text.replace('"value":0.3,', '"value":0.4,', 1),
    ),
    ("do not fit its provenance;", lambda text: text.replace("2030-01-01", "2031-01-01")),
    ("do not fit its cost;", lambda text: text.replace("12.5", "12.25")),
]


def test_a_damaged_record_is_named_in_one_line(tmp_path):
    path = write_record(tmp_path, make_record())
    text = path.read_text()
    for message, damage in DAMAGES:
        path.write_text(damage(text))
        assert path.read_text() != text
        with pytest.raises(RecordError) as error:
            read_record(path)
        assert message in one_line(error)
        assert str(path) in str(error.value)
        with pytest.raises(RecordError):
            find_record(tmp_path, make_record()["identity"])


def test_a_record_cut_anywhere_is_refused(tmp_path):
    path = write_record(tmp_path, make_record())
    text = path.read_text()
    for end in range(0, len(text.rstrip()), 197):
        path.write_text(text[:end])
        with pytest.raises(RecordError):
            read_record(path)


def test_bytes_that_are_no_text_and_folders_are_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(RecordError, match="cannot be read: it is not text"):
        read_record(path)
    with pytest.raises(RecordError, match="cannot be read: Is a directory"):
        read_record(tmp_path)


def test_the_schema_refuses():
    for path, value in (
        (("metrics", "server", "rouge_lsum", "value"), None),
        (("metrics", "server", "rouge_lsum", "n"), 0),
        (("metrics", "server", "rouge_lsum", "higher_is_better"), "yes"),
        (("metrics", "client"), {"local": {}}),
        (("metrics", "client", "elsewhere"), {}),
        (("identity", "n_devices"), 0),
        (("identity", "rho", "audio"), 0),
        (("identity", "rho", "audio"), 1.5),
        (("identity", "evaluate"), "best"),
        (("identity", "extra"), 1),
        (("identity", "training", "rounds"), 1.5),
        (("comm", "entries"), [{"direction": "sideways", "kind": "lora", "params": 1, "bytes": 4, "messages": 1}]),
        (("comm", "ratios", "full"), 0.5),
        (("cost", "seconds", "rounds"), -1),
        (("realised", "rate"), 1.2),
        (("extra",), 1),
    ):
        record = make_record()
        inner = record
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        record["key"] = identity_key(record["identity"])
        with pytest.raises(RecordError, match=r"^r is invalid at \$"):
            check_record(record, "r")


def test_the_schema_is_itself_valid_and_accepts_what_may_be_absent():
    validator = results._validator()
    validator.check_schema(validator.schema)
    record = make_record()
    record["metrics"]["server"] = None
    record["metrics"]["rounds"] = [{"round": 1, "losses": {"d00": {}}}]
    del record["comm"]["by_round"]
    check_record(record, "r")


def test_a_record_that_lacks_a_device_is_refused():
    record = make_record()
    del record["metrics"]["client"]["received"]["rouge_lsum"]["d01"]
    own = record["metrics"]["client"]["received"]
    robust = make_record()
    robust["metrics"]["without"] = {"audio": {"client": {"rouge_lsum": own["rouge_lsum"]}, "server": None}}
    with pytest.raises(RecordError, match=r"r has rouge_lsum of 2 devices \(without audio\), expected 3"):
        check_record(robust, "r")
    with pytest.raises(RecordError, match=r"r has rouge_lsum of 2 devices \(received\), expected 3"):
        check_record(record, "r")


def test_an_invalid_record_is_not_written(tmp_path):
    record = make_record()
    del record["comm"]
    with pytest.raises(RecordError, match=r"the new record is invalid at \$: 'comm' is a required property"):
        write_record(tmp_path, record)
    assert list(tmp_path.iterdir()) == []


def test_a_record_without_digests_is_read_and_one_of_a_part_that_is_gone_is_not(tmp_path):
    path = write_record(tmp_path, make_record())
    values = json.loads(path.read_text())
    assert values["provenance"]["sha256"].keys() == values.keys()
    gone = json.loads(path.read_text())
    del gone["provenance"]["sha256"]["metrics"]
    path.write_text(json.dumps(gone))
    with pytest.raises(RecordError, match="do not fit its metrics"):
        read_record(path)
    del values["provenance"]["sha256"]
    path.write_text(json.dumps(values, indent=1))
    assert read_record(path) == make_record() == values


def test_of_two_files_of_one_cell_the_one_with_the_cells_key_counts(tmp_path):
    path = write_record(tmp_path, make_record())
    edited = read_record(path)
    edited["metrics"]["client"]["local"]["rouge_lsum"]["d00"]["value"] = 0.99
    for copied in (path.with_name("aa-copy.json"), path.with_name("zz-copy.json"), tmp_path / "flat-copy.json"):
        copied.write_text(json.dumps(edited))
        records, problems = read_records(tmp_path)
        assert [r["metrics"]["client"]["local"]["rouge_lsum"]["d00"]["value"] for r in records] == [0.1]
        assert problems == [f"{copied} repeats the cell of {path.name}; delete one of them"]
        copied.unlink()


def test_reading_a_folder_keeps_the_good_and_names_the_bad(tmp_path):
    paths = [write_record(tmp_path, make_record(seed=seed)) for seed in (34, 27)]
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / ".hidden.json").write_text("{")
    (tmp_path / "records" / "notes.txt").write_text("{")
    write_record(tmp_path / "below", make_record(seed=46))
    copied = tmp_path / "records" / "zz-copy.json"
    copied.write_bytes(paths[1].read_bytes())
    found = read_folder(tmp_path)
    assert [r["identity"]["seed"] for r in found.records] == [27, 34]
    assert set(found.paths.values()) == set(paths)
    assert len(found.problems) == 2
    assert "zz-copy.json repeats the cell of ml-ecs--vast" in found.problems[1]
    assert "broken.json is cut off" in found.problems[0]
    assert read_records(tmp_path) == (found.records, found.problems)


def flat(folder, record) -> Path:
    """Write a record where 0.1.0 did, under the name that it gave."""
    identity = record["identity"]
    path = folder / f"ml-ecs--vast--rho0.5--n3--mini--seed{identity['seed']}--{record['key'][:8]}.json"
    path.write_text(json.dumps(record))
    return path


def test_a_folder_of_0_1_0_is_read_found_and_added_to(tmp_path):
    old, new = make_record(seed=27), make_record(seed=34)
    path = flat(tmp_path, old)
    assert find_record(tmp_path, old["identity"]) == write_record(tmp_path, old) == path
    assert write_record(tmp_path, new).parent == tmp_path / "records"
    assert sorted(r["identity"]["seed"] for r in read_records(tmp_path)[0]) == [27, 34]
    assert len(record_files(tmp_path)) == 2


def test_a_record_is_found_by_its_key_whatever_else_its_name_says(tmp_path):
    record = make_record()
    path = write_record(tmp_path, record, variant="tau=1")
    assert "--tau=1--" in path.name
    renamed = path.rename(path.with_name(f"anything--{record['key'][:8]}.json"))
    assert find_record(tmp_path, record["identity"]) == write_record(tmp_path, record) == renamed
    renamed.rename(path.with_name("anything.json"))
    assert find_record(tmp_path, record["identity"]) is None


def test_a_folder_that_is_not_there_has_no_records(tmp_path):
    assert read_records(tmp_path / "absent") == ([], [])


def test_find_record_refuses_a_cell_whose_key_starts_alike(tmp_path):
    ours, theirs = make_record(), with_identity(make_record(), min_modalities=0)
    path = write_record(tmp_path, theirs)
    path.rename(path.with_name(record_name(ours["identity"])))
    with pytest.raises(RecordError, match="belongs to another cell"):
        find_record(tmp_path, ours["identity"])


def test_writable_creates_the_folder_and_leaves_it_empty(tmp_path):
    writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_writable_refuses_in_one_line_what_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write to .*file/out: Not a directory; choose another") as error:
        writable(tmp_path / "file" / "out")
    one_line(error)


def test_the_schema_lists_every_part_that_is_compared():
    schema = json.loads(Path(results.__file__).with_name("record.schema.json").read_text())
    assert set(results.REPRODUCIBLE) | {"cost", "provenance"} == set(schema["required"])
    assert schema["properties"]["schema"]["const"] == results.SCHEMA


def test_a_sweep_reads_the_names_of_many_records_rarely_and_still_sees_every_record_that_others_write(
    tmp_path, monkeypatch
):
    """Whoever asks with the variant sees a record of the usual name at once, and one of another name moments later."""
    monkeypatch.setattr(results, "MANY", 3)
    records = [make_record(seed=seed) for seed in range(8)]
    read, listed = [], os.listdir
    monkeypatch.setattr(results.os, "listdir", lambda folder: read.append(folder) or listed(folder))

    def found(record, variant: str | None = ""):
        stored = results.stored_record(tmp_path, record["identity"], variant)
        return stored and stored[0].name

    for record in records[:4]:
        write_record(tmp_path, record)
    assert [found(record) for record in records[3:5]] == [results.record_name(records[3]["identity"]), None]
    read.clear()
    for record in records[4:]:
        assert found(record) is None
        path = write_record(tmp_path, record)
        assert found(record) == path.name
    assert tmp_path / results.FOLDER not in read
    renamed = path.rename(path.with_name(f"other--{path.name.rpartition('--')[2]}"))
    assert found(records[7], None) == renamed.name, "who does not know the name reads all"
    path = renamed.rename(path)
    assert found(records[7]) == path.name
    path.rename(renamed)
    monkeypatch.setattr(results, "LATELY_NS", 0)
    assert found(records[7]) == renamed.name
    monkeypatch.setattr(results, "LATELY_NS", 10**12)
    renamed.unlink()
    assert found(records[7]) is None, "a name that is still listed is no record"


def test_files_of_a_cell_are_found_whatever_was_written_or_deleted_just_before(tmp_path, monkeypatch):
    for settled in (10**12, -(10**15)):  # as if every folder had just changed, or had not for long
        monkeypatch.setattr(results, "SETTLED_NS", settled)
        folder = tmp_path / f"records{settled}"
        draw = random.Random(27)  # noqa: S311  # no secret
        identities = [make_record(seed=seed)["identity"] for seed in range(12)]
        assert results.keyed(folder, identities[0]) == []
        folder.mkdir()
        for step in range(120):
            one = draw.choice(identities)
            key = identity_key(one)[:8]
            path = folder / draw.choice([f"a--{key}.json", f"b--c--{key}.json", f".a--{key}.json", f"a--{key}.part"])
            before = folder.stat().st_mtime_ns
            path.unlink() if path.exists() else path.touch()
            os.utime(folder, ns=(before + step + 1,) * 2)  # a clock that shows every change
            for each in draw.sample(identities, 3):
                expected = sorted(folder.glob(f"[!.]*--{identity_key(each)[:8]}.json"))
                assert results.keyed(folder, each) == expected
                assert results.keyed(folder, each) == expected
