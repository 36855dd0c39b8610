"""The workers `slurm` with submitit itself, whose local executor plays the cluster: jobs are killed and told to end."""

from __future__ import annotations

import dataclasses
import os
import signal
import time

import pytest

from mlecs_bench.doors.hookspecs import WorkersInfo, WorkersRequest
from mlecs_bench.execution.cell import run_job
from mlecs_bench.records.results import REPRODUCIBLE
from mlecs_bench.testing.cells import toy_jobs
from mlecs_bench.testing.installed import installed
from mlecs_bench.testing.workers_checks import WORKERS_CHECKS, Crew
from mlecs_plugins.workers.slurm_workers import SlurmWorkers

pytest.importorskip("submitit")
psutil = pytest.importorskip("psutil")
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200), pytest.mark.filterwarnings("ignore")]

PATIENCE = 600.0


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No process may be left that a test has started."""
    before = set(psutil.Process().children(recursive=True))
    yield
    deadline = time.monotonic() + 20
    while left := [p for p in set(psutil.Process().children(recursive=True)) - before if p.status() != "zombie"]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_the_contract_of_workers_holds_for_jobs_of_submitit():
    info = WorkersInfo("Slurm", "played", lambda request: SlurmWorkers(request, "local"), "text")
    for check in WORKERS_CHECKS:
        check(Crew("slurm", info, "jobs=2"))


def process_of(bundle):
    """Return the process in which a bundle's cells run: below submitit's own."""
    (child,) = psutil.Process(int(bundle.handle.job_id)).children()
    return child


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR2])
def test_a_job_that_is_stopped_costs_its_cell_one_recorded_attempt_and_no_bit(tmp_path, number):
    with installed():
        jobs, told, stopped = toy_jobs(tmp_path / "out", seeds=(27, 34), rounds=30), [], []
        workers = SlurmWorkers(WorkersRequest(2, 1, told.append, argument="jobs=1"), "local")
        for job in jobs:
            workers.start(job)
        deadline = time.monotonic() + PATIENCE
        try:
            while sum(event.kind == "cell_end" for event in told) < 2:
                workers.wait(0.1)
                if not stopped and any(event.kind == "round_end" and event.round == 5 for event in told):
                    stopped.append(process_of(workers._bundles[0]).pid)
                    os.kill(stopped[0], number)
                assert time.monotonic() < deadline, told[-3:]
        finally:
            workers.stop()
        found = {event.cell.seed: event.values["record"] for event in told if event.kind == "cell_end"}
        lost = {seed: record["provenance"].get("lost_attempts", []) for seed, record in found.items()}
        assert [len(lost[27]), len(lost[34])] == [1, 0]
        assert found[27]["provenance"]["resumed_from_round"] >= 5
        for job in jobs:
            events = []
            here = dataclasses.replace(job, execution=dataclasses.replace(job.execution, out=tmp_path / "here"))
            run_job(here, events.append)
            expected, record = events[-1].values["record"], found[job.seed]
            assert [part for part in REPRODUCIBLE if record[part] != expected[part]] == []
