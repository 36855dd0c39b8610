"""Which device holds which modality, as it was drawn: a small grid by seed, beside the rate that was asked for.

Where modalities come and go, another grid has the rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from mlecs_bench.report.arrange import Data, Setting
from mlecs_bench.report.frame import Row
from mlecs_bench.report.table import Content, Line, Number, Table

HELD, LACKING = "x", "."
CAPTION = (
    "Which devices hold a modality, the same for every algorithm: a mark per device, in the order d00, d01, ...; "
    f"{HELD}: held, {LACKING}: not. Nominal: rho, the probability with which each device holds the modality, drawn "
    "anew for every device, modality and seed; realised: the share of devices that hold it, over these seeds. A device "
    "that would hold too few modalities is drawn again, so realised rates lie above small nominal ones."
)
IN_ANY_ROUND = " Modalities come and go: a mark is of what a device holds in any round, a realised rate of all rounds."
ROUNDS_CAPTION = (
    "What devices hold in which round, the same for every algorithm: a mark per round, from the first to the last; "
    f"{HELD}: held, {LACKING}: not. Realised: the share of rounds in which the device holds the modality, over these "
    "seeds. Scores after the last broadcast are those with the modalities of the last round."
)
MOST_DEVICES = 10
"""Devices of which the rounds are shown; a larger grid would be no help to anyone."""


@dataclass(frozen=True)
class Drawn:
    """What the devices of one dataset, rate and number of devices hold, by seed: device to modalities.

    `by_round` has these of every round, where they come and go, and is empty otherwise.
    """

    rates: Mapping[str, float]
    by_seed: Mapping[int, Mapping[str, Sequence[str]]]
    by_round: Mapping[int, Mapping[str, Sequence[Sequence[str]]]]
    records: tuple[str, ...]

    def rate(self, modality: str) -> float:
        """Return the share of devices, and of rounds where they differ, that hold a modality."""
        rounds = self.by_round or {seed: {id_: [of] for id_, of in d.items()} for seed, d in self.by_seed.items()}
        return fmean(modality in held for devices in rounds.values() for of in devices.values() for held in of)


Where = tuple[Data, str, int]
"""A dataset, a rate and a number of devices."""


def modalities_table(setting: Setting, suffix: str = "") -> Table | None:
    """Return a line per dataset, rate, number of devices and modality; None where no record holds what was drawn."""
    drawn = _all_drawn(setting)
    seeds = _seeds(drawn)
    lines = [line for where, found in drawn.items() for line in _lines(where, found, seeds)]
    if not lines:
        return None
    return Table(
        name=f"modalities{suffix}",
        title="Modalities of devices",
        caption=CAPTION + (IN_ANY_ROUND if any(found.by_round for found in drawn.values()) else ""),
        left=("dataset", "rho", "devices", "modality"),
        columns=(("nominal",), ("realised",), *(("held", f"seed {seed}") for seed in seeds)),
        lines=tuple(lines),
        setting=setting.label,
    )


def rounds_table(setting: Setting, suffix: str = "") -> Table | None:
    """Return a line per device and modality with a mark for every round; None where nothing comes and goes.

    Federations of more than `MOST_DEVICES` devices are left out.
    """
    drawn = {at: found for at, found in _all_drawn(setting).items() if found.by_round and at[2] <= MOST_DEVICES}
    seeds = _seeds(drawn)
    lines = [line for where, found in drawn.items() for line in _round_lines(where, found, seeds)]
    if not lines:
        return None
    return Table(
        name=f"modalities-by-round{suffix}",
        title="Modalities of devices by round",
        caption=ROUNDS_CAPTION,
        left=("dataset", "rho", "device", "modality"),
        columns=(("realised",), *(("rounds", f"seed {seed}") for seed in seeds)),
        lines=tuple(lines),
        setting=setting.label,
    )


def _all_drawn(setting: Setting) -> dict[Where, Drawn]:
    return {
        (data, rho, n): found
        for data in setting.data
        for rho in setting.rates()
        for n in sorted({place.n_devices for place in setting.rows})
        if (found := _drawn([row for p, row in setting.rows.items() if (p.data, p.rho, p.n_devices) == (data, rho, n)]))
    }


def _seeds(drawn: Mapping[Where, Drawn]) -> list[int]:
    return sorted({seed for found in drawn.values() for seed in found.by_seed})


def _drawn(rows: Sequence[Row]) -> Drawn | None:
    """Return what was drawn in some rows that share it; an algorithm has no part in it."""
    records = {record["identity"]["seed"]: record for row in rows for record in row.records}
    by_seed = {seed: records[seed]["realised"]["modalities"] for seed in sorted(records)}
    if not any(by_seed.values()):
        return None
    keys = tuple(str(records[seed]["key"]) for seed in by_seed)
    by_round = {seed: records[seed]["realised"].get("modalities_by_round", {}) for seed in by_seed}
    return Drawn(rows[0].identity["rho"], by_seed, by_round if all(by_round.values()) else {}, keys)


def _lines(where: Where, drawn: Drawn, seeds: Sequence[int]) -> Iterator[Line]:
    data, rho, n = where
    for modality, rate in drawn.rates.items():
        contents: list[Content | None] = [Number(rate), Number(drawn.rate(modality), records=drawn.records)]
        contents += [_marks(drawn.by_seed[seed], modality) if seed in drawn.by_seed else None for seed in seeds]
        yield Line((data.label, rho, str(n), modality), tuple(contents), group=f"{data.label}, rho {rho}, {n} devices")


def _marks(devices: Mapping[str, Sequence[str]], modality: str) -> str:
    return "".join(HELD if modality in devices[id_] else LACKING for id_ in sorted(devices))


def _round_lines(where: Where, drawn: Drawn, seeds: Sequence[int]) -> Iterator[Line]:
    data, rho, n = where
    devices = sorted({id_ for of in drawn.by_round.values() for id_ in of})
    for id_ in devices:
        for modality in drawn.rates:
            by_seed = {seed: [modality in held for held in of[id_]] for seed, of in drawn.by_round.items()}
            share = fmean(held for rounds in by_seed.values() for held in rounds)
            marks = {seed: "".join(HELD if held else LACKING for held in rounds) for seed, rounds in by_seed.items()}
            contents: list[Content | None] = [Number(share, records=drawn.records), *map(marks.get, seeds)]
            yield Line((data.label, rho, id_, modality), tuple(contents), group=f"{data.label}, rho {rho}, {n} devices")
