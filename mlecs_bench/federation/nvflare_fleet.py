"""A fleet on real networks: the server listens, and each device is a process of its owner's, on its owner's machine.

Identity and encryption are NVFlare's: startup kits, mutual TLS. A device asks for work, is given a packet, and brings
the answer; it is asked for again until it has arrived, so neither a cut connection nor a restart loses a turn. Who
holds a certificate is believed no more than its message: what is too large, not finite or no message is refused.
"""

from __future__ import annotations

import json
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlecs_bench import __version__
from mlecs_bench.doors.events import Event, Tell, silent
from mlecs_bench.doors.hookspecs import FleetInfo
from mlecs_bench.errors import MessageError, UsageError
from mlecs_bench.federation.fleet import FleetRequest, Recipe, greetings_from_json
from mlecs_bench.federation.nvflare_cells import Kit, read_kit, server_cell
from mlecs_bench.federation.packets import REFUSAL, Packet, hello_packet, late, reply_in, turn_packet
from mlecs_bench.federation.portable import Order
from mlecs_bench.federation.turns import Ask, DeviceMissing, Refusal, Reply

if TYPE_CHECKING:
    from mlecs_bench.federation.fleet import Fleet
    from mlecs_bench.federation.host import Greeting

NEXT, ANSWER = b"next", b"answer"
"""What a device sends: that it is free, or an answer."""
ORDER, WORK, BYE, STOP, TAKEN = "order", "work", "bye", "stop", "taken"
"""What the server replies: build this; do this; the run is over; you cannot take part; your answer has arrived."""
MOST_BYTES = 2**30
"""The largest answer of a device that is looked at."""
BLINK = 0.5
"""Seconds between two looks at the clock while devices work."""


def framed(word: str, number: int = 0, body: bytes = b"") -> bytes:
    """Return a word, a number and a body as bytes."""
    return word.ljust(8).encode() + number.to_bytes(8, "little") + body


def unframed(data: bytes) -> tuple[str, int, bytes]:
    """Read what `framed` wrote."""
    return data[:8].decode(errors="replace").strip(), int.from_bytes(data[8:16], "little"), data[16:]


@dataclass
class _Box:
    """What one device is to do, under a number that no other run has given, and what it has answered.

    `open_request` is the request that it waits with for more.
    """

    number: int = field(default_factory=lambda: secrets.randbits(48))
    work: bytes = b""
    answer: Packet | None = None
    open_request: str | None = None


@dataclass
class _Round:
    """The devices of which a reply is still owed."""

    owed: deque[str] = field(default_factory=deque)


class NvflareFleet:
    """Devices that come to this server, each with a certificate in its own name."""

    def __init__(self, recipe: Recipe, kit: Kit, bind: str, tell: Tell = silent, timeout: float | None = None) -> None:
        self._tell = tell
        self._timeout = timeout
        self._key = recipe.key
        self._order = Order.of(recipe).to_json().encode()
        self._boxes = {id_: _Box() for id_ in recipe.plan.device_ids}
        self._changed = threading.Condition()
        self._over = False
        self.wire = {"down": 0, "up": 0}
        self._cell = server_cell(kit, bind)
        self._cell.open(self._requested)

    def hello(self, after: int) -> Mapping[str, Greeting]:
        """Wait for all devices, and greet them."""
        if not all(box.work for box in self._boxes.values()):
            self._tell(Event("note", values={"text": f"waiting for {', '.join(self._boxes)} to connect"}))
        for id_ in self._boxes:
            self._post(id_, hello_packet(after))
        greetings: dict[str, Greeting] = {}
        waiting = _Round(deque(self._boxes))
        for id_, packet in self._answers(waiting, self._deadline()):
            greetings[id_] = _greeting_in(id_, packet)
        if waiting.owed:
            raise DeviceMissing(f"{', '.join(waiting.owed)} did not connect within {self._timeout:g} s")
        return greetings

    def exchange(self, asks: Mapping[str, Ask]) -> Iterator[tuple[str, Reply | Refusal]]:
        """Give all devices their asks at once; yield replies as they come."""
        for id_, ask in asks.items():
            self._post(id_, turn_packet(id_, ask))
        owing = _Round(deque(asks))
        for id_, packet in self._answers(owing, self._deadline()):
            yield id_, checked_reply(id_, packet)
        yield from late([owing], asks, self._timeout)

    def _deadline(self) -> float | None:
        return None if self._timeout is None else time.monotonic() + self._timeout

    def _answers(self, waiting: _Round, deadline: float | None) -> Iterator[tuple[str, Packet]]:
        """Yield the answers of devices as they come, until all have answered or time is up."""
        while waiting.owed:
            with self._changed:
                here = [id_ for id_ in waiting.owed if self._boxes[id_].answer is not None]
                left = BLINK if deadline is None else min(BLINK, deadline - time.monotonic())
                if not here and left <= 0:
                    return
                if not here:
                    self._changed.wait(left)
            for id_ in here:
                waiting.owed.remove(id_)
                answer = self._boxes[id_].answer
                if answer is not None:
                    yield id_, answer

    def _post(self, id_: str, packet: Packet) -> None:
        """Give a device something to do, in the place of what it was at."""
        word, body = packet
        with self._changed:
            box = self._boxes[id_]
            box.number, box.answer = box.number + 1, None
            box.work = framed(WORK, box.number, framed(word, 0, body))
            request, box.open_request = box.open_request, None
            if request is not None:
                self.wire["down"] += len(box.work)
                self._cell.reply(id_, box.work, request)

    def _requested(self, name: str, content: bytes, request: str) -> bytes | None:
        """Answer a device; runs in a thread of the cell's. Nothing that a device sends may stop the server."""
        if self._over:
            return framed(BYE)
        with self._changed:
            self.wire["up"] += len(content)
            box = self._boxes.get(name)
            if box is None:
                known = ", ".join(self._boxes)
                return framed(STOP, 0, f"'{name}' is no device of this federation; those are {known}".encode())
            reply = self._next(box, content, request) if content.startswith(NEXT) else self._answered(box, content)
            self.wire["down"] += len(reply or b"")
            return reply

    def _next(self, box: _Box, content: bytes, request: str) -> bytes | None:
        """Return what a free device is to do; None where it has to wait, for `_post` to answer its request."""
        try:
            state = json.loads(content[len(NEXT) :])
            version, key = str(state["version"]), str(state["key"])
        except (ValueError, KeyError, TypeError):
            return framed(STOP, 0, b"the server cannot read this; install the same mlecs-bench")
        if version != __version__:
            text = f"the device runs mlecs-bench {version}, the server {__version__}; install the same"
            box.answer = REFUSAL, Refusal("usage", text).to_bytes()
            self._changed.notify_all()
            return framed(STOP, 0, text.encode())
        if key != self._key:
            return framed(ORDER, 0, self._order)
        if box.work and box.answer is None:
            return box.work
        box.open_request = request
        return None

    def _answered(self, box: _Box, content: bytes) -> bytes:
        """Take in an answer to what was last asked for; any other is of a round that is over."""
        _, number, rest = unframed(content.removeprefix(ANSWER))
        if number == box.number and box.answer is None:
            word, _, body = unframed(rest)
            box.answer = (word, body) if len(body) <= MOST_BYTES else too_large(len(body))
            self._changed.notify_all()
        return framed(TAKEN)

    def close(self) -> None:
        """Tell the devices that the run is over, each when it asks next or is asking now."""
        with self._changed:
            if self._over:
                return
            self._over = True
            for id_, box in self._boxes.items():
                if box.open_request is not None:
                    self._cell.reply(id_, framed(BYE), box.open_request)


def too_large(size: int) -> Packet:
    """Return what takes the place of an answer that is not looked at."""
    text = f"an answer of {size:,} bytes was refused; the most is {MOST_BYTES:,}"
    return REFUSAL, Refusal("message", text).to_bytes()


def checked_reply(id_: str, packet: Packet) -> Reply | Refusal:
    """Return the reply in a packet of a device that is not trusted: a refusal in its place unless it is one, finite."""
    try:
        reply = reply_in(packet)
        if isinstance(reply, Refusal):
            return reply
        _check_numbers(reply)
        return replace(reply, upload=reply.upload.copied())
    except MessageError as error:
        return Refusal.of(type(error)(f"the reply of {id_} was refused: {error}"))


def _check_numbers(reply: Reply) -> None:
    """Raise MessageError for a reply whose numbers are none, or not finite."""
    values = [score.get("value") if isinstance(score, dict) else None for score in (reply.scores or {}).values()]
    values += [*reply.losses.values(), *(reply.seconds.get(name) for name in ("training", "evaluation"))]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise MessageError("its scores, losses or seconds are not finite numbers")
    if not all(isinstance(steps, int) and steps >= 0 for steps in reply.steps.values()):
        raise MessageError("its steps are not whole numbers")


def _greeting_in(id_: str, packet: Packet) -> Greeting:
    """Return the greeting of a device; raises what it refuses with, or MessageError."""
    word, body = packet
    if word == REFUSAL:
        error = Refusal.from_bytes(body).error()
        raise type(error)(f"{id_}: {error}")
    try:
        return greetings_from_json(body.decode())[id_]
    except (ValueError, KeyError, TypeError) as error:
        raise MessageError(f"{id_} does not greet as a device does ({type(error).__name__})") from error


@dataclass(frozen=True)
class Network:
    """What a user writes behind ``nvflare:``: the server's startup kit, and the address to listen at, if said."""

    kit: Path
    bind: str = "0.0.0.0"  # noqa: S104  # devices come from outside, as with NVFlare's own server

    @classmethod
    def of(cls, text: str) -> Network:
        """Read ``KIT`` or ``KIT,bind=ADDRESS``; raises UsageError."""
        folder, _, rest = text.partition(",")
        name, equals, address = rest.partition("=")
        if not folder or (rest and (name != "bind" or not equals or not address)):
            raise UsageError(
                "--fleet nvflare takes the folder of the server's startup kit, such as nvflare:kits/server or "
                f"nvflare:kits/server,bind=127.0.0.1, got '{text}'"
            )
        kit = Path(folder).expanduser()
        return cls(kit, address) if address else cls(kit)


def check_argument(text: str) -> None:
    """Raise UsageError unless NVFlare is installed and `text` names the server's startup kit."""
    network = Network.of(text)
    check_installed("--fleet nvflare")
    read_kit(network.kit, server=True)


def check_installed(what: str) -> None:
    """Raise UsageError unless NVFlare is installed; `what` needs it."""
    from importlib.util import find_spec

    if find_spec("nvflare") is None:
        raise UsageError(f"{what} needs NVFlare: pip install 'mlecs-bench[nvflare]'")


def _nvflare(request: FleetRequest) -> Fleet:
    network = Network.of(request.argument)
    kit = read_kit(network.kit, server=True)
    return NvflareFleet(request.recipe, kit, network.bind, request.tell, request.round_timeout)


FLEET = FleetInfo(
    title="Devices on other people's machines",
    summary="Each device a process of its owner's that connects with an NVFlare startup kit, nvflare:KIT; mutual TLS.",
    make=_nvflare,
    argument="text",
    check_argument=check_argument,
)
