"""What processes are worth to one federation: seconds per round and memory in this process and in ``processes:2``.

    python benchmarks/fleets.py [--fleet processes:2] [--devices 20] [--rounds 4] [--steps 20] [--algo multi-fedavg]

One federation on the synthetic vast data with the embedded models, one thread per process, no scores before the last
round and trivial ones then. The rounds of both fleets alternate, so that both meet the machine in the same state; the
first round of each warms up and is left out. What both send and train must be equal to the bit. It needs as many free
cores as the fleet has processes. `--fleet ray` starts a node of Ray's with two groups, and ends it.

Memory is measured afterwards, of each fleet alone: the largest sum of PSS of all its processes after a round of two.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from fleet_exchange import place_of
from mlecs_bench.data.samples import DataRequest, Prepared, Samples
from mlecs_bench.doors.registry import Registry
from mlecs_bench.federation.build import Builder
from mlecs_bench.federation.fleet import IN_PROCESS, Fleet, FleetRequest, Recipe, build_host, fleet_place
from mlecs_bench.federation.messages import Message
from mlecs_bench.federation.turns import Ask, Refusal
from mlecs_bench.plan.plan import Plan
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import RunSpec
from process_memory import pss

SEED = 27
GROUPS = 2
"""Groups of devices on Ray."""


class Side:
    """One federation in one kind of fleet, whose rounds are timed."""

    def __init__(self, name: str, place_name: str, plan: Plan, data: Prepared, folder: Path) -> None:
        registry = Registry.installed()
        self.name = name
        self.seconds: list[float] = []
        self._plan = plan
        builder = Builder(plan, SEED, Samples.open(data), registry)
        recipe = Recipe(plan, SEED, "benchmark", data.folder, folder, folder / f"turns-{name}")
        self._algorithm = registry.algorithm(plan.algorithm.name).info.build(plan.options)
        self._server = builder.server()
        place = fleet_place(place_name)
        host = functools.partial(build_host, recipe, registry=registry, builder=builder)
        self.fleet: Fleet = registry.fleet(place.name).info.make(
            FleetRequest(recipe, host, place.number, argument=place.argument)
        )

    def rounds(self) -> Iterator[dict[str, bytes]]:
        """Play round after round without scores; yield the uploads of each as bytes."""
        self.fleet.hello(0)
        for t in range(1, self._plan.rounds + 1):
            started = time.perf_counter()
            self._server.start_round(t)
            messages = self._algorithm.broadcast(self._server, t)
            asks = {id_: Ask(t, messages.get(id_, Message()).copied()) for id_ in self._plan.device_ids}
            uploads: dict[str, Message] = {}
            for id_, reply in self.fleet.exchange(asks):
                if isinstance(reply, Refusal):
                    raise reply.error()
                uploads[id_] = reply.upload
            uploads = {id_: uploads[id_] for id_ in self._plan.device_ids}
            self._algorithm.aggregate(self._server, uploads, t)
            self.seconds.append(time.perf_counter() - started)
            yield {id_: upload.to_bytes() for id_, upload in uploads.items()}

    @property
    def median(self) -> float:
        """Seconds per round without the first."""
        return statistics.median(self.seconds[1:])


def measured(names: Sequence[str], args: argparse.Namespace) -> tuple[list[Side], float]:
    """Play all rounds in fleets side by side; return their sides, and the largest PSS in MiB behind a round."""
    size = {"n_devices": args.devices, "rounds": args.rounds, "steps": args.steps}
    spec = RunSpec(args.algo, "vast", 0.8, split="frame", device="cpu", **size)
    registry = Registry.installed()
    plan = resolve(spec, registry)
    used = 0.0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        info = registry.dataset("vast").info
        data = info.prepare(DataRequest(None, folder, info.options()))
        sides = []
        for name in names:
            place_name = stack.enter_context(place_of(name, folder, data.folder, GROUPS))
            sides.append(Side(name, place_name, plan, data, folder))
            stack.callback(sides[-1].fleet.close)
        for t, uploads in enumerate(zip(*(side.rounds() for side in sides), strict=True), start=1):
            assert all(one == uploads[0] for one in uploads), f"the fleets differ in round {t}"
            used = max(used, pss())
    return sides, used


def memory_of(name: str, args: argparse.Namespace) -> float:
    """Return the MiB that a fleet takes with the server, from a process of its own."""
    size = [f"--{what}={getattr(args, what)}" for what in ("devices", "steps", "algo")]
    command = [sys.executable, __file__, "--alone", "--fleet", name, "--rounds=2", *size]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def main() -> None:
    """Print the seconds per round of both fleets, their ratio and their memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fleet", default="processes:2")
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--algo", default="multi-fedavg")
    parser.add_argument("--alone", action="store_true", help="print the MiB of this fleet alone")
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error("--rounds must be at least 2: the first one warms up")
    torch.set_num_threads(1)
    if args.alone:
        print(measured([args.fleet], args)[1])
        return
    sides, _ = measured([IN_PROCESS, args.fleet], args)
    print(f"{args.devices} devices, {args.steps} steps a round, {args.algo}, {os.cpu_count()} cores; uploads equal")
    for side in sides:
        each = ", ".join(f"{seconds:.2f}" for seconds in side.seconds[1:])
        memory = memory_of(side.name, args)
        print(f"{side.name:12s} {side.median:8.2f} s a round {memory:8.0f} MiB   (after the first: {each})")
    print(f"ratio        {sides[0].median / sides[1].median:8.2f}")


if __name__ == "__main__":
    main()
