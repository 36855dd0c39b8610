"""Seconds per exchange of every fleet that is installed, for 0, 1 and 100 MB each way, beside a bare TCP echo.

    python benchmarks/fleet_exchange.py [--mb 0,1,100] [--exchanges 5] [--fleets in-process,processes:1,ray,nvflare]

One device on the synthetic vast data with the embedded models, and an algorithm that trains nothing and sends back what
it gets, so what is measured is the way there and back: messages as bytes, checks, the turn that the device keeps. The
TCP echo carries as many bytes over the loopback both ways. `ray` starts a node of its own, `nvflare` provisions kits
and starts `mlecs-bench device`; both are ended with the run, and need their packages. The first exchange of every size
warms up and is left out.
"""

from __future__ import annotations

import argparse
import functools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from mlecs_bench.data.samples import DataRequest
from mlecs_bench.doors.registry import Registry
from mlecs_bench.federation.build import Builder
from mlecs_bench.federation.fleet import Fleet, FleetRequest, Recipe, build_host, fleet_place, open_samples
from mlecs_bench.federation.messages import Message
from mlecs_bench.federation.turns import Ask, Refusal
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import RunSpec

SEED = 27
ECHO = '''
from mlecs_bench.api import AlgorithmInfo, Message, Needs

class Echo:
    """Devices send back what they get."""

    def broadcast(self, server, t):
        return {}

    def receive(self, device, message, t):
        self.message = message

    def local_update(self, device, t):
        return self.message

    def aggregate(self, server, uploads, t):
        return

INFO = AlgorithmInfo("Echo", "sends back what it gets", build=lambda _: Echo(), needs=lambda _: Needs(private_stages=0))
'''
PROJECT = """\
api_version: 3
name: federation
description: a benchmark
participants:
  - {{name: server, type: server, org: lab, fed_learn_port: {port}, host_name: 127.0.0.1, default_host: 127.0.0.1}}
  - {{name: d00, type: client, org: lab}}
  - {{name: admin@lab.org, type: admin, org: lab, role: project_admin}}
builders:
  - path: nvflare.lighter.impl.workspace.WorkspaceBuilder
    args: {{template_file: [master_template.yml]}}
  - path: nvflare.lighter.impl.static_file.StaticFileBuilder
    args: {{config_folder: config, scheme: tcp}}
  - path: nvflare.lighter.impl.cert.CertBuilder
  - path: nvflare.lighter.impl.signature.SignatureBuilder
"""


def install_echo(site: Path) -> None:
    """Make the algorithm `echo` a plugin that every process finds whose import path has `site`."""
    (site / "fleet_echo.py").write_text(ECHO)
    info = site / "fleet_echo-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fleet-echo\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[mlecs_bench.algorithms]\necho = fleet_echo:INFO\n")
    sys.path.insert(0, str(site))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])


def free_port() -> int:
    """Return a port of the loopback that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def started(command: Sequence[str]) -> Iterator[None]:
    """Let a process run for the time of the block."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)


@contextmanager
def place_of(fleet: str, folder: Path, data: Path, groups: int = 1) -> Iterator[str]:
    """Give a fleet as users name it, with what it needs beside this process; on Ray it has so many groups."""
    with ExitStack() as stack:
        if fleet == "ray":
            port = free_port()
            start = "from ray.scripts.scripts import main; main()"
            node = ["start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"]
            more = ["--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder / 'ray'}"]
            stack.enter_context(started([sys.executable, "-c", start, *node, *more]))
            time.sleep(15)
            yield f"ray:127.0.0.1:{port},groups={groups}"
        elif fleet == "nvflare":
            (folder / "project.yml").write_text(PROJECT.format(port=free_port()))
            provision = [sys.executable, "-m", "nvflare.lighter.provision", "-p", "project.yml", "-w", "kits"]
            subprocess.run(provision, cwd=folder, check=True, capture_output=True)
            kits = folder / "kits" / "federation" / "prod_00"
            device = [sys.executable, "-m", "mlecs_bench.cli.main", "device", "--startup-kit", str(kits / "d00")]
            places = ["--data-dir", str(data), "--state-dir", str(folder / "state"), "--cache-dir", str(folder)]
            stack.enter_context(started([*device, *places]))
            yield f"nvflare:{kits / 'server'},bind=127.0.0.1"
        else:
            yield fleet


def exchanged(fleet: Fleet, message: Message, n: int, after: int) -> list[float]:
    """Return the seconds of n exchanges behind round `after`, which is greeted first."""
    seconds = []
    for t in range(after + 1, after + n + 1):
        started_at = time.perf_counter()
        ((_, reply),) = fleet.exchange({"d00": Ask(t, message)})
        seconds.append(time.perf_counter() - started_at)
        if isinstance(reply, Refusal):
            raise reply.error()
        assert reply.upload.tensors.keys() == message.tensors.keys()
    return seconds


def echoed(size: int, n: int) -> list[float]:
    """Return the seconds of n echoes of so many bytes over a bare TCP connection of the loopback."""
    seconds = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as ours:
                for _ in range(n):
                    ours.sendall(received(ours, size))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with socket.create_connection(listener.getsockname()) as theirs:
            content = bytes(size)
            for _ in range(n):
                started_at = time.perf_counter()
                sender = threading.Thread(target=theirs.sendall, args=(content,))
                sender.start()
                received(theirs, size)
                sender.join()
                seconds.append(time.perf_counter() - started_at)
        thread.join()
    return seconds


def received(connection: socket.socket, size: int) -> bytearray:
    """Return so many bytes of a connection."""
    content, view = bytearray(size), 0
    while view < size:
        view += connection.recv_into(memoryview(content)[view:])
    return content


def measured(fleets: Sequence[str], sizes: Sequence[float], n: int) -> Mapping[str, list[float]]:
    """Return the median seconds per exchange by fleet, one for each size in MB."""
    found: dict[str, list[float]] = {"bare TCP echo": []}
    messages = [Message({"x/payload": torch.zeros(int(mb * 1e6) // 4)} if mb else {}) for mb in sizes]
    for message in messages:
        found["bare TCP echo"].append(statistics.median(echoed(len(Ask(1, message).to_bytes()), n + 1)[1:]))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        install_echo(folder)
        registry = Registry.installed()
        plan = resolve(RunSpec("echo", "vast", 1.0, n_devices=1, rounds=10_000, split="frame", device="cpu"), registry)
        info = registry.dataset("vast").info
        data = info.prepare(DataRequest(None, folder, info.options())).folder
        builder = Builder(plan, SEED, open_samples(data), registry)
        for fleet in fleets:
            recipe = Recipe(plan, SEED, f"benchmark-{fleet}", data, folder, folder / fleet.replace(":", "-"))
            host: Any = functools.partial(build_host, recipe, registry=registry, builder=builder)
            with place_of(fleet, folder, data) as text:
                place = fleet_place(text)
                made = registry.fleet(place.name).info.make(
                    FleetRequest(recipe, host, place.number, argument=place.argument)
                )
                try:
                    made.hello(0)
                    rows = [exchanged(made, m, n + 1, i * (n + 1))[1:] for i, m in enumerate(messages)]
                finally:
                    made.close()
            found[fleet] = [statistics.median(row) for row in rows]
            print(line(fleet, found[fleet]), flush=True)
    return found


def line(name: str, seconds: Sequence[float]) -> str:
    """Return a row of the table."""
    return f"{name:16s}" + "".join(f"{value:12.4f}" for value in seconds)


def main() -> None:
    """Print the seconds per exchange of every fleet and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", default="0,1,100")
    parser.add_argument("--exchanges", type=int, default=5)
    known = ["in-process", "processes:1", *(name for name in ("ray", "nvflare") if find_spec(name) is not None)]
    parser.add_argument("--fleets", default=",".join(known))
    args = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [float(mb) for mb in args.mb.split(",")]
    print(f"median seconds per exchange of {args.exchanges}, {os.cpu_count()} cores; MB each way:")
    print(line("", sizes))
    found = measured(args.fleets.split(","), sizes, args.exchanges)
    print(line("bare TCP echo", found["bare TCP echo"]))


if __name__ == "__main__":
    main()
