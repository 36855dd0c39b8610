"""Records as one tidy table: a row per score of a party, at a point of a round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.options import plain
from mlecs_bench.errors import MlecsError
from mlecs_bench.records.names import USUAL, rho_label
from mlecs_bench.report.arrange import CONDITIONS
from mlecs_bench.report.conditions import condition_words
from mlecs_bench.report.frame import flatten, score_rows
from mlecs_bench.report.installed import known_defaults

if TYPE_CHECKING:
    import pandas as pd

    from mlecs_bench.doors.registry import Registry

COLUMNS = (
    *(
        "algo",
        "variant",
        "conditions",
        "dataset",
        "rho",
        "n_devices",
        "seed",
        "round",
        "eval_point",
        "device",
        "metric",
    ),
    *("value", "n", "key"),
)
"""The columns of the table. `eval_point` and `device` are "server" of the server's scores; `round` counts from 1.

`conditions` say in words what is not as usual in the federation, "" where all is.
"""
Record = Mapping[str, Any]
COLUMNS_OF_THEIR_OWN = ("algo.name", "dataset.name", "rho.", "n_devices", "seed")
"""Paths of an identity that a variant leaves out."""
ALONGSIDE: Mapping[str, tuple[str, ...]] = {
    "algo.name": ("algo.", "structure.proxy"),
    "dataset.name": ("dataset.", "scorers.", "encoders."),
    "profile.name": ("profile.", "training.", "structure."),
}
"""Paths that are compared among records of one algorithm, dataset or profile alone, since they go with its name."""
SHORT = {"profile.name": "profile", "dataset.split": "split"}


def tidy_frame(records: Sequence[Record], registry: Registry) -> pd.DataFrame:
    """Return the scores of records as a data frame with the columns `COLUMNS`."""
    import pandas as pd

    return pd.DataFrame(tidy_rows(records, registry), columns=list(COLUMNS))


def tidy_rows(records: Sequence[Record], registry: Registry) -> list[dict[str, Any]]:
    """Return the scores of records, a row each: of every round that was scored, in the order of records and rounds.

    `variant` says in what a record departs from the usual (options of its algorithm, settings of its profile, budget,
    split, ...) and in what else it differs from others here: rows that agree in algo, variant, dataset, rho and
    n_devices differ in nothing but the seed. `rho` is a number, or a text where modalities differ in it.
    """
    variants = record_variants(records, registry)
    return [row for record, variant in zip(records, variants, strict=True) for row in _rows(record, variant)]


def _rows(record: Record, variant: str) -> Iterator[dict[str, Any]]:
    identity, metrics = record["identity"], record["metrics"]
    rates = set(identity["rho"].values())
    cell = {
        "algo": identity["algo"]["name"],
        "variant": variant,
        "conditions": ", ".join(condition_words(identity)),
        "dataset": identity["dataset"]["name"],
        "rho": float(next(iter(rates))) if len(rates) == 1 else rho_label(identity["rho"]),
        "n_devices": identity["n_devices"],
        "seed": identity["seed"],
    }
    last = max([entry["round"] for entry in metrics["rounds"]], default=identity["training"]["rounds"])
    before = [entry for entry in metrics["rounds"] if entry["round"] < last]
    scored = [(entry["round"], {"local": entry.get("client") or {}}, entry.get("server")) for entry in before]
    scored.append((last, metrics["client"], metrics["server"]))
    for number, client, server in scored:
        for score in score_rows({**cell, "round": number}, client, server or {}):
            yield {name: score.get(name, record["key"]) for name in COLUMNS}


def record_variants(records: Sequence[Record], registry: Registry) -> list[str]:
    """Return for each record in what it departs from the usual, and from others, as ``name=value, name=value``."""
    flat = [flatten({k: v for k, v in record["identity"].items() if k != CONDITIONS}) for record in records]
    paths = {path for one in flat for path in one if not path.startswith(COLUMNS_OF_THEIR_OWN)}
    seen: dict[tuple[str, str], set[str]] = {}
    for one in flat:
        for path in paths:
            seen.setdefault((path, _alongside(path, one)), set()).add(one.get(path, "absent"))
    texts = []
    for record, one, usual in zip(records, flat, _usual(records, registry), strict=True):
        words = condition_words(record["identity"])
        for path in sorted(paths):
            value = one.get(path, "absent")
            departs = usual[path] != value if path in usual else len(seen[path, _alongside(path, one)]) > 1
            words += [f"{_short(path)}={value}"] if departs else []
        texts.append(", ".join(words))
    return texts


def _alongside(path: str, flat: Mapping[str, str]) -> str:
    """Return the name of the algorithm, dataset or profile that a path goes with, "" where it goes with none."""
    return next((flat[name] for name, starts in ALONGSIDE.items() if path.startswith(starts)), "")


def _short(path: str) -> str:
    return SHORT.get(path) or path.removeprefix("algo.").removeprefix("options.").removeprefix("training.")


def _usual(records: Sequence[Record], registry: Registry) -> list[dict[str, str]]:
    """Return for each record what its paths usually say: of its algorithm and its profile where they are installed."""
    options = known_defaults(records, registry)
    profiles = {name: _profile(name, registry) for name in {r["identity"]["profile"]["name"] for r in records}}
    found = []
    for record in records:
        own = record["identity"]
        usual = {
            "algo": {"options": options.get(own["algo"]["name"], {})},
            "dataset": {"split": USUAL["split"]},
            "training": {**profiles[own["profile"]["name"]], "budget": USUAL["budget"]},
            "profile": {"name": USUAL["profile"]},
            "evaluate": USUAL["evaluate"],
        }
        there = flatten(own)
        found.append({path: value for path, value in flatten(usual).items() if path in there})
    return found


def _profile(name: str, registry: Registry) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = plain(registry.profile(name).info)
    except MlecsError:  # records of a profile that is gone, or is another one here, are as good as any
        return {}
    return settings
