"""What the workers `slurm` make of cells: bundles, and what a job that is lost costs. Slurm is played."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import types

import pytest

from mlecs_bench.doors.events import Event
from mlecs_bench.doors.hookspecs import WorkersRequest
from mlecs_bench.errors import UsageError
from mlecs_bench.execution.event_lines import event_line
from mlecs_bench.execution.jobs import CellResult
from mlecs_bench.execution.losses import MOST_LOSSES
from mlecs_plugins.workers import slurm_workers
from mlecs_plugins.workers.slurm_workers import SlurmWorkers, check_settings
from sweep_fakes import make_jobs

SEEDS = (27, 34, 46, 52, 61)


class PlayedSlurm:
    """Runs a bundle at once, as a function of its number, its jobs and its file says; it then has ended so."""

    def __init__(self, play):
        self.play, self.bundles, self.cancelled = play, [], 0

    def batch(self):
        return contextlib.nullcontext()

    def submit(self, function, jobs, said):
        assert function is slurm_workers.run_bundle
        self.bundles.append([job.seed for job in jobs])
        state = self.play(len(self.bundles), jobs, said)
        return types.SimpleNamespace(done=lambda: state != "RUNNING", state=state, cancel=self.cancel)

    def cancel(self, check):
        self.cancelled += 1


@pytest.fixture
def make(tmp_path, monkeypatch):
    def workers(play, argument="", size=5):
        slurm, told = PlayedSlurm(play), []
        monkeypatch.setattr(SlurmWorkers, "_executor", lambda self, folder, job: slurm)
        return slurm, SlurmWorkers(WorkersRequest(size, 1, told.append, argument=argument), "local"), told

    return workers


def write(said, jobs, error="no"):
    with said.open("a") as file:
        file.writelines(event_line(CellResult(job.seed, error=error).event(job.ref)) + "\n" for job in jobs)


def drive(workers, jobs, told):
    """Give the workers jobs as a sweep does; return how often each cell has ended."""
    waiting = list(jobs)
    for _ in range(60):
        while waiting and workers.free:
            workers.start(waiting.pop(0))
        workers.wait(0.0)
    return [sum(event.kind == "cell_end" and event.cell == job.ref for event in told) for job in jobs]


def well(_number, jobs, said):
    write(said, jobs)
    return "COMPLETED"


@pytest.mark.parametrize(
    ("argument", "sizes"), [("jobs=2", [3, 2]), ("jobs=16", [1] * 5), ("jobs=1", [5]), ("cells=2,jobs=1", [2, 2, 1])]
)
def test_cells_are_bundled_so_that_as_many_jobs_as_may_be_share_them(make, tmp_path, argument, sizes):
    slurm, workers, told = make(well, argument)
    assert drive(workers, make_jobs(tmp_path, seeds=SEEDS), told) == [1] * len(SEEDS)
    assert [len(bundle) for bundle in slurm.bundles] == sizes


def test_a_lost_job_costs_the_cell_it_was_in_an_attempt_and_its_mates_nothing(make, tmp_path):
    def play(number, jobs, said):
        if number > 1:
            return well(number, jobs, said)
        write(said, jobs[:1])
        with said.open("a") as file:
            file.write(event_line(Event("cell_start", jobs[1].ref)) + "\n" + '{"kind": "cut o')
        return "NODE_FAIL"

    slurm, workers, told = make(play, "jobs=1")
    jobs = make_jobs(tmp_path, seeds=SEEDS)
    assert drive(workers, jobs, told) == [1] * len(SEEDS)
    assert slurm.bundles == [list(SEEDS), list(SEEDS[1:])]
    notes = [event for event in told if event.kind == "note"]
    assert [(note.cell.seed, note.values["text"]) for note in notes] == [
        (34, "a cell was lost (its node died) and is tried again, attempt 2")
    ]


def test_jobs_that_die_before_they_begin_are_given_up_and_no_cell_is_tried_without_end(make, tmp_path):
    slurm, workers, told = make(lambda number, jobs, said: "TIMEOUT", "jobs=1")
    jobs = make_jobs(tmp_path, seeds=SEEDS[:2])
    assert drive(workers, jobs, told) == [1, 1]
    assert len(slurm.bundles) == 2 * MOST_LOSSES
    errors = [event.values["error"] for event in told if event.kind == "cell_end"]
    assert all(f"lost {MOST_LOSSES} times" in error and "the time of its job was over" in error for error in errors)


def test_a_record_that_a_server_of_files_does_not_show_yet_is_waited_for(make, tmp_path, monkeypatch):
    job, *_ = make_jobs(tmp_path)

    def play(_number, jobs, said):
        line = event_line(CellResult(job.seed, path=tmp_path / "records" / "late.json").event(job.ref))
        said.write_text(line + "\n")
        return "RUNNING"

    _, workers, told = make(play)
    assert drive(workers, [job], told) == [0]
    monkeypatch.setattr(slurm_workers, "LATE_SECONDS", -1.0)
    assert drive(workers, [], told) == []
    (end,) = told
    assert end.values["error"].endswith("late.json cannot be read: No such file or directory")


def test_stopping_cancels_what_is_in_the_queue_and_forgets_the_rest(make, tmp_path):
    slurm, workers, told = make(lambda number, jobs, said: "RUNNING", "jobs=2")
    for job in make_jobs(tmp_path, seeds=SEEDS):
        workers.start(job)
    workers.wait(0.0)
    assert workers.free == 0
    workers.stop()
    workers.stop()
    workers.wait(0.0)
    assert (slurm.cancelled, told) == (2, [])


def test_settings_are_refused_before_anything_is_prepared(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/" + name)
    check_settings("")
    check_settings("partition=cpu,gpus=1,time=04:00:00")
    with pytest.raises(UsageError, match="Slurm has no setting 'partitoin'"):
        check_settings("partitoin=cpu")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="need the command sbatch"):
        check_settings("")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'mlecs-bench\[slurm\]'"):
        check_settings("")
