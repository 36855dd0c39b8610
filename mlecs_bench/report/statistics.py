"""Is one algorithm better than another: paired tests on scores by seed, Holm's correction, verdicts, overall test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal

from mlecs_bench.seeds import rng

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Verdict = Literal["better", "worse", "tied", "undecided"]
"""What the seeds say of one algorithm against another; tied: the interval lies within the margin of no difference."""

ALPHA = 0.05
"""Level of every test, and one minus the confidence of every interval."""
POWER = 0.8
"""Power at which a gain counts as detectable."""
FEW_SEEDS = 3
"""Below so many seeds nothing is said of a difference: the interval of two has one degree of freedom."""
MARGIN = 0.005
"""Differences up to this size, in the score's units, are too small to matter."""
ROUNDING = 1e-12
"""Spread and means below this share of the scores are rounding noise and count as zero."""
EXACT_UNITS = 20
"""Up to this many units all flips of the overall test are enumerated (2^20 sums are 8 MiB)."""
RANDOM_FLIPS = 100_000
"""Flips drawn by the overall test where there are too many to enumerate."""
FLIPS_AT_ONCE = 1_000
"""Random flips held in memory together."""


@dataclass(frozen=True)
class Difference:
    """Scores a minus scores b on the seeds that both have, turned so that positive means a is better.

    `n` is the number of those seeds, listed ascending in `seeds`. `mean`, `sd` (ddof = 1), the ends `low` and `high` of
    the 95 % t interval and `detectable` are in the score's units; `detectable` is the smallest true gain that n paired
    seeds with differences of this sd find with 80 % power at level 0.05. `p` is that of the two-sided paired t-test.
    `mean` is None without a common seed, all other numbers below two.

    Where all differences are equal (`sd` is 0), the interval is the point `mean`, `detectable` is 0, and `p` is the
    limit of the t-test for vanishing spread: 0, or 1 if they all are zero.
    """

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    p: float | None
    detectable: float | None
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class SignFlip:
    """Result of the overall test: its statistic, its two-sided p, and how it was found.

    `statistic` is the mean over blocks of the mean difference in units of the block's root mean square, in [-1, 1].
    `units` is the number of seeds, whose differences flip together, `flips` the number of flips evaluated, and `exact`
    whether these were all 2^units.
    """

    statistic: float
    p: float
    units: int
    flips: int
    exact: bool


def differences_by_seed(
    a: Mapping[int, float], b: Mapping[int, float], higher_is_better: bool = True
) -> dict[int, float]:
    """Return a minus b (b minus a where lower is better) on the seeds that both have, seeds ascending.

    Differences that are all equal but for rounding noise come back equal, as zeros where they are nothing else.
    Raises ValueError for a score that is not finite.
    """
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return {}
    scores = [abs(of[seed]) for of in (a, b) for seed in seeds]
    if not all(map(math.isfinite, scores)):
        raise ValueError(f"scores to compare are finite numbers, got {dict(a)} and {dict(b)}")
    found = {seed: a[seed] - b[seed] if higher_is_better else b[seed] - a[seed] for seed in seeds}
    noise = ROUNDING * max(scores)
    mean = fmean(found.values())
    if len(found) > 1 and stdev(found.values()) > noise:
        return found
    return dict.fromkeys(seeds, mean if abs(mean) > noise else 0.0)


def paired_difference(a: Mapping[int, float], b: Mapping[int, float], higher_is_better: bool = True) -> Difference:
    """Compare the scores by seed of two algorithms; a seed that only one of them has is left out.

    Raises ValueError for a score that is not finite.
    """
    by_seed = differences_by_seed(a, b, higher_is_better)
    seeds, differences = tuple(by_seed), list(by_seed.values())
    n = len(seeds)
    mean = fmean(differences) if differences else None
    effect = detectable_effect(n)
    if mean is None or effect is None:
        return Difference(n, mean, None, None, None, None, None, seeds)
    sd = stdev(differences)
    low, high = _t_ends(mean, sd, n, 1 - ALPHA)
    return Difference(n, mean, sd, low, high, _paired_p(differences, sd), effect * sd, seeds)


def _paired_p(differences: Sequence[float], sd: float) -> float:
    """Return the two-sided p of the paired t-test, which is the one-sample test of the differences against zero."""
    from scipy import stats

    if sd == 0:  # t is 0/0 or infinite, which scipy warns of
        return 0.0 if any(differences) else 1.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return the ends of Student's t interval of the mean; None below two values, the mean twice if all are equal."""
    if len(values) < 2:
        return None
    sd = stdev(values)
    noise = ROUNDING * max(map(abs, values))
    return _t_ends(fmean(values), sd if sd > noise else 0.0, len(values), confidence)


def _t_ends(mean: float, sd: float, n: int, confidence: float) -> tuple[float, float]:
    """Return mean ± t sd / √n, with t the quantile of Student's distribution with n - 1 degrees of freedom."""
    from scipy import stats

    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd / math.sqrt(n)
    return mean - half, mean + half


@cache
def detectable_effect(n: int, alpha: float = ALPHA, power: float = POWER) -> float | None:
    """Return the smallest true mean, in sds of the differences, that a two-sided t-test on n of them finds.

    Found is a significant result of the right sign, which has probability `power`: under a true mean of δ sds, t has
    the noncentral t distribution with n - 1 degrees of freedom and noncentrality δ √n (Cohen, Statistical Power
    Analysis for the Behavioral Sciences, 1988, chapter 2). About 1.68 for n = 5; None below two differences. Raises
    ValueError unless 0 < alpha < power < 1.
    """
    from scipy import optimize, stats

    if not 0 < alpha < power < 1:
        raise ValueError(f"detectable_effect needs 0 < alpha < power < 1, got alpha {alpha} and power {power}")
    if n < 2:
        return None
    critical = stats.t.ppf(1 - alpha / 2, n - 1)

    def excess(noncentrality: float) -> float:
        return float(stats.nct.sf(critical, n - 1, noncentrality)) - power

    enough = 1.0
    while excess(enough) < 0:
        enough *= 2
    return float(optimize.brentq(excess, 0.0, enough)) / math.sqrt(n)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's step-down adjusted p-values in the given order; None stays None and counts as no test.

    The i-th smallest of m becomes the largest of (m - j + 1) p_(j) over j ≤ i, at most 1 (Holm, A Simple Sequentially
    Rejective Multiple Test Procedure, 1979). Raises ValueError for a p outside [0, 1].
    """
    tests = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for before, (p, place) in enumerate(tests):
        if not 0 <= p <= 1:
            raise ValueError(f"a p-value lies between 0 and 1, got {p}")
        largest = max(largest, min(1.0, (len(tests) - before) * p))
        adjusted[place] = largest
    return adjusted


def verdict(difference: Difference, adjusted_p: float | None, margin: float = MARGIN) -> Verdict:
    """Say what a difference shows of a against b, given its p corrected for the other tests of its family.

    "tied" when the whole interval lies within ±`margin`, ends included; it goes first, for a significant difference too
    small to matter is a tie. Else "better" or "worse" when `adjusted_p` is below 0.05, and "undecided" when it is not.
    With fewer than `FEW_SEEDS` seeds it is always "undecided".
    """
    if difference.n < FEW_SEEDS or difference.mean is None or difference.low is None or difference.high is None:
        return "undecided"
    reach = max(-difference.low, difference.high)
    if reach <= margin + ROUNDING:  # 0.505 - 0.5 is a little more than 0.005
        return "tied"
    if adjusted_p is None or not adjusted_p < ALPHA:
        return "undecided"
    return "better" if difference.mean > 0 else "worse"


def sign_flip(blocks: Mapping[str, Mapping[int, float]], seed: int = 0) -> SignFlip:
    """Test over all blocks together whether the differences are symmetric about zero (no algorithm is better).

    `blocks` maps the name of a block (for example "vast, rho 0.5") to its differences by seed, as `differences_by_seed`
    gives them. All differences of one seed are a unit and flip together, whatever the dataset and the rate: partition,
    masks, initial weights and batch order follow from the seed alone. Dividing every block by its root mean square,
    which no flip changes, lets metrics of different scale count alike; a block of zeros contributes zero, a block
    without differences does not count.

    The two-sided p is the share of flips whose statistic is at least as far from zero as the observed one. Up to
    20 units all 2^units flips are evaluated, so p is at least 2 / 2^units: five seeds cannot show less than 0.0625.
    Beyond that 100,000 are drawn from a stream of `seed`, and p is (count + 1) / (flips + 1) (Phipson and Smyth,
    Permutation P-values Should Never Be Zero, 2010). Without any difference the statistic is 0 and p is 1.
    """
    import numpy as np

    shares = np.array(list(_seed_shares(blocks).values()))
    units = len(shares)
    observed = float(shares.sum())
    # Flips that tie with the observed one may differ from it in the order of summation.
    least = abs(observed) - ROUNDING * float(np.abs(shares).sum())
    if units <= EXACT_UNITS:
        count = int(np.count_nonzero(np.abs(_all_flips(shares)) >= least))
        return SignFlip(observed, count / 2**units, units, 2**units, exact=True)
    generator = rng(seed, "report", "sign-flip")
    count = 0
    for _ in range(RANDOM_FLIPS // FLIPS_AT_ONCE):
        signs = generator.choice((-1.0, 1.0), size=(FLIPS_AT_ONCE, units))
        count += int(np.count_nonzero(np.abs(signs @ shares) >= least))
    return SignFlip(observed, (count + 1) / (RANDOM_FLIPS + 1), units, RANDOM_FLIPS, exact=False)


def _seed_shares(blocks: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """Return what each seed adds to the statistic, which is linear in the signs of the seeds."""
    shares: dict[int, float] = {}
    filled = [by_seed for by_seed in blocks.values() if by_seed]
    for by_seed in filled:
        n = len(by_seed)
        root_mean_square = math.hypot(*by_seed.values()) / math.sqrt(n)
        for seed, difference in by_seed.items():
            scaled = difference / root_mean_square if root_mean_square else 0.0
            shares[seed] = shares.get(seed, 0.0) + scaled / (n * len(filled))
    return shares


def _all_flips(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the statistic of all 2^k choices of signs for k shares."""
    import numpy as np

    sums = np.zeros(1)
    for share in shares:
        sums = np.concatenate((sums + share, sums - share))
    return sums
