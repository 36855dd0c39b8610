"""Hand-made records of whole studies, and their tables read back: what tests of reports share."""

from __future__ import annotations

import copy
import json
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hand_made import DEVICES, make_record, score, with_identity
from mlecs_bench.records.results import record_name
from mlecs_bench.seeds import PROTOCOL_SEEDS

Record = dict[str, Any]

SCORES = {
    27: (0.31, 0.35, 0.42),
    34: (0.30, 0.28, 0.45),
    46: (0.25, 0.33, 0.35),
    52: (0.41, 0.36, 0.29),
    93: (0.38, 0.31, 0.33),
}
SERVER = {27: 0.5, 34: 0.52, 46: 0.49, 52: 0.55, 93: 0.51}
BASE = dict(zip(PROTOCOL_SEEDS, (0.30, 0.34, 0.28, 0.41, 0.33), strict=True))
NOISE = dict(zip(PROTOCOL_SEEDS, (0.01, -0.012, 0.004, -0.006, 0.003), strict=True))
COPY = {27: (0.31, 0.35, 0.39), 34: (0.28, 0.3, 0.35), 46: (0.2, 0.3, 0.4), 52: (0.33, 0.3, 0.3), 93: (0.3, 0.3, 0.3)}
COPY_SERVER = {27: 0.33, 34: 0.3, 46: 0.29, 52: 0.31, 93: 0.32}


def scored(algo: str = "ml-ecs", seeds: Sequence[int] = PROTOCOL_SEEDS, **changes: Any) -> list[Record]:
    """Return records of `seeds` with the scores of SCORES and SERVER."""
    return [make_record(algo=algo, seed=s, local=SCORES[s], server=SERVER[s], **changes) for s in seeds]


def five(
    algo: str = "ml-ecs",
    gain: float = 0.0,
    noise: float = 1.0,
    seeds: Sequence[int] = PROTOCOL_SEEDS,
    **changes: Any,
) -> list[Record]:
    """Return records of `seeds` whose average device lies `gain` above BASE, with some noise, the server 0.2 higher."""
    middles = {seed: BASE[seed] + gain + noise * NOISE[seed] for seed in seeds}
    return [
        make_record(algo=algo, seed=seed, local=(v - 0.1, v, v + 0.1), server=v + 0.2, **changes)
        for seed, v in middles.items()
    ]


def runs(
    algo: str, scores: Sequence[float], seeds: Sequence[int] = PROTOCOL_SEEDS, server: bool = True, **changes: Any
) -> list[Record]:
    """Return a record per seed whose devices average to the score and whose server has 0.1 more."""
    return [
        make_record(algo=algo, seed=seed, local=(v - 0.1, v, v + 0.1), server=v + 0.1 if server else None, **changes)
        for seed, v in zip(seeds, scores, strict=True)
    ]


def with_all(records: Sequence[Record], **changes: Any) -> list[Record]:
    """Return records with parts of their identities replaced."""
    return [with_identity(record, **changes) for record in records]


def lower_is_better(records: Sequence[Record]) -> list[Record]:
    """Return copies in which every score, of references too, is better the lower it is."""
    turned = copy.deepcopy(list(records))
    for record in turned:
        metrics = record["metrics"]
        references = metrics.get("references", {}).values()
        clients = [*metrics["client"].values(), *(reference["client"] for reference in references)]
        servers = [metrics["server"] or {}, *(reference["server"] for reference in references)]
        found = [s for by_metric in clients for devices in by_metric.values() for s in devices.values()]
        for one in [*found, *(s for by_metric in servers for s in by_metric.values())]:
            one["higher_is_better"] = False
    return turned


def reference(devices: Sequence[float], server: float) -> Record:
    """Return what a record keeps of one trivial reference."""
    client = {d: score(value) for d, value in zip(DEVICES, devices, strict=True)}
    return {"client": {"rouge_lsum": client}, "server": {"rouge_lsum": score(server)}}


def with_references(record: Record, **more: Record) -> Record:
    """Return a record with the reference copy-subtitle of its seed, and `more`."""
    seed = record["identity"]["seed"]
    references = {"copy-subtitle": reference(COPY[seed], COPY_SERVER[seed]), **more}
    return {**record, "metrics": {**record["metrics"], "references": references}}


def referenced(algo: str = "ml-ecs", seeds: Sequence[int] = PROTOCOL_SEEDS, **changes: Any) -> list[Record]:
    """Return the records of `scored` with references."""
    return [with_references(record) for record in scored(algo, seeds, **changes)]


def study_records() -> list[Record]:
    """Return the records of a study: three algorithms of which one is an ablation, two rates, two budgets."""
    equal = with_all([*five(), *five("standalone")], training={"budget": "equal"})
    return [*five(gain=0.02), *five("standalone"), *five("ml-ecs/no-kt"), *five(rho=0.8), *equal]


def write_records(folder: Path, records: Iterable[Record]) -> Path:
    """Write records where `write_record` does, without its checks, and return the folder."""
    (folder / "records").mkdir(parents=True, exist_ok=True)
    for record in records:
        (folder / "records" / record_name(record["identity"])).write_text(json.dumps(record), encoding="utf-8")
    return folder


def table_rows(markdown: str) -> list[dict[str, str]]:
    """Read the tables of a text back, lines as mappings of header to cell.

    One that stands upright is laid down, and parts of one that stand one below the other are put side by side.
    """
    rows = []
    block = r"(?:^\|.*\n?)+"
    for table in re.findall(rf"{block}(?:\n{block})*", markdown, flags=re.MULTILINE):
        parts = [_grid_rows(part) for part in re.findall(block, table, flags=re.MULTILINE)]
        upright = any(row[:1] == ["rho"] for row in parts[0][1:])
        laid = [[list(column) for column in zip(*part, strict=True)] for part in parts] if upright else parts
        if upright:
            laid = [_without_marks_of_references(part) for part in laid]
            merged = [laid[0][0], *(row for part in laid for row in part[1:])]
            rows += [dict(zip(merged[0], row, strict=True)) for row in merged[1:]]
        else:
            rows += [
                {
                    name: cell
                    for part, line in zip(laid, lines, strict=True)
                    for name, cell in zip(part[0], line, strict=True)
                }
                for lines in zip(*(part[1:] for part in laid), strict=True)
            ]
    return rows


def _grid_rows(part: str) -> list[list[str]]:
    header, _, *lines = (
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]] for line in part.strip().splitlines()
    )
    return [header, *lines]


def _without_marks_of_references(part: list[list[str]]) -> list[list[str]]:
    """Return lines that were upright with the mark of references behind their names, as in a table that lies."""
    if part[0][1] != "":
        return part
    return [[" ".join(filter(None, row[:2])), *row[2:]] for row in part]


def text_of(values: Iterable[float]) -> str:
    """Return mean and sd as tables show them."""
    numbers = list(values)
    return f"{statistics.mean(numbers):.3f} ± {statistics.stdev(numbers):.3f}"


def number_at(table: Any, labels: Sequence[str], heading: Sequence[str]) -> Any:
    """Return what a table holds in the line with these last labels under the column that ends in this heading."""
    (line,) = [line for line in table.lines if line.labels[-len(labels) :] == tuple(labels)]
    return line.contents[[path[-len(heading) :] for path in table.columns].index(tuple(heading))]
