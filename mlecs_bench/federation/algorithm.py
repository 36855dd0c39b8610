"""What an algorithm is: four functions around the messages of a round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mlecs_bench.federation.device import Device
    from mlecs_bench.federation.messages import Message
    from mlecs_bench.federation.server import Server


class Algorithm(Protocol):
    """One federated algorithm: four functions around the messages of a round t = 1..T.

    The object holds options only; all state lives on the parties. Round t is broadcast → receive → local_update →
    aggregate for all devices; after round T one last broadcast → receive (t = T + 1).
    """

    def broadcast(self, server: Server, t: int) -> Mapping[str, Message]:
        """Cloud: what goes down in round t, by device id. A device without an entry gets an empty message."""
        ...

    def receive(self, device: Device, message: Message, t: int) -> None:
        """Device: take in what came down."""
        ...

    def local_update(self, device: Device, t: int) -> Message:
        """Device: train; return what goes up."""
        ...

    def aggregate(self, server: Server, uploads: Mapping[str, Message], t: int) -> None:
        """Cloud: merge the uploads (by device id) and train."""
        ...
