"""What the paper prints: Tables 1 and 2, the percentages of sections 4.2 to 4.5, and the misprints among them.

The numbers stand in `printed.json`, as printed, the columns of both tables in the order of Table 1. What the authors'
published logs of the runs of Table 2 on VAST give instead of a misprint stands there beside it.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any, Literal, NamedTuple

from mlecs_bench.api import Stat

Form = Literal["range", "by rate", "by score"]

ML_ECS = "ml-ecs"
IMPOSSIBLE = "d"
"""The mark of triples that no three devices can have."""
F1_NOTE = "The paper does not say which F1 it prints; its numbers are compared with macro F1."
RATE_NOTE = (
    "The paper does not state the rate of its Table 2, whose column N = 3 is Table 1 at rate 0.8 but for a misprint."
)
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
class Printed:
    """A score as printed, the marks of its misprints, and what the authors' logs give where that differs."""

    value: float
    misprints: tuple[str, ...] = ()
    logs: float | None = None


class Where(NamedTuple):
    """Where a score is printed."""

    table: int
    algo: str
    rho: str
    n_devices: int
    dataset: str
    metric: str
    stat: Stat


class Triple(NamedTuple):
    """The average, best and worst device of one metric in a row of Table 1."""

    algo: str
    rho: str
    dataset: str
    metric: str


@dataclass(frozen=True)
class GainPart:
    """One of the gains that the percentages of a claim are made of: over a baseline at a rate, mean over `stats`."""

    baseline: str
    rho: str
    metric: str
    stats: tuple[Stat, ...]


@dataclass(frozen=True)
class Gain:
    """Gains of ML-ECS over baselines that the paper prints in per cent of the baseline's score.

    `percent` is, by `form`, the smallest and the largest of all gains, or at each rate the mean over baselines and
    statistics, or for each metric and statistic the mean over rates. `rates` is empty where none is stated.
    """

    section: str
    dataset: str
    metrics: tuple[str, ...]
    stats: tuple[Stat, ...]
    baselines: tuple[str, ...]
    rates: tuple[str, ...]
    form: Form
    percent: tuple[float, ...]

    def parts(self, rates: Sequence[str]) -> list[GainPart]:
        """Return the gains that its percentages are made of, at `rates`."""
        groups = [self.stats] if self.form == "by rate" else [(stat,) for stat in self.stats]
        return [
            GainPart(baseline, rho, metric, stats)
            for rho in rates
            for baseline in self.baselines
            for stats in groups
            for metric in self.metrics
        ]

    def percentages(self, gains: Mapping[GainPart, float]) -> tuple[float, ...]:
        """Return what the paper prints as `percent`, from the gains of all parts in their order."""
        if self.form == "range":
            return min(gains.values()), max(gains.values())
        groups: dict[object, list[float]] = {}
        for part, gain in gains.items():
            groups.setdefault(part.rho if self.form == "by rate" else (part.metric, part.stats), []).append(gain)
        return tuple(fmean(group) for group in groups.values())


@dataclass(frozen=True)
class Drop:
    """A fall of the devices' average from few to many devices, in per cent of the score with many (section 4.4)."""

    section: str
    dataset: str
    metric: str
    percent: tuple[float, ...]


@dataclass(frozen=True)
class Sending:
    """What the paper says of the volume that is sent (section 4.3, Figure 3).

    ML-ECS sends `share_percent` of the parameters of a device's model, other algorithms `times` as much; all `senders`
    send more.
    """

    section: str
    share_percent: float
    times: Mapping[str, float]
    senders: tuple[str, ...]


@dataclass(frozen=True)
class Sizes:
    """The rates and numbers of devices of the paper's tables."""

    rates: tuple[str, ...]
    n_devices: int
    table2_rho: str
    table2_devices: tuple[int, ...]


@cache
def _data() -> dict[str, Any]:
    text = importlib.resources.files("mlecs_plugins.paper").joinpath("printed.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def printed(algo: str, dataset: str, rho: str, n_devices: int, metric: str, stat: Stat) -> Printed | None:
    """Return a score as printed, of Table 1 for three devices and of Table 2 for more; None where there is none."""
    cells = _cells()
    found = (cells.get(Where(table, algo, rho, n_devices, dataset, metric, stat)) for table in (1, 2))
    return next((cell for cell in found if cell is not None), None)


def printed_in_table2(dataset: str, n_devices: int, metric: str, stat: Stat) -> Printed | None:
    """Return a score as Table 2 prints it, three devices included; None where it prints none."""
    table = _data()["table2"]
    return _cells().get(Where(2, table["algo"], table["rho"], n_devices, dataset, metric, stat))


@cache
def sizes() -> Sizes:
    """Return the rates and numbers of devices of the tables."""
    one, two = _data()["table1"], _data()["table2"]
    return Sizes(tuple(one["scores"]), one["n_devices"], two["rho"], tuple(map(int, two["scores"])))


@cache
def baselines() -> tuple[str, ...]:
    """Return the algorithms of Table 1 other than ML-ECS."""
    rows = next(iter(_data()["table1"]["scores"].values()))
    return tuple(algo for algo in rows if algo != ML_ECS)


@cache
def methods() -> dict[str, str]:
    """Return what Table 1 and Figure 4 call algorithms, by their names here; those of the table in its order."""
    return dict(_data()["methods"])


@cache
def titles() -> dict[str, str]:
    """Return what Table 1 calls datasets, by their names here."""
    return dict(_data()["titles"])


@cache
def columns() -> tuple[tuple[str, str, Stat], ...]:
    """Return the dataset, the metric and the statistic of every column of Table 1, from left to right."""
    return tuple((dataset, metric, stat) for dataset, metric, stat in _data()["columns"])


@cache
def datasets() -> tuple[str, ...]:
    """Return the datasets of Table 1, from left to right."""
    return tuple(dict.fromkeys(dataset for dataset, _, _ in columns()))


@cache
def _cells() -> dict[Where, Printed]:
    values = dict(_values())
    misprints: dict[Where, tuple[list[str], float | None]] = {}
    for mark, place, logs in _misprinted():
        marks, before = misprints.get(place, ([], None))
        misprints[place] = ([*marks, mark], before if logs is None else logs)
    return {
        place: Printed(value, tuple(misprints[place][0]), misprints[place][1]) if place in misprints else Printed(value)
        for place, value in values.items()
    }


def _values() -> Iterator[tuple[Where, float]]:
    """Yield the printed scores of both tables."""
    one, two = _data()["table1"], _data()["table2"]
    rows = [
        (1, algo, rho, one["n_devices"], scores) for rho, rows in one["scores"].items() for algo, scores in rows.items()
    ]
    rows += [(2, two["algo"], two["rho"], int(n), scores) for n, scores in two["scores"].items()]
    for *where, scores in rows:
        for column, score in zip(_data()["columns"], scores, strict=True):
            if score is not None:
                yield Where(*where, *column), score


def _misprinted() -> Iterator[tuple[str, Where, float | None]]:
    """Yield the mark of every misprinted score, its place, and what the logs give where they give it."""
    two = _data()["table2"]
    for misprint in _data()["errata"]:
        for cell in misprint.get("cells", ()):
            for table in cell["tables"]:
                place = Where(table, two["algo"], two["rho"], cell["n_devices"], *cell["column"])
                yield misprint["mark"], place, cell["logs"]
    for algo, rho, dataset, metric in impossible_triples():
        for stat in ("avg", "best", "worst"):
            yield IMPOSSIBLE, Where(1, algo, rho, sizes().n_devices, dataset, metric, stat), None


@cache
def impossible_triples() -> tuple[Triple, ...]:
    """Return the triples of Table 1 that three devices cannot have, whatever was rounded.

    The device in the middle has 3 average - best - worst, in every seed and so in their mean, and lies between worst
    and best. Rounding each of the three by half a unit moves its distance to either by 6 halves, so more than 3 units
    of the third digit are too much.
    """
    values = dict(_values())
    found = []
    for place, score in values.items():
        if (place.table, place.stat) == (1, "avg"):
            best, worst = (values[place._replace(stat=stat)] for stat in ("best", "worst"))
            a, b, w = (round(1000 * value) for value in (score, best, worst))
            middle = 3 * a - b - w
            if max(middle - b, w - middle) > 3:
                found.append(Triple(place.algo, place.rho, place.dataset, place.metric))
    return tuple(found)


@cache
def errata() -> dict[str, str]:
    """Return a sentence on every misprint by its mark."""
    return {misprint["mark"]: misprint["says"] for misprint in _data()["errata"]}


def erratum(mark: str) -> str:
    """Return the sentence on one misprint."""
    return errata()[mark]


@cache
def gains() -> tuple[Gain, ...]:
    """Return the gains that sections 4.2 and 4.5 print."""
    return tuple(Gain(**_with_tuples(entry)) for entry in _data()["gains"])


@cache
def drops() -> tuple[Drop, ...]:
    """Return the falls from 3 to 20 devices that section 4.4 prints."""
    return tuple(Drop(**_with_tuples(entry)) for entry in _data()["drops"])


@cache
def sending() -> Sending:
    """Return what section 4.3 says of the volume that is sent."""
    return Sending(**_with_tuples(_data()["traffic"]))


def _with_tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}


def recomputed(claim: Gain | Drop, *, logs: bool = False) -> tuple[float, ...]:
    """Return the percentages of a claim by the printed tables, with `logs` by what the authors' logs put right in them.

    Empty for what is published as a picture only (section 4.5).
    """
    if isinstance(claim, Drop):
        devices = sizes().table2_devices
        found = [printed_in_table2(claim.dataset, n, claim.metric, "avg") for n in (devices[0], devices[-1])]
        few, many = (_score(cell, logs) for cell in found)
        return (percent_more(few, many),)
    if not claim.rates:
        return ()
    return claim.percentages({part: _printed_gain(claim.dataset, part, logs) for part in claim.parts(claim.rates)})


def _printed_gain(dataset: str, part: GainPart, logs: bool) -> float:
    n = sizes().n_devices
    pairs = [
        [printed(algo, dataset, part.rho, n, part.metric, stat) for algo in (ML_ECS, part.baseline)]
        for stat in part.stats
    ]
    return fmean(percent_more(_score(ours, logs), _score(theirs, logs)) for ours, theirs in pairs)


def _score(cell: Printed | None, logs: bool) -> float:
    if cell is None:
        raise LookupError("a claim of printed.json speaks of a score that its tables do not print")
    return cell.logs if logs and cell.logs is not None else cell.value


def percent_more(score: float, than: float) -> float:
    """Return by how much a score is above another, in per cent of the other."""
    return 100 * (score - than) / than


def follows(claim: Gain | Drop, *, logs: bool = False) -> bool:
    """Do the percentages of a claim follow from the tables? True where there is no table.

    The paper cuts the third digit off as often as it rounds it, so less than a unit of the second is no difference.
    """
    found = recomputed(claim, logs=logs)
    return all(abs(one - percent) < 0.01 for one, percent in zip(found, claim.percent, strict=False))
