"""The workers `ray` on a real cluster: two nodes on the loopback that share no files, of which one is killed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from pathlib import Path

import pytest

from mlecs_bench.data.cache import CACHE_VARIABLE
from mlecs_bench.doors.hookspecs import WorkersRequest
from mlecs_bench.doors.registry import Registry
from mlecs_bench.execution.cell import run_job
from mlecs_bench.records.results import REPRODUCIBLE
from mlecs_bench.testing.cells import toy_jobs
from mlecs_bench.testing.installed import installed
from mlecs_bench.testing.workers_checks import WORKERS_CHECKS, Crew
from mlecs_plugins.workers.ray_workers import LOOPBACK_VARIABLE

pytestmark = [pytest.mark.nightly, pytest.mark.filterwarnings("ignore")]
os.environ.setdefault(LOOPBACK_VARIABLE, "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")

NODE = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
PATIENCE = 600.0


@dataclasses.dataclass
class Nodes:
    """A cluster whose nodes have one CPU and a cache each."""

    cluster: object
    folder: Path
    workers: list = dataclasses.field(default_factory=list)

    def add(self):
        cache = self.folder / f"node{len(self.workers)}"
        node = self.cluster.add_node(num_cpus=1, env_vars={CACHE_VARIABLE: str(cache)}, **NODE)
        self.workers.append((node, cache))
        return node


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Two nodes beside a head that runs no cells; nothing of them is left afterwards."""
    from ray.cluster_utils import Cluster

    before = set(psutil.Process().children(recursive=True))
    with installed():
        cluster = Cluster(head_node_args={"num_cpus": 0, "include_dashboard": False, **NODE}, initialize_head=True)
        found = Nodes(cluster, tmp_path_factory.mktemp("nodes"))
        try:
            found.add()
            found.add()
            yield found
        finally:
            cluster.shutdown()
    deadline = time.monotonic() + 20
    while left := [p for p in set(psutil.Process().children(recursive=True)) - before if p.status() != "zombie"]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def listening() -> set[str]:
    """Return the addresses at which this process and those below it wait for others."""
    found = set()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            found |= {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return found


def work(nodes, jobs, look=lambda told: None, shared=True):
    """Run jobs on the cluster to their ends; `look` sees what was told after every step."""
    told = []
    info = Registry.installed().workers("ray").info
    info.check_argument(nodes.cluster.address)
    workers = info.make(WorkersRequest(len(jobs), 1, told.append, argument=nodes.cluster.address))
    deadline, waiting = time.monotonic() + PATIENCE, list(jobs)
    try:
        while sum(event.kind == "cell_end" for event in told) < len(jobs):
            while waiting and workers.free:
                workers.start(waiting.pop(0))
                if not shared:
                    for sender in workers._senders.values():
                        sender.shared.unlink(missing_ok=True)
            workers.wait(0.2)
            look(told)
            assert time.monotonic() < deadline, told[-3:]
    finally:
        workers.stop()
    return told


def records(told):
    return {event.cell.seed: event.values["record"] for event in told if event.kind == "cell_end"}


def here(job, folder):
    """Return the record of the same cell, run in this process."""
    events = []
    run_job(dataclasses.replace(job, execution=dataclasses.replace(job.execution, out=folder)), events.append)
    return events[-1].values["record"]


@pytest.mark.timeout(1200)
def test_the_contract_of_workers_holds_on_the_cluster(nodes):
    crew = Crew("ray", Registry.installed().workers("ray").info, nodes.cluster.address)
    for check in WORKERS_CHECKS:
        check(crew)
    assert listening() <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shared", [False, True])
def test_a_killed_node_costs_its_cell_one_recorded_attempt_and_no_bit(nodes, tmp_path, shared, capfd):
    rounds = 40
    jobs = toy_jobs(tmp_path / "out", seeds=(27, 34, 46), rounds=rounds)
    killed = []

    def kill_one(told):
        begun = {event.cell.seed for event in told if event.kind == "round_end" and event.round >= 3}
        if not killed and len(begun) == 2:
            node, _ = nodes.workers.pop()
            killed.append(node)
            nodes.cluster.remove_node(node, allow_graceful=False)  # kills the raylet with SIGKILL

    told = work(nodes, jobs, kill_one, shared)
    nodes.add()
    assert killed
    assert [event.values["error"] for event in told if event.kind == "cell_end"] == [None] * len(jobs)
    found = records(told)
    lost = {seed: record["provenance"].get("lost_attempts", []) for seed, record in found.items()}
    assert sorted(map(len, lost.values())) == [0, 0, 1], lost
    victim = next(seed for seed, how in lost.items() if how)
    resumed = found[victim]["provenance"]["resumed_from_round"]
    assert (resumed >= 3) is shared, "only with shared files there is something to go on from"
    for job in jobs:
        expected = here(job, tmp_path / "here")
        assert [part for part in REPRODUCIBLE if found[job.seed][part] != expected[part]] == []
    assert not list((tmp_path / "out").glob(".shared*"))
    assert capfd.readouterr().out == "", "stdout belongs to the command"
    assert listening() <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
