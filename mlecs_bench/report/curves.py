"""Curves as a tidy table: every loss and every score of every round and party, a number a row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlecs_bench.records.names import rho_label
from mlecs_bench.report.csv_text import words
from mlecs_bench.report.frame import SERVER

COLUMNS = (
    *("algo", "variant", "dataset", "rho", "n_devices", "seed", "round", "eval_point", "device", "metric", "value"),
    *("n", "key"),
)
TRAINING = "training"
"""The point of losses, which are means over the steps of a round."""
LOSS = "loss/"
"""What the metric of a loss or another logged quantity begins with; the rest is its name."""


def curves_csv(records: Sequence[Mapping[str, Any]], variants: Mapping[str, str]) -> str:
    """Return all losses and scores of all rounds as CSV, "" where there are none.

    Losses have the point "training" and no number of samples; the scores after the last broadcast have that of the last
    round. `variants` say in what a record departs from the usual, by its key.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    lines = [
        _line(record["identity"], variants.get(record["key"], ""), record["key"], values)
        for record in records
        for values in _numbers(record)
    ]
    writer.writerows(lines)
    return stream.getvalue() if lines else ""


Numbers = tuple[int, str, str, str, float, int | str]
"""Round, point, device, metric, value, samples."""


def _numbers(record: Mapping[str, Any]) -> Iterator[Numbers]:
    rounds = record["metrics"]["rounds"]
    for entry in rounds:
        t = int(entry["round"])
        for device, logs in entry.get("losses", {}).items():
            yield from ((t, TRAINING, device, LOSS + name, value, "") for name, value in logs.items())
        yield from _scores(t, "local", entry.get("client") or {})
        for metric, score in (entry.get("server") or {}).items():
            yield t, SERVER, SERVER, metric, score["value"], score["n"]
    last = int(rounds[-1]["round"]) if rounds else 0
    yield from _scores(last, "received", record["metrics"]["client"].get("received", {}))


def _scores(t: int, point: str, client: Mapping[str, Mapping[str, Any]]) -> Iterator[Numbers]:
    for metric, by_device in client.items():
        yield from ((t, point, device, metric, score["value"], score["n"]) for device, score in by_device.items())


def _line(identity: Mapping[str, Any], variant: str, key: str, values: Numbers) -> list[Any]:
    t, point, device, metric, value, n = values
    cell = [words(identity["algo"]["name"]), words(variant), words(identity["dataset"]["name"])]
    cell += [rho_label(identity["rho"]), identity["n_devices"], identity["seed"]]
    return [*cell, t, point, device, words(metric), repr(float(value)), n, key]
