"""A Ray cluster of two nodes, each of which can be killed; nothing is ended but what was started here."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from machines import Machines
from mlecs_bench.testing.installed import TOYS
from mlecs_plugins.workers.ray_workers import LOOPBACK_VARIABLE

START = "from ray.scripts.scripts import main; main()"


def children(pid: int) -> list[int]:
    """Return all descendants of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *children(child)]
    return found


def name_of(pid: int) -> str:
    """Return the command of a process, "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


class Node:
    """One node, started by `ray start --block`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        with log.open("w") as file:
            self.process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        self._seen: set[int] = set()

    def tree(self) -> set[int]:
        """Return the processes of the node that have been seen so far."""
        self._seen |= {self.process.pid, *children(self.process.pid)}
        return self._seen

    def kill_raylet(self) -> None:
        """Let the node die as if its machine had lost power: the raylet, and all that it has started."""
        (raylet,) = [pid for pid in self.tree() if name_of(pid) == "raylet"]
        for pid in [raylet, *children(raylet)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the node."""
        self.tree()
        self.process.terminate()
        self.process.wait(timeout=60)


class Cluster:
    """The head on this machine, and a second node on the other one."""

    def __init__(self, machines: Machines, folder: Path, site: Path) -> None:
        with socket.socket() as free:
            free.bind((machines.here, 0))
            self.port = free.getsockname()[1]
        self.machines, self._folder, self._site = machines, folder, site
        self.address = f"{machines.here}:{self.port}"
        own = ["--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={folder / 'r'}"]
        self.head = self._node("head", machines.here, own, [])
        self.other: Node | None = None

    def add(self, hidden: Sequence[Path] = ()) -> None:
        """Start the second node, which sees nothing in the folders `hidden`."""
        self.other = self._node("other", self.machines.there, [f"--address={self.address}"], hidden)

    def _node(self, name: str, address: str, own: Sequence[str], hidden: Sequence[Path]) -> Node:
        cache = self._folder / f"cache-{name}"
        # With the variable, which other tests set for a loopback of one machine, Ray starts no second node.
        inherited = {name: value for name, value in os.environ.items() if name != LOOPBACK_VARIABLE}
        environment = inherited | {
            "PYTHONPATH": os.pathsep.join(map(str, (self._site, TOYS))), "MLECS_BENCH_CACHE": str(cache),
            "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        command = [
            sys.executable, "-c", START, "start", "--block", f"--node-ip-address={address}", "--num-cpus=2",
            "--object-store-memory=100000000", "--disable-usage-stats", *own,
        ]  # fmt: skip
        if name == "other":
            command = self.machines.command_there(*command, hidden=hidden)
        return Node(command, environment, self._folder / f"{name}.log")

    def wait_for(self, nodes: int) -> None:
        """Wait until so many nodes are alive; the caller has joined the cluster."""
        import ray

        deadline = time.monotonic() + 90
        while sum(node["Alive"] for node in ray.nodes()) != nodes:
            assert time.monotonic() < deadline, f"not {nodes} nodes: {ray.nodes()}"
            time.sleep(0.2)

    def stop(self) -> set[int]:
        """End all nodes; return all processes that there were."""
        seen: set[int] = set()
        for node in filter(None, (self.other, self.head)):
            node.stop()
            seen |= node.tree()
        return seen


@contextmanager
def joined(cluster: Cluster) -> Iterator[None]:
    """Let this process be part of the cluster."""
    import ray

    deadline = time.monotonic() + 90
    while True:
        try:
            ray.init(address=cluster.address, log_to_driver=False, configure_logging=False, include_dashboard=False)
            break
        except (ConnectionError, RuntimeError, ValueError):
            assert time.monotonic() < deadline, (cluster._folder / "head.log").read_text()
            time.sleep(1)
    try:
        yield
    finally:
        ray.shutdown()
