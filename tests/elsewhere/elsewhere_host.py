"""Hosts of devices in an interpreter of their own: ``python -m elsewhere_host`` takes packets and answers each.

A packet is its length in eight bytes and its content, which begins with a word of eight bytes: "build" and JSON (a
recipe and whether to score by the loss) for a host in the place of the last one, "hello" and a round, "turn" and a
device with an ask.
"""

from __future__ import annotations

import json
import sys
from typing import BinaryIO

import torch

from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import MlecsError
from mlecs_bench.federation.fleet import build_host, greetings_json, recipe_from_json
from mlecs_bench.federation.host import DeviceHost
from mlecs_bench.federation.turns import Ask, Refusal
from mlecs_bench.testing.bits import LossEvaluator


def give(stream: BinaryIO, packet: bytes) -> None:
    """Write a packet."""
    stream.write(len(packet).to_bytes(8, "little") + packet)
    stream.flush()


def take(stream: BinaryIO) -> bytes | None:
    """Read a packet; None when the other side is gone."""
    length = stream.read(8)
    return stream.read(int.from_bytes(length, "little")) if len(length) == 8 else None


class Hosts:
    """Builds one host after the other, and passes on to the last one."""

    def __init__(self) -> None:
        self._registry = Registry.installed()
        self._host: DeviceHost | None = None

    def answer(self, packet: bytes) -> bytes:
        """Return what is said to a packet; raises MlecsError."""
        word, body = packet[:8].strip(), packet[8:]
        if word == b"build":
            values = json.loads(body)
            recipe = recipe_from_json(values["recipe"], self._registry)
            evaluator = LossEvaluator() if values["loss"] else None
            self._host = build_host(recipe, recipe.plan.device_ids, self._registry, evaluator=evaluator)
            return b"built   "
        assert self._host is not None, "build comes first"
        if word == b"hello":
            return b"greeting" + greetings_json(self._host.hello(int(body))).encode()
        id_, _, ask = body.partition(b"\n")
        return b"reply   " + self._host.turn(id_.decode(), Ask.from_bytes(ask)).to_bytes()


def main() -> None:
    """Answer packet by packet, until none comes."""
    torch.set_num_threads(1)
    incoming, outgoing = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what a plugin prints must not get in between
    hosts = Hosts()
    while (packet := take(incoming)) is not None:
        try:
            give(outgoing, hosts.answer(packet))
        except MlecsError as error:
            give(outgoing, b"refusal " + Refusal.of(error).to_bytes())


if __name__ == "__main__":
    main()
