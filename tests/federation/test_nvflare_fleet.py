"""Devices in processes of their own, behind NVFlare's certificates: the same bits, whatever goes wrong on the way.

They need NVFlare (tox -e nvflare); without it only what users write is looked at.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import toy
from fleet_cells import assert_same, gone
from machines import Machines, two_machines
from mlecs_bench.federation.fleet import FleetRequest
from mlecs_bench.federation.nvflare_cells import read_kit
from mlecs_bench.federation.nvflare_fleet import NvflareFleet
from nvflare_kits import provision

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
    running: dict[str, subprocess.Popen] = dataclasses.field(default_factory=dict)
    ended: list[int] = dataclasses.field(default_factory=list)

    def start(self, id_: str, *more: str) -> None:
        """Let a person type `mlecs-bench device` on the other machine."""
        command = [
            sys.executable, "-m", "mlecs_bench.cli.main", "device", "--startup-kit", str(self.kits / id_),
            "--device", id_, "--data-dir", str(self.data), "--state-dir", str(self.folder / f"state-{id_}"),
            "--cache-dir", str(self.folder / f"cache-{id_}"), *more,
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(self.site), "OMP_NUM_THREADS": "1"}
        with (self.folder / f"{id_}.log").open("a") as log:
            self.running[id_] = subprocess.Popen(
                self.machines.command_there(*command), env=environment, stdout=log, stderr=log
            )

    def stop(self, id_: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End a device."""
        process = self.running.pop(id_)
        process.send_signal(how)
        process.wait(timeout=30)
        self.ended.append(process.pid)

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
