"""Who holds which classes, and who took part: small tables of what a federation came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from mlecs_bench.report.arrange import Data, Place, Setting
from mlecs_bench.report.frame import SERVER, Row
from mlecs_bench.report.scores import record_keys
from mlecs_bench.report.table import Content, Line, Number, Table

MOST_DEVICES = 20
"""Devices that a table of classes shows; the records have all."""
EVERY = "all"
"""What the line of rounds that are the same for every algorithm is called."""


def classes_table(setting: Setting, suffix: str = "") -> Table | None:
    """Return how many training samples of each class every party has, by seed; None where no record says it."""
    found = {where: by_seed for where in _blocks(setting) if (by_seed := _classes(setting, *where))}
    if not found:
        return None
    seeds = sorted({seed for by_seed in found.values() for seed in by_seed})
    orders = {where: _labels(by_seed) for where, by_seed in found.items()}
    lines = [line for where, by_seed in found.items() for line in _class_lines(where, by_seed, orders[where], seeds)]
    named = dict.fromkeys(f"{data.label}: {' / '.join(orders[data, n])}" for data, n in found)
    more = max(n for _, n in found) - MOST_DEVICES
    return Table(
        name=f"classes{suffix}",
        title="Training samples by class",
        caption="The same for every algorithm and rate; the server's are the public ones. Classes in the order "
        f"{'; '.join(named)}.",
        left=("dataset", "devices", "party"),
        columns=tuple((f"seed {seed}",) for seed in seeds),
        lines=tuple(lines),
        notes=(f"{more} more devices stand in the records (realised.classes)",) if more > 0 else (),
        setting=setting.label,
    )


def _blocks(setting: Setting) -> list[tuple[Data, int]]:
    counts = sorted({place.n_devices for place in setting.rows})
    return [(data, n) for data in setting.data for n in counts]


def _classes(setting: Setting, data: Data, n: int) -> dict[int, Mapping[str, Mapping[str, int]]]:
    records = [
        record
        for place, row in setting.rows.items()
        if (place.data, place.n_devices) == (data, n)
        for record in row.records
    ]
    found = {int(record["identity"]["seed"]): record["realised"].get("classes") for record in records}
    return {seed: found[seed] for seed in sorted(found) if found[seed]}


def _labels(by_seed: Mapping[int, Mapping[str, Mapping[str, int]]]) -> list[str]:
    return sorted({label for parties in by_seed.values() for counts in parties.values() for label in counts})


def _class_lines(
    where: tuple[Data, int],
    by_seed: Mapping[int, Mapping[str, Mapping[str, int]]],
    labels: Sequence[str],
    seeds: Sequence[int],
) -> Iterator[Line]:
    data, n = where
    parties = sorted({party for of in by_seed.values() for party in of}, key=lambda party: (party == SERVER, party))
    devices = [party for party in parties if party != SERVER]
    for party in (*devices[:MOST_DEVICES], *(party for party in parties if party == SERVER)):
        contents = tuple(_counts(by_seed.get(seed, {}).get(party), labels) for seed in seeds)
        yield Line((data.label, str(n), party), contents, group=f"{data.label}, {n} devices")


def _counts(counts: Mapping[str, int] | None, labels: Sequence[str]) -> str | None:
    return None if counts is None else " / ".join(str(counts.get(label, 0)) for label in labels)


def participation_table(setting: Setting, suffix: str = "") -> Table | None:
    """Return how many devices were asked, reported and were lost, by reason; None where all were always there."""
    rows = {place: row for place, row in setting.rows.items() if any(_rounds(record) for record in row.records)}
    if not rows:
        return None
    reasons = sorted({str(reason) for row in rows.values() for _, counts in _totals(row) for reason in counts["lost"]})
    return Table(
        name=f"participation{suffix}",
        title="Participation",
        caption="Turns of devices in all rounds of a run, mean ± sd (ddof = 1) over seeds. Asked: a device was to take "
        "part; reported: its upload arrived; lost: by reason. Repeated: further attempts at a round; skipped: rounds "
        "in which too few reported.",
        left=("dataset", "rho", "devices", "algorithm"),
        columns=(("asked",), ("reported",), *(("lost", reason) for reason in reasons), ("repeated",), ("skipped",)),
        lines=tuple(_participation_lines(rows, reasons)),
        setting=setting.label,
    )


def _rounds(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = record["realised"].get("rounds", ())
    return found


def _totals(row: Row) -> list[tuple[int, dict[str, Any]]]:
    """Return what the rounds of a run add up to, by seed."""
    found = []
    for record in row.records:
        rounds = _rounds(record)
        if rounds:
            counts = {
                "asked": sum(len(one["asked"]) for one in rounds),
                "reported": sum(len(one["reported"]) for one in rounds),
                "lost": Counter(reason for one in rounds for reason in one["lost"].values()),
                "repeated": sum(one["attempts"] - 1 for one in rounds),
                "skipped": sum(one["skipped"] for one in rounds),
            }
            found.append((int(record["identity"]["seed"]), counts))
    return found


def _participation_lines(rows: Mapping[Place, Row], reasons: Sequence[str]) -> Iterator[Line]:
    """Yield a line per algorithm, or one for all of a block where all had the same rounds."""
    blocks: dict[tuple[Data, str, int], dict[Place, Row]] = {}
    for place, row in rows.items():
        blocks.setdefault((place.data, place.rho, place.n_devices), {})[place] = row
    for (data, rho, n), members in blocks.items():
        alike = len({str(_totals(row)) for row in members.values()}) == 1
        shown = dict(list(members.items())[:1]) if alike else members
        for place, row in shown.items():
            label = EVERY if alike else place.arm.label
            contents = _participation_contents(row, reasons)
            yield Line((data.label, rho, str(n), label), contents, group=f"{data.label}, rho {rho}, {n} devices")


def _participation_contents(row: Row, reasons: Sequence[str]) -> tuple[Content | None, ...]:
    totals = _totals(row)
    keys = record_keys(row, [seed for seed, _ in totals])

    def number(values: Sequence[float]) -> Number:
        sd = stdev(values) if len(values) > 1 else None
        return Number(fmean(values), sd, n=len(values), expected=len(values), kind="quantity", records=keys)

    lost = [number([counts["lost"][reason] for _, counts in totals]) for reason in reasons]
    asked, reported, repeated, skipped = (
        number([counts[what] for _, counts in totals]) for what in ("asked", "reported", "repeated", "skipped")
    )
    return (asked, reported, *lost, repeated, skipped)
