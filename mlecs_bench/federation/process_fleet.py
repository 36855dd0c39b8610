"""A fleet in processes of this machine: devices divided among them, one backbone in each, one GPU where there are some.

What passes is bytes: a word, JSON, messages in safetensors form. A process that dies is replaced by a new one, whose
devices go on from the last round that they have kept, and the turns that it owed are asked for again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

from mlecs_bench.doors.events import Event, Tell, silent
from mlecs_bench.doors.hookspecs import FleetInfo
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import MlecsError
from mlecs_bench.federation.fleet import (
    FleetRequest,
    Recipe,
    build_host,
    greetings_from_json,
    recipe_from_json,
)
from mlecs_bench.federation.packets import REFUSAL, REPLY, Packet, Service, hello_packet, turn_packet
from mlecs_bench.federation.processes import (
    THREAD_VARIABLES,
    apart_from_script,
    how_it_ended,
    interrupts_wait,
    start_process,
)
from mlecs_bench.federation.turns import Ask, Refusal, Reply
from mlecs_bench.machine import usable_cores
from mlecs_bench.plan.preflight import visible_gpus

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from mlecs_bench.federation.fleet import Fleet
    from mlecs_bench.federation.host import DeviceHost, Greeting

MOST_DEATHS = 3
"""How many processes may die in one round before the cell fails."""
STOP_SECONDS = 1.0
"""How long a process may take to leave before it is killed."""
WORD = 8
"""Bytes of the word that a packet begins with."""


@dataclass
class _Member:
    """One process: its devices, our end of its pipe, and the turns that it still owes."""

    devices: tuple[str, ...]
    number: int
    process: SpawnProcess
    pipe: Connection
    owed: deque[str] = field(default_factory=deque)


class ProcessFleet:
    """Devices in `size` processes; a process gets every `size`-th device."""

    def __init__(self, recipe: Recipe, size: int, gpus: Sequence[str] = (), tell: Tell = silent) -> None:
        ids = recipe.plan.device_ids
        self._recipe = recipe
        self._gpus = tuple(gpus)
        self._tell = tell
        self._context = multiprocessing.get_context("spawn")
        self._after = 0
        for variable in THREAD_VARIABLES:
            os.environ.setdefault(variable, str(recipe.plan.threads))
        size = min(size, len(ids))
        self._members = [self._started(tuple(ids[number::size]), number) for number in range(size)]

    def _started(self, devices: tuple[str, ...], number: int) -> _Member:
        ours, theirs = self._context.Pipe()
        gpu = self._gpus[number % len(self._gpus)] if self._gpus else None
        process = self._context.Process(
            target=serve,
            args=(theirs, self._recipe.to_json(), devices, self._recipe.plan.threads, gpu),
            name=f"devices-{number}",
            daemon=True,
        )
        with interrupts_wait(), apart_from_script():
            process.start()
        theirs.close()  # only the process may hold the end that it writes to: its death closes it
        return _Member(devices, number, process, ours)

    def hello(self, after: int) -> Mapping[str, Greeting]:
        """Greet the devices of all processes, which build them meanwhile."""
        self._after = after
        for member in self._members:
            _send(member, hello_packet(after))
        greetings: dict[str, Greeting] = {}
        for member in self._members:
            greetings |= self._greeted(member)
        return greetings

    def _greeted(self, member: _Member) -> dict[str, Greeting]:
        packet = _received(member)
        if packet is None:
            raise MlecsError(
                f"the process of {', '.join(member.devices)} {how_it_ended(member.process)} while starting"
            )
        word, body = packet
        if word == REFUSAL:
            raise Refusal.from_bytes(body).error()
        return greetings_from_json(body.decode())

    def exchange(self, asks: Mapping[str, Ask]) -> Iterator[tuple[str, Reply | Refusal]]:
        """Have the processes work side by side, each on its devices in turn; yield replies as they come."""
        deaths = 0
        for member in self._members:
            member.owed = deque(id_ for id_ in member.devices if id_ in asks)
            self._ask_next(member, asks)
        while busy := [member for member in self._members if member.owed]:
            for pipe in wait([member.pipe for member in busy]):
                member = next(m for m in busy if m.pipe is pipe)
                packet = _received(member)
                if packet is None:
                    deaths += 1
                    self._replace(member, deaths)
                else:
                    yield member.owed.popleft(), _reply(packet)
                self._ask_next(self._members[member.number], asks)
        self._after = max(ask.round for ask in asks.values())

    def _ask_next(self, member: _Member, asks: Mapping[str, Ask]) -> None:
        if member.owed:
            id_ = member.owed[0]
            _send(member, turn_packet(id_, asks[id_]))

    def _replace(self, member: _Member, deaths: int) -> None:
        """Put a new process in the place of a dead one; what it owed is asked for again."""
        if deaths >= MOST_DEATHS:
            raise MlecsError(
                f"the process of {', '.join(member.devices)} {how_it_ended(member.process)}, {deaths} times in one "
                "round; every finished round is kept"
            )
        member.pipe.close()
        text = f"the process of {', '.join(member.devices)} {how_it_ended(member.process)}; it is replaced"
        self._tell(Event("note", values={"text": text}))
        new = self._started(member.devices, member.number)
        new.owed = member.owed
        self._members[member.number] = new
        _send(new, hello_packet(self._after))
        self._greeted(new)

    def close(self) -> None:
        """Let the processes end, or end them where they are in a turn; what their devices have kept is whole."""
        members, self._members = self._members, []
        for member in members:
            member.pipe.close()
        deadline = time.monotonic() + STOP_SECONDS
        for member in members:
            member.process.join(max(0.0, deadline - time.monotonic()))
            if member.process.is_alive():
                member.process.kill()
                member.process.join()


def _send(member: _Member, packet: Packet) -> None:
    """Send a packet; that the process is dead shows when its answer is awaited."""
    word, body = packet
    try:
        member.pipe.send_bytes(word.ljust(WORD).encode() + body)
    except OSError:
        return


def _received(member: _Member) -> Packet | None:
    """Return the next packet of a process, or None when it is dead."""
    try:
        data = member.pipe.recv_bytes()
    except (EOFError, OSError):
        return None
    return data[:WORD].decode().strip(), data[WORD:]


def _reply(packet: Packet) -> Reply | Refusal:
    word, body = packet
    return Reply.from_bytes(body) if word == REPLY else Refusal.from_bytes(body)


def serve(pipe: Connection, recipe: str, devices: Sequence[str], threads: int, gpu: str | None) -> None:
    """Be a process of a fleet: build the devices of a recipe, greet, and take turns until the pipe closes."""
    start_process(threads, gpu)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # there is nothing to clean up: files are written whole
    service = Service(partial(_host, recipe, devices))
    while True:
        try:
            data = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        answer, content = service.answer(data[:WORD].decode().strip(), data[WORD:])
        pipe.send_bytes(answer.ljust(WORD).encode() + content)


def _host(recipe: str, devices: Sequence[str]) -> DeviceHost:
    registry = Registry.installed()
    return build_host(recipe_from_json(recipe, registry), devices, registry)


def _processes(request: FleetRequest) -> Fleet:
    gpus = visible_gpus() if request.recipe.plan.torch_device == "cuda" else []
    size = request.size or len(gpus) or usable_cores()
    return ProcessFleet(request.recipe, size, gpus, request.tell)


FLEET = FleetInfo(
    title="Processes of this machine",
    summary="Devices divided among processes, processes:2 for two; one backbone each, one GPU each.",
    make=_processes,
)
