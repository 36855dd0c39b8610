"""Devices in processes of their own, behind NVFlare's certificates: the same bits, whatever goes wrong on the way.

They need NVFlare (tox -e nvflare); without it only what users write is looked at.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import toy
from fleet_cells import assert_same, check_a_silent_host, gone, request_fleet
from machines import Machines, two_machines
from mlecs_bench.data.samples import open_prepared, save_prepared
from mlecs_bench.doors.events import Event
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import MessageError, MlecsError, UsageError
from mlecs_bench.federation.fleet import FleetRequest, open_samples
from mlecs_bench.federation.messages import Message
from mlecs_bench.federation.nvflare_cells import read_kit
from mlecs_bench.federation.nvflare_fleet import Network, NvflareFleet, check_argument, checked_reply
from mlecs_bench.federation.packets import REPLY
from mlecs_bench.federation.turns import Ask, DeviceMissing, Refusal, Reply
from mlecs_bench.testing.cells import toy_jobs
from mlecs_bench.testing.fleet_checks import FLEET_CHECKS, Fleets
from mlecs_bench.testing.installed import TOYS, installed
from mlecs_bench.testing.toy import N_SAMPLES, make_columns, make_manifest, make_table
from nvflare_kits import provision
from ray_cluster import children

with_nvflare = pytest.mark.skipif(find_spec("nvflare") is None, reason="NVFlare is not installed")
IDS = ("d00", "d01", "d02")


@dataclasses.dataclass
class Net:
    """Kits for a server here and devices on the other machine, each with folders of its own."""

    machines: Machines
    kits: Path
    folder: Path
    site: Path
    data: Path
    own: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    running: dict[str, subprocess.Popen] = dataclasses.field(default_factory=dict)
    ended: list[int] = dataclasses.field(default_factory=list)

    def start(self, id_: str, *more: str) -> None:
        """Let a person type `mlecs-bench device` on the other machine.

        A device in `own` has that folder, and of all other data nothing: in its view their folders are empty.
        """
        data, hidden = self.data, []
        if id_ in self.own:
            data, hidden = self.own[id_], [self.data, *(path for name, path in self.own.items() if name != id_)]
        command = [
            sys.executable, "-m", "mlecs_bench.cli.main", "device", "--startup-kit", str(self.kits / id_),
            "--device", id_, "--data-dir", str(data), "--state-dir", str(self.folder / f"state-{id_}"),
            "--cache-dir", str(self.folder / f"cache-{id_}"), *more,
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(self.site), "OMP_NUM_THREADS": "1"}
        with (self.folder / f"{id_}.log").open("a") as log:
            self.running[id_] = subprocess.Popen(
                self.machines.command_there(*command, hidden=hidden), env=environment, stdout=log, stderr=log
            )

    def stop(self, id_: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End a device."""
        process = self.running.pop(id_)
        process.send_signal(how)
        process.wait(timeout=30)
        self.ended.append(process.pid)

    def send(self, id_: str, number: signal.Signals) -> None:
        """Send a signal to all processes of a device."""
        pid = self.running[id_].pid
        for one in (pid, *children(pid)):
            os.kill(one, number)

    def fleet(self, request: FleetRequest, timeout: float | None = None) -> NvflareFleet:
        """Return the server's side."""
        kit = read_kit(self.kits / "server", server=True)
        return NvflareFleet(request.recipe, kit, self.machines.here, request.tell, timeout)


@pytest.fixture(scope="module")
def net(site, prepared, tmp_path_factory) -> Iterator[Net]:
    with two_machines() as machines:
        with socket.socket() as free:
            free.bind((machines.here, 0))
            port = free.getsockname()[1]
        folder = tmp_path_factory.mktemp("net")
        kits = provision(folder, machines.here, port, IDS)
        net = Net(machines, kits, folder, site, prepared.folder)
        try:
            yield net
        finally:
            for id_ in list(net.running):
                net.stop(id_, signal.SIGTERM)
    assert all(map(gone, net.ended))


@with_nvflare
@pytest.mark.slow
def test_every_algorithm_gives_the_same_bits_with_devices_on_another_machine(cells, net, in_process, tmp_path):
    for id_ in IDS:
        net.start(id_)
    for algo in toy.ALGORITHMS:
        assert_same(cells.run(cells.plan(algo), net.fleet, tmp_path / algo), in_process(algo))


def started(net: Net) -> None:
    """Let all devices run."""
    for id_ in IDS:
        if id_ not in net.running:
            net.start(id_)


@with_nvflare
@pytest.mark.slow
def test_a_killed_device_a_cut_cable_and_a_restarted_server_leave_the_bits_as_they_are(
    cells, net, in_process, tmp_path
):
    started(net)
    happened: list[str] = []

    class StopError(Exception):
        """Stands for the end of the server."""

    def tell(event: Event) -> None:
        at = (event.kind, event.round, event.device)
        if at == ("device_end", 1, "d00") and not happened:
            happened.append("killed")
            net.stop("d02", signal.SIGKILL)
            net.start("d02")
        if event.kind == "round_end" and event.round == 1 and happened == ["killed"]:
            happened.append("cut")
            if net.machines.apart:
                net.machines.cut()
                threading.Timer(3.0, net.machines.mend).start()
        if event.kind == "device_end" and event.round == 2 and happened == ["killed", "cut"]:
            happened.append("stopped")
            raise StopError

    with pytest.raises(StopError):
        cells.run(cells.plan("ml-ecs"), net.fleet, tmp_path, tell)
    last = cells.run(cells.plan("ml-ecs"), net.fleet, tmp_path)
    assert happened == ["killed", "cut", "stopped"]
    assert max(greeting.finished for greeting in last.greetings.values()) == 2, "devices may be a round ahead"
    assert_same(last, in_process("ml-ecs"))


@with_nvflare
@pytest.mark.slow
def test_a_device_that_is_late_is_missing_and_its_turn_is_taken_once(cells, net, tmp_path):
    started(net)
    recipe = cells.recipe(cells.plan("faulty"), tmp_path)
    fleet = net.fleet(FleetRequest(recipe, lambda _ids: None))
    asks = {id_: Ask(1, Message()) for id_ in IDS}
    try:
        fleet.hello(0)
        net.send("d01", signal.SIGSTOP)
        fleet._timeout = 3.0
        answers = dict(fleet.exchange(asks))
        assert {id_ for id_, answer in answers.items() if isinstance(answer, Reply)} == {"d00", "d02"}
        missing = answers["d01"]
        assert type(missing.error()) is DeviceMissing
        assert missing.message == "d01 gave no reply in round 1 within 3 s"
        net.send("d01", signal.SIGCONT)
        fleet._timeout = 60.0
        again = dict(fleet.exchange(asks))
        assert [again[id_].upload.tensors["x/turns"].item() for id_ in IDS] == [1, 1, 1]
        assert again["d00"].to_bytes() == answers["d00"].to_bytes()
    finally:
        fleet.close()


@with_nvflare
@pytest.mark.nightly
def test_a_round_goes_on_without_a_silent_device_which_comes_back(cells, net, tmp_path):
    started(net)

    def stop() -> None:
        time.sleep(1.0)  # until it has asked for its next turn
        net.send("d01", signal.SIGSTOP)

    make = functools.partial(net.fleet, timeout=8.0)
    check_a_silent_host(cells, make, tmp_path, stop, lambda: net.send("d01", signal.SIGCONT), 8.0)


@with_nvflare
@pytest.mark.nightly
def test_a_device_that_stops_and_a_cable_that_is_cut_for_a_minute_cost_no_bit(cells, net, tmp_path):
    """The rounds wait, since the timeout is longer."""
    started(net)
    minute, ended = 60.0, []

    def later(act: Callable[[], None]) -> None:
        timer = threading.Timer(minute, act)
        timer.start()
        ended.append((timer, time.monotonic()))

    def tell(event: Event) -> None:
        if event.kind == "round_end" and event.round == 1:
            net.send("d01", signal.SIGSTOP)
            later(lambda: net.send("d01", signal.SIGCONT))
        if event.kind == "round_end" and event.round == 2:
            waits.append(time.monotonic() - ended[0][1])
            if net.machines.apart:
                net.machines.cut()
                later(net.machines.mend)
        if event.kind == "round_end" and event.round == 3 and net.machines.apart:
            waits.append(time.monotonic() - ended[1][1])

    waits: list[float] = []
    plan = cells.plan("ml-ecs", rounds=3)
    there = cells.run(plan, functools.partial(net.fleet, timeout=300.0), tmp_path, tell)
    assert all(minute < seconds < 3 * minute for seconds in waits), waits
    assert_same(there, cells.run(plan, functools.partial(request_fleet, cells.registry, "in-process")))


@with_nvflare
@pytest.mark.nightly
def test_the_contract_of_fleets_holds_with_devices_on_another_machine(net, tmp_path):
    """They are devices of the toys that the checks install, and go from one run to the next."""
    for id_ in list(net.running):
        net.stop(id_, signal.SIGTERM)
    site, data = net.site, net.data
    with installed():
        (job,) = toy_jobs(tmp_path, n_devices=len(IDS))
    net.site, net.data = TOYS, job.data
    argument = f"{net.kits / 'server'},bind={net.machines.here}"
    try:
        started(net)
        fleets = Fleets("nvflare", Registry.installed().fleet("nvflare").info, argument)
        for check in FLEET_CHECKS:
            check(fleets)
    finally:
        net.site, net.data = site, data
        for id_ in list(net.running):
            net.stop(id_, signal.SIGTERM)


def reply(**changes: object) -> Reply:
    usual = Reply(Message({"x/a": torch.zeros(2)}), None, {"loss": 1.0}, {"private": 1},
                  {"training": 1.0, "evaluation": 0.0})  # fmt: skip  # one value
    return dataclasses.replace(usual, **changes)


def test_a_reply_that_is_none_or_not_finite_is_refused_with_the_name_of_its_device():
    good = checked_reply("d01", (REPLY, reply().to_bytes()))
    assert isinstance(good, Reply)
    for packet in (
        (REPLY, b"no reply"),
        ("nonsense", b"\x00" * 40),
        (REPLY, reply().to_bytes()[:-3]),
        (REPLY, reply(upload=Message({"x/a": torch.tensor([1.0, torch.inf])})).to_bytes()),
        (REPLY, reply().to_bytes().replace(b'"loss": 1.0', b'"loss": NaN')),
        (REPLY, reply(seconds={"training": 1.0}).to_bytes()),
        (REPLY, reply(steps={"private": "many"}).to_bytes()),
        (REPLY, reply(scores={"accuracy": {"value": "high"}}).to_bytes()),
    ):
        answer = checked_reply("d01", packet)
        assert isinstance(answer, Refusal), packet
        assert isinstance(answer.error(), MessageError)
        assert str(answer.error()).startswith("the reply of d01 was refused: ")


def test_a_network_is_written_as_the_servers_kit_and_perhaps_an_address(tmp_path):
    assert Network.of("kits/server") == Network(Path("kits/server"))
    assert Network.of("kits/server,bind=127.0.0.1") == Network(Path("kits/server"), "127.0.0.1")
    for text in ("", ",bind=::1", "kits,port=1", "kits,bind="):
        with pytest.raises(UsageError, match=f"^--fleet nvflare takes the folder of the server's .* got '{text}'$"):
            Network.of(text)
    if find_spec("nvflare") is None:
        with pytest.raises(UsageError, match=r"^--fleet nvflare needs NVFlare: pip install 'mlecs-bench\[nvflare\]'$"):
            check_argument("kits/server")
    with pytest.raises(UsageError, match=r"is not the server's startup kit \(fed_server.json: No such file"):
        read_kit(tmp_path, server=True)
    (tmp_path / "fed_client.json").write_text("{}")
    with pytest.raises(UsageError, match=r"fed_client.json cannot be read \(KeyError: 'servers'\); provision anew$"):
        read_kit(tmp_path, server=False)


@with_nvflare
@pytest.mark.slow
def test_parties_that_see_their_own_data_alone_give_the_same_bits(cells, net, exports, in_process, tmp_path):
    """The server runs on the public samples, each device on a folder of its own, and cannot see the others'."""
    for id_ in list(net.running):
        net.stop(id_, signal.SIGTERM)
    net.own = exports
    try:
        started(net)
        apart = dataclasses.replace(
            cells, samples=open_samples(exports["server"]), prepared=open_prepared(exports["server"])
        )
        assert_same(apart.run(apart.plan("ml-ecs"), net.fleet, tmp_path), in_process("ml-ecs"))
    finally:
        net.own = {}
        for id_ in list(net.running):
            net.stop(id_, signal.SIGTERM)


@with_nvflare
@pytest.mark.slow
def test_a_device_with_other_data_or_of_another_federation_takes_no_part(cells, net, tmp_path):
    """Its own command ends in one line, and the server names both digests."""
    started(net)
    net.stop("d02", signal.SIGTERM)
    manifest = dataclasses.replace(make_manifest(N_SAMPLES), digest="f" * 64)
    other = save_prepared(make_table(make_columns(N_SAMPLES)), manifest, tmp_path / "other")
    data, net.data = net.data, other.folder
    try:
        net.start("d02")
        with pytest.raises(MlecsError, match=f"^d02 holds data with digest {'f' * 12}, the server "):
            cells.run(cells.plan("standalone"), net.fleet, tmp_path / "out")
    finally:
        net.data = data
        net.stop("d02", signal.SIGTERM)
    fleet = net.fleet(FleetRequest(cells.recipe(cells.plan("standalone", n_devices=2)), lambda _ids: None))
    try:
        net.start("d02")
        assert net.running["d02"].wait(timeout=60) == 1
    finally:
        fleet.close()
    net.ended.append(net.running.pop("d02").pid)
    log = (net.folder / "d02.log").read_text()
    assert log.splitlines()[-1] == "error: 'd02' is no device of this federation; those are d00, d01"
