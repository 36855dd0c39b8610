"""Records as JSON values: every row with both points of evaluation and all diagnostic scores, and the references."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlecs_bench.report.frame import SERVER, Row, SeedMean, build_rows, is_tiny
from mlecs_bench.report.references import EVAL_POINT, ReferenceRow, reference_rows


def row_summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the tables show, and both points of evaluation and all diagnostic scores, as JSON values."""
    rows = build_rows(records)
    references = [
        _reference_summary(reference, table[0])
        for table in _tables(rows)
        for block in reference_rows(table).values()
        for reference in block
    ]
    return {"schema": "mlecs-bench/report/1", "rows": [_summary(row) for row in rows], "references": references}


def _tables(rows: Sequence[Row]) -> list[list[Row]]:
    """Return rows by data, models and scorers, which decide references together."""
    tables: dict[str, list[Row]] = {}
    for row in rows:
        data, profile = row.identity["dataset"], row.identity["profile"]
        key = [data["name"], data["view"], data["synthetic"], profile["name"], is_tiny(row), row.identity["scorers"]]
        tables.setdefault(json.dumps(key, sort_keys=True), []).append(row)
    return list(tables.values())


def _reference_summary(row: ReferenceRow, of: Row) -> dict[str, Any]:
    """Return one reference as JSON values; `of` is any row of its table."""
    scores: dict[str, Any] = {}
    for (point, metric, stat), cell in row.cells.items():
        scores.setdefault(point, {}).setdefault(metric, {})[stat] = _cell_json(cell)
    data = {name: of.identity["dataset"][name] for name in ("name", "view", "synthetic")}
    return {
        "name": row.name,
        "identity": {"dataset": data, "profile": of.identity["profile"]["name"], "scorers": of.identity["scorers"]}
        | {"rho": dict(row.rho), "n_devices": row.n_devices, "decided_by": dict(row.decided_by)},
        "seeds": list(row.seeds),
        "disputed_seeds": list(row.disputed),
        "scores": {
            "client": scores.get(EVAL_POINT, {}),
            "server": {metric: stats["server"] for metric, stats in scores.get(SERVER, {}).items()},
        },
    }


def _summary(row: Row) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    for (point, metric, stat), cell in row.cells.items():
        scores.setdefault(point, {}).setdefault(metric, {})[stat] = _cell_json(cell)
    return {
        "group": row.group,
        "identity": dict(row.identity),
        "seeds": list(row.seeds),
        "scores": {
            "client": {m: scores[m] for m in ("local", "received") if m in scores},
            "server": {metric: stats["server"] for metric, stats in scores["server"].items()}
            if "server" in scores
            else None,
        },
        "higher_is_better": dict(row.directions),
        "comm": {
            "params_per_device_and_round": row.traffic.params,
            "device_params": dict(row.traffic.device_params),
            "shares": {n: {"value": v, "definition": text} for n, (v, text) in row.traffic.shares.items()},
        },
        "records": sorted(record["key"] for record in row.records),
    }


def _cell_json(cell: SeedMean) -> dict[str, Any]:
    values = {str(seed): value for seed, value in cell.values.items()}
    return {"mean": cell.mean, "sd": cell.sd, "n": len(cell.values), "values": values}
