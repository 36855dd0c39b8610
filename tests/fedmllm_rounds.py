"""FedMLLM on the toy federation, round by round and without an engine: what its tests share."""

from __future__ import annotations

import toy
from mlecs_baselines import fedmllm
from mlecs_baselines.fedmllm import FedMllm, FedMllmOptions
from mlecs_bench.federation.build import Federation
from mlecs_bench.federation.messages import Message

SETS = [("audio",), ("text", "video"), toy.NAMES, ()]
SUFFIX = "Any way."
INFO = fedmllm.mlecs_algorithm()


def algorithm_of(**options) -> FedMllm:
    return FedMllm(FedMllmOptions(**({"prompt_suffix": SUFFIX} | options)))


def federation_of(profile, samples, held=SETS, algorithm=None, **changes) -> Federation:
    needs = INFO.needs((algorithm or algorithm_of()).options)
    settings = {"rounds": 2, "steps": 2, "min_modalities": 0, "needs": needs} | changes
    return toy.federation_of(profile, samples, held, **settings)


def run(algorithm, federation, samples, **changes):
    return toy.run_toy("multi-fedavg", federation, samples, algorithm=algorithm, **changes)


def receive(algorithm, federation, t):
    """Let all devices take in the broadcast of round t."""
    down = algorithm.broadcast(federation.server, t)
    for device in federation.devices:
        algorithm.receive(device, down.get(device.id, Message()).copied(), t)


def update(algorithm, device, t) -> Message:
    """Let a device train as in a round of its own, and return what it sends as it arrives."""
    device.steps, device.logs = {}, {}
    return algorithm.local_update(device, t).copied()


def play(algorithm, federation, rounds) -> dict[str, Message]:
    """Run some rounds without an engine; return the last uploads."""
    uploads: dict[str, Message] = {}
    for t in rounds:
        receive(algorithm, federation, t)
        uploads = {device.id: update(algorithm, device, t) for device in federation.devices}
        algorithm.aggregate(federation.server, uploads, t)
    return uploads
