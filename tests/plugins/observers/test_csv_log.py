"""The observer `csv`: every number of a round becomes a line, and a file that cannot be written stops a run at once."""

from __future__ import annotations

import pandas as pd
import pytest

from mlecs_bench.doors.events import CellRef, Event
from mlecs_bench.errors import UsageError
from mlecs_bench.testing.cells import recorded_cell
from mlecs_plugins.observers.csv_log import COLUMNS, VARIABLE, mlecs_event

CELL = CellRef("ml-ecs", "vast", "audio=0.5,vision=1", 27, rounds=2, n_devices=1, scorings=3, key="k", variant="mu=0")
PARTIES = {
    "server": {
        "scores": None, "losses": {}, "steps": {}, "seconds": {"training": 1.5}, "sent": {"down": 7, "up": 9},
    },
    "d00": {
        "scores": {"f1": {"value": 0.25, "n": 4, "higher_is_better": True}}, "losses": {"private": 2.5, "public": 3.5},
        "steps": {"private": 20}, "seconds": {"training": 0.5}, "sent": {"down": 7, "up": 9},
    },
}  # fmt: skip  # a line per party
ROUND = Event("round_end", CELL, round=2, values={"scores": {"f1": 0.25}, "parties": PARTIES})


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "rounds.csv"))
    return tmp_path / "rounds.csv"


def test_every_number_of_a_round_is_a_line_and_the_header_stands_once(path):
    for _ in range(2):  # two commands that append to one file
        mlecs_event(Event("cells", values={"cells": [CELL]}))
        mlecs_event(ROUND)
    frame = pd.read_csv(path)
    assert tuple(frame.columns) == COLUMNS
    first = frame[: len(frame) // 2]
    assert first.equals(frame[len(frame) // 2 :].reset_index(drop=True))
    assert set(first["rho"]) == {CELL.rho}
    wide = first.pivot_table(index="party", columns=["what", "name"], values="value")
    assert wide.loc["d00"].to_dict() == {
        ("losses", "private"): 2.5, ("losses", "public"): 3.5, ("scores", "f1"): 0.25, ("seconds", "training"): 0.5,
        ("sent", "down"): 7.0, ("sent", "up"): 9.0, ("steps", "private"): 20.0,
    }  # fmt: skip  # one device
    assert wide.loc["server"].dropna().to_dict() == {
        ("seconds", "training"): 1.5, ("sent", "down"): 7.0, ("sent", "up"): 9.0
    }  # fmt: skip  # the server


def test_the_lines_of_a_run_are_what_its_record_holds(path):
    events, record = recorded_cell().story(), recorded_cell().record
    for event in events:
        mlecs_event(event)
    frame = pd.read_csv(path)
    scores = frame[(frame["what"] == "scores") & (frame["party"] != "server")].set_index("party")["value"].to_dict()
    assert scores == {id_: score["value"] for id_, score in record["metrics"]["client"]["local"]["rouge_lsum"].items()}
    losses = frame[frame["what"] == "losses"]
    for row in record["metrics"]["rounds"]:
        mine = losses[losses["round"] == row["round"]]
        assert dict(zip(mine["party"], mine["value"], strict=True)) == {
            party: by_stage["private"] for party, by_stage in row["losses"].items() if by_stage
        }
    by_way = {e["direction"]: 0 for e in record["comm"]["entries"]}
    for entry in record["comm"]["entries"]:
        by_way[entry["direction"]] += entry["params"]
    sent = frame[(frame["what"] == "sent") & (frame["party"] == "server")].groupby("name")["value"].sum()
    assert sent["up"] == by_way["up"]
    assert sent["down"] <= by_way["down"]  # the broadcast after the last round belongs to none


def test_without_the_variable_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in (None, ""):
        monkeypatch.delenv(VARIABLE, raising=False)
        if value is not None:
            monkeypatch.setenv(VARIABLE, value)
        mlecs_event(ROUND)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_ends_the_run_before_its_first_round(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere" / "rounds.csv"))
    with pytest.raises(
        UsageError, match=f"cannot write .*rounds.csv .No such file.*; set {VARIABLE} to a file"
    ) as caught:
        mlecs_event(Event("cells", values={"cells": [CELL]}))
    assert "\n" not in str(caught.value)
