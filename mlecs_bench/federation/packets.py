"""The device side of a fleet elsewhere: packets in, packets out. A packet is a word and some bytes.

"hello" with a round is answered with greetings, "turn" with a device and an ask with a "reply", and both with a
"refusal" where something is wrong.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import torch

from mlecs_bench.errors import MessageError, MlecsError
from mlecs_bench.federation.fleet import greetings_json
from mlecs_bench.federation.host import DeviceHost
from mlecs_bench.federation.turns import Ask, DeviceMissing, Refusal, Reply
from mlecs_bench.models.memory import memory_ran_out

HELLO, TURN, REPLY, REFUSAL = "hello", "turn", "reply", "refusal"
Packet = tuple[str, bytes]


def hello_packet(after: int) -> Packet:
    """Return the packet that greets devices after a round."""
    return HELLO, str(after).encode()


def turn_packet(id_: str, ask: Ask) -> Packet:
    """Return the packet that asks a device for its turn."""
    return TURN, id_.encode() + b"\n" + ask.to_bytes()


def read_turn(body: bytes) -> tuple[str, Ask]:
    """Read what `turn_packet` wrote; raises MessageError on anything else."""
    id_, _, ask = body.partition(b"\n")
    return id_.decode(errors="replace"), Ask.from_bytes(ask)


def reply_in(packet: Packet) -> Reply | Refusal:
    """Return what a packet answers a turn with; raises MessageError for anything else."""
    word, body = packet
    return Reply.from_bytes(body) if word == REPLY else Refusal.from_bytes(body)


def answer_in(packet: Packet) -> Reply | Refusal:
    """Return what a packet answers a turn with; a refusal for one that is no answer."""
    try:
        return reply_in(packet)
    except MessageError as error:
        return Refusal.of(error)


class Owing(Protocol):
    """Some devices in one place, of which `owed` have still to reply in this round."""

    owed: deque[str]


def late(groups: Iterable[Owing], asks: Mapping[str, Ask], seconds: float | None) -> Iterator[tuple[str, Refusal]]:
    """Give up on what is still owed after so many seconds: those devices are missing from the round."""
    for group in groups:
        for id_ in drained(group.owed):
            text = f"{id_} gave no reply in round {asks[id_].round} within {seconds:g} s"
            yield id_, Refusal.of(DeviceMissing(text))


def drained(owed: deque[str]) -> Iterator[str]:
    """Yield what is owed until nothing is."""
    while owed:
        yield owed.popleft()


class Service:
    """Answers packets for devices that `build` puts together when the first packet comes. Never raises."""

    def __init__(self, build: Callable[[], DeviceHost]) -> None:
        self._build = build
        self._host: DeviceHost | None = None

    def answer(self, word: str, body: bytes) -> Packet:
        """Return the answer to a packet; what goes wrong is a refusal, of a defect with its traceback."""
        try:
            return self._answer(word, body)
        except MlecsError as error:
            return REFUSAL, Refusal.of(error).to_bytes()
        except torch.OutOfMemoryError as error:
            return REFUSAL, Refusal.of(memory_ran_out(error)).to_bytes()
        except Exception:  # noqa: BLE001  # a defect must reach the cell it happened in; the traceback is kept
            return REFUSAL, Refusal("defect", traceback.format_exc()).to_bytes()

    def _answer(self, word: str, body: bytes) -> Packet:
        if self._host is None:
            self._host = self._build()
        if word == HELLO:
            return HELLO, greetings_json(self._host.hello(int(body))).encode()
        if word == TURN:
            return REPLY, self._host.turn(*read_turn(body)).to_bytes()
        raise MessageError(f"'{word[:20]}' is no packet for devices")
