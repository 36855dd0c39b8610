"""Controls in tables: what collaboration has to beat, how much there is to gain at all, and who gains how much of it.

A floor sees the same data and takes the same steps with nothing sent, a ceiling has all data in one place. Which rows
are controls, algorithms say themselves (`AlgorithmInfo.control`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from mlecs_bench.report.arrange import Arm, Data, Place, Setting
from mlecs_bench.report.frame import EvalPoint, Row, SeedMean, Stat
from mlecs_bench.report.statistics import FEW_SEEDS, Difference, paired_difference
from mlecs_bench.report.table import Number

NO_FLOOR = "no control row (the same data and steps, nothing sent): a gain may be nothing but more steps or data"
NO_CEILING = "no row with all data in one place: how much there is to gain at all is not known"
GAP = "gap closed"
GAP_STAT: Stat = "avg"
"""The score whose gap tables show: the average device's, in the headline metric."""

Block = tuple[str, int]
"""A rate and a number of devices."""
Rows = Mapping[Place, Row]


def floors(setting: Setting) -> list[Arm]:
    """Return the arms that see the same data and take the same steps, and send nothing."""
    return [arm for arm in setting.arms if arm.is_floor]


def control_notes(places: Iterable[Place]) -> list[str]:
    """Return which rows are controls and what for, and in one line which controls are missing, and where."""
    blocks: dict[Block, list[Arm]] = {}
    for place in places:
        blocks.setdefault((place.rho, place.n_devices), []).append(place.arm)
    found = dict.fromkeys(arm.control for arms in blocks.values() for arm in arms if arm.control)
    notes = [f"control row {control.label}: {control.says}" for control in found]
    lacking = [
        _missing(blocks, lambda arm: arm.is_floor, NO_FLOOR),
        _missing(blocks, lambda arm: arm.is_ceiling, NO_CEILING),
    ]
    missing = "; ".join(filter(None, lacking))
    return [*notes, missing] if missing else notes


def _missing(blocks: Mapping[Block, Sequence[Arm]], is_one: Callable[[Arm], bool], words: str) -> str:
    """Return what is missing, and where if some blocks have it."""
    without = [block for block, arms in blocks.items() if not any(map(is_one, arms))]
    if not without or len(without) == len(blocks):
        return words if without else ""
    return f"at {', '.join(f'rho {rho} with {n} devices' for rho, n in without)} {words}"


@dataclass(frozen=True)
class Gap:
    """How far the ceiling lies above the floor in one score, in the direction that is better.

    `floor` and `ceiling` are their scores by seed, `difference` is paired over the seeds of both.
    """

    labels: tuple[str, str]
    floor: Mapping[int, float]
    ceiling: Mapping[int, float]
    difference: Difference

    @property
    def is_real(self) -> bool:
        """Does its 95 % interval, over enough seeds, lie above zero? A share of anything less says nothing."""
        enough = self.difference.n >= FEW_SEEDS
        return enough and self.difference.low is not None and self.difference.low > 0

    def closed(self, cell: SeedMean, records: tuple[str, ...]) -> Number | None:
        """Return which share of the gap a score closes, by means over the seeds of all three; None without one."""
        seeds = [seed for seed in cell.values if seed in self.difference.seeds]
        if not self.is_real or not seeds:
            return None
        own, floor, ceiling = (fmean(of[seed] for seed in seeds) for of in (cell.values, self.floor, self.ceiling))
        if ceiling == floor:
            return None
        percent = 100 * (own - floor) / (ceiling - floor)
        return Number(percent, n=len(seeds), expected=len(cell.values), kind="signed percent", records=records)


def gap_of(rows: Rows, block: Block, data: Data, eval_point: EvalPoint) -> Gap | None:
    """Return the gap of a dataset's headline in one block; None without a floor or a ceiling that is scored."""
    own = {
        place: row
        for place, row in rows.items()
        if (place.rho, place.n_devices) == block and place.data == data and place.arm.control
        if row.cell(eval_point, data.headline, GAP_STAT) is not None
    }
    floor = next((place for place in own if place.arm.is_floor), None)
    ceiling = next((place for place in own if place.arm.is_ceiling), None)
    if floor is None or ceiling is None:
        return None
    low, high = (own[place].cells[eval_point, data.headline, GAP_STAT].values for place in (floor, ceiling))
    difference = paired_difference(high, low, own[ceiling].directions[data.headline])
    return Gap((floor.arm.label, ceiling.arm.label), low, high, difference)


def gap_note(gaps: Mapping[tuple[Block, EvalPoint], Gap], data: Data) -> str:
    """Return how large the gaps of one dataset are, and what a share of one is; gaps equal at both points once."""
    by_block: dict[Block, dict[str, list[EvalPoint]]] = {}
    for (block, point), gap in gaps.items():
        by_block.setdefault(block, {}).setdefault(_size(gap), []).append(point)
    floor, ceiling = next(iter(gaps.values())).labels
    sizes = [
        f"rho {rho}, {n} devices: " + ", ".join(_at(text, points, len(texts)) for text, points in texts.items())
        for (rho, n), texts in by_block.items()
    ]
    return (
        f"{GAP} ({data.headline} {GAP_STAT}): (score - {floor}) / ({ceiling} - {floor}), by means over common seeds; "
        f"shown where the interval of {ceiling} - {floor} lies above zero. This difference is, mean ± sd: "
        f"{'; '.join(sizes)}"
    )


def _size(gap: Gap) -> str:
    found = gap.difference
    if found.mean is None:
        return "no common seed"
    spread = f" ± {found.sd:.3f}" if found.sd is not None else ""
    return f"{found.mean:+.3f}{spread}"


def _at(text: str, points: Sequence[EvalPoint], several: int) -> str:
    return f"{text} ({', '.join(points)})" if several > 1 else text
