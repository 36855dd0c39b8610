"""What `run` prints when it is done: what was transmitted, what the numbers may be taken for, what may help them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.scoring import ranked_name
from mlecs_bench.execution.references import MOST_FREQUENT
from mlecs_bench.records.names import MOST_ANSWERS, models_path, rho_label
from mlecs_bench.records.predictions import has_predictions, how_to_get
from mlecs_bench.records.results import group_key

if TYPE_CHECKING:
    from mlecs_bench.execution.jobs import CellResult
    from mlecs_bench.session.request import Places

Record = Mapping[str, Any]


def transmitted(records: Sequence[Record]) -> dict[str, Any]:
    """Return what one device sends and receives in one round, as the mean over `records`.

    `kinds` holds rows of kind, direction, params and bytes; `ratios` the two shares of the device's language model,
    each with its value (a fraction) and its definition.
    """
    blocks = [record["comm"] for record in records]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for block in blocks:
        share = 1 / (block["rounds"] * block["n_devices"] * len(blocks))
        for entry in block["entries"]:
            key = (entry["kind"], entry["direction"])
            row = rows.setdefault(key, {"kind": key[0], "direction": key[1], "params": 0.0, "bytes": 0.0})
            row["params"] += entry["params"] * share
            row["bytes"] += entry["bytes"] * share
    names = list(blocks[0]["ratios"]) if blocks else []
    return {
        "kinds": [rows[key] for key in sorted(rows)],
        "device_params": dict(blocks[0]["device_params"]) if blocks else {},
        "ratios": {name: _mean_ratio([block["ratios"][name] for block in blocks]) for name in names},
    }


def _mean_ratio(ratios: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    value = sum(ratio["value"] for ratio in ratios) / len(ratios)
    return {"value": value, "definition": ratios[0]["definition"]}


def transmitted_text(summary: Mapping[str, Any]) -> str:
    """Return `transmitted` as text."""
    if not summary["kinds"]:
        return "Transmitted: nothing."
    width = max(len(row["kind"]) for row in summary["kinds"])
    lines = ["Transmitted per device and round:"]
    for row in summary["kinds"]:
        counts = f"{row['params']:>14,.0f} parameters  {row['bytes']:>14,.0f} bytes"
        lines += [f"  {row['kind']:{width}}  {row['direction']:4}  {counts}"]
    sizes = " or ".join(f"{size:,}" for size in sorted(set(summary["device_params"].values())))
    lines += [f"Share of the device's language model ({sizes} parameters), defined above:"]
    lines += [f"  {name.replace('_', ' ')}: {100 * r['value']:.3f} %" for name, r in summary["ratios"].items()]
    return "\n".join(lines)


MAJORITY = MOST_FREQUENT["classification"]
LEVEL = 0.02
"""How far above the most frequent class a mean score still counts as being at its level."""
AT_LEVEL = "At the level of always answering the most frequent label"
SHOWN_ROWS = 3
"""Rows of a sweep that are named."""


def majority_line(records: Sequence[Record]) -> str:
    """Return that a run has ended at the level of the most frequent class, and what usually helps; "" if it has not.

    It is the headline score that counts, of ranked labels where these are better, and the better of both points of
    evaluation.
    """
    low = _low_parties(records)
    metric = _headline(records)
    texts = [f"{name} ({metric} {score:.3f} against {level:.3f})" for name, (score, level) in low.items()]
    return f"{AT_LEVEL}: {' and '.join(texts)}. {_what_helps(records)}" if low else ""


def majority_of_rows(records: Sequence[Record]) -> str:
    """Return which rows of a sweep have ended at the level of the most frequent class, and what helps; "" if none."""
    rows: dict[str, list[Record]] = {}
    for record in records:
        rows.setdefault(group_key(record["identity"]), []).append(record)
    low = [(of_row, parties) for of_row in rows.values() if (parties := _low_parties(of_row))]
    if not low:
        return ""
    texts = [f"{_row_name(of_row[0])}: {' and '.join(parties)}" for of_row, parties in low[:SHOWN_ROWS]]
    more = [f"{len(low) - SHOWN_ROWS} more"] if len(low) > SHOWN_ROWS else []
    held = [record for of_row, _ in low for record in of_row]
    return f"{AT_LEVEL}, {len(low)} of {len(rows)} rows: {'; '.join([*texts, *more])}. {_what_helps(held)}"


def _row_name(record: Record) -> str:
    identity = record["identity"]
    return f"{identity['algo']['name']} on {identity['dataset']['name']} at rho {rho_label(identity['rho'])}"


def _what_helps(records: Sequence[Record]) -> str:
    metric = _headline(records)
    ranked = any(ranked_name(metric) in record["identity"]["scorers"] for record in records)
    helps = ["more steps", *([] if ranked else ["ranking the labels (--answer rank)"]), "higher learning rates"]
    return f"What usually helps: {', '.join(helps)}."


def _headline(records: Sequence[Record]) -> str:
    scorers = records[0]["identity"]["scorers"] if records else {}
    return next((name for name, scorer in scorers.items() if scorer is not None), "")


def _low_parties(records: Sequence[Record]) -> dict[str, tuple[float, float]]:
    """Return for each kind of party that has ended at the level of the most frequent class its score and that level."""
    held = [record for record in records if MAJORITY in record["metrics"].get("references", {})]
    metric = _headline(held)
    parties = {"devices": _of_devices, "server": _of_server}
    return {name: found for name, of in parties.items() if held and (found := _if_low(held, metric, of))}


Scored = Callable[[Record, str], tuple[list[float], float] | None]
"""Gives from a record what one kind of party scores by a metric at its points of evaluation, and the majority."""


def _if_low(records: Sequence[Record], metric: str, of: Scored) -> tuple[float, float] | None:
    """Return the mean score and the mean of the most frequent class, None where the score is better."""
    found = [
        [scores for name in (metric, ranked_name(metric)) if (scores := of(record, name)) is not None]
        for record in records
    ]
    if not all(found):
        return None
    score = fmean(max(max(scores) for scores, _ in by_name) for by_name in found)
    level = fmean(by_name[0][1] for by_name in found)
    return (score, level) if score <= level + LEVEL else None


def _of_devices(record: Record, metric: str) -> tuple[list[float], float] | None:
    points = [by_metric.get(metric) for by_metric in record["metrics"]["client"].values()]
    level = record["metrics"]["references"][MAJORITY]["client"].get(metric)
    there = [of_point for of_point in points if of_point]
    return ([_mean(of_point) for of_point in there], _mean(level)) if there and level else None


def _of_server(record: Record, metric: str) -> tuple[list[float], float] | None:
    own = (record["metrics"]["server"] or {}).get(metric)
    level = record["metrics"]["references"][MAJORITY]["server"].get(metric)
    return ([own["value"]], level["value"]) if own and level else None


def _mean(scores: Mapping[str, Mapping[str, Any]]) -> float:
    return fmean(score["value"] for score in scores.values())


WORTH_SAYING = 10.0
"""Seconds of scoring below which nobody asks for fewer samples."""


def scoring_line(records: Sequence[Record]) -> str:
    """Return that scoring took longer than training, where it did and took long, and what would shorten it."""
    seconds = [record["cost"]["seconds"] for record in records]
    trained, scored = (sum(one.get(what, 0.0) for one in seconds) for what in ("training", "evaluation"))
    if scored <= max(trained, WORTH_SAYING):
        return ""
    return (
        f"Scoring took longer ({scored:,.0f} s) than training ({trained:,.0f} s): --limit-test N scores fewer samples."
    )


def lacking_lines(results: Sequence[CellResult], places: Places) -> list[str]:
    """Return how to get the answers and models that were asked for and that cells with records were skipped without.

    Answers are asked for unless the user says otherwise, where no party has many test samples.
    """
    found = [(r.path, r.record) for r in results if r.skipped and r.path is not None and r.record is not None]
    answers = [path for path, record in found if _wants_answers(record, places) and not has_predictions(path)]
    models = [path for path, _ in found if places.save_models and not models_path(path).is_dir()]
    lines = []
    if answers:
        lines.append(f"{_cells(answers)} skipped without answers to keep: {how_to_get(answers[0])}.")
    if models:
        hint = f"run the same with --save-models into another --out, or again after deleting {models[0].name}"
        lines.append(f"{_cells(models)} skipped without models to save: {hint}.")
    return lines


def _cells(paths: Sequence[Path]) -> str:
    return f"{len(paths)} cell{'s were' if len(paths) != 1 else ' was'}"


def _wants_answers(record: Record, places: Places) -> bool:
    if places.save_predictions is not None:
        return places.save_predictions
    most = max(int(one["test"]) for one in record["realised"]["samples"].values())
    return most <= MOST_ANSWERS
