"""What a sweep tells other terminals: the small file it keeps, and the command that shows it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from functools import partial

import pytest
from test_progress import Clock, Run, cell

from cli_fakes import call_main, install
from hand_made import make_record
from mlecs_bench.records.failures import write_failure
from mlecs_bench.records.results import write_record
from mlecs_bench.session import status_file
from mlecs_bench.session.status_file import EXPIRY, StatusFile, read_statuses

HOST = socket.gethostname()
REFS = [cell(seed) for seed in (27, 34, 46, 52)]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def call(monkeypatch, capsys):
    install(monkeypatch)
    return partial(call_main, capsys, "status")


@pytest.fixture(scope="module")
def gone():
    """The id of a process that has ended and was collected."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def own_file(out):
    return out / ".sweeps" / f"{HOST}-{os.getpid()}.json"


def said(out) -> dict[str, object]:
    return json.loads(own_file(out).read_text())


def begun(out, clock, seconds=10.0) -> tuple[StatusFile, Run]:
    """Return a status file of a sweep of four cells, and what plays their events."""
    status = StatusFile(out, 2, clock)
    run = Run(status, clock, seconds)
    run.tell("cells", cells=REFS)
    return status, run


def other_file(out, name: str, **changes: object) -> None:
    """Write what another sweep said of itself."""
    cells = {"total": 4, "done": 1, "failed": 0, "skipped": 0}
    values = {
        "schema": "mlecs-bench/status/1", "host": HOST, "pid": os.getpid(), "started": "2030-01-01T00:00:00Z",
        "workers": None, "state": "running", "updated": "2030-01-01T00:01:00Z", "cells": cells, "eta_seconds": 61,
        "running": [{"cell": "ml-ecs vast rho 0.5 seed 27", "at": "round 1/2 d00"}],
    }  # fmt: skip  # one file
    (out / ".sweeps").mkdir(exist_ok=True)
    left = {key: value for key, value in (values | changes).items() if value is not ...}
    (out / ".sweeps" / f"{name}.json").write_text(json.dumps(left))


# The file


def test_a_sweep_that_has_planned_its_cells_says_what_there_is_to_do(tmp_path, clock):
    begun(tmp_path / "not" / "there", clock)
    values = said(tmp_path / "not" / "there")
    assert (values["schema"], values["state"], values["host"]) == ("mlecs-bench/status/1", "running", HOST)
    assert (values["pid"], values["workers"], values["running"]) == (os.getpid(), 2, [])
    assert values["cells"] == {"total": 4, "done": 0, "failed": 0, "skipped": 0}
    assert values["eta_seconds"] is None


def test_cells_that_run_are_named_with_where_they_are(tmp_path, clock):
    _, run = begun(tmp_path, clock)
    run.start(REFS[0])
    run.start(REFS[1], resumed_round=1)
    assert said(tmp_path)["running"] == [
        {"cell": "ml-ecs vast rho 0.5 seed 27", "at": "round 0/2"},
        {"cell": "ml-ecs vast rho 0.5 seed 34", "at": "round 1/2"},
    ]
    run.train(REFS[0], 1, "d00")
    clock.now += 10
    run.train(REFS[0], 1, "d01")
    run.score(REFS[1], 2, "d02")
    assert said(tmp_path)["running"] == [
        {"cell": "ml-ecs vast rho 0.5 seed 27", "at": "round 1/2 d01"},
        {"cell": "ml-ecs vast rho 0.5 seed 34", "at": "round 2/2 scoring d02"},
    ]


def test_cells_are_counted_by_how_they_ended(tmp_path, clock):
    _, run = begun(tmp_path, clock)
    run.end(REFS[0])  # its record was there
    run.end(REFS[1], error="no plugin")  # it failed before it could begin
    run.whole(REFS[2])
    run.end(REFS[2])
    run.start(REFS[3])
    run.round(REFS[3], 1)
    values = said(tmp_path)
    assert values["cells"] == {"total": 4, "done": 2, "failed": 1, "skipped": 1}
    assert values["eta_seconds"] == 11 * 10
    run.end(REFS[3], error="training has diverged")
    values = said(tmp_path)
    assert values["cells"] == {"total": 4, "done": 2, "failed": 2, "skipped": 1}
    assert (values["running"], values["eta_seconds"]) == ([], 0)


def test_the_file_is_written_every_two_seconds_and_for_cells_that_begin_or_end(tmp_path, clock, monkeypatch):
    moments = []
    write = status_file.write_text
    monkeypatch.setattr(status_file, "write_text", lambda path, text: (moments.append(clock.now), write(path, text)))
    _, run = begun(tmp_path, clock)
    run.start(REFS[0])
    assert moments == [100, 100]
    for i in range(1, 50):
        clock.now = 100 + i / 10
        run.train(REFS[0], 1, "d00")
    assert moments[2:] == [102, 104]
    run.end(REFS[0])
    assert moments[4:] == [104.9]
    for ref in REFS[1:]:
        run.end(ref)  # a thousand records that were there are not a thousand files
    assert len(moments) == 5


def test_events_after_the_end_of_a_cell_do_not_bring_it_back(tmp_path, clock):
    _, run = begun(tmp_path, clock)
    run.start(REFS[0])
    run.end(REFS[0], error="the worker was killed")
    run.start(REFS[0])
    run.round(REFS[0], 1)
    values = said(tmp_path)
    assert values["running"] == []
    assert values["cells"] == {"total": 4, "done": 0, "failed": 1, "skipped": 0}


def test_the_last_word_stays(tmp_path, clock):
    for state in ("done", "interrupted", "failed"):
        out = tmp_path / state
        status, run = begun(out, clock)
        run.start(REFS[0])
        status.close(state)
        assert (said(out)["state"], said(out)["running"]) == (state, [])
        (found,) = read_statuses(out)
        assert (found.state, found.live) == (state, False)
        assert [path.name for path in own_file(out).parent.iterdir()] == [own_file(out).name]


def test_a_new_sweep_forgets_those_that_ended_and_keeps_those_that_run(tmp_path, clock, gone):
    other_file(tmp_path, "done", state="done")
    other_file(tmp_path, "lost", pid=gone)
    other_file(tmp_path, "runs")
    other_file(tmp_path, "elsewhere", host="another-machine", pid=gone)
    (tmp_path / ".sweeps" / "damaged.json").write_text("{")
    StatusFile(tmp_path, None, clock)
    assert sorted(path.stem for path in (tmp_path / ".sweeps").iterdir()) == ["elsewhere", "runs"]


# Reading it


def test_a_damaged_record_is_named_and_not_counted_as_done(tmp_path, call):
    cut, edited, _ = (write_record(tmp_path, make_record(seed=seed)) for seed in (27, 34, 46))
    cut.write_text(cut.read_text()[:-40])
    edited.write_text(edited.read_text().replace('"n_devices":3', '"n_devices":4', 1))
    code, out, err = call(str(tmp_path))
    assert (code, out.splitlines()[-1]) == (0, f"{tmp_path}: 1 record files, 2 that are no whole records, 0 failures")
    assert f"warning: {cut} is cut off" in err
    assert f"warning: {edited} " in err
    code, out, _ = call(str(tmp_path), "--json")
    assert (json.loads(out)["records"], len(json.loads(out)["damaged"])) == (1, 2)


def test_a_sweep_whose_process_is_gone_without_a_word_is_lost(tmp_path, gone):
    other_file(tmp_path, "a", started="2030-01-01T00:00:01Z")
    other_file(tmp_path, "b", pid=gone, started="2030-01-01T00:00:03Z")
    other_file(tmp_path, "c", pid=gone, state="done", started="2030-01-01T00:00:02Z")
    other_file(tmp_path, "d", pid=gone, host="another-machine")
    found = [(status.state, status.live) for status in read_statuses(tmp_path)]
    # Those that run come first, then the newest; of another machine's processes this one knows nothing.
    assert found == [("running", True), ("running", True), ("lost", False), ("done", False)]


def test_a_sweep_of_another_machine_is_lost_when_its_file_was_not_touched_for_minutes(tmp_path, clock, monkeypatch):
    for name, age in (("fresh", 0), ("late", EXPIRY - 60), ("gone", EXPIRY + 60)):
        other_file(tmp_path, name, host="another-machine", pid=1, workers=name)
        os.utime(tmp_path / ".sweeps" / f"{name}.json", (time.time() - age,) * 2)
    found = {status.values["workers"]: status.state for status in read_statuses(tmp_path)}
    assert found == {"fresh": "running", "late": "running", "gone": "lost"}
    monkeypatch.setattr(status_file, "BEAT", 0.01)
    status, _ = begun(tmp_path, clock)
    os.utime(own_file(tmp_path), (0, 0))
    deadline = time.monotonic() + 10
    while own_file(tmp_path).stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert own_file(tmp_path).stat().st_mtime > 0
    status.close("done")


def test_a_process_of_another_user_is_running(tmp_path, monkeypatch):
    def kill(pid, number):
        raise PermissionError

    other_file(tmp_path, "a")
    monkeypatch.setattr(os, "kill", kill)
    assert [status.state for status in read_statuses(tmp_path)] == ["running"]


def test_a_file_that_cannot_be_read_is_passed_over(tmp_path):
    other_file(tmp_path, "good")
    for text in ("{", "[]", "null", "", "\udcff"):
        (tmp_path / ".sweeps" / "bad.json").write_text(text, errors="surrogateescape")
        assert [status.state for status in read_statuses(tmp_path)] == ["running"]


NAMES = ("schema", "host", "pid", "started", "state", "updated", "cells", "eta_seconds", "running")
OTHERS = ({"schema": "mlecs-bench/status/2"}, {"cells": []}, {"pid": "one"}, {"cells": {"total": 4}})


def test_a_file_that_lacks_something_or_is_of_another_version_is_passed_over(call, tmp_path):
    for changes in (*({name: ...} for name in NAMES), *OTHERS):
        other_file(tmp_path, "bad", **changes)
        assert read_statuses(tmp_path) == []
        code, out, _ = call(str(tmp_path))
        assert (code, out.splitlines()[0]) == (0, "no sweep has run here")


def test_a_folder_without_sweeps_has_no_statuses(tmp_path):
    assert read_statuses(tmp_path) == []


# The command


def test_a_running_sweep_is_shown_with_its_cells_and_the_time_to_go(call, tmp_path):
    other_file(tmp_path, "a", cells={"total": 9, "done": 3, "failed": 2, "skipped": 1})
    code, out, err = call(str(tmp_path))
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"sweep {os.getpid()} on {HOST}: running",
        "  3 of 9 cells done (1 found), 2 failed",
        "  started 2030-01-01T00:00:00Z, last word 2030-01-01T00:01:00Z, ETA 1:01",
        "  1 running:",
        "    ml-ecs vast rho 0.5 seed 27: round 1/2 d00",
        f"{tmp_path}: 0 record files, 0 failures",
    ]


def test_a_sweep_that_has_ended_shows_neither_cells_nor_a_time_to_go(call, tmp_path):
    words = {"done": "ended", "interrupted": "interrupted", "failed": "ended with an error"}
    for state, word in words.items():
        other_file(tmp_path, "a", state=state)
        _, out, _ = call(str(tmp_path))
        assert out.splitlines()[0] == f"sweep {os.getpid()} on {HOST}: {word}"
        assert "ETA" not in out
        assert "round 1/2" not in out


def test_a_lost_sweep_is_told_with_what_to_do(call, tmp_path, gone):
    other_file(tmp_path, "a", pid=gone)
    _, out, _ = call(str(tmp_path))
    assert out.splitlines()[0] == f"sweep {gone} on {HOST}: gone without a word (killed?); the same command goes on"
    assert "running" not in out


def test_a_sweep_that_has_measured_nothing_yet_knows_no_time_to_go(call, tmp_path):
    other_file(tmp_path, "a", eta_seconds=None, running=[])
    _, out, _ = call(str(tmp_path))
    assert out.splitlines()[2].endswith(", ETA ?")
    assert "running:" not in out


@pytest.fixture
def folder(tmp_path):
    """A folder with two records, a failure, what a sweep said, and a study."""
    for seed in (27, 34):
        write_record(tmp_path, make_record(seed=seed))
    identity = make_record(rho={"audio": 0.25, "vision": 1}, seed=46)["identity"]
    for _ in range(2):
        write_failure(tmp_path, identity, "Traceback (most recent call last):\nKeyError: 'd00'\n")
    (tmp_path / "study.yaml").write_text("blocks: {}")
    other_file(tmp_path, "a")
    return tmp_path


def test_records_and_failures_are_counted_and_failures_named(call, folder):
    lines = call(str(folder))[1].splitlines()
    assert lines[-2] == f"{folder}: 2 record files, 1 failures"
    cell_, _, rest = lines[-1].partition(": KeyError: 'd00' (2x, last 2")
    assert cell_ == "  failed: ml-ecs vast rho audio=0.25,vision=1, 3 devices, seed 46"
    assert rest.endswith("Z)")


def test_json_is_one_object(call, folder, gone):
    other_file(folder, "b", pid=gone)
    code, out, err = call(str(folder), "--json")
    found = json.loads(out)
    assert (code, err, found["records"]) == (0, "", 2)
    named = "ml-ecs vast rho audio=0.25,vision=1, 3 devices, seed 46"
    assert found["failures"] == [{"cell": named, "error": "KeyError: 'd00'", "attempts": 2}]
    assert [(s["state"], s["pid"]) for s in found["sweeps"]] == [("running", os.getpid()), ("lost", gone)]
    assert found["sweeps"][0]["eta_seconds"] == 61


def test_a_damaged_failure_is_a_warning_and_hides_nothing(call, folder):
    (folder / "failures" / "bad.json").write_text("{")
    code, out, err = call(str(folder))
    assert code == 0
    assert out.splitlines()[-2] == f"{folder}: 2 record files, 1 failures"
    assert err.startswith(f"warning: {folder / 'failures' / 'bad.json'} is no failure that this version wrote")
    assert err.count("\n") == 1


def test_a_folder_where_no_sweep_has_run(call, tmp_path):
    assert call(str(tmp_path)) == (0, f"no sweep has run here\n{tmp_path}: 0 record files, 0 failures\n", "")


def test_a_folder_that_is_not_there_is_refused(call, tmp_path):
    code, out, err = call(str(tmp_path / "none"))
    assert (code, out) == (2, "")
    assert err == f"error: {tmp_path / 'none'} is no folder; give the --out of a sweep\n"


def test_the_default_is_the_folder_of_flags_alone(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call()[2] == "error: results/scratch is no folder; give the --out of a sweep\n"
    (tmp_path / "results" / "scratch").mkdir(parents=True)
    assert call()[0] == 0
