"""Records of 0.1.0 in today's words, against the records that this repository holds and ones made by hand."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path

import pytest

from hand_made import make_record, with_identity
from mlecs_bench.errors import RecordError
from mlecs_bench.records import legacy
from mlecs_bench.records.results import (
    find_record,
    identity_key,
    read_record,
    read_records,
    write_record,
)

REPOSITORY = Path(__file__).parent.parent.parent
OF_0_1_0 = Path(__file__).parent / "of_0_1_0"
KINDS = ("lora", "projector", "prompt", "scalar")


def entry(kind: str, direction: str, params: int = 1):
    return {"direction": direction, "kind": kind, "params": params, "bytes": 4 * params, "messages": 1}


def old_record(options=None):
    """Return a record as 0.1.0 wrote it."""
    record = with_identity(
        make_record(), algo={"options": options or {"exchange": ["encoder", "prompt"], "part": "prompt"}}
    )
    ratios = record["comm"]["ratios"]
    entries = [entry(kind, way, i) for i, kind in enumerate(KINDS) for way in ("down", "up")]
    comm = {**record["comm"], "entries": entries, "ratios": {"paper": ratios["one_way"], "full": ratios["full"]}}
    return {**record, "comm": comm}


def written(folder: Path, record) -> Path:
    path = folder / f"ml-ecs--vast--rho0.5--n3--mini--seed27--{record['key'][:8]}.json"
    path.write_text(json.dumps(record))
    return path


def test_shares_and_kinds_have_todays_names_and_order_and_nothing_else_changes(tmp_path):
    old = old_record({"tau": 1.0})
    new = read_record(written(tmp_path, old))
    assert new["comm"]["ratios"] == {"one_way": old["comm"]["ratios"]["paper"], "full": old["comm"]["ratios"]["full"]}
    found = [(e["kind"], e["direction"]) for e in new["comm"]["entries"]]
    assert found == sorted(found)
    assert {kind for kind, _ in found} == {"lora", "projector", "scalar", "soft_prompt"}
    params = {(e["kind"].removeprefix("soft_"), e["direction"]): e["params"] for e in new["comm"]["entries"]}
    assert params == {(e["kind"], e["direction"]): e["params"] for e in old["comm"]["entries"]}
    rest = {"entries": 0, "ratios": 0}
    assert {**new, "comm": new["comm"] | rest} == {**old, "comm": old["comm"] | rest}


def test_parts_in_lists_of_options_are_renamed_and_the_key_fits_again(tmp_path):
    old = old_record()
    new = read_record(written(tmp_path, old))
    expected = {"exchange": ["encoder", "soft_prompt"], "part": "prompt", "tau": 1.0}
    assert new["identity"]["algo"]["options"] == expected
    assert new["key"] == identity_key(new["identity"]) != old["key"]
    assert legacy.former(new["identity"]) == old["identity"]


def test_a_record_of_0_1_0_is_found_by_todays_identity_and_run_no_second_time(tmp_path):
    path = written(tmp_path, old_record())
    today = read_record(path)
    assert find_record(tmp_path, today["identity"]) == path
    assert write_record(tmp_path, today) == path
    assert read_records(tmp_path) == ([today], [])
    assert not (tmp_path / "records").exists()


def test_an_edited_record_of_0_1_0_is_refused(tmp_path):
    old = old_record()
    old["identity"]["seed"] = 28
    with pytest.raises(RecordError, match=r"key that does not fit its identity|is invalid at"):
        read_record(written(tmp_path, old))


def test_todays_records_and_what_is_none_come_back_as_they_are():
    today = with_identity(make_record(), algo={"options": {"parts": ["prompt"]}})
    today["comm"]["entries"].append(entry("prompt", "up"))  # a stranger's own kind
    for value in (today, {}, [], None, "text", 7, {"key": 1}, {**today, "comm": None}, {**today, "identity": 3}):
        before = copy.deepcopy(value)
        assert legacy.updated(value, identity_key) == before
        assert value == before


def test_an_update_changes_nothing_of_what_it_is_given_and_needs_no_second_one():
    old = old_record()
    before = copy.deepcopy(old)
    new = legacy.updated(old, identity_key)
    assert old == before
    assert legacy.updated(new, identity_key) == new


def test_records_that_0_1_0_wrote_are_read_with_keys_that_fit():
    paths = sorted((OF_0_1_0 / "records").glob("*.json"))
    assert len(paths) == 9
    for path in paths:
        record = read_record(path)
        assert record["key"] == identity_key(record["identity"])
        assert find_record(OF_0_1_0, record["identity"]) == path


def test_the_tool_moves_records_once_and_leaves_their_bytes(tmp_path, capsys):
    old = with_identity(make_record(), algo={"options": {"tau": 2.0}})
    path = written(tmp_path, old)
    (tmp_path / "notes.json").write_text("{}")
    content = path.read_bytes()
    spec = importlib.util.spec_from_file_location("move_records", REPOSITORY / "tools" / "move_records.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert [[p.parent.name for p in tool.move_records(tmp_path)] for _ in range(2)] == [["records"], []]
    assert "notes.json is no record" in capsys.readouterr().err
    (now,) = (tmp_path / "records").iterdir()
    assert now.read_bytes() == content
    assert find_record(tmp_path, old["identity"]) == now
    assert not path.exists()
