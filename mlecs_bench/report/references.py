"""Trivial references as rows of a table: the scores that records keep of answers made without a model.

What a reference scores is decided by the samples, the split, the number of devices, the seed and the scorers, whatever
the algorithm and the rate. So all records of a block of a table (one rate, one number of devices) that agree in these
hold the same scores, of which one is taken per seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlecs_bench.execution.references import MOST_FREQUENT
from mlecs_bench.records.names import rho_label
from mlecs_bench.records.results import canonical_json
from mlecs_bench.report.frame import SERVER, Row, SeedMean, Stat, cells_of, frame_of, score_rows

EVAL_POINT = "reference"
"""Stands for the point of evaluation of a device's score, since there is no training."""
DECIDED_BY = (
    *(("dataset", "digest"), ("dataset", "split")),
    *(("training", "bertscore_samples"), ("training", "test_limit")),
)
"""Parts of an identity that can differ in one block and decide a reference; the scorers are those of the table."""
OWN_NAMES = frozenset(MOST_FREQUENT.values())
TOLERANCE = 1e-6
"""Scores of one reference may differ by this much from machine to machine."""

Record = Mapping[str, Any]
Scores = Mapping[str, Any]
Variant = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ReferenceRow:
    """One reference in one block of a table.

    `decided_by` holds what decides its scores beside the block. `disputed` are the seeds on whose scores records
    disagree: they are in no number.
    """

    name: str
    rho: Mapping[str, float]
    n_devices: int
    decided_by: Mapping[str, str]
    cells: Mapping[tuple[str, str, Stat], SeedMean]
    seeds: tuple[int, ...]
    disputed: tuple[int, ...]

    def cell(self, metric: str, stat: Stat) -> SeedMean | None:
        """Return one number, or None where the score does not exist."""
        return self.cells.get((SERVER if stat == "server" else EVAL_POINT, metric, stat))


def block_of(identity: Mapping[str, Any]) -> str:
    """Return what the rows of one block of a table have in common: the rates and the number of devices."""
    return canonical_json([identity["rho"], identity["n_devices"]])


def reference_rows(rows: Sequence[Row]) -> dict[str, list[ReferenceRow]]:
    """Return by block the references of all records in the rows of one table; records without any are passed over."""
    found: dict[str, dict[tuple[str, Variant], dict[int, list[Scores]]]] = {}
    blocks: dict[str, Mapping[str, Any]] = {}
    for record in (record for row in rows for record in row.records):
        identity = record["identity"]
        blocks.setdefault(block_of(identity), identity)
        for name, scores in record["metrics"].get("references", {}).items():
            of_block = found.setdefault(block_of(identity), {})
            of_block.setdefault((name, _variant(identity)), {}).setdefault(identity["seed"], []).append(scores)
    return {block: list(_rows_of(blocks[block], references)) for block, references in found.items()}


def _variant(identity: Mapping[str, Any]) -> Variant:
    return tuple((f"{part}.{name}", str(identity[part].get(name, "absent"))) for part, name in DECIDED_BY)


def _rows_of(
    identity: Mapping[str, Any], references: Mapping[tuple[str, Variant], Mapping[int, Sequence[Scores]]]
) -> Iterator[ReferenceRow]:
    """Yield the references of one block, whose rates and number of devices are those of `identity`."""
    names = list(dict.fromkeys(name for name, _ in references))
    for name in names:
        variants = sorted(variant for other, variant in references if other == name)
        for variant in variants:
            by_seed = references[name, variant]
            disputed = [seed for seed, given in by_seed.items() if not all(_agree(given[0], one) for one in given[1:])]
            undisputed = {seed: by_seed[seed][0] for seed in sorted(by_seed) if seed not in disputed}
            yield ReferenceRow(
                name=name,
                rho=identity["rho"],
                n_devices=identity["n_devices"],
                decided_by=dict(variant),
                cells=_cells(undisputed),
                seeds=tuple(undisputed),
                disputed=tuple(sorted(disputed)),
            )


def _cells(by_seed: Mapping[int, Scores]) -> Mapping[tuple[str, str, Stat], SeedMean]:
    rows = [row for seed, scores in by_seed.items() for row in _flat(scores, seed)]
    return cells_of(frame_of(rows)).get(EVAL_POINT, {}) if rows else {}


def _flat(scores: Scores, seed: int) -> list[dict[str, Any]]:
    return score_rows({"group": EVAL_POINT, "seed": seed}, {EVAL_POINT: scores["client"]}, scores["server"])


def _agree(one: Scores, other: Scores) -> bool:
    """Do two records say the same of a reference?"""
    first, second = (
        {(s["eval_point"], s["metric"], s["device"]): s for s in _flat(scores, 0)} for scores in (one, other)
    )
    return first.keys() == second.keys() and all(
        s["n"] == second[where]["n"] and math.isclose(s["value"], second[where]["value"], abs_tol=TOLERANCE)
        for where, s in first.items()
    )


def reference_notes(rows: Sequence[ReferenceRow]) -> list[str]:
    """Return what explains these rows below their table, and a warning where records disagree."""
    if not rows:
        return []
    names = list(dict.fromkeys(row.name for row in rows))
    meanings = {
        "the most frequent target of the party's own training samples": [n for n in names if n in OWN_NAMES],
        "a text of the sample itself": [n for n in names if n not in OWN_NAMES],
    }
    answers = [f"{', '.join(named)}: {meaning}" for meaning, named in meanings.items() if named]
    explanation = (
        "(reference): what answers without a model score on the same test samples, whatever a device holds; "
        + "; ".join(answers)
    )
    warnings = [
        f"warning: the records disagree on {row.name} at rho {rho_label(row.rho)}, {row.n_devices} devices, seed "
        f"{', '.join(map(str, row.disputed))}; these scores are left out"
        for row in rows
        if row.disputed
    ]
    return [explanation, *warnings]
