"""Hold the records of results/regime against the criteria of a regime that may judge collaboration.

`python -m tools.regime [FOLDER]` prints a Markdown table, a line a criterion, and exits with 1 when one is not met and
not known to be unmet (`KNOWN`). results/regime/criteria.md is what it prints.
A regime is the stand-in of VAST and the budget of profile mini. Only rows that send nothing were run to fix it, on
seeds that no study uses; every difference is one of runs of one seed, and sd is that of these differences (ddof 1).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlecs_plugins.datasets.vast.words import REDUNDANCY, SLOT_NAMES

FOLDER = Path(__file__).resolve().parents[1] / "results" / "regime"
METRIC = "rouge_lsum"
N_SEEDS = 5
RATES = (0.5, 0.7, 0.8)
MANY, MANY_RATE = 10, 0.5
"""A larger federation, at one rate: whether there is more to share among more devices."""
GAIN_SD, MODALITY_SD, FAR_SD, DATA_SD = 5.0, 2.0, 5.0, 2.0
SECONDS = 4 * 60.0
"""What five seeds of one algorithm may take on two cores."""

MASKS = "what a device gains by the others' data follows how many of its modalities they hold, which the seed draws"
KNOWN: Mapping[str, str] = {f"(a) centralised above standalone with public data, rho {rate}:": MASKS for rate in RATES}
"""Criteria that this regime does not meet, by how their names begin, and why."""

BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Criterion:
    """One criterion: what it asks for, what was found, and whether it is met."""

    name: str
    found: str
    met: bool

    @property
    def why_not(self) -> str:
        """Why it is known not to be met, "" for one that is met or ought to be."""
        known = (why for start, why in KNOWN.items() if self.name.startswith(start))
        return "" if self.met else next(known, "")


@dataclass(frozen=True)
class Record:
    """A record of the study, as its file holds it."""

    values: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.values["identity"]["seed"])

    @property
    def row(self) -> str:
        """Which row it belongs to: standalone, public or centralised."""
        algo = self.values["identity"]["algo"]
        return "public" if algo["options"].get("use_public") else str(algo["name"])

    @property
    def rho(self) -> Mapping[str, float]:
        """The rate of every modality."""
        rates: Mapping[str, float] = self.values["identity"]["rho"]
        return rates

    @property
    def n_devices(self) -> int:
        """How many devices the federation has."""
        return int(self.values["identity"]["n_devices"])

    @property
    def training(self) -> Mapping[str, Any]:
        """The settings of the training."""
        settings: Mapping[str, Any] = self.values["identity"]["training"]
        return settings

    @property
    def score(self) -> float:
        """The mean over devices after the last broadcast."""
        return _mean(self.values["metrics"]["client"]["received"][METRIC])

    def score_in(self, t: int) -> float:
        """The mean over devices after training in round t, which was scored."""
        rounds = self.values["metrics"]["rounds"]
        found = next(entry for entry in rounds if entry["round"] == t)
        return _mean(found["client"][METRIC])

    def reference(self, name: str) -> float:
        """What a trivial reference scores, as a mean over devices."""
        return _mean(self.values["metrics"]["references"][name]["client"][METRIC])


def _mean(by_device: Mapping[str, Any]) -> float:
    return float(np.mean([score["value"] for score in by_device.values()]))


def read_records(folder: Path) -> list[Record]:
    """Return the records in `folder`/records."""
    return [Record(json.loads(path.read_text())) for path in sorted((folder / "records").glob("*.json"))]


def criteria(records: Sequence[Record]) -> list[Criterion]:
    """Return all criteria; raises ValueError when a run is missing."""
    if not records:
        raise ValueError("no records; run the study first")
    many = [record for record in records if record.n_devices == MANY]
    records = [record for record in records if record.n_devices != MANY]
    usual = _usual(records)
    return [
        *(_something_to_share(usual, rate) for rate in RATES),
        _something_to_share(many, MANY_RATE, among=f", {MANY} devices"),
        *_every_modality_counts(usual),
        _redundancy(),
        *(_plateau(usual, rate) for rate in RATES),
        *(_references_far_below(usual, rate) for rate in RATES),
        *_data_limited(records, usual),
        _time(usual),
    ]


def _usual(records: Sequence[Record]) -> list[Record]:
    """Return the records with the profile's own limits and steps, which are those of nearly all."""
    kinds = [(r.training["private_limit"], r.training["steps"]) for r in records]
    common = max(set(kinds), key=kinds.count)
    return [record for record, kind in zip(records, kinds, strict=True) if kind == common]


def _pick(records: Sequence[Record], row: str, rho: Mapping[str, float] | float) -> list[Record]:
    def fits(record: Record) -> bool:
        wanted = rho if isinstance(rho, Mapping) else dict.fromkeys(record.rho, rho)
        return record.row == row and record.rho == wanted

    found = sorted((record for record in records if fits(record)), key=lambda record: record.seed)
    if not found:
        raise ValueError(f"no record of {row} at rho {rho}; run the study first")
    return found


def _scores(records: Sequence[Record]) -> dict[int, float]:
    return {record.seed: record.score for record in records}


def _difference(one: BySeed, other: BySeed) -> tuple[float, float]:
    """Return mean and sd of the paired differences; raises ValueError when the seeds are not the same."""
    if one.keys() != other.keys():
        raise ValueError(f"runs of seeds {sorted(one)} and {sorted(other)} cannot be paired")
    differences = [one[seed] - other[seed] for seed in sorted(one)]
    return float(np.mean(differences)), float(np.std(differences, ddof=1))


def _compared(name: str, one: BySeed, other: BySeed, times: float) -> Criterion:
    mean, sd = _difference(one, other)
    found = mean / sd if sd else math.copysign(math.inf, mean)
    return Criterion(f"{name}: at least {times:g} sd", f"{mean:+.4f}, sd {sd:.4f}: {found:.1f} sd", found >= times)


def _something_to_share(usual: Sequence[Record], rate: float, among: str = "") -> Criterion:
    bound, control = (_scores(_pick(usual, row, rate)) for row in ("centralised", "public"))
    name = f"(a) centralised above standalone with public data, rho {rate}{among}"
    return _compared(name, bound, control, GAIN_SD)


def _every_modality_counts(usual: Sequence[Record]) -> list[Criterion]:
    names = sorted(usual[0].rho)
    absent = min(rate for record in usual for rate in record.rho.values())

    def of(held: frozenset[str]) -> dict[int, float]:
        return _scores(_pick(usual, "public", {m: 1 if m in held else absent for m in names}))

    found = []
    for size in range(1, len(names)):
        for held in map(frozenset, itertools.combinations(names, size)):
            for more in sorted(set(names) - held):
                name = f"(b) {more} beside {' and '.join(sorted(held))}"
                found.append(_compared(name, of(held | {more}), of(held), MODALITY_SD))
    return found


def _redundancy() -> Criterion:
    several = len(REDUNDANCY["two"]) + len(REDUNDANCY["three"])
    name = "(c) most slots are shown by two or three modalities, each leaving out and garbling others"
    return Criterion(name, f"{several} of {len(SLOT_NAMES)}", 2 * several > len(SLOT_NAMES))


def _plateau(usual: Sequence[Record], rate: float) -> Criterion:
    records = _pick(usual, "standalone", rate)
    rounds = int(records[0].training["rounds"])
    before = rounds - max(1, rounds // 5)
    gains = [record.score_in(rounds) - record.score_in(before) for record in records]
    spread = float(np.std([record.score for record in records], ddof=1))
    name = f"(d) standalone gains less in the last fifth of the rounds than its sd over seeds, rho {rate}"
    return Criterion(name, f"{np.mean(gains):+.4f}, sd {spread:.4f}", float(np.mean(gains)) < spread)


def _references_far_below(usual: Sequence[Record], rate: float) -> Criterion:
    records = _pick(usual, "standalone", rate)
    best = {r.seed: max(r.reference(name) for name in r.values["metrics"]["references"]) for r in records}
    return _compared(f"(e) standalone above the best trivial reference, rho {rate}", _scores(records), best, FAR_SD)


def _data_limited(records: Sequence[Record], usual: Sequence[Record]) -> list[Criterion]:
    own = _scores(_pick(usual, "standalone", 0.7))
    kind = usual[0].training
    others = [record for record in records if record not in usual]
    more_data = _scores(_pick([r for r in others if r.training["steps"] == kind["steps"]], "standalone", 0.7))
    same_data = [r for r in others if r.training["private_limit"] == kind["private_limit"]]
    more_steps = _scores(_pick(same_data, "standalone", 0.7))
    from_data, _ = _difference(more_data, own)
    from_steps, _ = _difference(more_steps, own)
    return [
        _compared("(f) standalone with four times the private data, rho 0.7", more_data, own, DATA_SD),
        Criterion(
            "(f) twice the steps give less than four times the data",
            f"{from_steps:+.4f} and {from_data:+.4f}",
            from_steps < from_data,
        ),
    ]


def _time(usual: Sequence[Record]) -> Criterion:
    """The slowest row at one rate: its CPU seconds over five seeds, on two cores."""
    if any(len(_pick(usual, "public", rate)) != N_SEEDS for rate in RATES):
        raise ValueError(f"a row has not {N_SEEDS} seeds; run the study to its end")
    totals = [
        sum(sum(record.values["cost"]["seconds"].values()) for record in _pick(usual, row, rate)) / 2
        for row in ("standalone", "public", "centralised")
        for rate in RATES
    ]
    return Criterion(
        "(g) five seeds of a row in four minutes on two cores", f"{max(totals):.0f} s", max(totals) <= SECONDS
    )


def as_markdown(found: Sequence[Criterion]) -> str:
    """Return the criteria as a table."""
    rows = [f"| {c.name} | {c.found} | {'yes' if c.met else f'no: {c.why_not}'.rstrip(': ')} |" for c in found]
    return "\n".join(["| criterion | found | met |", "|---|---|---|", *rows])


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tools.regime", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="where the study's records are")
    try:
        found = criteria(read_records(parser.parse_args().folder))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(as_markdown(found))
    return 0 if all(c.met or c.why_not for c in found) else 1


if __name__ == "__main__":
    sys.exit(main())
