"""Devices on the nodes of a Ray cluster: the same bits, whatever is killed. The cluster is real, the machines are two.

They need Ray (tox -e ray); without it only what users write is looked at.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from elsewhere_plugins import DEATH, DEFECT

import toy
from fleet_cells import assert_same, check_a_silent_host, gone
from machines import two_machines
from mlecs_bench.doors.events import Event
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.federation.fleet import Fleet, FleetRequest
from mlecs_bench.federation.messages import Message
from mlecs_bench.federation.ray_fleet import Cluster as Written
from mlecs_bench.federation.ray_fleet import RayFleet, check_argument
from mlecs_bench.federation.turns import Ask, DeviceMissing, Refusal
from mlecs_bench.testing.fleet_checks import FLEET_CHECKS, Fleets
from ray_cluster import Cluster, joined

with_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


def test_a_cluster_is_written_as_its_address_and_perhaps_a_number_of_groups(monkeypatch):
    assert Written.of("10.0.0.1:6379") == Written("10.0.0.1:6379")
    assert Written.of("head.example:6379,groups=4") == Written("head.example:6379", 4)
    for text in ("", "10.0.0.1", ":6379", "a:b", "a:1,", "a:1,groups=0", "a:1,gpus=2", "a:1,groups=two"):
        with pytest.raises(UsageError, match=f"^--fleet ray takes the address .* got '{text}'; 'ray start --head'"):
            check_argument(text)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"^--fleet ray needs Ray: pip install 'mlecs-bench\[ray\]'$"):
        check_argument("10.0.0.1:6379")


@pytest.fixture(scope="module")
def cluster(site, prepared, tmp_path_factory) -> Iterator[Cluster]:
    """Two nodes; the second has nothing of the prepared data. All processes are gone afterwards."""
    with two_machines() as machines:
        folder = tmp_path_factory.mktemp("ray")
        cluster = Cluster(machines, folder, site)
        try:
            with joined(cluster):
                cluster.add([prepared.folder])
                cluster.wait_for(2)
                yield cluster
        finally:
            seen = cluster.stop()
    assert len(seen) > 4
    assert all(map(gone, seen))


def ray_fleet(cluster: Cluster, groups: int, request: FleetRequest, timeout: float | None = None) -> RayFleet:
    return RayFleet(request.recipe, Written(cluster.address, groups), request.tell, timeout)


def pid_of(fleet: RayFleet, number: int) -> int:
    import ray

    actor = fleet._members[number].actor
    return ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))


def node_of(fleet: RayFleet, number: int) -> str:
    import ray

    actor = fleet._members[number].actor
    return ray.get(actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()))


@with_ray
@pytest.mark.slow
def test_every_algorithm_gives_the_same_bits_on_two_nodes_of_which_one_has_no_data(
    cells, cluster, in_process, tmp_path
):
    nodes: set[str] = set()
    for algo in toy.ALGORITHMS:
        fleets: list[RayFleet] = []

        def make(request: FleetRequest, fleets=fleets) -> Fleet:
            fleets.append(ray_fleet(cluster, 2, request))
            return fleets[0]

        def tell(event: Event, fleets=fleets) -> None:
            if event.kind == "round_end":
                nodes.update(node_of(fleets[0], number) for number in range(2))

        assert_same(cells.run(cells.plan(algo), make, tmp_path / algo, tell), in_process(algo))
    assert len(nodes) == 2
    if cluster.machines.apart:
        (folder,) = (cluster._folder / "cache-other" / "from-server").iterdir()
        assert (folder / "manifest.json").is_file()
        assert not (cluster._folder / "cache-head" / "from-server").exists(), "where data are, none are brought"


@with_ray
@pytest.mark.slow
def test_what_goes_wrong_on_a_node_is_a_refusal_and_a_late_device_is_missing_until_it_is_asked_again(
    cells, cluster, tmp_path
):
    recipe = cells.recipe(cells.plan("faulty", n_devices=1), tmp_path)
    fleet = RayFleet(recipe, Written(cluster.address, 1), timeout=2.0)

    def ask(t: int, **scalars: int):
        ((id_, answer),) = fleet.exchange({"d00": Ask(t, Message({}, scalars))})
        assert id_ == "d00"
        return answer

    try:
        fleet.hello(0)
        defect = ask(1, fault=DEFECT)
        assert isinstance(defect, Refusal)
        assert "ZeroDivisionError: a defect of the plugin" in str(defect.error())
        pid = pid_of(fleet, 0)
        os.kill(pid, signal.SIGSTOP)
        missing = ask(1)
        assert isinstance(missing, Refusal)
        assert type(missing.error()) is DeviceMissing
        assert missing.message == "d00 gave no reply in round 1 within 2 s"
        os.kill(pid, signal.SIGCONT)
        fleet._timeout = 150.0
        assert ask(1).upload.tensors["x/turns"].item() == 1, "the late turn was taken once"
        died = ask(2, fault=DEATH)
        assert type(died.error()) is DeviceMissing
        assert "3 deaths in one round; every finished round is kept" in died.message
        assert ask(2).upload.tensors["x/turns"].item() == 2, "a new actor goes on from the last round"
    finally:
        fleet.close()
        fleet.close()


@with_ray
@pytest.mark.nightly
def test_a_round_goes_on_without_a_silent_actor_and_its_device_comes_back(cells, cluster, tmp_path):
    pids: list[int] = []
    fleets: list[RayFleet] = []

    def make(request: FleetRequest) -> Fleet:
        fleets.append(ray_fleet(cluster, 3, request, timeout=8.0))
        return fleets[0]

    def stop() -> None:
        pids.append(pid_of(fleets[0], 1))
        os.kill(pids[0], signal.SIGSTOP)

    check_a_silent_host(cells, make, tmp_path, stop, lambda: os.kill(pids[0], signal.SIGCONT), 8.0)


@with_ray
@pytest.mark.nightly
def test_the_contract_of_fleets_holds_on_the_cluster(cluster):
    fleets = Fleets("ray", Registry.installed().fleet("ray").info, f"{cluster.address},groups=2")
    for check in FLEET_CHECKS:
        check(fleets)


@with_ray
@pytest.mark.slow
def test_a_killed_actor_and_then_a_killed_node_leave_the_bits_as_they_are(cells, cluster, in_process, tmp_path):
    """The last test of the module: the second node is gone afterwards."""
    fleets: list[RayFleet] = []
    notes: list[str] = []
    killed: list[str] = []

    def make(request: FleetRequest) -> Fleet:
        fleets.append(ray_fleet(cluster, 2, dataclasses.replace(request, tell=tell)))
        return fleets[0]

    def tell(event: Event) -> None:
        if event.kind == "note":
            notes.append(event.values["text"])
        if (event.kind, event.round, event.device) == ("device_end", 1, "d00"):  # d02 of the same group is at work
            os.kill(pid_of(fleets[0], 0), signal.SIGKILL)
            killed.append("actor")
        if (event.kind, event.round) == ("device_end", 2) and len(killed) == 1:
            cluster.other.kill_raylet()
            killed.append("node")

    expected = in_process("ml-ecs")
    assert_same(cells.run(cells.plan("ml-ecs"), make, tmp_path, tell), expected)
    assert killed == ["actor", "node"]
    assert len(notes) in (2, 3), "a group that was replaced may be on the node that dies"
    assert all("; it is replaced" in note for note in notes)
