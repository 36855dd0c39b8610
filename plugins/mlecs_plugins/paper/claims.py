"""The paper's claims beside what a setting measured in their place, judged by rules that no measured number enters.

Devices' scores are judged at both points of evaluation, after local_update of the last round and after the last
broadcast, and a claim counts only if it holds at both: it is "reproduced" if it is at both, "not reproduced" if it is
not at one of them, else "undecided". Percentages are differences of means over the common seeds in per cent of the
baseline's mean. The candidate stands in for ML-ECS. A claim is made for every data of its dataset.

Gains (sections 4.2 and 4.5) are judged by their sign; their size, which depends on models and data, is only shown.
A claim is a family of paired comparisons over seeds, one for every gain that its percentages are the range or the mean
of: at each rate, over each baseline, in each metric and statistic, or in the mean of average, best and worst device
where the paper prints the mean of the three. Holm's correction is over the comparisons of the claim. It is
"reproduced" if all are better, "not reproduced" if at least one is worse, else "undecided"; a tie is neither. Beside
the verdict stands how the same gains look over the control, which has the same data and steps and sends nothing, and
for MMA how many seeds are informative; neither enters the verdict.

The drop with more devices (section 4.4) is judged by its size: "reproduced" if the 95 % interval of the difference lies
within ±0.005 of the printed drop, else "not reproduced" if it excludes it, else "undecided".

What is sent (section 4.3) has no spread: a number is "reproduced" if it rounds to the printed one with the digits
printed, that ML-ECS sends least if every other algorithm that the paper names sends more, else "not reproduced". Both
follow from the sizes of the models, so on tiny backbones they are "undecided".

A claim that lacks records of anything it speaks of is "undecided", whatever the others show.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from mlecs_bench.api import (
    ABSENT,
    BOTH_POINTS,
    MARGIN,
    Claim,
    Difference,
    EvalPoint,
    Setting,
    Stat,
    paired_difference,
)
from mlecs_plugins.paper import printed as paper
from mlecs_plugins.paper.judged import (
    ClaimVerdict,
    by_point,
    judged_at_all,
    judged_by_sign,
    judged_by_size,
    tally,
    verdicts_of,
)
from mlecs_plugins.paper.masks import informative_text, is_by_modalities
from mlecs_plugins.paper.measured import SHOWN_IN, Measured, Need, Said, measured_of
from mlecs_plugins.paper.printed import ML_ECS, RANK_NOTE, SHARE_NOTE, Drop, Gain, GainPart, percent_more

METRIC_NAMES = {"bertscore": "BERTScore", "rouge_lsum": "Rouge-LSum", "f1_macro": "F1 (macro)"}
WHOSE: Mapping[tuple[Stat, ...], str] = {("server",): " of the server", ("avg",): " of devices"}
RANKED = "fedilora"
"""The algorithm whose volume `RANK_NOTE` explains."""
TINY = "follows from the sizes of the models, which are tiny here; 'mlecs-bench comm' counts those of the paper"
NO_PERCENTAGE = "no percentage: a score that is not positive"


def claims(setting: Setting, candidate: str = ML_ECS, eval_points: tuple[EvalPoint, ...] = BOTH_POINTS) -> list[Claim]:
    """Return every claim of sections 4.2 to 4.5 on the datasets of a setting, in the paper's order.

    `candidate` is the label of the arm that stands in for ML-ECS; a claim has to hold at all `eval_points`.
    """
    measured = [measured_of(setting, data, candidate, eval_points) for data in setting.data]
    of_gains = {
        section: [
            gain_claim(one, gain)
            for gain in paper.gains()
            for one in measured
            if (gain.section, gain.dataset) == (section, one.data.name)
        ]
        for section in ("4.2", "4.5")
    }
    named = {gain.dataset for gain in paper.gains()}
    return [
        *of_gains["4.2"],
        *(claim for one in measured if one.data.name in named for claim in sending_claims(one)),
        *(drop_claim(one, drop) for drop in paper.drops() for one in measured if drop.dataset == one.data.name),
        *of_gains["4.5"],
    ]


def gain_claim(measured: Measured, gain: Gain) -> Claim:
    """Judge gains by the sign of the differences that they are made of, at every point of evaluation."""
    rates = gain.rates or tuple(measured.rates(*gain.baselines))
    parts = gain.parts(rates)
    absent = _absent(measured, [need for part in parts for need in _needs(part)], gain.metrics)
    absent = absent or ("" if rates else f"no records of {', '.join(map(measured.label, gain.baselines))}")
    said = Said(measured.where(gain.section), _gain_text(measured, gain), _paper_text(gain))
    if absent:
        return Claim(*said, ABSENT, "undecided", absent)
    at = measured.at_points(gain.stats)
    judged = {point: judged_by_sign(_differences(one, parts)) for point, one in at.items()}
    shown = by_point({point: _measured_text(one, gain, parts) for point, one in at.items()})
    result, reason = judged_at_all(judged)
    return Claim(*said, shown, result, "; ".join([reason, *_beside(measured, gain, parts)]))


def _differences(measured: Measured, parts: Iterable[GainPart]) -> dict[GainPart, Difference]:
    return {part: _difference(measured, part) for part in parts}


def _beside(measured: Measured, gain: Gain, parts: Sequence[GainPart]) -> list[str]:
    """Return what stands beside a verdict: the same gains over each control, and how many seeds show MMA at all."""
    if all("/" in baseline for baseline in gain.baselines):
        ablated = [baseline for baseline in gain.baselines if is_by_modalities(baseline)]
        return [_informative(measured, baseline, parts) for baseline in ablated]
    return [_over_control(measured, label, gain, parts) for label in measured.controls]


def _informative(measured: Measured, baseline: str, parts: Iterable[GainPart]) -> str:
    rows = {part.rho: measured.row(baseline, part.rho, paper.sizes().n_devices) for part in parts}
    return f"informative seeds: {', '.join(informative_text(rho, row) for rho, row in rows.items() if row)}"


def _over_control(measured: Measured, label: str, gain: Gain, parts: Iterable[GainPart]) -> str:
    """Return how many of the gains are there over a control, in its own family of comparisons."""
    over = list(dict.fromkeys(replace(part, baseline=label) for part in parts))
    absent = _absent(measured, [need for part in over for need in _needs(part)], gain.metrics)
    if absent:
        return f"over the control: {absent}"
    at = measured.at_points(gain.stats)
    tallies = {point: tally(verdicts_of(_differences(one, over))) for point, one in at.items()}
    return f"over the control {label}: {by_point(tallies)}"


def _needs(part: GainPart) -> list[Need]:
    n = paper.sizes().n_devices
    return [Need(algo, part.rho, n, part.metric, stat) for algo in (ML_ECS, part.baseline) for stat in part.stats]


def _absent(measured: Measured, needs: Sequence[Need], metrics: Iterable[str]) -> str:
    """Return which of the needed records are missing, "" for none."""
    unscored = [metric for metric in metrics if metric not in measured.data.metrics]
    if unscored:
        return f"no records of {', '.join(unscored)}"
    rates: dict[str, list[str]] = {}
    for need in needs:
        if measured.cell(need) is None:
            found = rates.setdefault(_absent_name(measured, need), [])
            found += [need.rho] if need.rho not in found else []
    names: dict[str, list[str]] = {}
    for name, missing in rates.items():
        names.setdefault(", ".join(missing), []).append(name)
    texts = [f"{', '.join(of)} at rho {missing}" for missing, of in names.items()]
    return f"no records of {'; '.join(texts)}" if texts else ""


def _absent_name(measured: Measured, need: Need) -> str:
    label = measured.label(need.algo)
    if measured.row(need.algo, need.rho, need.n_devices) is not None:
        return f"{'server ' if need.stat == 'server' else ''}{need.metric} of {label}"
    return label if need.n_devices == paper.sizes().n_devices else f"{label} with {need.n_devices} devices"


def _scores(measured: Measured, algo: str, part: GainPart) -> list[Mapping[int, float]]:
    """Return the scores by seed of each statistic of a part, all of which exist."""
    n = paper.sizes().n_devices
    cells = [measured.cell(Need(algo, part.rho, n, part.metric, stat)) for stat in part.stats]
    return [cell.values for cell in cells if cell is not None]


def _difference(measured: Measured, part: GainPart) -> Difference:
    """Return the paired difference to a baseline of the mean of the statistics of a part."""
    ours, theirs = (_scores(measured, algo, part) for algo in (ML_ECS, part.baseline))
    return paired_difference(_seed_means(ours), _seed_means(theirs))


def _seed_means(scores: Sequence[Mapping[int, float]]) -> dict[int, float]:
    return {seed: fmean(values[seed] for values in scores) for seed in scores[0]}


def _relative(measured: Measured, part: GainPart) -> float:
    """Return the gain over a baseline in per cent, averaged over the statistics of a part; NaN where there is none."""
    pairs = zip(_scores(measured, ML_ECS, part), _scores(measured, part.baseline, part), strict=True)
    return fmean(_percent_of_means(ours, theirs) for ours, theirs in pairs)


def _percent_of_means(ours: Mapping[int, float], theirs: Mapping[int, float]) -> float:
    seeds = sorted(ours.keys() & theirs.keys())
    than = fmean(theirs[seed] for seed in seeds) if seeds else 0.0
    return percent_more(fmean(ours[seed] for seed in seeds), than) if than > 0 else math.nan


def _gain_text(measured: Measured, gain: Gain) -> str:
    every = sorted(gain.baselines) == sorted(paper.baselines())
    over = "all baselines" if every else " and ".join(measured.label(baseline) for baseline in gain.baselines)
    whose = WHOSE.get(gain.stats, "")
    metrics = " and ".join(METRIC_NAMES[metric] for metric in gain.metrics)
    return f"gain{whose} over {over} in {metrics}{_form_text(gain)}"


def _form_text(gain: Gain) -> str:
    """Say how the percentages of a claim come from its gains."""
    if gain.form == "range":
        return ", smallest to largest"
    if gain.form == "by rate":
        of = "both baselines" if gain.stats == ("server",) else "average, best and worst device"
        return f" at rho {', '.join(gain.rates)}, mean over {of}"
    order = " nor which number is which score" if len(gain.percent) > 1 else ""
    return f"; the paper does not state the rate{order}"


def _percent_text(claim: Gain | Drop, percent: Sequence[float]) -> str:
    between = " to " if isinstance(claim, Gain) and claim.form == "range" else ", "
    return f"{between.join(f'{one:.2f}' for one in percent)} %"


def _paper_text(claim: Gain | Drop) -> str:
    """Return what the paper prints, and beside it what its tables or the authors' logs give where that differs."""
    printed = _percent_text(claim, claim.percent)
    for logs, source in ((False, f"recomputed from its {SHOWN_IN[claim.section]}"), (True, "with the authors' logs")):
        if not paper.follows(claim, logs=logs):
            return f"{printed} ({source}: {_percent_text(claim, paper.recomputed(claim, logs=logs))})"
    return printed


def _measured_text(measured: Measured, gain: Gain, parts: Sequence[GainPart]) -> str:
    found = {part: _relative(measured, part) for part in parts}
    if any(map(math.isnan, found.values())):
        return NO_PERCENTAGE
    percent = gain.percentages(found)
    if gain.form != "by score":
        return _percent_text(gain, percent)
    scores = dict.fromkeys((part.metric, part.stats) for part in parts)
    names = [f"{METRIC_NAMES[m]} of {'the server' if 'server' in stats else 'devices'}" for m, stats in scores]
    rates = dict.fromkeys(part.rho for part in parts)
    numbers = ", ".join(f"{name} {one:.2f} %" for name, one in zip(names, percent, strict=True))
    return f"{numbers} (mean over rho {', '.join(rates)})"


def drop_claim(measured: Measured, drop: Drop) -> Claim:
    """Judge the size of the drop from few to many devices."""
    sizes = paper.sizes()
    few, many = sizes.table2_devices[0], sizes.table2_devices[-1]
    metric = METRIC_NAMES[drop.metric]
    said = Said(
        measured.where(drop.section),
        f"drop of the devices' average {metric} from {few} to {many} devices, in per cent of that with {many}",
        _paper_text(drop),
    )
    needs = [Need(ML_ECS, sizes.table2_rho, n, drop.metric, "avg") for n in (few, many)]
    absent = _absent(measured, needs, [drop.metric])
    if absent:
        return Claim(*said, ABSENT, "undecided", absent)
    found = {point: _drop_at(one, needs, drop) for point, one in measured.at_points(["avg"]).items()}
    shown = by_point({point: shown for point, (shown, _) in found.items()})
    return Claim(*said, shown, *judged_at_all({point: judged for point, (_, judged) in found.items()}))


def _drop_at(measured: Measured, needs: Sequence[Need], drop: Drop) -> tuple[str, tuple[ClaimVerdict, str]]:
    """Return the drop at one point in words, and the verdict on it with the reason."""
    with_few, with_many = (cell.values for cell in map(measured.cell, needs) if cell is not None)
    difference = paired_difference(with_few, with_many)
    if difference.mean is None or difference.low is None or difference.high is None:
        return ABSENT, ("undecided", "fewer than two common seeds")
    base = fmean(with_many[seed] for seed in difference.seeds)
    if base <= 0:
        return NO_PERCENTAGE, ("undecided", f"the score with {needs[-1].n_devices} devices is not positive")
    mean, low, high = (100 * end / base for end in (difference.mean, difference.low, difference.high))
    shown = f"{mean:.2f} % (95 % interval {low:.2f} to {high:.2f} %)"
    return shown, judged_by_size((low, high), drop.percent[0], 100 * MARGIN / base)


def sending_claims(measured: Measured) -> list[Claim]:
    """Judge what the paper says of the volume that is sent."""
    says = paper.sending()
    return [
        _share_claim(measured, says.share_percent),
        *(_times_claim(measured, algo, times) for algo, times in says.times.items()),
        _least_claim(measured, says.senders),
    ]


def _share_claim(measured: Measured, printed: float) -> Claim:
    said = _said_of_sending(measured, "share of the device model's parameters that is sent", f"{printed:.2f} %")
    rates = measured.rates(ML_ECS)
    if not rates:
        return _unsent(measured, said, [ML_ECS])
    percent = 100 * measured.share(ML_ECS, rates)
    same = f"{percent:.2f}" == f"{printed:.2f}"
    reason = f"rounds to {percent:.2f} %" if same else f"rounds to {percent:.2f} %. {SHARE_NOTE}"
    return _sent(measured, said, f"{percent:.3f} %", same, reason)


def _times_claim(measured: Measured, algo: str, printed: float) -> Claim:
    said = _said_of_sending(
        measured, f"what {algo} sends, compared with {measured.candidate}", f"about {printed:.0f} times as much"
    )
    rates = measured.rates(ML_ECS, algo)
    if not rates:
        return _unsent(measured, said, [ML_ECS, algo])
    own, other = (measured.share(one, rates) for one in (ML_ECS, algo))
    times = other / own if own else math.inf
    same = f"{times:.0f}" == f"{printed:.0f}"
    reason = f"rounds to {times:.0f}" + (f". {RANK_NOTE}" if algo == RANKED and not same else "")
    return _sent(measured, said, f"{times:.2f} times as much", same, reason)


def _least_claim(measured: Measured, senders: Sequence[str]) -> Claim:
    said = _said_of_sending(measured, f"{measured.candidate} sends less than {', '.join(senders)}", "least of them")
    rates = measured.rates(ML_ECS, *senders)
    if not rates:
        return _unsent(measured, said, [ML_ECS, *senders])
    shares = {algo: measured.share(algo, rates) for algo in (ML_ECS, *senders)}
    shown = ", ".join(f"{measured.label(algo)} {100 * share:.3f} %" for algo, share in shares.items())
    no_more = [algo for algo in senders if shares[algo] <= shares[ML_ECS]]
    reason = f"not less than {', '.join(no_more)}" if no_more else f"less than all {len(senders)}"
    return _sent(measured, said, shown, not no_more, reason)


def _said_of_sending(measured: Measured, claim: str, printed: str) -> Said:
    return Said(measured.where(paper.sending().section), claim, printed)


def _unsent(measured: Measured, said: Said, algos: Sequence[str]) -> Claim:
    """Return a claim on volumes that no rate has all records for."""
    without = [measured.label(algo) for algo in algos if not measured.rates(algo)]
    together = f"at one rate of {', '.join(map(measured.label, algos))}"
    return Claim(*said, ABSENT, "undecided", f"no records {'of ' + ', '.join(without) if without else together}")


def _sent(measured: Measured, said: Said, shown: str, holds: bool, reason: str) -> Claim:
    if measured.tiny:
        return Claim(*said, shown, "undecided", TINY)
    return Claim(*said, shown, "reproduced" if holds else "not reproduced", reason)
