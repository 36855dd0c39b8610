"""Fleets around fleets, which a correct algorithm cannot tell from what is within."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mlecs_bench.federation.turns import Ask, Refusal, Reply

if TYPE_CHECKING:
    from mlecs_bench.federation.fleet import Fleet
    from mlecs_bench.federation.host import Carry, Greeting


class Around:
    """A fleet that passes everything on to the one within."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def hello(self, after: int) -> Mapping[str, Greeting]:
        """Return the greetings of all devices."""
        return self._fleet.hello(after)

    def exchange(self, asks: Mapping[str, Ask]) -> Iterator[tuple[str, Reply | Refusal]]:
        """Yield what the fleet within does."""
        return self._fleet.exchange(asks)

    def close(self) -> None:
        """Close the fleet within."""
        self._fleet.close()


class ReversedFleet(Around):
    """Devices are asked in reverse."""

    def exchange(self, asks: Mapping[str, Ask]) -> Iterator[tuple[str, Reply | Refusal]]:
        """Yield the replies to asks from the last device to the first."""
        return self._fleet.exchange(dict(reversed(list(asks.items()))))


class BytesFleet(Around):
    """Asks and replies travel as bytes, every ask twice."""

    def exchange(self, asks: Mapping[str, Ask]) -> Iterator[tuple[str, Reply | Refusal]]:
        """Yield the replies to repeated asks."""
        list(self._fleet.exchange(_as_bytes(asks)))
        for id_, reply in self._fleet.exchange(_as_bytes(asks)):
            yield id_, reply if isinstance(reply, Refusal) else Reply.from_bytes(reply.to_bytes())


def _as_bytes(asks: Mapping[str, Ask]) -> dict[str, Ask]:
    """Return asks that have gone through bytes."""
    return {id_: Ask.from_bytes(ask.to_bytes()) for id_, ask in asks.items()}


class CarriedFleet(Around):
    """Uploads are carried when they arrive, as a fleet of another process cannot be told to carry them."""

    def __init__(self, fleet: Fleet, carry: Carry) -> None:
        super().__init__(fleet)
        self._carry = carry

    def exchange(self, asks: Mapping[str, Ask]) -> Iterator[tuple[str, Reply | Refusal]]:
        """Yield replies with carried uploads; after the last round there are none."""
        for id_, reply in self._fleet.exchange(asks):
            if isinstance(reply, Refusal) or asks[id_].last:
                yield id_, reply
            else:
                upload = self._carry(reply.upload, id_, "up", asks[id_].round)
                yield id_, dataclasses.replace(reply, upload=upload)
