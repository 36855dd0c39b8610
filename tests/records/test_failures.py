"""Failure files: what a cell that ended with an error leaves beside the records."""

from __future__ import annotations

import json
import re

import pytest

from hand_made import make_record
from mlecs_bench.errors import RecordError
from mlecs_bench.records import failures
from mlecs_bench.records.failures import (
    Failure,
    failure_path,
    find_failure,
    read_failure,
    read_failures,
    reason_of,
    remove_failure,
    write_failure,
)
from mlecs_bench.records.results import identity_key, read_records, write_record

RECORD = make_record()
IDENTITY = RECORD["identity"]
OTHER = make_record(algo="ml-ecs/no-kt", seed=34)["identity"]
TRACEBACK = "Traceback (most recent call last):\n  File 'x', line 1\nKeyError: 'd00'\n"


@pytest.fixture
def clock(monkeypatch):
    """The times at which failures end, in this order."""
    times = iter([f"2030-01-01T00:00:0{i}Z" for i in range(9)])
    monkeypatch.setattr(failures, "now", lambda: next(times))


@pytest.mark.usefixtures("clock")
def test_what_was_written_is_found(tmp_path):
    path = write_failure(tmp_path, IDENTITY, TRACEBACK)
    assert find_failure(tmp_path, IDENTITY) == Failure(IDENTITY, TRACEBACK, 1, "2030-01-01T00:00:00Z")
    assert find_failure(tmp_path, OTHER) is None
    assert path == failure_path(tmp_path, IDENTITY)
    assert json.loads(path.read_text()) == {
        "schema": "mlecs-bench/failure/1",
        "key": RECORD["key"],
        "identity": IDENTITY,
        "error": TRACEBACK,
        "attempts": 1,
        "ended": "2030-01-01T00:00:00Z",
    }


@pytest.mark.usefixtures("clock")
def test_a_cell_that_fails_again_counts_its_attempts_and_keeps_the_last_error(tmp_path):
    for error in ("first", "second"):
        write_failure(tmp_path, IDENTITY, error)
    write_failure(tmp_path, OTHER, "another cell")
    write_failure(tmp_path, IDENTITY, "größer")
    assert find_failure(tmp_path, IDENTITY) == Failure(IDENTITY, "größer", 3, "2030-01-01T00:00:03Z")
    assert find_failure(tmp_path, OTHER) == Failure(OTHER, "another cell", 1, "2030-01-01T00:00:02Z")


def test_the_end_is_a_time_in_utc_that_sorts_as_text(tmp_path):
    write_failure(tmp_path, IDENTITY, "no")
    found = find_failure(tmp_path, IDENTITY)
    assert found is not None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found.ended)


def test_the_reason_is_the_last_line():
    for error, reason in (
        ("no space left", "no space left"),
        (TRACEBACK, "KeyError: 'd00'"),
        ("", "unknown error"),
        ("\n", "unknown error"),
    ):
        assert reason_of(error) == Failure(IDENTITY, error, 1, "").reason == reason


def test_a_failure_is_named_like_the_record_of_its_cell_and_is_none(tmp_path):
    write_failure(tmp_path, IDENTITY, "no")
    assert read_records(tmp_path) == ([], [])
    path = write_record(tmp_path, RECORD)
    assert failure_path(tmp_path, IDENTITY) == tmp_path / "failures" / path.name
    assert failure_path(tmp_path, IDENTITY, "tau=1").name == path.name  # the file that is there
    assert read_records(tmp_path) == ([RECORD], [])


def test_the_folder_goes_with_the_last_failure(tmp_path):
    for identity in (IDENTITY, OTHER):
        write_failure(tmp_path, identity, "no")
    remove_failure(tmp_path, IDENTITY)
    assert find_failure(tmp_path, IDENTITY) is None
    assert find_failure(tmp_path, OTHER) is not None
    remove_failure(tmp_path, OTHER)
    assert list(tmp_path.iterdir()) == []
    remove_failure(tmp_path, OTHER)  # nothing is left to forget


def test_the_folder_stays_while_it_holds_anything_else(tmp_path):
    write_failure(tmp_path, IDENTITY, "no")
    note = tmp_path / "failures" / "note.txt"
    note.write_text("mine")
    remove_failure(tmp_path, IDENTITY)
    assert [path.name for path in note.parent.iterdir()] == ["note.txt"]


def test_nothing_but_the_failure_is_left_in_the_folder(tmp_path):
    for _ in range(3):
        path = write_failure(tmp_path, IDENTITY, "no")
    assert list(path.parent.iterdir()) == [path]


def values(**changes) -> dict[str, object]:
    good = {"schema": "mlecs-bench/failure/1", "key": identity_key(IDENTITY), "identity": IDENTITY}
    good |= {"error": "e", "attempts": 2, "ended": "t"}
    return good | changes


def without(name: str) -> dict[str, object]:
    return {key: value for key, value in values().items() if key != name}


BAD = [
    "",
    "{",
    "null",
    "[]",
    "{}",
    '"text"',
    *(json.dumps(without(name)) for name in ("schema", "identity", "error", "attempts", "ended")),
    json.dumps(values(identity=None)),
    json.dumps(values(identity="ml-ecs")),
    json.dumps(values(attempts="many")),
    json.dumps(values(attempts=None)),
]


def test_a_damaged_file_is_named_in_one_line_and_does_not_stand_in_the_way_of_the_next_failure(tmp_path):
    for text in BAD:
        path = failure_path(tmp_path, IDENTITY)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        with pytest.raises(RecordError) as caught:
            find_failure(tmp_path, IDENTITY)
        assert str(path) in str(caught.value)
        assert "delete it" in str(caught.value)
        assert "\n" not in str(caught.value)
        write_failure(tmp_path, IDENTITY, "again")
        found = find_failure(tmp_path, IDENTITY)
        assert found is not None
        assert (found.error, found.attempts) == ("again", 1)


def test_a_file_that_is_no_text_is_damaged(tmp_path):
    path = write_failure(tmp_path, IDENTITY, "no")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match="is no failure that this version wrote"):
        read_failure(path)


def test_a_file_of_another_version_is_refused_with_both_versions(tmp_path):
    path = failure_path(tmp_path, IDENTITY)
    path.parent.mkdir()
    path.write_text(json.dumps(values()))
    assert read_failure(path).attempts == 2
    path.write_text(json.dumps(values(schema="mlecs-bench/failure/2")))
    with pytest.raises(
        RecordError, match="has schema 'mlecs-bench/failure/2'; this version reads mlecs-bench/failure/1"
    ):
        read_failure(path)


def test_all_failures_of_a_folder_are_read_and_damaged_ones_named(tmp_path):
    assert read_failures(tmp_path) == ([], [])
    for identity in (OTHER, IDENTITY):
        write_failure(tmp_path, identity, f"seed {identity['seed']}")
    (tmp_path / "failures" / "a.json").write_text("{")
    (tmp_path / "failures" / ".hidden.json").write_text("{")
    (tmp_path / "failures" / "note.txt").write_text("{")
    found, problems = read_failures(tmp_path)
    assert [failure.error for failure in found] == ["seed 34", "seed 27"]  # by name: "ml-ecs+no-kt" before "ml-ecs--"
    assert len(problems) == 1
    assert str(tmp_path / "failures" / "a.json") in problems[0]
