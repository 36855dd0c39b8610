"""A Multi-FedAvg federation under Flower's simulation: seconds per round and memory, beside those of our fleets.

    tox -e flower -- [--devices 3] [--steps 2] [--rounds 4] [--actors 1] [--rebuild]
    python benchmarks/fleets.py --devices 3 --steps 2 --rounds 4 --fleet processes:2      # ours, in-process beside it

The same devices, training and messages as in ours: a client asks `DeviceHost.turn`, and what travels are the bytes of
our messages; aggregation is the algorithm's own, in the order of devices. A process of Flower's builds the model once,
and keeps the clients that it has met on it ("model cached"), or with --rebuild at every message, as in Flower's
quickstarts. States are files in both, since a client is asked in whichever process is free.
The first round warms up and is left out. Memory is the largest sum of PSS of all processes behind a round.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from mlecs_bench.data.samples import DataRequest
from mlecs_bench.doors.registry import Registry
from mlecs_bench.federation.build import Builder
from mlecs_bench.federation.fleet import Recipe, build_host, open_samples, recipe_from_json
from mlecs_bench.federation.host import DeviceHost
from mlecs_bench.federation.messages import Message as Ours
from mlecs_bench.federation.turns import Ask, Reply
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import RunSpec
from process_memory import pss

SEED = 27


def new_builder(text: str) -> tuple[Recipe, Builder]:
    """Return what builds devices on one backbone."""
    torch.set_num_threads(1)
    registry = Registry.installed()
    recipe = recipe_from_json(text, registry)
    return recipe, Builder(recipe.plan, recipe.seed, open_samples(recipe.data), registry)


cached_builder = functools.cache(new_builder)


def new_host(recipe: Recipe, builder: Builder, id_: str) -> DeviceHost:
    """Build the host of a device; its turns are files."""
    return build_host(recipe, [id_], Registry.installed(), builder)


@functools.cache
def cached_host(text: str, id_: str) -> DeviceHost:
    """Return the host of a device, which this process keeps."""
    return new_host(*cached_builder(text), id_)


def host_of(text: str, id_: str, *, rebuild: bool) -> DeviceHost:
    """Return the host of a device, which is where its last turn, in whichever process, has left it."""
    if rebuild:
        return new_host(*new_builder(text), id_)
    host = cached_host(text, id_)
    host.restore(id_)
    return host


client = ClientApp()


@client.train()
def turn(message: Message, _context: Context) -> Message:
    """Take a device's turn."""
    asked = message.content["ask"]
    id_, recipe = str(asked["id"]), str(asked["recipe"])
    host = host_of(recipe, id_, rebuild=bool(asked["rebuild"]))
    reply = host.turn(id_, Ask.from_bytes(asked["ask"]))
    return Message(RecordDict({"reply": ConfigRecord({"id": id_, "reply": reply.to_bytes()})}), reply_to=message)


def server_app(args: argparse.Namespace, folder: Path, seconds: list[float], used: list[float]) -> ServerApp:
    """Return the server's side: rounds of Multi-FedAvg, timed."""
    registry = Registry.installed()
    size = {"n_devices": args.devices, "rounds": args.rounds, "steps": args.steps}
    plan = resolve(RunSpec("multi-fedavg", "vast", 0.8, split="frame", device="cpu", **size), registry)
    info = registry.dataset("vast").info
    data = info.prepare(DataRequest(None, folder, info.options())).folder
    recipe = Recipe(plan, SEED, "benchmark", data, folder, folder / "turns").to_json()
    algorithm = registry.algorithm("multi-fedavg").info.build(plan.options)
    app = ServerApp()

    @app.main()
    def main(grid: Grid, _context: Context) -> None:
        server = Builder(plan, SEED, open_samples(data), registry).server()
        while len(nodes := sorted(grid.get_node_ids())) < args.devices:
            time.sleep(0.1)
        names = dict(zip(nodes, plan.device_ids, strict=True))
        for t in range(1, args.rounds + 1):
            started = time.perf_counter()
            server.start_round(t)
            sent = algorithm.broadcast(server, t)
            messages = []
            for node, id_ in names.items():
                values: Any = {"id": id_, "recipe": recipe, "rebuild": args.rebuild}
                values["ask"] = Ask(t, sent.get(id_, Ours()).copied()).to_bytes()
                messages.append(Message(RecordDict({"ask": ConfigRecord(values)}), node, "train"))
            found = {}
            for reply in grid.send_and_receive(messages):
                if reply.has_error():
                    raise RuntimeError(reply.error.reason)
                found[str(reply.content["reply"]["id"])] = Reply.from_bytes(reply.content["reply"]["reply"]).upload
            algorithm.aggregate(server, {id_: found[id_] for id_ in plan.device_ids}, t)
            seconds.append(time.perf_counter() - started)
            used.append(pss())

    return app


def main() -> None:
    """Print the seconds per round and the memory under Flower."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--rebuild", action="store_true")
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error("--rounds must be at least 2: the first one warms up")
    torch.set_num_threads(1)
    seconds: list[float] = []
    used: list[float] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        resources = {"num_cpus": args.actors, "include_dashboard": False}
        backend: Any = {"init_args": resources, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
        os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # actors find the client's functions by their module
        found = importlib.import_module(Path(__file__).stem)
        run_simulation(server_app(args, Path(name), seconds, used), found.client, args.devices, backend_config=backend)
    how = "rebuilt at every message" if args.rebuild else "cached"
    print(f"Flower, {args.devices} devices, {args.steps} steps, {args.actors} actors, model {how}:")
    print(f"{statistics.median(seconds[1:]):.2f} s a round after the first, {max(used):.0f} MiB")


if __name__ == "__main__":
    main()
