"""What claims look up in a setting: the rows of one data by label, rate and number of devices, and their scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple

from mlecs_bench.api import BOTH_POINTS, Data, EvalPoint, Row, SeedMean, Setting, Stat, floors
from mlecs_plugins.paper import printed as paper
from mlecs_plugins.paper.printed import ML_ECS

SHOWN_IN = {"4.2": "Table 1", "4.3": "Figure 3", "4.4": "Table 2", "4.5": "Figure 4"}
SHARE = "one_way"
"""The share of `Traffic.shares` that counts as the paper does."""


class Need(NamedTuple):
    """A score that a claim speaks of, by the algorithm's name in the paper's tables."""

    algo: str
    rho: str
    n_devices: int
    metric: str
    stat: Stat


class Said(NamedTuple):
    """A claim as a report words it: where the paper makes it, the claim, and its numbers."""

    where: str
    claim: str
    printed: str


@dataclass(frozen=True)
class Measured:
    """The rows of one data of a setting, as claims look them up: by label, rate and number of devices.

    `several` says that the setting has other data of the same dataset. `eval_points` are those at which claims are
    judged, `eval_point` is that of the devices' scores; `controls` are the labels of what has the same data and steps
    and sends nothing.
    """

    data: Data
    rows: Mapping[tuple[str, str, int], Row]
    candidate: str
    tiny: bool
    several: bool
    eval_points: tuple[EvalPoint, ...]
    controls: tuple[str, ...] = ()
    eval_point: EvalPoint = BOTH_POINTS[0]

    def at_points(self, stats: Iterable[Stat]) -> dict[EvalPoint, Measured]:
        """Return it at every point at which these scores are taken: a server's are taken once."""
        points = self.eval_points if set(stats) != {"server"} else self.eval_points[:1]
        return {point: replace(self, eval_point=point) for point in points}

    def label(self, algo: str) -> str:
        """Return the label of an algorithm of the paper: the candidate's for ML-ECS, also in front of an ablation."""
        base, slash, part = algo.partition("/")
        return f"{self.candidate if base == ML_ECS else base}{slash}{part}"

    def row(self, algo: str, rho: str, n_devices: int) -> Row | None:
        """Return a row by the algorithm's name in the paper."""
        return self.rows.get((self.label(algo), rho, n_devices))

    def cell(self, need: Need) -> SeedMean | None:
        """Return a score, or None where there is none."""
        row = self.row(need.algo, need.rho, need.n_devices)
        return None if row is None else row.cell(self.eval_point, need.metric, need.stat)

    def rates(self, *algos: str) -> list[str]:
        """Return the rates at which all of `algos` have rows with as many devices as Table 1."""
        n = paper.sizes().n_devices
        rates = dict.fromkeys(rho for _, rho, _ in self.rows)
        return sorted(rho for rho in rates if all(self.row(algo, rho, n) for algo in algos))

    def share(self, algo: str, rates: Iterable[str]) -> float:
        """Return what an algorithm sends, as a share of the device's model, averaged over rates."""
        rows = [self.row(algo, rho, paper.sizes().n_devices) for rho in rates]
        return fmean(row.traffic.shares[SHARE][0] for row in rows if row is not None)

    def where(self, section: str) -> str:
        """Return where the paper makes a claim, and for which data it is judged where that is not clear."""
        place = f"section {section}, {SHOWN_IN[section]}"
        return f"{place}; {self.data.label}" if self.several or section == paper.sending().section else place


def measured_of(setting: Setting, data: Data, candidate: str, eval_points: tuple[EvalPoint, ...]) -> Measured:
    """Return the rows of one data of a setting, at the first of the points of evaluation."""
    rows = {(p.arm.label, p.rho, p.n_devices): row for p, row in setting.rows.items() if p.data == data}
    several = sum(other.name == data.name for other in setting.data) > 1
    controls = tuple(arm.label for arm in floors(setting))
    return Measured(data, rows, candidate, setting.tiny, several, eval_points, controls, eval_points[0])
