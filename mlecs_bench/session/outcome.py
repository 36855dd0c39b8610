"""What `run` prints when it is done: what was transmitted, and what the numbers may be taken for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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


def honest_line(records: Sequence[Record]) -> str:
    """Return what the numbers may not be taken for: synthetic data and tiny models are not those of publications."""
    identities = [record["identity"] for record in records]
    causes = []
    if any(identity["dataset"]["synthetic"] for identity in identities):
        causes.append("the data is a synthetic stand-in")
    if any(identity["profile"]["tiny"] for identity in identities):
        causes.append(f"the models of profile {identities[0]['profile']['name']} are tiny")
    return f"Do not compare these numbers with published ones: {' and '.join(causes)}." if causes else ""
