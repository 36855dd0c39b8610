"""The ledger: everything that was transmitted between the server and its devices, counted as it travels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from mlecs_bench.federation.messages import SCALAR_KIND, Message, kind_of

Direction = Literal["down", "up"]
"""Which way a message goes: from the server to a device (down), or from a device to the server (up)."""
SCALAR_BYTES = 8


@dataclass(frozen=True)
class Transfer:
    """One kind of one message: parameters are tensor elements (or scalars), bytes their payload."""

    round: int
    device: str
    direction: Direction
    kind: str
    params: int
    bytes: int


class Ledger:
    """All that was transmitted, one `Transfer` per message and kind; each transfer is counted once."""

    def __init__(self, entries: Iterable[Transfer] = ()) -> None:
        self.entries = list(entries)

    def record(self, message: Message, device: str, direction: Direction, round_: int) -> None:
        """Count `message`."""
        params: dict[str, int] = {}
        size: dict[str, int] = {}
        for name, tensor in message.tensors.items():
            kind = kind_of(name)
            params[kind] = params.get(kind, 0) + tensor.numel()
            size[kind] = size.get(kind, 0) + tensor.numel() * tensor.element_size()
        if message.scalars:
            count = len(message.scalars)
            params[SCALAR_KIND] = params.get(SCALAR_KIND, 0) + count
            size[SCALAR_KIND] = size.get(SCALAR_KIND, 0) + count * SCALAR_BYTES
        self.entries += [Transfer(round_, device, direction, kind, params[kind], size[kind]) for kind in sorted(params)]

    def total(self, **where: str | int) -> tuple[int, int]:
        """Return (parameters, bytes) over the entries whose fields equal `where`."""
        rows = [e for e in self.entries if all(getattr(e, key) == value for key, value in where.items())]
        return sum(e.params for e in rows), sum(e.bytes for e in rows)

    def kinds(self) -> list[str]:
        """Return the kinds that were sent, sorted."""
        return sorted({e.kind for e in self.entries})

    def to_json(self) -> list[dict[str, str | int]]:
        """Return the entries as JSON values."""
        return [asdict(e) for e in self.entries]

    @classmethod
    def from_json(cls, rows: Iterable[Mapping[str, object]]) -> Ledger:
        """Read what `to_json` wrote."""
        return cls(Transfer(**row) for row in rows)  # type: ignore[arg-type]  # rows come from to_json
