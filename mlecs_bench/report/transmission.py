"""What algorithms transmit, from `comm` blocks alone: tables, bars and definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlecs_bench.report.drawings import ONE_WAY
from mlecs_bench.report.markdown import table_text
from mlecs_bench.report.scores import share_name
from mlecs_bench.report.table import Content, Line, Number, Table

if TYPE_CHECKING:
    from mlecs_bench.doors.hookspecs import StudyInfo

BAR_WIDTH = 40
BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Counted:
    """One algorithm counted in one setting: its name and the `comm` block, with `ranks`, of that run."""

    algo: str
    comm: Mapping[str, Any]

    @property
    def n_devices(self) -> int:
        """N."""
        return int(self.comm["n_devices"])

    @property
    def rank(self) -> str:
        """The LoRA ranks of the devices that occur."""
        return ",".join(str(rank) for rank in sorted(set(self.comm["ranks"].values())))

    @property
    def labels(self) -> tuple[str, str, str]:
        """What a table's line calls it."""
        return (self.algo, str(self.n_devices), self.rank)

    def share(self, name: str) -> float:
        """Return a share of the device model's parameters, as a fraction."""
        return float(self.comm["ratios"][name]["value"])

    def sent(self, direction: str, kind: str | None = None) -> float:
        """Return parameters per device and round, of one kind or of all that are no bookkeeping."""
        from mlecs_bench.federation.communication import BOOKKEEPING_KINDS

        total = sum(
            entry["params"]
            for entry in self.comm["entries"]
            if entry["direction"] == direction
            and (entry["kind"] == kind if kind else entry["kind"] not in BOOKKEEPING_KINDS)
        )
        return float(total) / self.n_devices / int(self.comm["rounds"])

    @property
    def kinds(self) -> list[str]:
        """The kinds that it sends."""
        return sorted({entry["kind"] for entry in self.comm["entries"]})


def transmission_text(rows: Sequence[Counted], study: StudyInfo | None = None) -> str:
    """Return tables, bars and definitions for the terminal; what a study says of volumes stands beside them."""
    tables = [_summary_table(rows, study), _kinds_table(rows)]
    parts = [*(table_text(table).strip() for table in tables if table.lines), _bars(rows)]
    return "\n\n".join(part for part in parts if part)


def transmission_json(rows: Sequence[Counted]) -> list[dict[str, Any]]:
    """Return the rows as JSON values: parameters per device and round, by direction and kind, and the shares."""
    return [
        {
            "algo": row.algo,
            "n_devices": row.n_devices,
            "ranks": dict(row.comm["ranks"]),
            "device_params": dict(row.comm["device_params"]),
            "params_per_device_and_round": {
                direction: {kind: row.sent(direction, kind) for kind in row.kinds} for direction in ("down", "up")
            },
            "shares": {name: row.share(name) for name in row.comm["ratios"]},
            "comm": dict(row.comm),
        }
        for row in rows
    ]


def _summary_table(rows: Sequence[Counted], study: StudyInfo | None) -> Table:
    shares = list(dict.fromkeys(name for row in rows for name in row.comm["ratios"]))
    sizes = [f"MB {name}" for name in BYTES]
    beside = [f"x {study.candidate}", f"{study.title} says"] if study else []
    return Table(
        name="transmitted",
        title="Transmitted per device and round",
        caption="",
        left=("algorithm", "devices", "rank"),
        columns=tuple((name,) for name in ("down", "up", *sizes, *map(share_name, shares), *beside)),
        lines=tuple(
            Line(row.labels, (*_amounts(row, shares), *(_beside(row, rows, study) if study else ()))) for row in rows
        ),
        notes=tuple(_notes(rows, study)),
    )


def _amounts(row: Counted, shares: Sequence[str]) -> list[Content]:
    both = row.sent("down") + row.sent("up")
    return [
        Number(row.sent("down"), kind="count"),
        Number(row.sent("up"), kind="count"),
        *(f"{both * size / 1e6:,.1f}" for size in BYTES.values()),
        *(f"{100 * row.share(name):.3f} %" for name in shares),
    ]


def _kinds_table(rows: Sequence[Counted]) -> Table:
    lines = [
        Line((*row.labels, kind), tuple(Number(row.sent(way, kind), kind="count") for way in ("down", "up")))
        for row in rows
        for kind in row.kinds
    ]
    return Table("kinds", "By kind", "", ("algorithm", "devices", "rank", "kind"), (("down",), ("up",)), tuple(lines))


def _beside(row: Counted, rows: Sequence[Counted], study: StudyInfo) -> list[Content | None]:
    """Return how much more is sent than by the study's candidate with as many devices, and what the study says."""
    peers = [other for other in rows if other.algo == study.candidate and other.n_devices == row.n_devices]
    least = min((other.share(ONE_WAY) for other in peers), default=0.0)
    return [f"{row.share(ONE_WAY) / least:.2f}" if least else None, study.sent.get(row.algo)]


def _bars(rows: Sequence[Counted]) -> str:
    """Return the shares one way as bars of one scale, in a block of fixed width."""
    largest = max((row.share(ONE_WAY) for row in rows), default=0.0)
    if not largest:
        return ""
    names = [f"{row.algo}, N={row.n_devices}, r={row.rank}" for row in rows]
    width = max(map(len, names))
    lines = [
        f"{name:{width}}  {'#' * round(BAR_WIDTH * row.share(ONE_WAY) / largest):{BAR_WIDTH}}  "
        f"{100 * row.share(ONE_WAY):.3f} %"
        for name, row in zip(names, rows, strict=True)
    ]
    title = f"{share_name(ONE_WAY)} of the device's language model, per device and round"
    return "\n".join(["```", title, *lines, "```"])


def _notes(rows: Sequence[Counted], study: StudyInfo | None) -> list[str]:
    from mlecs_bench.federation.communication import BOOKKEEPING_KINDS

    sizes = sorted({size for row in rows for size in row.comm["device_params"].values()})
    rounds = sorted({int(row.comm["rounds"]) for row in rows})
    notes = [
        f"down, up: parameters per device and round, over {' or '.join(map(str, rounds))} rounds and the broadcast "
        f"that follows; without {' and '.join(BOOKKEEPING_KINDS)}. MB: both directions, 10^6 bytes.",
        f"The device's language model has {' or '.join(f'{size:,}' for size in sizes)} parameters.",
    ]
    definitions = {name: ratio["definition"] for row in rows for name, ratio in row.comm["ratios"].items()}
    notes += [f"{share_name(name)}: {text}." for name, text in definitions.items()]
    if study and any(row.algo == study.candidate for row in rows):
        notes.append(
            f"x {study.candidate}: {share_name(ONE_WAY)} over that of {study.candidate} with as many devices and the "
            "smallest rank here."
        )
    if study and any(row.algo in study.sent for row in rows):
        notes += study.sent_notes
    return notes
