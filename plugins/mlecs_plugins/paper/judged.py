"""How claims are judged: from differences at one point of evaluation to a verdict that holds at all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

from mlecs_bench.api import MARGIN, Difference, EvalPoint, Verdict, holm, verdict
from mlecs_plugins.paper.printed import GainPart

ClaimVerdict = Literal["reproduced", "not reproduced", "undecided"]


def judged_by_sign(differences: Mapping[GainPart, Difference]) -> tuple[ClaimVerdict, str]:
    """Return the verdict on gains, and the reason, from the differences of one claim."""
    verdicts = verdicts_of(differences)
    count, text = Counter(verdicts.values()), tally(verdicts)
    if count["better"] == len(verdicts):
        return "reproduced", text
    if count["worse"]:
        than = dict.fromkeys(part.baseline for part, one in verdicts.items() if one == "worse")
        return "not reproduced", f"{text} (than {', '.join(than)})"
    open_ones = [difference for part, difference in differences.items() if verdicts[part] == "undecided"]
    return "undecided", "; ".join([text, *_detectable(open_ones)])


def verdicts_of(differences: Mapping[GainPart, Difference]) -> dict[GainPart, Verdict]:
    """Return the verdict on every difference, corrected for all of them."""
    adjusted = holm([difference.p for difference in differences.values()])
    return {part: verdict(difference, p) for (part, difference), p in zip(differences.items(), adjusted, strict=True)}


def tally(verdicts: Mapping[GainPart, Verdict]) -> str:
    """Return how many comparisons are better, worse and tied."""
    count = Counter(verdicts.values())
    text = f"{count['better']} of {len(verdicts)} comparisons better, {count['worse'] or 'none'} worse"
    return text + (f", {count['tied']} tied" if count["tied"] else "")


def _detectable(undecided: Iterable[Difference]) -> list[str]:
    """Say which gain the seeds of undecided comparisons could detect, the largest of several."""
    found = [difference.detectable for difference in undecided]
    if None in found:
        return ["fewer than two common seeds"]
    return [f"these seeds could detect a gain of {max(d for d in found if d is not None):.3f}"] if found else []


def judged_by_size(interval: tuple[float, float], printed: float, margin: float) -> tuple[ClaimVerdict, str]:
    """Return the verdict on a size, and the reason; all three in per cent."""
    low, high = interval
    if max(high - printed, printed - low) <= margin:
        return "reproduced", f"the interval lies within {margin:.2f} points of {printed:.2f} %, {MARGIN:g} of the score"
    if not low <= printed <= high:
        return "not reproduced", f"the interval excludes {printed:.2f} %"
    return "undecided", f"the interval holds {printed:.2f} % and reaches further from it than {MARGIN:g} of the score"


def judged_at_all(judged: Mapping[EvalPoint, tuple[ClaimVerdict, str]]) -> tuple[ClaimVerdict, str]:
    """Return the verdict that counts, from those at every point: what one of them refutes is refuted."""
    verdicts: set[ClaimVerdict] = {one for one, _ in judged.values()}
    reason = by_point({point: reason for point, (_, reason) in judged.items()})
    if len(verdicts) == 1:
        return verdicts.pop(), reason
    return "not reproduced" if "not reproduced" in verdicts else "undecided", reason


def by_point(texts: Mapping[EvalPoint, str]) -> str:
    """Return what there is to say of each point of evaluation, once where it is the same of several."""
    found = list(texts.values())
    if len(found) == 1:
        return found[0]
    if len(set(found)) == 1:
        return f"at both points {found[0]}"
    return "; ".join(f"{point}: {text}" for point, text in texts.items())
