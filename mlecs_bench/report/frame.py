"""From records to the numbers of a table: scores per device, then per seed, then over seeds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from mlecs_bench.errors import RecordError, check_choice
from mlecs_bench.records.results import group_key
from mlecs_bench.report.statistics import FEW_SEEDS

if TYPE_CHECKING:
    import pandas as pd

EvalPoint = Literal["local", "received"]
"""When devices are scored: after their own training in the last round, or after the broadcast that follows it."""
Stat = Literal["avg", "best", "worst", "server"]
"""What a column shows of one score: mean, best or worst over the devices, or the server's."""
STATS: tuple[Stat, ...] = ("avg", "best", "worst", "server")
EVAL_POINTS: Mapping[EvalPoint, str] = {
    "local": "after local_update of the last round (local)",
    "received": "after the broadcast that follows the last round (received)",
}
BOTH_POINTS: tuple[EvalPoint, ...] = ("local", "received")
"""What tables show side by side: one point alone can favour those that train, or those that merge, last."""
SERVER = "server"
"""Stands for the point of evaluation and the device of a server's score, which has neither."""


@dataclass(frozen=True)
class SeedMean:
    """One number of a table. `sd` has ddof = 1 and is None with one seed; `values` are the scores by seed."""

    mean: float
    sd: float | None
    values: Mapping[int, float]


@dataclass(frozen=True)
class Traffic:
    """What a run sent, averaged over seeds.

    `params` is everything sent in both directions, the broadcast after the last round included, per device and round,
    `bytes` its size on the way;
    `device_params` the size of every device's language model.
    `shares` are the records' own ratios to the device model: name to (value, definition).
    """

    params: float
    bytes: float
    device_params: Mapping[str, int]
    shares: Mapping[str, tuple[float, str]]


@dataclass(frozen=True)
class Row:
    """All records that differ in nothing but the seed."""

    group: str
    identity: Mapping[str, Any]
    records: tuple[Mapping[str, Any], ...]
    cells: Mapping[tuple[str, str, Stat], SeedMean]
    traffic: Traffic
    directions: Mapping[str, bool]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of its records, ascending."""
        return tuple(sorted(record["identity"]["seed"] for record in self.records))

    def cell(self, eval_point: EvalPoint, metric: str, stat: Stat) -> SeedMean | None:
        """Return one number, or None where the score does not exist; ValueError for an unknown point or statistic."""
        check_choice(eval_point, EvalPoint, "the point of evaluation")
        check_choice(stat, Stat, "the statistic")
        return self.cells.get((SERVER if stat == "server" else eval_point, metric, stat))


def long_frame(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per score of the last round, with the columns of `frame_of`."""
    return _long_frame([(group_key(record["identity"]), record) for record in records])


def _long_frame(keyed: Sequence[tuple[str, Mapping[str, Any]]]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for group, record in keyed:
        where = {"group": group, "seed": record["identity"]["seed"]}
        rows += score_rows(where, record["metrics"]["client"], record["metrics"]["server"] or {})
    return frame_of(rows)


def score_rows(
    where: Mapping[str, Any], client: Mapping[str, Mapping[str, Mapping[str, Any]]], server: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the rows of a long frame for scores by point, metric and device, and the server's by metric.

    `where` holds the group and the seed of them all.
    """
    rows: list[dict[str, Any]] = []
    for point, by_metric in client.items():
        for metric, by_device in by_metric.items():
            rows += [{**where, "eval_point": point, "metric": metric, "device": d, **s} for d, s in by_device.items()]
    rows += [{**where, "eval_point": SERVER, "metric": metric, "device": SERVER, **s} for metric, s in server.items()]
    return rows


def frame_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as `score_rows` gives them as a frame, which has its columns without any row, too."""
    import pandas as pd

    columns = ["group", "seed", "eval_point", "metric", "device", "value", "n", "higher_is_better"]
    return pd.DataFrame(rows, columns=columns)


def per_seed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per seed and statistic: the mean, best and worst device, and the server where it is scored."""
    keys = ["group", "seed", "eval_point", "metric"]
    # Best is the largest of the scores turned so that higher is better.
    turned = frame.assign(sign=frame["higher_is_better"].map({True: 1.0, False: -1.0}))
    turned["value"] = turned["value"] * turned["sign"]
    found = turned.groupby(keys, sort=False).agg(
        avg=("value", "mean"), best=("value", "max"), worst=("value", "min"), sign=("sign", "first")
    )
    for stat in ("avg", "best", "worst"):
        found[stat] = found[stat] * found["sign"]
    long = found.reset_index().melt(id_vars=keys, value_vars=["avg", "best", "worst"], var_name="stat")
    server = long["eval_point"] == SERVER
    long = long[~server | (long["stat"] == "avg")].copy()
    long.loc[long["eval_point"] == SERVER, "stat"] = "server"
    return long


def over_seeds(seeds: pd.DataFrame) -> pd.DataFrame:
    """Return mean, sd (ddof = 1, NaN with one seed) and n over seeds of what `per_seed` gives."""
    grouped = seeds.groupby(["group", "eval_point", "metric", "stat"], sort=False)["value"]
    return grouped.agg(mean="mean", sd="std", n="count").reset_index()


def build_rows(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return the rows of all tables, ordered by dataset, rate, number of devices and algorithm.

    Records are averaged only if their identities differ in nothing but the seed. Raises RecordError when a seed
    occurs twice in a group.
    """
    # Sums depend on the order of their parts in the last bit.
    ordered = sorted(records, key=lambda record: int(record["identity"]["seed"]))
    keyed = [(group_key(record["identity"]), record) for record in ordered]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for group, record in keyed:
        groups.setdefault(group, []).append(record)
    cells = cells_of(_long_frame(keyed))
    rows = [_row(group, tuple(members), cells.get(group, {})) for group, members in groups.items()]
    return sorted(rows, key=_order)


def cells_of(frame: pd.DataFrame) -> dict[str, dict[tuple[str, str, Stat], SeedMean]]:
    """Return group → (eval_point, metric, statistic) → number, of scores as `long_frame` lists them."""
    seeds = per_seed(frame)
    values: dict[tuple[str, str, str, str], dict[int, float]] = {}
    for r in seeds.to_dict("records"):
        place = (r["group"], r["eval_point"], r["metric"], r["stat"])
        values.setdefault(place, {})[int(r["seed"])] = float(r["value"])
    cells: dict[str, dict[tuple[str, str, Stat], SeedMean]] = {}
    for r in over_seeds(seeds).to_dict("records"):
        where = (r["group"], r["eval_point"], r["metric"], r["stat"])
        sd = float(r["sd"]) if r["n"] > 1 else None
        cell = SeedMean(float(r["mean"]), sd, dict(sorted(values[where].items())))
        cells.setdefault(r["group"], {})[where[1:]] = cell
    return cells


def _row(group: str, members: tuple[Mapping[str, Any], ...], cells: Mapping[tuple[str, str, Stat], SeedMean]) -> Row:
    seeds = [record["identity"]["seed"] for record in members]
    if len(set(seeds)) < len(seeds):
        twice = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise RecordError(f"two records of the same cell with seed {twice}; keep one of them")
    identity = {name: value for name, value in members[0]["identity"].items() if name != "seed"}
    return Row(group, identity, members, cells, _traffic(members), _directions(members))


def _traffic(members: Sequence[Mapping[str, Any]]) -> Traffic:
    comms = [record["comm"] for record in members]
    sent, size = (
        fmean(sum(e[what] for e in c["entries"]) / (c["n_devices"] * c["rounds"]) for c in comms)
        for what in ("params", "bytes")
    )
    shares = {
        name: (fmean(c["ratios"][name]["value"] for c in comms), ratio["definition"])
        for name, ratio in comms[0]["ratios"].items()
    }
    return Traffic(sent, size, comms[0]["device_params"], shares)


def _directions(members: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Return for each metric whether higher is better."""
    return {metric: score["higher_is_better"] for record in members for metric, score in all_scores(record)}


def all_scores(record: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return every score of the last round with its metric: those of all devices at both points, and the server's."""
    client = record["metrics"]["client"]
    scores = [(m, s) for by_metric in client.values() for m, devices in by_metric.items() for s in devices.values()]
    return scores + list((record["metrics"]["server"] or {}).items())


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


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the leaves of nested objects as texts, by dotted path; a digest keeps eight digits."""
    flat: dict[str, str] = {}
    for name, item in value.items():
        path = f"{prefix}{name}"
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{path}.")
        else:
            text = item if isinstance(item, str) else json.dumps(item)
            flat[path] = text[:8] if re.fullmatch("[0-9a-f]{64}", text) else text
    return flat


TINY_BELOW = 50_000_000
"""A language model with fewer parameters than this writes no text that says anything of real ones."""
TINY_SERVERS = ("mini", "mini-split")
"""What records call the server models that come with this package; a record holds no size of a server's model."""


def is_tiny(row: Row) -> bool:
    """Are language models of a row too small for its numbers to say anything of real ones?

    What was run decides it, not its profile alone: either side's model may have been replaced by another.
    """
    return any(_has_tiny_model(record) for record in row.records)


def _has_tiny_model(record: Mapping[str, Any]) -> bool:
    profile = record["identity"]["profile"]
    small = min(record["comm"]["device_params"].values(), default=TINY_BELOW) < TINY_BELOW
    return bool(profile.get("tiny")) or small or profile["llm"]["name"] in TINY_SERVERS


def honest_sentence(rows: Sequence[Row]) -> str:
    """Return what keeps scores from being taken for those of real data and models, "" where there is no reason."""
    return honest_line([record for row in rows for record in row.records])


def honest_line(records: Sequence[Mapping[str, Any]]) -> str:
    """Return what `honest_sentence` does of records; it names the datasets that it is about where others are here."""
    names = dict.fromkeys(record["identity"]["dataset"]["name"] for record in records)
    synthetic = _datasets(record for record in records if record["identity"]["dataset"]["synthetic"])
    tiny = _datasets(record for record in records if _has_tiny_model(record))
    causes = [f"synthetic data ({', '.join(synthetic)})"] if synthetic else []
    where = "" if len(tiny) == len(names) else f" on {', '.join(tiny)}"
    causes += [f"tiny language models{where}"] if tiny else []
    text = ", ".join(causes)
    return f"{text[0].upper()}{text[1:]}: these scores say nothing of real ones." if text else ""


def _datasets(records: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(record["identity"]["dataset"]["name"] for record in records))


FEW_STEPS = 100
"""Below so many optimiser steps of a stage, over all rounds, nothing is trained to its level."""


def not_comparable(row: Row) -> list[str]:
    """Return why a row's scores must not be subtracted from published ones; nothing where they may be.

    It depends on what was run: data, models, seeds and steps.
    """
    training = row.identity["training"]
    steps = training["rounds"] * training["steps"] if "steps" in training else FEW_STEPS
    found = {
        "synthetic data": row.identity["dataset"]["synthetic"],
        "tiny language models": is_tiny(row),
        f"fewer than {FEW_SEEDS} seeds": len(row.seeds) < FEW_SEEDS,
        f"fewer than {FEW_STEPS} steps": steps < FEW_STEPS,
    }
    return [reason for reason, holds in found.items() if holds]


def expected_seeds(rows: Sequence[Row], asked: Sequence[int] = (), elsewhere: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the seeds that every row should have: those that a study asked for, else all that occur.

    Of the seeds that the study asked for in some of its blocks alone (`elsewhere`) those count that occur in a row.
    """
    occurring = {seed for row in rows for seed in row.seeds}
    return tuple(sorted({*asked, *(occurring & {*elsewhere})} or occurring))
