"""What a run transmitted, summed from the ledger, with the two shares that the tables print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlecs_bench.federation.ledger import Direction, Ledger
from mlecs_bench.federation.messages import SCALAR_KIND

BOOKKEEPING_KINDS = (SCALAR_KIND, "ids")
"""Counted in `full` but not in `one_way`: a handful of integers, not model parameters or representations."""
ONE_WAY_RATIO = (
    "tensors of every kind counted one way (the larger of up and down), without sample ids and scalars, "
    "per device and round, over the parameters of that device's language model"
)
FULL_RATIO = (
    "everything sent in both directions, per device and round, over the parameters of that device's language model"
)


def communication(ledger: Ledger, rounds: int, device_params: Mapping[str, int]) -> dict[str, Any]:
    """Return the record's `comm` block. `device_params`: parameters of every device's backbone, without adapters.

    Totals are over the whole run, the broadcast after the last round included; the shares divide what a device sent
    by its own model, and average over rounds and devices.
    """
    directions: tuple[Direction, Direction] = ("down", "up")
    entries = []
    for kind in ledger.kinds():
        for direction in directions:
            rows = [e for e in ledger.entries if e.kind == kind and e.direction == direction]
            if rows:
                params, size = sum(e.params for e in rows), sum(e.bytes for e in rows)
                entries.append(
                    {"direction": direction, "kind": kind, "params": params, "bytes": size, "messages": len(rows)}
                )
    sent = {id_: ledger.total(device=id_)[0] for id_ in device_params}
    one_way = {id_: _one_way(ledger, id_) for id_ in device_params}
    return {
        "entries": entries,
        "rounds": rounds,
        "n_devices": len(device_params),
        "device_params": dict(device_params),
        "ratios": {
            "one_way": {"value": _share(one_way, device_params) / rounds, "definition": ONE_WAY_RATIO},
            "full": {"value": _share(sent, device_params) / rounds, "definition": FULL_RATIO},
        },
        "by_round": _by_round(ledger),
    }


def _one_way(ledger: Ledger, device: str) -> int:
    directions: tuple[Direction, Direction] = ("down", "up")
    kinds = (kind for kind in ledger.kinds() if kind not in BOOKKEEPING_KINDS)
    return sum(max(ledger.total(device=device, kind=kind, direction=d)[0] for d in directions) for kind in kinds)


def _share(sent: Mapping[str, int], params: Mapping[str, int]) -> float:
    """Return the mean over devices of what a device sent per parameter of its model."""
    return sum(sent[id_] / params[id_] for id_ in params) / len(params)


def _by_round(ledger: Ledger) -> list[dict[str, int]]:
    rows = []
    for t in sorted({e.round for e in ledger.entries}):
        up, down = ledger.total(round=t, direction="up"), ledger.total(round=t, direction="down")
        rows.append({"round": t, "up_params": up[0], "down_params": down[0], "up_bytes": up[1], "down_bytes": down[1]})
    return rows
