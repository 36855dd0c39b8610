"""A fleet on a Ray cluster: groups of devices as actors on its nodes and GPUs, one backbone in each.

Nodes need the same installation, and no file system in common. Prepared data go to a node once, into its cache. With
every reply comes the device's new state, which is kept where the server keeps its own: an actor or a node that dies is
replaced elsewhere, and its devices go on from there. All retries are ours, since Ray's own would take turns twice.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.data.cache import CACHE_VARIABLE
from mlecs_bench.data.samples import open_prepared
from mlecs_bench.data.travelling import files_of, put_down
from mlecs_bench.doors.events import Event, Tell, silent
from mlecs_bench.doors.hookspecs import FleetInfo
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import MlecsError, UsageError
from mlecs_bench.federation.fleet import (
    FleetRequest,
    Recipe,
    build_host,
    greetings_from_json,
    open_samples,
    recipe_from_json,
    turns_of,
)
from mlecs_bench.federation.packets import (
    REFUSAL,
    REPLY,
    Service,
    answer_in,
    drained,
    hello_packet,
    late,
    read_turn,
    turn_packet,
)
from mlecs_bench.federation.processes import use_exact_kernels, use_threads
from mlecs_bench.federation.turns import Ask, DeviceMissing, MemoryTurns, Refusal, Reply, Turn

if TYPE_CHECKING:
    from mlecs_bench.federation.fleet import Fleet
    from mlecs_bench.federation.host import DeviceHost, Greeting

MOST_DEATHS = 3
"""How many actors may die in one round before the devices of the next one count as missing."""
START_SECONDS = 300.0
"""How long a new group may take until it greets: Ray places it, packages load, models load."""


class DeviceGroup:
    """What runs on a node: some devices on one backbone, with their turns in memory. It is made an actor."""

    def __init__(self, recipe: str, devices: Sequence[str], kept: Mapping[str, Sequence[bytes]]) -> None:
        self._recipe = recipe
        self._devices = tuple(devices)
        self._turns = MemoryTurns()
        for id_, turns in kept.items():
            for turn in reversed([Turn.from_bytes(data) for data in turns]):  # the latest was saved last
                self._turns.save(id_, turn)
        self._data: Path | None = None
        self._service = Service(self._built)

    def has_data(self, folder: str, digest: str) -> bool:
        """Are the data of a digest on this node: where the server has them, or brought by an earlier run?"""
        for place in (Path(folder), _node_folder(self._recipe, folder, digest)):
            found = open_prepared(place)
            if found is not None and found.manifest.digest == digest:
                self._data = place
                return True
        return False

    def take_data(self, folder: str, digest: str, files: Mapping[str, Any]) -> None:
        """Fetch data to this node; `files` has a reference to the content of each."""
        import ray

        place = _node_folder(self._recipe, folder, digest)
        put_down(((name, ray.get(content)) for name, content in files.items()), place)
        self._data = place

    def answer(self, word: str, body: bytes) -> tuple[str, bytes]:
        """Answer a packet."""
        return self._service.answer(word, body)

    def turn(self, id_: str, word: str, body: bytes, home: int) -> tuple[str, bytes, bytes | None]:
        """Answer a packet with a turn; the turn itself comes along unless `home` says that it is there already.

        A reply that is all in the turn is not sent twice.
        """
        asked = read_turn(body)[1]
        word, content = self._service.answer(word, body)
        last = next(iter(self._turns.load(id_)), None) if word == REPLY else None
        if last is None or last.round <= home:
            return word, content, None
        whole = last.round == asked.round and asked.train and not asked.model
        return word, b"" if whole else content, last.to_bytes()

    def _built(self) -> DeviceHost:
        registry = Registry.installed()
        recipe = recipe_from_json(self._recipe, registry)
        use_threads(recipe.plan.threads)
        use_exact_kernels()
        recipe = replace(recipe, data=self._data or recipe.data, cache_dir=_node_cache(self._recipe))
        return build_host(recipe, self._devices, registry, turns=self._turns)


def _node_cache(recipe: str) -> Path:
    """Return the folder for what is costly on this node: its own where it names one, else the server's path."""
    import json

    return Path(os.environ.get(CACHE_VARIABLE) or json.loads(recipe)["cache_dir"]).expanduser()


def _node_folder(recipe: str, folder: str, digest: str) -> Path:
    return _node_cache(recipe) / "from-server" / f"{Path(folder).name}-{digest[:16]}"


@dataclass
class _Member:
    """One actor: its devices, and the turns that it still owes, of which the first is asked for by `pending`."""

    devices: tuple[str, ...]
    number: int
    actor: Any
    owed: deque[str] = field(default_factory=deque)
    pending: Any = None


@dataclass(frozen=True)
class Cluster:
    """What a user writes behind ``ray:``: the address of a cluster, and how many groups of devices to make, if said."""

    address: str
    groups: int | None = None

    @classmethod
    def of(cls, text: str) -> Cluster:
        """Read ``HOST:PORT`` or ``HOST:PORT,groups=N``; raises UsageError."""
        address, comma, rest = text.partition(",")
        host, _, port = address.rpartition(":")
        name, _, number = rest.partition("=")
        whole = number.isdecimal() and int(number) > 0
        if not host or not port.isdecimal() or (comma and (name != "groups" or not whole)):
            raise UsageError(
                f"--fleet ray takes the address of a running cluster, such as ray:10.0.0.1:6379 or "
                f"ray:10.0.0.1:6379,groups=4, got '{text}'; 'ray start --head' prints it"
            )
        return cls(address, int(number) if comma else None)


class RayFleet:
    """Devices in actors of a cluster; of n groups each gets every n-th device."""

    def __init__(self, recipe: Recipe, cluster: Cluster, tell: Tell = silent, timeout: float | None = None) -> None:
        import ray

        self._ray = ray
        self._recipe = recipe
        self._text = recipe.to_json()
        self._tell = tell
        self._timeout = timeout
        self._turns = turns_of(recipe)
        self._members: list[_Member] = []
        self._files: dict[str, Any] | None = None
        self._digest = open_samples(recipe.data).manifest.digest
        self._joined = not ray.is_initialized()
        self.wire = {"down": 0, "up": 0}
        if self._joined:
            _join(cluster.address)
        ids = recipe.plan.device_ids
        self._needs: dict[str, float] = {"num_cpus": recipe.plan.threads}
        if recipe.plan.torch_device == "cuda":
            self._needs["num_gpus"] = 1
        size = min(cluster.groups or self._room(), len(ids))
        self._members = [_Member(tuple(ids[number::size]), number, None) for number in range(size)]

    def _room(self) -> int:
        """Return how many groups the cluster has room for: one per GPU where devices train on one, else per core."""
        resources = self._ray.cluster_resources()
        kind, each = ("GPU", 1) if "num_gpus" in self._needs else ("CPU", self._recipe.plan.threads)
        room = int(resources.get(kind, 0) // each)
        if room < 1:
            raise UsageError(f"the Ray cluster has no {kind} for a group of devices; start nodes that have some")
        return room

    def hello(self, after: int) -> Mapping[str, Greeting]:
        """Greet the devices of all groups, which are placed and built meanwhile."""
        for member in self._members:
            self._place(member)
        for member in self._members:
            with _starting(member):
                self._bring_data(member)
        pending = [member.actor.answer.remote(*hello_packet(after)) for member in self._members]
        greetings: dict[str, Greeting] = {}
        for member, answer in zip(self._members, pending, strict=True):
            with _starting(member):
                word, body = self._got(answer, START_SECONDS)
            if word == REFUSAL:
                raise Refusal.from_bytes(body).error()
            greetings |= greetings_from_json(body.decode())
        for id_, greeting in greetings.items():
            if greeting.finished == 0:
                self._turns.forget(id_)  # a server that starts afresh
        return greetings

    def _place(self, member: _Member) -> None:
        """Have a group put on a node if it is on none; its devices are where what is kept of them says."""
        if member.actor is None:
            kept = {id_: [turn.to_bytes() for turn in self._turns.load(id_)] for id_ in member.devices}
            make = self._ray.remote(DeviceGroup).options(
                **self._needs, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD"
            )
            member.actor = make.remote(self._text, member.devices, kept)

    def _bring_data(self, member: _Member) -> None:
        """Let the data be on the node of a group; raises _Gone."""
        data = str(self._recipe.data)
        if not self._got(member.actor.has_data.remote(data, self._digest), START_SECONDS):
            self._got(member.actor.take_data.remote(data, self._digest, self._shared_files()), START_SECONDS)

    def _shared_files(self) -> dict[str, Any]:
        """Return references to the files of the prepared data, which nodes fetch once."""
        if self._files is None:
            self._files = {name: self._ray.put(content) for name, content in files_of(self._recipe.data)}
        return self._files

    def _got(self, pending: Any, seconds: float) -> Any:
        """Return what is pending; raises _Gone when its actor is dead, or gives nothing in so many seconds."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(pending, timeout=seconds)
        except errors.GetTimeoutError as error:
            raise _Gone(f"gave no answer in {seconds:g} s") from error
        except errors.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except (errors.RayActorError, errors.ObjectLostError, errors.WorkerCrashedError) as error:
            raise _Gone(_died(error)) from error

    def exchange(self, asks: Mapping[str, Ask]) -> Iterator[tuple[str, Reply | Refusal]]:
        """Have the groups work side by side, each on its devices in turn; yield replies as they come."""
        deaths = 0
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        for member in self._members:
            member.owed = deque(id_ for id_ in member.devices if id_ in asks)
            member.pending = None
        while busy := [member for member in self._members if member.owed]:
            for member in busy:
                if member.pending is None:
                    try:
                        self._ask_next(member, asks)
                    except _Gone as gone:
                        deaths += 1
                        yield from self._lost(member, str(gone), deaths)
            waiting = {member.pending: member for member in busy if member.pending is not None}
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=left) if waiting else ([], [])
            if waiting and not ready:
                yield from late(busy, asks, self._timeout)
            for pending in ready:
                member = waiting[pending]
                member.pending = None
                try:
                    answer = self._got(pending, START_SECONDS)
                except _Gone as gone:
                    deaths += 1
                    yield from self._lost(member, str(gone), deaths)
                else:
                    id_ = member.owed.popleft()
                    yield id_, self._reply(id_, *answer)

    def _ask_next(self, member: _Member, asks: Mapping[str, Ask]) -> None:
        if member.actor is None:
            self._place(member)
            self._bring_data(member)
        id_ = member.owed[0]
        home = max((turn.round for turn in self._turns.load(id_)), default=0)
        packet = turn_packet(id_, asks[id_])
        self.wire["down"] += len(packet[1])
        member.pending = member.actor.turn.remote(id_, *packet, home)

    def _reply(self, id_: str, word: str, body: bytes, turn: bytes | None) -> Reply | Refusal:
        """Return a device's answer; its turn is kept before anybody learns of the reply."""
        self.wire["up"] += len(body) + len(turn or b"")
        if turn is None:
            return answer_in((word, body))
        taken = Turn.from_bytes(turn)
        self._turns.save(id_, taken)
        return answer_in((word, body)) if body else taken.reply

    def _lost(self, member: _Member, how: str, deaths: int) -> Iterator[tuple[str, Refusal]]:
        """Let a dead actor go, to be replaced; after too many deaths its devices are missing from the round."""
        self._let_go(member)
        what = f"the group of {', '.join(member.devices)} {how}"
        if deaths < MOST_DEATHS:
            self._tell(Event("note", values={"text": f"{what}; it is replaced"}))
            return
        text = f"{what}, {deaths} deaths in one round; every finished round is kept"
        for id_ in drained(member.owed):
            yield id_, Refusal.of(DeviceMissing(text))

    def _let_go(self, member: _Member) -> None:
        actor, member.actor, member.pending = member.actor, None, None
        if actor is not None:
            with suppress(Exception):  # it is dead already, or its cluster is
                self._ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """End the actors, and leave the cluster if this fleet has joined it."""
        members, self._members = self._members, []
        for member in members:
            self._let_go(member)
        joined, self._joined = self._joined, False
        if joined:
            self._ray.shutdown()


class _Gone(Exception):  # noqa: N818  # it never leaves this module
    """An actor is dead or silent; says how, to go on after "the group of devices "."""


@contextmanager
def _starting(member: _Member) -> Iterator[None]:
    """Let it be known of which group an actor is gone before it has greeted."""
    try:
        yield
    except _Gone as gone:
        raise DeviceMissing(f"the group of {', '.join(member.devices)} {gone} while starting") from gone


def _died(error: Exception) -> str:
    """Return how an actor ended, in one line, from what Ray tells."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"is gone ({type(error).__name__}: {first[:160]})"


def _join(address: str) -> None:
    """Join a running cluster; this machine must be one of its nodes. Raises MlecsError where that fails."""
    import logging

    import ray

    try:
        ray.init(
            address=address, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR,
            include_dashboard=False,
        )  # fmt: skip
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        cause = " ".join(str(error).split())[:200]
        raise MlecsError(
            f"cannot join the Ray cluster at {address} ({cause}); start it with 'ray start', on this machine, too"
        ) from error


def _ray(request: FleetRequest) -> Fleet:
    return RayFleet(request.recipe, Cluster.of(request.argument), request.tell, request.round_timeout)


def check_argument(text: str) -> None:
    """Raise UsageError unless Ray is installed and `text` is an address."""
    from importlib.util import find_spec

    Cluster.of(text)
    if find_spec("ray") is None:
        raise UsageError("--fleet ray needs Ray: pip install 'mlecs-bench[ray]'")


FLEET = FleetInfo(
    title="Actors of a Ray cluster",
    summary="Groups of devices on the nodes of a cluster, ray:HOST:PORT; one backbone each, one GPU each.",
    make=_ray,
    argument="text",
    check_argument=check_argument,
)
