"""Candidate against baselines: which rows are paired, corrected as one family, and tested over all blocks together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from mlecs_bench.report.arrange import Arm, Data, Place, Setting
from mlecs_bench.report.frame import BOTH_POINTS, SERVER, EvalPoint, Row, Stat
from mlecs_bench.report.statistics import (
    Difference,
    SignFlip,
    Verdict,
    differences_by_seed,
    holm,
    paired_difference,
    sign_flip,
    verdict,
)
from mlecs_bench.report.table import Content, Number, NumberKind

DIFFERENCE_COLUMNS = (
    ("difference",),
    ("verdict",),
    ("corrected p",),
    ("detectable",),
    ("95 % interval", "low"),
    ("95 % interval", "high"),
    ("in %",),
    ("n",),
    ("p",),
)
"""What tables show of a comparison at one point of evaluation."""
AT_ALL = ("holds at both",)
"""The heading of the verdict that holds at both points, where a table shows both."""


@dataclass(frozen=True)
class Comparison:
    """One score of a candidate against that of a baseline, paired by seed; positive means the candidate is better.

    `by_seed` are the differences and `difference` what follows from them. `adjusted_p` and `verdict` hold within the
    family that the comparison was corrected in; before, they are None and "undecided". `relative` is the mean
    difference in per cent of the baseline's mean over the common seeds, None where that is not positive or there is no
    common seed.
    """

    candidate: Arm
    baseline: Arm
    data: Data
    rho: str
    n_devices: int
    metric: str
    stat: Stat
    eval_point: EvalPoint
    difference: Difference
    by_seed: Mapping[int, float]
    adjusted_p: float | None
    verdict: Verdict
    relative: float | None
    candidate_row: Row = field(repr=False)
    baseline_row: Row = field(repr=False)

    @property
    def records(self) -> tuple[str, ...]:
        """The keys of the records behind it: both rows' of the common seeds."""
        both = [record for row in (self.candidate_row, self.baseline_row) for record in row.records]
        return tuple(record["key"] for record in both if record["identity"]["seed"] in self.by_seed)

    def scores(self) -> tuple[Mapping[int, float], ...]:
        """Return the scores of both rows by seed, the candidate's first."""
        cells = [row.cell(self.eval_point, self.metric, self.stat) for row in (self.candidate_row, self.baseline_row)]
        return tuple({} if cell is None else cell.values for cell in cells)

    @property
    def block(self) -> str:
        """What the overall test knows it by: unlike for every pair of rows and every score."""
        return " ".join((self.candidate_row.group, self.baseline_row.group, self.metric, self.stat, self.eval_point))


def compare_rows(
    candidate: tuple[Place, Row], baseline: tuple[Place, Row], metric: str, stat: Stat, eval_point: EvalPoint
) -> Comparison | None:
    """Compare one score of two rows, as yet uncorrected; None where one of them has no such score."""
    place, row = candidate
    other, baseline_row = baseline
    ours, theirs = row.cell(eval_point, metric, stat), baseline_row.cell(eval_point, metric, stat)
    if ours is None or theirs is None:
        return None
    higher = row.directions[metric]
    difference = paired_difference(ours.values, theirs.values, higher)
    return Comparison(
        candidate=place.arm,
        baseline=other.arm,
        data=place.data,
        rho=place.rho,
        n_devices=place.n_devices,
        metric=metric,
        stat=stat,
        eval_point=eval_point,
        difference=difference,
        by_seed=differences_by_seed(ours.values, theirs.values, higher),
        adjusted_p=None,
        verdict="undecided",
        relative=_relative(difference, theirs.values),
        candidate_row=row,
        baseline_row=baseline_row,
    )


def _relative(difference: Difference, baseline: Mapping[int, float]) -> float | None:
    if difference.mean is None:
        return None
    mean = fmean(baseline[seed] for seed in difference.seeds)
    return 100 * difference.mean / mean if mean > 0 else None


@dataclass(frozen=True)
class AtPoints:
    """One comparison at every point of evaluation, in their order; a single one where it is the same at all of them."""

    at: tuple[Comparison, ...]
    same: bool = False

    @property
    def first(self) -> Comparison:
        """The comparison at the first point."""
        return self.at[0]

    @property
    def verdict(self) -> Verdict:
        """What holds at every point: their verdict if they agree, else "undecided"."""
        found = {one.verdict for one in self.at}
        return next(iter(found)) if len(found) == 1 else "undecided"

    def scored(self, one: Comparison) -> str:
        """Return when one of them is scored, as tables say it: nothing for a server, which has one point."""
        if one.stat == SERVER:
            return ""
        return "both" if self.same else one.eval_point


def at_points(by_point: Sequence[Sequence[Comparison]]) -> list[AtPoints]:
    """Return comparisons, corrected point by point, with those of the same rows and score together."""
    found: dict[str, list[Comparison]] = {}
    for one in (one for comparisons in by_point for one in comparisons):
        found.setdefault(replace(one, eval_point=BOTH_POINTS[0]).block, []).append(one)
    return [_once(tuple(members)) for members in found.values()]


def _once(at: tuple[Comparison, ...]) -> AtPoints:
    same = len(at) > 1 and all(one.scores() == at[0].scores() and one.adjusted_p == at[0].adjusted_p for one in at)
    return AtPoints(at[:1] if same else at, same)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons as one family: p adjusted by Holm for all of them, and the verdicts that follow."""
    adjusted = holm([c.difference.p for c in comparisons])
    return [
        replace(c, adjusted_p=p, verdict=verdict(c.difference, p)) for c, p in zip(comparisons, adjusted, strict=True)
    ]


def families(  # noqa: PLR0913, PLR0917  # as of `family`
    setting: Setting,
    candidate: Arm,
    metric: str,
    stat: Stat,
    data: Data,
    n_devices: int,
    eval_points: Sequence[EvalPoint],
    baselines: Sequence[Arm] | None = None,
) -> list[AtPoints]:
    """Return the family of every point of evaluation, corrected by itself, since a claim has to hold at all of them."""
    return at_points(
        [family(setting, candidate, metric, stat, data, n_devices, point, baselines) for point in eval_points]
    )


def family(  # noqa: PLR0913, PLR0917  # what tells one family from another, and what it is of
    setting: Setting,
    candidate: Arm,
    metric: str,
    stat: Stat,
    data: Data,
    n_devices: int,
    eval_point: EvalPoint = "local",
    baselines: Sequence[Arm] | None = None,
) -> list[Comparison]:
    """Compare the candidate with every baseline at every rate where both are scored, corrected for just these.

    The baselines default to the other algorithms with their usual options, ablations left out, and to all controls.
    """
    if baselines is None:
        baselines = [arm for arm in setting.arms if _is_baseline(arm, candidate)]
    found = []
    for arm in baselines:
        for rho in setting.rates():
            places = (Place(candidate, data, rho, n_devices), Place(arm, data, rho, n_devices))
            if all(place in setting.rows for place in places):
                ours, theirs = ((place, setting.rows[place]) for place in places)
                found.append(compare_rows(ours, theirs, metric, stat, eval_point))
    return corrected([comparison for comparison in found if comparison is not None])


def _is_baseline(arm: Arm, candidate: Arm) -> bool:
    if arm.control:
        return arm != candidate
    return arm.label == arm.algo and not arm.is_ablation and arm.algo not in (candidate.algo, candidate.base)


def overall(comparisons: Sequence[Comparison]) -> SignFlip:
    """Test over all blocks together whether candidate and baselines are alike; all scores of one seed flip together."""
    return sign_flip({c.block: c.by_seed for c in comparisons})


def difference_contents(comparison: Comparison) -> tuple[Content | None, ...]:
    """Return what a table's line holds under `DIFFERENCE_COLUMNS`."""
    found, keys = comparison.difference, comparison.records

    def number(value: float | None, kind: NumberKind = "score", sd: float | None = None) -> Number | None:
        return None if value is None else Number(value, sd, kind=kind, records=keys)

    return (
        number(found.mean, "difference", found.sd),
        comparison.verdict,
        number(comparison.adjusted_p, "p"),
        number(found.detectable),
        number(found.low, "difference"),
        number(found.high, "difference"),
        number(comparison.relative, "signed percent"),
        number(found.n, "count"),
        number(found.p, "p"),
    )
