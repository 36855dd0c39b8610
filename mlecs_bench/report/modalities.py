"""Which device holds which modality, as it was drawn: a small grid by seed, beside the rate that was asked for."""

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
    f"{HELD}: held, {LACKING}: not. {{law}}"
)
LAWS: Mapping[str, str] = {
    "bernoulli": "Nominal: rho, the probability with which each device holds the modality, drawn anew for every "
    "device, modality and seed; realised: the share of devices that hold it, over these seeds. A device that would "
    "hold too few modalities is drawn again, so realised rates lie above small nominal ones.",
    "exact": "Nominal: rho, the share of pairs of device and modality that are held; which ones is drawn for every "
    "seed. Realised: the share of devices that hold the modality, over these seeds; what rounding leaves goes to "
    "modalities drawn at random.",
    "given": "The user says who holds what, whatever rho is. Realised: the share of devices that hold the modality.",
}
"""What the columns of rates mean, by the law by which modalities are dealt."""


@dataclass(frozen=True)
class Drawn:
    """What the devices of one dataset, rate and number of devices hold, by seed: device to modalities."""

    rates: Mapping[str, float]
    by_seed: Mapping[int, Mapping[str, Sequence[str]]]
    records: tuple[str, ...]


def _law(setting: Setting) -> str:
    """Return the law by which modalities are dealt, which is one in a setting."""
    identity = next(iter(setting.rows.values())).identity
    law = str(identity.get("conditions", {}).get("modalities", {}).get("law", "bernoulli"))
    return law if law in LAWS else "bernoulli"


def modalities_table(setting: Setting, suffix: str = "") -> Table | None:
    """Return a line per dataset, rate, number of devices and modality; None where no record holds what was drawn."""
    law = _law(setting)
    drawn = {
        (data, rho, n): found
        for data in setting.data
        for rho in setting.rates()
        for n in sorted({place.n_devices for place in setting.rows})
        if (found := _drawn([row for p, row in setting.rows.items() if (p.data, p.rho, p.n_devices) == (data, rho, n)]))
    }
    seeds = sorted({seed for found in drawn.values() for seed in found.by_seed})
    lines = [line for where, found in drawn.items() for line in _lines(where, found, seeds, has_rate=law != "given")]
    if not lines:
        return None
    return Table(
        name=f"modalities{suffix}",
        title="Modalities of devices",
        caption=CAPTION.format(law=LAWS[law]),
        left=("dataset", "rho", "devices", "modality"),
        columns=(("nominal",), ("realised",), *(("held", f"seed {seed}") for seed in seeds)),
        lines=tuple(lines),
        setting=setting.label,
    )


def _drawn(rows: Sequence[Row]) -> Drawn | None:
    """Return what was drawn in some rows that share it; an algorithm has no part in it."""
    records = {record["identity"]["seed"]: record for row in rows for record in row.records}
    by_seed = {seed: records[seed]["realised"]["modalities"] for seed in sorted(records)}
    if not any(by_seed.values()):
        return None
    keys = tuple(str(records[seed]["key"]) for seed in by_seed)
    return Drawn(rows[0].identity["rho"], by_seed, keys)


def _lines(where: tuple[Data, str, int], drawn: Drawn, seeds: Sequence[int], *, has_rate: bool) -> Iterator[Line]:
    data, rho, n = where
    for modality, rate in drawn.rates.items():
        held = [modality in of for devices in drawn.by_seed.values() for of in devices.values()]
        contents: list[Content | None] = [
            Number(rate) if has_rate else None,
            Number(fmean(held), records=drawn.records),
        ]
        contents += [_marks(drawn.by_seed[seed], modality) if seed in drawn.by_seed else None for seed in seeds]
        yield Line((data.label, rho, str(n), modality), tuple(contents), group=f"{data.label}, rho {rho}, {n} devices")


def _marks(devices: Mapping[str, Sequence[str]], modality: str) -> str:
    return "".join(HELD if modality in devices[id_] else LACKING for id_ in sorted(devices))
