"""The overview of records: Markdown tables with a row per dataset, rate and algorithm, and all scores as columns."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from mlecs_bench.records.results import rho_label
from mlecs_bench.report.frame import SERVER, STATS, Cell, Moment, Row, build_rows, expected_seeds
from mlecs_bench.report.references import MOMENT, ReferenceRow, block_of, reference_notes, reference_rows

ABSENT = "-"
ROW_PATHS = ("algo.name", "rho.", "n_devices")
"""Parts of an identity that have a column of their own; a difference in any other is a footnote."""

MOMENTS = {
    "local": "after local_update of the last round (moment local)",
    "received": "after the broadcast that follows the last round (moment received)",
}
_LEGEND = (
    "Per seed the average, the best and the worst device; then mean ± sd (ddof = 1) over seeds. "
    f"'{ABSENT}': the algorithm has no such score, or its scorer is not installed."
)
_SENT = (
    "sent: parameters in both directions, the broadcast after the last round included, divided by devices and rounds"
)


def build_table(records: Sequence[Mapping[str, Any]], moment: Moment = "local") -> str:
    """Return the Markdown of all `records`, scored on the devices at `moment`.

    There is one table per dataset, data view, profile and set of scorers, because numbers of different ones do not
    belong together. Raises RecordError when a seed of a cell occurs twice.
    """
    return "\n\n".join(_table(rows, moment) for rows in _tables(build_rows(records))) + "\n"


def _tables(rows: Sequence[Row]) -> list[list[Row]]:
    tables: dict[str, list[Row]] = {}
    for row in rows:
        tables.setdefault(_table_key(row), []).append(row)
    return list(tables.values())


def _table_key(row: Row) -> str:
    data, profile = row.identity["dataset"], row.identity["profile"]
    key = [data["name"], data["view"], data["synthetic"], profile["name"], is_tiny(row), row.identity["scorers"]]
    return json.dumps(key, sort_keys=True)


def _table(rows: Sequence[Row], moment: Moment) -> str:
    from tabulate import tabulate

    marks, footnotes = _footnotes(rows)
    metrics = list(rows[0].identity["scorers"])
    expected = expected_seeds(rows)
    headers = _headers(rows, metrics)
    references = reference_rows(rows)
    body = []
    for block, members in groupby(rows, key=lambda row: block_of(row.identity)):
        body += [_cells(row, marks.get(row.group, ""), metrics, moment, expected) for row in members]
        body += [_reference_cells(row, metrics, expected, headers) for row in references.get(block, ())]
    align = ["left"] * 4 + ["right"] * (len(headers) - 4)
    text = tabulate(body, headers=headers, tablefmt="github", disable_numparse=True, colalign=align)
    shown = [row for block in references.values() for row in block]
    notes = [*_notes(rows, marks, expected), *reference_notes(shown), *footnotes]
    parts = [f"### {rows[0].identity['dataset']['name']}", _caption(rows, metrics, moment), text]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)])


def _headers(rows: Sequence[Row], metrics: Sequence[str]) -> list[str]:
    headers = ["rho", "devices", "algorithm", "seeds"]
    for metric in metrics:
        lower = any(not row.directions.get(metric, True) for row in rows)
        headers += [f"{metric}{' (lower is better)' if lower else ''} {stat}" for stat in STATS]
    return [*headers, "sent", *(f"share ({name})" for name in rows[0].traffic.shares)]


def _cells(row: Row, mark: str, metrics: Sequence[str], moment: Moment, expected: Sequence[int]) -> list[str]:
    n = len(row.seeds)
    cells = [
        rho_label(row.identity["rho"]),
        str(row.identity["n_devices"]),
        f"{row.identity['algo']['name']} {mark}".strip(),
        _count(n, len(expected)),
    ]
    cells += [_score(row.cell(moment, metric, stat), n) for metric in metrics for stat in STATS]
    cells.append(f"{row.traffic.params:,.0f}")
    cells += [f"{100 * value:.3g} %" for value, _ in row.traffic.shares.values()]
    return [cell.replace("|", "\\|") for cell in cells]


def _reference_cells(
    row: ReferenceRow, metrics: Sequence[str], expected: Sequence[int], headers: Sequence[str]
) -> list[str]:
    n = len(row.seeds)
    cells = [rho_label(row.rho), str(row.n_devices), row.label, _count(n, len(expected))]
    cells += [_score(row.cell(metric, stat), n) for metric in metrics for stat in STATS]
    cells += [ABSENT] * (len(headers) - len(cells))  # nothing is sent
    return [cell.replace("|", "\\|") for cell in cells]


def _count(n: int, total: int) -> str:
    return str(n) if n == total else f"n={n}/{total}"


def _score(cell: Cell | None, n_seeds: int) -> str:
    """Return a score as text; a score that some of the row's seeds lack says how many it has."""
    if cell is None:
        return ABSENT
    spread = "" if cell.sd is None else f" ± {cell.sd:.3f}"
    lacking = f" (n={len(cell.values)}/{n_seeds})" if len(cell.values) < n_seeds else ""
    return f"{cell.mean:.3f}{spread}{lacking}"


def _caption(rows: Sequence[Row], metrics: Sequence[str], moment: Moment) -> str:
    data = rows[0].identity["dataset"]
    plan = ", ".join(
        (
            f"profile {rows[0].identity['profile']['name']}",
            f"data: {data['view']}",
            f"split {_common(rows, lambda i: i['dataset']['split'])}",
            f"budget {_common(rows, lambda i: i['training']['budget'])}",
            _common(rows, lambda i: f"{i['training']['rounds']} rounds x {i['training']['steps']} steps"),
            *_structure(rows),
        )
    )
    scorers = "; ".join(f"{m}: {rows[0].identity['scorers'][m] or 'scorer not installed'}" for m in metrics)
    lines = [f"{plan[0].upper()}{plan[1:]}; scores {MOMENTS[moment]}.", f"{_LEGEND} Scorers: {scorers}."]
    honest = honest_sentence(rows)
    return "\n\n".join([*([f"**{honest}**"] if honest else []), " ".join(lines)])


def _structure(rows: Sequence[Row]) -> list[str]:
    """Return in what single devices differ from the profile in all rows alike; footnotes say what rows differ in."""
    texts = {_structure_text(row.identity["structure"]) for row in rows}
    return [text for text in texts if text] if len(texts) == 1 else []


def _structure_text(structure: Mapping[str, Any]) -> str:
    models = {id_: model["name"] for id_, model in structure["slm"].items()}
    parts = {"SLM": models, "LoRA rank": structure["rank"], "encoder width": structure["encoder_width"]}
    return ", ".join(f"{what} of {id_}: {value}" for what, values in parts.items() for id_, value in values.items())


def honest_sentence(rows: Sequence[Row]) -> str:
    """Return what keeps numbers from being taken for the paper's, "" where there is no reason."""
    synthetic = any(row.identity["dataset"]["synthetic"] for row in rows)
    tiny = any(is_tiny(row) for row in rows)
    causes = [text for text, holds in (("synthetic stand-in", synthetic), ("tiny backbones", tiny)) if holds]
    if not causes:
        return ""
    text = " on ".join(causes)
    return f"{text[0].upper()}{text[1:]}: not comparable with the paper."


def is_tiny(row: Row) -> bool:
    """Are the language models of a row too small for its numbers to say anything of real ones?"""
    profile = row.identity["profile"]
    return bool(profile.get("tiny", profile["name"] == "mini"))


def _common(rows: Sequence[Row], value: Callable[[Mapping[str, Any]], object]) -> str:
    """Return what all rows share, or every value with a pointer to the footnotes."""
    found = list(dict.fromkeys(str(value(row.identity)) for row in rows))
    return found[0] if len(found) == 1 else " or ".join(found) + " (see notes)"


def _notes(rows: Sequence[Row], marks: Mapping[str, str], expected: Sequence[int]) -> list[str]:
    shares = {(name, definition): None for row in rows for name, (_, definition) in row.traffic.shares.items()}
    notes = [_SENT, *(f"share ({name}): {definition}" for name, definition in shares)]
    for row in rows:
        missing = [seed for seed in expected if seed not in row.seeds]
        if missing:
            seeds = ", ".join(str(seed) for seed in missing)
            algorithm = f"{row.identity['algo']['name']} {marks.get(row.group, '')}".strip()
            where = f"rho {rho_label(row.identity['rho'])}, {row.identity['n_devices']} devices"
            notes.append(f"{algorithm} at {where}: no record of seed {seeds}")
    return notes


def _footnotes(rows: Sequence[Row]) -> tuple[dict[str, str], list[str]]:
    """Return the mark of each row that differs from the others, by group, and the lines that explain the marks."""
    different = {group: text for group, text in differences(rows).items() if text}
    texts = list(dict.fromkeys(different.values()))
    marks = {group: f"[{texts.index(text) + 1}]" for group, text in different.items()}
    return marks, [f"[{i}] {text}" for i, text in enumerate(texts, start=1)]


def differences(rows: Sequence[Row]) -> dict[str, str]:
    """Return by group what sets a row apart from most records of its table, or "" for nothing.

    Settings are compared over all rows, an algorithm's own options and version over the rows of that algorithm.
    """
    flat = {row.group: flatten(row.identity) for row in rows}
    found: dict[str, list[str]] = {row.group: [] for row in rows}
    paths = sorted({path for values in flat.values() for path in values if not path.startswith(ROW_PATHS)})
    for path in paths:
        for peers in _peers(rows, path):
            values = {row.group: flat[row.group].get(path, "absent") for row in peers}
            records: Counter[str] = Counter()
            for row in peers:
                records[values[row.group]] += len(row.records)
            usual = records.most_common(1)[0][0]
            for group, value in values.items():
                if value != usual:
                    found[group].append(f"{path} = {value} (other rows: {usual})")
    return {group: "; ".join(texts) for group, texts in found.items()}


def _peers(rows: Sequence[Row], path: str) -> list[list[Row]]:
    """Return the sets of rows whose values at `path` should agree."""
    if not path.startswith("algo."):
        return [list(rows)]
    by_algo: dict[str, list[Row]] = {}
    for row in rows:
        by_algo.setdefault(row.identity["algo"]["name"], []).append(row)
    return list(by_algo.values())


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


def row_summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the tables show, and both moments and all diagnostic scores, as JSON values."""
    rows = build_rows(records)
    references = [
        _reference_summary(reference, table[0])
        for table in _tables(rows)
        for block in reference_rows(table).values()
        for reference in block
    ]
    return {"schema": "mlecs-bench/report/1", "rows": [_summary(row) for row in rows], "references": references}


def _reference_summary(row: ReferenceRow, of: Row) -> dict[str, Any]:
    """Return one reference as JSON values; `of` is any row of its table."""
    scores: dict[str, Any] = {}
    for (moment, metric, stat), cell in row.cells.items():
        scores.setdefault(moment, {}).setdefault(metric, {})[stat] = _cell_json(cell)
    data = {name: of.identity["dataset"][name] for name in ("name", "view", "synthetic")}
    return {
        "name": row.name,
        "identity": {"dataset": data, "profile": of.identity["profile"]["name"], "scorers": of.identity["scorers"]}
        | {"rho": dict(row.rho), "n_devices": row.n_devices, "decided_by": dict(row.decided_by)},
        "seeds": list(row.seeds),
        "disputed_seeds": list(row.disputed),
        "scores": {
            "client": scores.get(MOMENT, {}),
            "server": {metric: stats["server"] for metric, stats in scores.get(SERVER, {}).items()},
        },
    }


def _summary(row: Row) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    for (moment, metric, stat), cell in row.cells.items():
        scores.setdefault(moment, {}).setdefault(metric, {})[stat] = _cell_json(cell)
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


def _cell_json(cell: Cell) -> dict[str, Any]:
    values = {str(seed): value for seed, value in cell.values.items()}
    return {"mean": cell.mean, "sd": cell.sd, "n": len(cell.values), "values": values}
