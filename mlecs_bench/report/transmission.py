"""What algorithms transmit, as tables and bars: the content of the paper's Figure 3, from `comm` blocks alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlecs_bench.report.paper import ML_ECS, sending

BAR_WIDTH = 40
BYTES = {"fp32": 4, "bf16": 2}
SHARE_NOTE = (
    "The paper's 0.65 % is what one obtains with 2,420 fused representations (here the training part of the public "
    "samples is sent) and 720 M parameters (the name it prints for a model of 774 M)."
)
RANK_NOTE = (
    "The paper's seven times for FediLoRA does not follow from one way of counting: at rank 24 its adapters are three "
    "times those of rank 8."
)
PAPER_NOTES = (
    SHARE_NOTE,
    RANK_NOTE,
    "Encoders are those of this harness, which sit behind frozen towers; the paper's are not specified.",
)


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


def transmission_text(rows: Sequence[Counted]) -> str:
    """Return both tables, the bars and the definitions as Markdown."""
    parts = [_summary_table(rows), _kinds_table(rows), _bars(rows), "\n".join(_notes(rows))]
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


def _summary_table(rows: Sequence[Counted]) -> str:
    headers = ["algorithm", "devices", "rank", "down", "up", *(f"MB {name}" for name in BYTES)]
    headers += ["share (paper)", "share (full)", "x ml-ecs", "paper says"]
    body = []
    for row in rows:
        both = row.sent("down") + row.sent("up")
        body.append(
            [
                row.algo,
                str(row.n_devices),
                row.rank,
                f"{row.sent('down'):,.0f}",
                f"{row.sent('up'):,.0f}",
                *(f"{both * size / 1e6:,.1f}" for size in BYTES.values()),
                f"{100 * row.share('paper'):.3f} %",
                f"{100 * row.share('full'):.3f} %",
                _times(row, rows),
                _paper_says(row.algo),
            ]
        )
    return _table(headers, body, ["left"] + ["right"] * (len(headers) - 1))


def _kinds_table(rows: Sequence[Counted]) -> str:
    body = [
        [row.algo, str(row.n_devices), row.rank, kind, f"{row.sent('down', kind):,.0f}", f"{row.sent('up', kind):,.0f}"]
        for row in rows
        for kind in row.kinds
    ]
    if not body:
        return ""
    return _table(["algorithm", "devices", "rank", "kind", "down", "up"], body, ["left"] + ["right"] * 5)


def _table(headers: Sequence[str], body: Sequence[Sequence[str]], align: Sequence[str]) -> str:
    from tabulate import tabulate

    return tabulate(body, headers=headers, tablefmt="github", disable_numparse=True, colalign=align)


def _reference(row: Counted, rows: Sequence[Counted]) -> Counted | None:
    """Return ML-ECS with as many devices and the smallest rank that was counted: 8 in the paper's comparison."""
    peers = [other for other in rows if other.algo == "ml-ecs" and other.n_devices == row.n_devices]
    return min(peers, key=lambda other: other.share("paper"), default=None)


def _times(row: Counted, rows: Sequence[Counted]) -> str:
    reference = _reference(row, rows)
    if reference is None or not reference.share("paper"):
        return "-"
    return f"{row.share('paper') / reference.share('paper'):.2f}"


def _paper_says(algo: str) -> str:
    says = sending()
    if algo == ML_ECS:
        return f"{says.share_percent:.2f} %"
    return f"about {says.times[algo]:g}x" if algo in says.times else "-"


def _bars(rows: Sequence[Counted]) -> str:
    """Return the `paper` shares as bars of one scale, in a block of fixed width."""
    largest = max((row.share("paper") for row in rows), default=0.0)
    if not largest:
        return ""
    names = [f"{row.algo}, N={row.n_devices}, r={row.rank}" for row in rows]
    width = max(map(len, names))
    lines = [
        f"{name:{width}}  {'#' * round(BAR_WIDTH * row.share('paper') / largest):{BAR_WIDTH}}  "
        f"{100 * row.share('paper'):.3f} %"
        for name, row in zip(names, rows, strict=True)
    ]
    return "\n".join(["```", "share (paper) of the device's language model, per device and round", *lines, "```"])


def _notes(rows: Sequence[Counted]) -> list[str]:
    from mlecs_bench.federation.communication import BOOKKEEPING_KINDS

    sizes = sorted({size for row in rows for size in row.comm["device_params"].values()})
    rounds = sorted({int(row.comm["rounds"]) for row in rows})
    notes = [
        f"down, up: parameters per device and round, over {' or '.join(map(str, rounds))} rounds and the broadcast "
        f"that follows; without {' and '.join(BOOKKEEPING_KINDS)}. MB: both directions, 10^6 bytes.",
        f"The device's language model has {' or '.join(f'{size:,}' for size in sizes)} parameters.",
    ]
    if any(row.algo == "ml-ecs" for row in rows):
        notes.append("x ml-ecs: share (paper) over that of ml-ecs with as many devices and the smallest rank here.")
    definitions = {name: ratio["definition"] for row in rows for name, ratio in row.comm["ratios"].items()}
    notes += [f"share ({name}): {text}." for name, text in definitions.items()]
    if any(_paper_says(row.algo) != "-" for row in rows):
        notes += PAPER_NOTES
    return [f"- {note}" for note in notes]
