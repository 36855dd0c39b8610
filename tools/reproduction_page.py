"""Fill the tables of docs/reproduction.md from the records of results: python -m tools.reproduction_page [--check].

The page is written by hand, but for what stands between two comments:

    <!-- scores results/embedded training.budget=equal -->
    <!-- end -->

The first word is what to show (`BLOCKS`), the second a folder of records; `path=value` picks the records by parts of
their identity. Nothing else on the page may hold a score, so that no number can be of other records than these.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mlecs_bench.doors.registry import Registry
from mlecs_bench.plan.study import NAMED, STUDY_FILE, read_study
from mlecs_bench.records.results import read_folder
from mlecs_bench.report.arrange import Arm, Data, Setting, arrange
from mlecs_bench.report.comparisons import AtPoints, Comparison, families
from mlecs_bench.report.frame import BOTH_POINTS, SERVER, EvalPoint, Row, SeedMean, Stat, build_rows, flatten
from mlecs_bench.report.installed import known_cards
from mlecs_bench.report.statistics import Difference, Verdict, detectable_effect

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reproduction.md"
BLOCK = re.compile(r"(<!-- (?P<order>[a-z].*?) -->\n).*?(<!-- end -->)", re.DOTALL)
CANDIDATE = "ml-ecs"
DIFFERENCES = (
    *("rate", "ML-ECS less", "scored", "local", "received"),
    *("holds at both", "found from", "seeds that would tell"),
)
FOUND: tuple[Verdict, ...] = ("better", "worse", "tied", "undecided")
MANY_SEEDS = 1000
"""Where more seeds than these would be needed, their number says nothing."""


@dataclass(frozen=True)
class Order:
    """What a comment asks for: the kind of block, the folder, and what picks its records."""

    block: str
    folder: str
    picks: Mapping[str, str]

    @classmethod
    def read(cls, text: str) -> Order:
        """Read the text of a comment; raises ValueError for one that asks for no block."""
        block, folder, *picks = text.split()
        if block not in BLOCKS:
            raise ValueError(f"'{block}' is no block of the page; there are {', '.join(BLOCKS)}")
        return cls(block, folder, dict(pick.split("=", 1) for pick in picks))


def filled(page: str) -> str:
    """Return the page with all its blocks made anew."""

    def block(match: re.Match[str]) -> str:
        order = Order.read(match["order"])
        return f"{match[1]}{BLOCKS[order.block](order)}\n{match[3]}"

    return BLOCK.sub(block, page)


@cache
def _records(folder: str) -> tuple[dict[str, Any], ...]:
    found = read_folder(ROOT / folder)
    if found.problems:
        raise ValueError(f"{folder}: {found.problems[0]}")
    return tuple(found.records)


def _picked(order: Order) -> list[dict[str, Any]]:
    """Return the records that an order picks; raises ValueError for none."""
    records = [record for record in _records(order.folder) if _fits(record["identity"], order.picks)]
    if not records:
        raise ValueError(f"{order.folder} has no record with {dict(order.picks)}")
    return records


def _fits(identity: Mapping[str, Any], picks: Mapping[str, str]) -> bool:
    flat = flatten(dict(identity))
    return all(flat.get(path, "none").strip('"') == value for path, value in picks.items())


def _settings(order: Order) -> list[Setting]:
    records = _picked(order)
    return arrange(build_rows(records), CANDIDATE, known_cards(records, Registry.installed()))


def _setting(order: Order) -> Setting:
    """Return the one setting that an order picks; raises ValueError for several."""
    found = _settings(order)
    if len(found) > 1:
        raise ValueError(f"{order} picks several settings: {'; '.join(setting.label for setting in found)}")
    return found[0]


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


# What there is


def cells(order: Order) -> str:
    """Return how many cells of a study have records, of how many, and by which commits."""
    records = _records(order.folder)
    asked = _cells_asked(ROOT / order.folder / STUDY_FILE)
    commits = Counter(record["provenance"]["git"]["commit"][:10] for record in records)
    dirty = sum(bool(record["provenance"]["git"]["dirty"]) for record in records)
    if dirty:
        raise ValueError(f"{order.folder}: {dirty} records were made from a checkout with changes")
    made = " and ".join(f"`{commit}`" for commit in commits)
    return f"{len(records)} of {asked} cells have records, made at commit {made}."


def _cells_asked(path: Path) -> int:
    """Return how many cells a study asks for, wherever its data and models lie: any folder will do to count them."""
    anywhere = {plain or braced: "/elsewhere" for plain, braced in NAMED.findall(path.read_text(encoding="utf-8"))}
    with patch.dict(os.environ, anywhere):
        return sum(len(spec.seeds) for spec in read_study(path).specs())


# Scores


def scores(order: Order) -> str:
    """Return the scores of a setting: an algorithm and rate a line, mean ± sd over seeds."""
    setting = _setting(order)
    lines = []
    for place, row in _in_order(setting):
        metric = place.data.headline
        shown = [row.cell(point, metric, "avg") for point in BOTH_POINTS]
        server = row.cell(BOTH_POINTS[-1], metric, SERVER)
        where = [place.rho, str(place.n_devices), place.arm.label]
        lines.append([*where, *map(_score, [*shown, server]), str(len(row.seeds))])
    return _table(["rate", "devices", "", "devices, local", "devices, received", "server", "seeds"], lines)


def _in_order(setting: Setting) -> Iterator[tuple[Any, Row]]:
    """Yield places and rows by rate and number of devices; algorithms stay in the order of tables."""
    yield from sorted(setting.rows.items(), key=lambda item: (float(item[0].rho), item[0].n_devices))


def _score(cell: SeedMean | None) -> str:
    if cell is None:
        return "-"
    return f"{cell.mean:.3f}" + (f" ± {cell.sd:.3f}" if cell.sd is not None else "")


# Differences


def against(order: Order) -> str:
    """Return how the candidate differs from all that is no ablation of it, with what holds at both points."""
    return _differences(_setting(order), None)


def ablations(order: Order) -> str:
    """Return how the candidate differs from itself without a part, and with the transfer summed."""
    setting = _setting(order)
    arms = [arm for arm in setting.arms if arm.base == CANDIDATE and arm.label != CANDIDATE]
    return _differences(setting, arms)


def _differences(setting: Setting, others: Sequence[Arm] | None) -> str:
    lines = []
    for pairs in (_family(setting, data, stat, others) for data in setting.data for stat in ("avg", SERVER)):
        lines += [_line(one) for one in pairs]
    return _table(DIFFERENCES, lines)


def _family(setting: Setting, data: Data, stat: Stat, others: Sequence[Arm] | None) -> list[AtPoints]:
    candidate = next(arm for arm in setting.arms if arm.label == CANDIDATE)
    points = BOTH_POINTS if stat == "avg" else BOTH_POINTS[-1:]
    n = setting.usual_devices()
    return families(setting, candidate, data.headline, stat, data, n, points, others)


def _line(pair: AtPoints) -> list[str]:
    first = pair.first
    by_point = {one.eval_point: one for one in pair.at}
    of_devices = first.stat != SERVER
    points = BOTH_POINTS if of_devices else BOTH_POINTS[-1:]
    shown = [_difference(_at(pair, by_point, point)) for point in points]
    found = max((one.difference.detectable or math.inf for one in pair.at), default=math.inf)
    needed = max((seeds_needed(one.difference) for one in pair.at), key=lambda n: n or math.inf)
    name = first.baseline.label
    return [
        first.rho,
        name,
        "devices" if of_devices else "server",
        *([] if of_devices else [""]),
        *shown,
        f"**{pair.verdict}**" if pair.verdict in ("better", "worse") else pair.verdict,
        f"{found:.3f}",
        f"over {MANY_SEEDS}" if needed is None else str(needed),
    ]


def _at(pair: AtPoints, by_point: Mapping[EvalPoint, Comparison], point: EvalPoint) -> Comparison:
    return by_point.get(point, pair.first)


def _difference(comparison: Comparison) -> str:
    found = comparison.difference
    if found.mean is None or found.low is None or found.high is None:
        return "-"
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def seeds_needed(difference: Difference) -> int | None:
    """Return how many seeds would find a difference of the size and spread that was measured, with 80 % power.

    Found means significant before any correction. None where it would take more than `MANY_SEEDS`, or where nothing
    was measured.
    """
    mean, sd = difference.mean, difference.sd
    if mean is None or sd is None or mean == 0:
        return None
    low, high = 2, MANY_SEEDS
    if (detectable_effect(high) or math.inf) * sd > abs(mean):
        return None
    while low < high:
        middle = (low + high) // 2
        if (detectable_effect(middle) or math.inf) * sd <= abs(mean):
            high = middle
        else:
            low = middle + 1
    return low


def verdicts(order: Order) -> str:
    """Return in one line how many comparisons of the candidate with baselines and controls came out in which way."""
    setting = _setting(order)
    texts = []
    for stat, whose in (("avg", "devices"), (SERVER, "server")):
        pairs = [pair for data in setting.data for pair in _family(setting, data, stat, None)]
        counts = Counter(pair.verdict for pair in pairs)
        shown = ", ".join(f"{counts[verdict]} {verdict}" for verdict in FOUND if counts[verdict])
        texts.append(f"{whose}: {shown} of {len(pairs)}")
    return "; ".join(texts)


BLOCKS: Mapping[str, Callable[[Order], str]] = {
    "cells": cells,
    "scores": scores,
    "against": against,
    "ablations": ablations,
    "verdicts": verdicts,
}
"""What a comment may ask for."""


def main() -> int:
    """Renew the page, or with --check say whether it is what the records give."""
    before = PAGE.read_text(encoding="utf-8")
    after = filled(before)
    if "--check" in sys.argv[1:]:
        return 0 if after == before else 1
    PAGE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
