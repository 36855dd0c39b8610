"""The trackers: what they write of a cell is read back by the tools' own readers, also after an interruption.

Each needs its package, so it is passed over where that is not installed; tox has an environment `trackers` of its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlecs_bench.api import Event, TrackerRequest
from mlecs_bench.testing import checks_of
from mlecs_bench.testing.cells import recorded_cell
from mlecs_plugins.observers import mlflow_log, tensorboard_log, wandb_log
from mlecs_plugins.observers.runs import Beginning, numbers_of_record, numbers_of_round

Points = dict[str, list[tuple[int, float]]]
"""Name of a number → its points, (step, value), in the order in which they are read."""

pytestmark = pytest.mark.filterwarnings("default")  # what the packages warn of is theirs


def expected() -> Points:
    """Return every point of the toy cell: of its rounds, and of its record one step later."""
    points: Points = {}
    events = [event for event in recorded_cell().story() if event.kind == "round_end"]
    rows = [(event.round, numbers_of_round(event.values["parties"])) for event in events]
    rows.append((recorded_cell().job.ref.rounds + 1, numbers_of_record(recorded_cell().record)))
    for step, numbers in rows:
        for name, number in numbers.items():
            points.setdefault(name, []).append((step, number))
    return points


def told(tracker: Any, events: list[Event]) -> None:
    """Tell a tracker events of the toy cell, as a command does, and close it."""
    job = recorded_cell().job
    for event in events:
        tracker.mlecs_event(event, job.plan if event.cell == job.ref else None)
    tracker.close()


def of_cell() -> list[Event]:
    job = recorded_cell().job
    return [event for event in recorded_cell().story() if event.cell == job.ref]


def interrupted() -> tuple[list[Event], list[Event]]:
    """Return what is told of a cell that is stopped when round 2 has been told but not kept, and of it going on."""
    events = of_cell()
    start = next(event for event in events if event.kind == "cell_start")
    first = [event for event in events if event.kind != "cell_end"]
    after = [event for event in events if event.round > 1 or event.kind == "cell_end"]
    return first, [dataclasses.replace(start, round=1), *after]


def read_tensorboard(folder: Path) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (place,) = folder.iterdir()
    found = EventAccumulator(str(place))
    found.Reload()
    return {name: [(p.step, p.value) for p in found.Scalars(name)] for name in found.Tags()["scalars"]}


def read_mlflow(folder: Path) -> Points:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    run = only_run(client)
    return {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics
    }


def only_run(client: Any) -> Any:
    experiment = client.get_experiment_by_name(mlflow_log.EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def read_wandb(folder: Path) -> Points:
    points: Points = {}
    for path in sorted(folder.glob("offline-run-*/*.wandb")):
        for record in written(path):
            if record.WhichOneof("record_type") == "history":
                values = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                for name in values.keys() - {"_step", "_runtime", "_timestamp"}:
                    points.setdefault(name, []).append((int(values["_step"]), float(json.loads(values[name]))))
    return points


def written(path: Path) -> list[Any]:
    """Return the records of a run that is over, once W&B's service has put the last of them on the disk."""
    for _ in range(600):
        records = list(wandb_records(path))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.1)
    raise AssertionError(f"{path} was not finished within a minute")


def wandb_records(path: Path) -> Iterator[Any]:
    """Yield the records of a .wandb file: W&B's messages in the log format of LevelDB, behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no header fits into what is left of a block
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_"))]:
        monkeypatch.delenv(name)


TOOLS = {
    "tensorboard": (tensorboard_log, read_tensorboard, 1e-6),  # it keeps float32
    "mlflow": (mlflow_log, read_mlflow, 0),
    "wandb": (wandb_log, read_wandb, 0),
}


@pytest.mark.parametrize("name", TOOLS)
def test_every_number_of_a_cell_is_read_back_once_whether_it_was_interrupted_or_not(name, tmp_path):
    module, read, tolerance = TOOLS[name]
    for package in module.TRACKER.packages:
        pytest.importorskip(package)
    wanted = {metric_named(name, key): points for key, points in expected().items()}
    for folder, parts in ((tmp_path / "a" / name, [of_cell()]), (tmp_path / "b" / name, interrupted())):
        for events in parts:
            told(module.make(TrackerRequest(folder)), events)
        found = read(folder)
        assert found.keys() == wanted.keys()
        for key, points in wanted.items():
            assert [step for step, _ in found[key]] == [step for step, _ in points], key
            timed = "seconds" in key  # these differ from run to run, and here are those of one
            assert timed or [v for _, v in found[key]] == pytest.approx([v for _, v in points], rel=tolerance, abs=0)


@pytest.mark.parametrize("name", TOOLS)
def test_a_tracker_keeps_the_contract_of_observers(name):
    for package in TOOLS[name][0].TRACKER.packages:
        pytest.importorskip(package)
    for check in checks_of(name, "observer"):
        check()


def metric_named(tool: str, name: str) -> str:
    return mlflow_log.metric_name(name) if tool == "mlflow" else name


def test_tensorboard_has_the_plan_and_a_row_of_settings(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told(tensorboard_log.make(TrackerRequest(tmp_path)), of_cell())
    (place,) = tmp_path.iterdir()
    found = EventAccumulator(str(place))
    found.Reload()
    (text,) = found.Tensors("plan/text_summary")
    job = recorded_cell().job
    assert json.loads(text.tensor_proto.string_val[0]) == json.loads(job.plan.to_json())
    assert any(tag.startswith("_hparams_/session") for tag in found.PluginTagToContent("hparams"))


def test_mlflow_has_the_plan_as_params_and_how_a_cell_ended(tmp_path):
    for package in mlflow_log.TRACKER.packages:
        pytest.importorskip(package)
    from mlflow.tracking import MlflowClient

    job, client = recorded_cell().job, MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    failed = [e for e in of_cell() if e.kind in ("cell_start", "round_end")]
    failed.append(Event("cell_end", job.ref, values={"record": None, "error": "out of memory"}))
    for events, status in ((failed, "FAILED"), (of_cell(), "FINISHED")):
        told(mlflow_log.make(TrackerRequest(tmp_path)), events)
        run = only_run(client)
        assert run.info.status == status
    settings = Beginning(job.ref, job.plan).settings
    assert run.data.params == {name: str(value)[: mlflow_log.LONGEST] for name, value in settings.items()}
    assert run.data.tags[mlflow_log.KEY_TAG] == job.key


def test_wandb_has_the_plan_as_its_config_and_the_key_as_its_id(tmp_path):
    pytest.importorskip("wandb")
    told(wandb_log.make(TrackerRequest(tmp_path / "wandb")), of_cell())
    (path,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    (run,) = [record.run for record in written(path) if record.WhichOneof("record_type") == "run"]
    job = recorded_cell().job
    assert (run.run_id, run.project) == (job.key[:16], wandb_log.PROJECT)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert {k: v for k, v in config.items() if not k.startswith("_")} == Beginning(job.ref, job.plan).settings


def test_the_tools_own_variables_say_where_runs_go(tmp_path, monkeypatch):
    for package in (*mlflow_log.TRACKER.packages, "wandb"):
        pytest.importorskip(package)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "w"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'own.db'}")
    for module in (wandb_log, mlflow_log):
        tracker = module.make(TrackerRequest(tmp_path / "unused" / "x"))
        assert str(tmp_path) in tracker.where
        told(tracker, of_cell())
    assert list((tmp_path / "w" / "wandb").glob("offline-run-*"))
    assert (tmp_path / "own.db").is_file()
    assert not (tmp_path / "unused").exists()
