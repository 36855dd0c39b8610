"""What trackers share: a run per cell, the numbers of a round under names, and what is left when a run is stopped."""

from __future__ import annotations

import json
from statistics import fmean

from mlecs_bench.doors.events import CellRef, Event
from mlecs_bench.testing.cells import recorded_cell
from mlecs_plugins.observers.runs import Beginning, CellRuns, file_name, numbers_of_record, numbers_of_round

CELL = CellRef("ml-ecs/no-kt", "vast", "audio=0.5,vision=1", 27, rounds=2, n_devices=1, scorings=3, key="ab" * 32)


class Kept:
    """A run that keeps what it is given."""

    def __init__(self, beginning):
        self.beginning, self.steps, self.ended = beginning, {}, []

    def log(self, step, numbers):
        assert step not in self.steps
        self.steps[step] = dict(numbers)

    def end(self, error):
        self.ended.append(error)


def kept_of(events):
    runs = []

    def begin(beginning):
        runs.append(Kept(beginning))
        return runs[-1]

    tracker = CellRuns("here", begin)
    for event in events:
        tracker.mlecs_event(event, recorded_cell().job.plan)
    return tracker, runs


def test_the_numbers_of_a_cell_are_those_of_its_record():
    record = recorded_cell().record
    _, (run, *others) = kept_of(recorded_cell().story())
    assert others == []
    assert run.ended == [None]
    local = record["metrics"]["client"]["local"]["rouge_lsum"]
    last = run.steps[2]
    assert {id_: last[f"scores/rouge_lsum/{id_}"] for id_ in local} == {id_: s["value"] for id_, s in local.items()}
    assert last["scores/rouge_lsum/mean"] == fmean(s["value"] for s in local.values())
    for row in record["metrics"]["rounds"]:
        for party, losses in row["losses"].items():
            for name, value in losses.items():
                assert run.steps[row["round"]][f"losses/{name}/{party}"] == value
    left = run.steps[3]
    received = record["metrics"]["client"]["received"]["rouge_lsum"]
    assert left["received/rouge_lsum/mean"] == fmean(s["value"] for s in received.values())
    for entry in record["comm"]["entries"]:
        assert left[f"total_bytes/{entry['kind']}/{entry['direction']}"] == entry["bytes"]
    assert left["total_seconds/training"] == record["cost"]["seconds"]["training"]
    by_round = {row["round"]: row for row in record["comm"]["by_round"]}
    for t in (1, 2):
        for unit, way in (("sent", "up"), ("sent", "down"), ("bytes", "up"), ("bytes", "down")):
            name = f"{way}_{'params' if unit == 'sent' else unit}"
            assert run.steps[t][f"{unit}/{way}/server"] == by_round[t][name]
            assert sum(run.steps[t][f"{unit}/{way}/{id_}"] for id_ in local) == by_round[t][name]


def test_the_ledger_of_a_round_is_told_whole():
    rounds = [event for event in recorded_cell().story() if event.kind == "round_end"]
    for event, row in zip(rounds, recorded_cell().record["comm"]["by_round"], strict=False):
        for way in ("up", "down"):
            entries = [entry for entry in event.values["ledger"] if entry["direction"] == way]
            assert sum(entry["bytes"] for entry in entries) == row[f"{way}_bytes"]
            assert {entry["round"] for entry in entries} <= {event.round}


def test_the_settings_are_the_whole_plan_and_the_cell():
    job = recorded_cell().job
    settings = Beginning(job.ref, job.plan).settings
    plan = json.loads(job.plan.to_json())
    assert settings["profile.learning_rates.lora"] == plan["profile"]["learning_rates"]["lora"]
    assert settings["structures.d00.rank"] == plan["structures"]["d00"]["rank"]
    assert (settings["seed"], settings["key"]) == (27, job.key)
    assert all(isinstance(value, str | float | bool | int) for value in settings.values())
    assert Beginning(CELL, None).settings == {"key": CELL.key, "seed": 27, "variant": ""}


def test_a_run_that_is_stopped_is_closed_and_a_cell_that_was_done_before_opens_none():
    events = recorded_cell().story()
    tracker, (run,) = kept_of([event for event in events if event.kind != "cell_end"])
    assert run.ended == []
    for _ in range(2):
        tracker.close()
        assert run.ended == ["interrupted"]
    assert kept_of([event for event in events if event.kind in ("cells", "cell_end", "data", "note")])[1] == []
    late = [event for event in events if event.kind == "round_end"][1:]
    _, (run,) = kept_of(late)
    assert (run.beginning.after, list(run.steps)) == (1, [2])


def test_names_of_files_tell_cells_apart_and_hold_nothing_odd():
    name = file_name(Beginning(CELL, None))
    assert name == f"ml-ecs+no-kt--vast--rhoaudio=0.5,vision=1--seed27--{'ab' * 8}"
    assert Beginning(CELL, None).name == "ml-ecs/no-kt on vast, rho audio=0.5,vision=1, seed 27"


def test_scores_of_devices_alone_make_a_mean():
    score = {"value": 0.5, "n": 1, "higher_is_better": True}
    parties = {"server": {"scores": {"f1": score}, "losses": {}}, "d00": {"scores": None, "losses": {"x": 1}}}
    assert numbers_of_round(parties) == {"scores/f1/server": 0.5, "losses/x/d00": 1.0}
    assert "received/f1/mean" not in numbers_of_record(
        {"metrics": {"client": {"received": {}}}, "comm": {"entries": [], "ratios": {}}, "cost": {}}
    )
    assert Event("round_end", CELL).cell == CELL
