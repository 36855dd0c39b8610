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
from mlecs_bench.federation.packets import (
    REFUSAL,
    Packet,
    Service,
    answer_in,
    drained,
    hello_packet,
    late,
    turn_packet,
)
from mlecs_bench.federation.processes import (
    THREAD_VARIABLES,
    apart_from_script,
    how_it_ended,
    interrupts_wait,
    start_process,
)
from mlecs_bench.federation.turns import Ask, DeviceMissing, Refusal, Reply
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
    """One process: its devices, our end of its pipe, the turns that it still owes, and the one that it is at."""

    devices: tuple[str, ...]
    number: int
    process: SpawnProcess
    pipe: Connection
    owed: deque[str] = field(default_factory=deque)
    at: tuple[str, int] | None = None


class ProcessFleet:
    """Devices in `size` processes; a process gets every `size`-th device.

    A device that has not replied after `timeout` seconds is missing from the round; None waits for ever. Its process
    finishes the turn all the same, and keeps it.
    """

    def __init__(
        self,
        recipe: Recipe,
        size: int,
        gpus: Sequence[str] = (),
        tell: Tell = silent,
        timeout: float | None = None,
    ) -> None:
        ids = recipe.plan.device_ids
        self._recipe = recipe
        self._gpus = tuple(gpus)
        self._tell = tell
        self._timeout = timeout
        self._context = multiprocessing.get_context("spawn")
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
        for member in self._living():
            if member.at is not None:
                _received(member)  # a late reply
                member.at = None
            _send(member, hello_packet(after))
        greetings: dict[str, Greeting] = {}
        for member in self._members:
            greetings |= self._greeted(member)
        return greetings

    def _living(self) -> list[_Member]:
        """Return the processes, new ones for those that were given up."""
        for member in [member for member in self._members if member.pipe.closed]:
            self._members[member.number] = self._started(member.devices, member.number)
        return self._members

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
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        for member in self._living():
            member.owed = deque(id_ for id_ in member.devices if id_ in asks)
            self._ask_next(member, asks)
        while busy := [member for member in self._members if member.owed]:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = wait([member.pipe for member in busy], left)
            if not ready:
                yield from late(busy, asks, self._timeout)
            for pipe in ready:
                member = next(m for m in busy if m.pipe is pipe)
                packet = _received(member)
                if packet is None:
                    deaths += 1
                    yield from self._replace(member, deaths)
                else:
                    yield from self._replied(member, packet, asks)
                self._ask_next(self._members[member.number], asks)

    def _ask_next(self, member: _Member, asks: Mapping[str, Ask]) -> None:
        """Ask a process for the next turn that it owes, unless it is still at one."""
        if member.owed and member.at is None:
            id_ = member.owed[0]
            member.at = id_, asks[id_].round
            _send(member, turn_packet(id_, asks[id_]))

    def _replied(
        self, member: _Member, packet: Packet, asks: Mapping[str, Ask]
    ) -> Iterator[tuple[str, Reply | Refusal]]:
        """Yield the reply in a packet, unless it is of a round that is over."""
        at, member.at = member.at, None
        if at is not None and at[0] in member.owed and asks[at[0]].round == at[1]:
            member.owed.remove(at[0])
            yield at[0], answer_in(packet)

    def _replace(self, member: _Member, deaths: int) -> Iterator[tuple[str, Refusal]]:
        """Put a new process in the place of a dead one; what it owed is asked for again.

        After too many deaths what it owed is missing from the round.
        """
        member.pipe.close()
        what = f"the process of {', '.join(member.devices)} {how_it_ended(member.process)}"
        if deaths >= MOST_DEATHS:
            text = f"{what}, {deaths} times in one round; every finished round is kept"
            for id_ in drained(member.owed):
                yield id_, Refusal.of(DeviceMissing(text))
            return
        self._tell(Event("note", values={"text": f"{what}; it is replaced"}))
        new = self._started(member.devices, member.number)
        new.owed = member.owed
        self._members[member.number] = new

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
    return ProcessFleet(request.recipe, size, gpus, request.tell, request.round_timeout)


FLEET = FleetInfo(
    title="Processes of this machine",
    summary="Devices divided among processes, processes:2 for two; one backbone each, one GPU each.",
    make=_processes,
)
