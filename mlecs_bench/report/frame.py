"""From records to the numbers of a table: scores per device, then per seed, then over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from mlecs_bench.errors import RecordError
from mlecs_bench.records.results import group_key
from mlecs_bench.seeds import PROTOCOL_SEEDS

if TYPE_CHECKING:
    import pandas as pd

Moment = Literal["local", "received"]
Stat = Literal["avg", "best", "worst", "server"]
STATS: tuple[Stat, ...] = ("avg", "best", "worst", "server")
SERVER = "server"
"""Stands for the moment and the device of a server's score, which has neither."""


@dataclass(frozen=True)
class Cell:
    """One number of a table. `sd` has ddof = 1 and is None with one seed; `values` are the scores by seed."""

    mean: float
    sd: float | None
    values: Mapping[int, float]


@dataclass(frozen=True)
class Traffic:
    """What a run sent, averaged over seeds.

    `params` is everything sent in both directions, the broadcast after the last round included, per device and round;
    `device_params` the size of every device's language model.
    `shares` are the records' own ratios to the device model: name to (value, definition).
    """

    params: float
    device_params: Mapping[str, int]
    shares: Mapping[str, tuple[float, str]]


@dataclass(frozen=True)
class Row:
    """All records that differ in nothing but the seed."""

    group: str
    identity: Mapping[str, Any]
    records: tuple[Mapping[str, Any], ...]
    cells: Mapping[tuple[str, str, Stat], Cell]
    traffic: Traffic
    directions: Mapping[str, bool]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of its records, ascending."""
        return tuple(sorted(record["identity"]["seed"] for record in self.records))

    def cell(self, moment: Moment, metric: str, stat: Stat) -> Cell | None:
        """Return one number, or None where the score does not exist."""
        return self.cells.get((SERVER if stat == "server" else moment, metric, stat))


def long_frame(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per score of the last round: group, seed, moment, metric, device, value, n, higher_is_better."""
    rows: list[dict[str, Any]] = []
    for record in records:
        where = {"group": group_key(record["identity"]), "seed": record["identity"]["seed"]}
        rows += score_rows(where, record["metrics"]["client"], record["metrics"]["server"] or {})
    return frame_of(rows)


def score_rows(
    where: Mapping[str, Any], client: Mapping[str, Mapping[str, Mapping[str, Any]]], server: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the rows of a long frame for scores by moment, metric and device, and the server's by metric.

    `where` holds the group and the seed of them all.
    """
    rows: list[dict[str, Any]] = []
    for moment, by_metric in client.items():
        for metric, by_device in by_metric.items():
            rows += [{**where, "moment": moment, "metric": metric, "device": d, **s} for d, s in by_device.items()]
    rows += [{**where, "moment": SERVER, "metric": metric, "device": SERVER, **s} for metric, s in server.items()]
    return rows


def frame_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as `score_rows` gives them as a frame, which has its columns without any row, too."""
    import pandas as pd

    columns = ["group", "seed", "moment", "metric", "device", "value", "n", "higher_is_better"]
    return pd.DataFrame(rows, columns=columns)


def per_seed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per seed and statistic: the mean, best and worst device, and the server where it is scored."""
    keys = ["group", "seed", "moment", "metric"]
    # Best is the largest of the scores turned so that higher is better.
    turned = frame.assign(sign=frame["higher_is_better"].map({True: 1.0, False: -1.0}))
    turned["value"] = turned["value"] * turned["sign"]
    found = turned.groupby(keys, sort=False).agg(
        avg=("value", "mean"), best=("value", "max"), worst=("value", "min"), sign=("sign", "first")
    )
    for stat in ("avg", "best", "worst"):
        found[stat] = found[stat] * found["sign"]
    long = found.reset_index().melt(id_vars=keys, value_vars=["avg", "best", "worst"], var_name="stat")
    server = long["moment"] == SERVER
    long = long[~server | (long["stat"] == "avg")].copy()
    long.loc[long["moment"] == SERVER, "stat"] = "server"
    return long


def over_seeds(seeds: pd.DataFrame) -> pd.DataFrame:
    """Return mean, sd (ddof = 1, NaN with one seed) and n over seeds of what `per_seed` gives."""
    grouped = seeds.groupby(["group", "moment", "metric", "stat"], sort=False)["value"]
    return grouped.agg(mean="mean", sd="std", n="count").reset_index()


def build_rows(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return the rows of all tables, ordered by dataset, rate, number of devices and algorithm.

    Records are averaged only if their identities differ in nothing but the seed. Raises RecordError when a seed
    occurs twice in a group.
    """
    # Sums depend on the order of their parts in the last bit.
    ordered = sorted(records, key=lambda record: int(record["identity"]["seed"]))
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in ordered:
        groups.setdefault(group_key(record["identity"]), []).append(record)
    cells = cells_of(long_frame(ordered))
    rows = [_row(group, tuple(members), cells.get(group, {})) for group, members in groups.items()]
    return sorted(rows, key=_order)


def cells_of(frame: pd.DataFrame) -> dict[str, dict[tuple[str, str, Stat], Cell]]:
    """Return group → (moment, metric, statistic) → number, of scores as `long_frame` lists them."""
    seeds = per_seed(frame)
    values: dict[tuple[str, str, str, str], dict[int, float]] = {}
    for r in seeds.to_dict("records"):
        values.setdefault((r["group"], r["moment"], r["metric"], r["stat"]), {})[int(r["seed"])] = float(r["value"])
    cells: dict[str, dict[tuple[str, str, Stat], Cell]] = {}
    for r in over_seeds(seeds).to_dict("records"):
        where = (r["group"], r["moment"], r["metric"], r["stat"])
        sd = float(r["sd"]) if r["n"] > 1 else None
        cell = Cell(float(r["mean"]), sd, dict(sorted(values[where].items())))
        cells.setdefault(r["group"], {})[where[1:]] = cell
    return cells


def _row(group: str, members: tuple[Mapping[str, Any], ...], cells: Mapping[tuple[str, str, Stat], Cell]) -> Row:
    seeds = [record["identity"]["seed"] for record in members]
    if len(set(seeds)) < len(seeds):
        twice = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise RecordError(f"two records of the same cell with seed {twice}; keep one of them")
    identity = {name: value for name, value in members[0]["identity"].items() if name != "seed"}
    return Row(group, identity, members, cells, _traffic(members), _directions(members))


def _traffic(members: Sequence[Mapping[str, Any]]) -> Traffic:
    comms = [record["comm"] for record in members]
    sent = [sum(e["params"] for e in c["entries"]) / (c["n_devices"] * c["rounds"]) for c in comms]
    shares = {
        name: (fmean(c["ratios"][name]["value"] for c in comms), ratio["definition"])
        for name, ratio in comms[0]["ratios"].items()
    }
    return Traffic(fmean(sent), comms[0]["device_params"], shares)


def _directions(members: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Return for each metric whether higher is better."""
    directions: dict[str, bool] = {}
    for record in members:
        client = record["metrics"]["client"]
        scores = [(m, s) for moment in client.values() for m, devices in moment.items() for s in devices.values()]
        scores += list((record["metrics"]["server"] or {}).items())
        directions.update({metric: score["higher_is_better"] for metric, score in scores})
    return directions


def _order(row: Row) -> tuple[Any, ...]:
    i = row.identity
    rates = tuple(sorted(i["rho"].items()))
    return (
        i["dataset"]["name"],
        i["dataset"]["view"],
        i["profile"]["name"],
        rates,
        i["n_devices"],
        i["algo"]["name"],
        row.group,
    )


def expected_seeds(rows: Sequence[Row]) -> tuple[int, ...]:
    """Return the seeds that every row should have: the protocol's, or all that occur when others were used."""
    seen = {seed for row in rows for seed in row.seeds}
    return PROTOCOL_SEEDS if seen <= set(PROTOCOL_SEEDS) else tuple(sorted(seen))
