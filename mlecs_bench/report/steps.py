"""What the steps did: the losses and other quantities that algorithms log in every round, and how often they act."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from mlecs_bench.report.arrange import Setting
from mlecs_bench.report.frame import SERVER, Row, honest_sentence
from mlecs_bench.report.scores import record_keys
from mlecs_bench.report.table import Line, Number, NumberKind, Table

COLUMNS = (("mean",), ("least",), ("most",), ("rounds",), ("not zero",))
CAPTION = (
    "Quantities that the algorithms log, once per device and round or, of the server, per round; over all rates, "
    "numbers of devices, seeds and rounds. A stage's name alone is the mean of its whole loss, STAGE/TERM that of one "
    "of its terms. Rounds: how many device-rounds or rounds logged it; not zero: in how many of these it was not 0."
)


@dataclass(frozen=True)
class Logged:
    """All values that one kind of party logged under one name."""

    party: str
    quantity: str
    values: tuple[float, ...]


def steps_table(setting: Setting, suffix: str = "") -> Table | None:
    """Return for each algorithm and dataset what its rounds logged; None where no record holds any log."""
    lines = [
        Line((data.label, arm.label, one.party, one.quantity), _contents(one, rows), group=f"{data.label}, {arm.label}")
        for data in setting.data
        for arm in setting.arms
        for rows in [[row for place, row in setting.rows.items() if (place.arm, place.data) == (arm, data)]]
        for one in logged(rows)
    ]
    if not lines:
        return None
    return Table(
        name=f"steps{suffix}",
        title="Logged quantities",
        caption=CAPTION,
        left=("dataset", "algorithm", "party", "quantity"),
        columns=COLUMNS,
        lines=tuple(lines),
        honest=honest_sentence(list(setting.rows.values())),
        setting=setting.label,
    )


def logged(rows: Sequence[Row]) -> list[Logged]:
    """Return what devices and server logged in all rounds of some rows, each name in the order it first occurs."""
    found: dict[tuple[str, str], list[float]] = {}
    for party, quantity, value in _logs(rows):
        found.setdefault((party, quantity), []).append(value)
    ordered = sorted(found, key=lambda key: key[0] == SERVER)
    return [Logged(party, quantity, tuple(found[party, quantity])) for party, quantity in ordered]


def _logs(rows: Sequence[Row]) -> Iterator[tuple[str, str, float]]:
    for row in rows:
        for record in row.records:
            for entry in record["metrics"]["rounds"]:
                for id_, logs in entry.get("losses", {}).items():
                    party = SERVER if id_ == SERVER else "devices"
                    yield from ((party, name, float(value)) for name, value in logs.items())


def _contents(one: Logged, rows: Sequence[Row]) -> tuple[Number, ...]:
    keys = tuple(key for row in rows for key in record_keys(row))
    values = one.values
    shown: list[tuple[float, NumberKind]] = [
        (fmean(values), "quantity"),
        (min(values), "quantity"),
        (max(values), "quantity"),
        (len(values), "count"),
        (sum(value != 0 for value in values), "count"),
    ]
    return tuple(Number(value, n=len(keys), expected=len(keys), kind=kind, records=keys) for value, kind in shown)
