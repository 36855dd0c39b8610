"""An algorithm under watch: what surrounds each of its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlecs_bench.federation.host import Carry, copied
from mlecs_bench.federation.ledger import Direction
from mlecs_bench.federation.messages import Message

if TYPE_CHECKING:
    from mlecs_bench.federation.algorithm import Algorithm
    from mlecs_bench.federation.device import Device
    from mlecs_bench.federation.party import Party
    from mlecs_bench.federation.server import Server

STEPS = ("broadcast", "receive", "local_update", "aggregate")


@dataclass(frozen=True)
class Step:
    """One call of an algorithm: which of the four steps, whose, in which round, and what was delivered to it."""

    name: str
    party: Party
    t: int
    delivered: Mapping[str, Message] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} of {self.party.id} in round {self.t}"


Watch = Callable[[Step], AbstractContextManager[None]]
"""Entered before a step and left after it."""


class Watched:
    """An algorithm each of whose steps runs within all `watches`. `build` gives the algorithm for the next step."""

    def __init__(self, build: Callable[[], Algorithm], *watches: Watch) -> None:
        self._build = build
        self._watches = watches

    @contextmanager
    def _watching(self, step: Step) -> Iterator[Algorithm]:
        algorithm = self._build()
        with ExitStack() as stack:
            for watch in self._watches:
                stack.enter_context(watch(step))
            yield algorithm

    def broadcast(self, server: Server, t: int) -> Mapping[str, Message]:
        """Pass on."""
        with self._watching(Step("broadcast", server, t)) as algorithm:
            return algorithm.broadcast(server, t)

    def receive(self, device: Device, message: Message, t: int) -> None:
        """Pass on."""
        with self._watching(Step("receive", device, t, {device.id: message})) as algorithm:
            algorithm.receive(device, message, t)

    def local_update(self, device: Device, t: int) -> Message:
        """Pass on."""
        with self._watching(Step("local_update", device, t)) as algorithm:
            return algorithm.local_update(device, t)

    def aggregate(self, server: Server, uploads: Mapping[str, Message], t: int) -> None:
        """Pass on."""
        with self._watching(Step("aggregate", server, t, uploads)) as algorithm:
            algorithm.aggregate(server, uploads, t)


@dataclass(frozen=True)
class Sent:
    """A message as it was delivered."""

    round: int
    direction: Direction
    device: str
    message: Message

    def __str__(self) -> str:
        way = f"to {self.device}" if self.direction == "down" else f"from {self.device}"
        return f"the message {way} in round {self.round}"


class Listening:
    """Carries messages and remembers them: the very object that arrived in `delivered`, a copy of it in `sent`."""

    def __init__(self, carry: Carry = copied) -> None:
        self._carry = carry
        self.sent: list[Sent] = []
        self.delivered: list[Sent] = []

    def __call__(self, message: Message, device: str, direction: Direction, t: int) -> Message:
        """Carry a message."""
        delivered = self._carry(message, device, direction, t)
        self.delivered.append(Sent(t, direction, device, delivered))
        self.sent.append(Sent(t, direction, device, Message.copied(delivered)))
        return delivered
