"""Fleets that a correct algorithm cannot tell from one in the same process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mlecs_bench.federation.turns import Ask, Refusal, Reply

if TYPE_CHECKING:
    from mlecs_bench.federation.host import DeviceHost, Greeting


class ReversedFleet:
    """Devices take their turns in reverse."""

    def __init__(self, host: DeviceHost) -> None:
        self._host = host

    def hello(self, after: int) -> Mapping[str, Greeting]:
        """Return the greetings of all devices."""
        return self._host.hello(after)

    def exchange(self, asks: Mapping[str, Ask]) -> Iterator[tuple[str, Reply | Refusal]]:
        """Yield the replies from the last device to the first."""
        for id_ in reversed(list(asks)):
            yield id_, self._host.turn(id_, asks[id_])

    def close(self) -> None:
        """Nothing is open."""


class BytesFleet(ReversedFleet):
    """Asks and replies travel as bytes, every ask twice."""

    def exchange(self, asks: Mapping[str, Ask]) -> Iterator[tuple[str, Reply | Refusal]]:
        """Yield the replies to repeated asks."""
        for id_, ask in asks.items():
            self._host.turn(id_, Ask.from_bytes(ask.to_bytes()))
            again = self._host.turn(id_, Ask.from_bytes(ask.to_bytes()))
            yield id_, Reply.from_bytes(again.to_bytes())
