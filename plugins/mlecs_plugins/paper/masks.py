"""Which seeds can tell the aggregation by modalities from a plain mean: those whose devices hold unequal numbers.

MMA weighs device j by |M_j| over the sum of all (Eq. 13). Where all |M_j| are equal it is the plain mean of the
ablation `no-mma`: both are the same algorithm, and their difference says nothing of MMA.
"""

from __future__ import annotations

from collections.abc import Iterable

from mlecs_bench.api import Place, Row

BY_MODALITIES = "no-mma"
"""The ablation whose difference is in the numbers of modalities alone, as its name ends."""


def informative_seeds(row: Row) -> tuple[int, ...]:
    """Return the seeds of a row on which devices hold unequal numbers of modalities, ascending."""
    held = {record["identity"]["seed"]: record["realised"]["modalities"].values() for record in row.records}
    return tuple(seed for seed in row.seeds if len({len(modalities) for modalities in held[seed]}) > 1)


def is_by_modalities(algo: str) -> bool:
    """Is an algorithm the ablation of the aggregation by modalities?"""
    return algo.partition("/")[2] == BY_MODALITIES


def informative_notes(rows: Iterable[tuple[Place, Row]]) -> list[str]:
    """Return how many seeds are informative at every rate of the rows that ablate MMA, and why others are not."""
    counts = [informative_text(place.rho, row) for place, row in rows if is_by_modalities(place.arm.algo)]
    if not counts:
        return []
    return [f"MMA: informative seeds, on which devices hold unequal numbers of modalities: {'; '.join(counts)}. {WHY}"]


def informative_text(rho: str, row: Row) -> str:
    """Return how many seeds of a row are informative, and which."""
    seeds = informative_seeds(row)
    which = f" ({', '.join(map(str, seeds))})" if seeds else ""
    return f"{len(seeds)} of {len(row.seeds)} at rho {rho}{which}"


WHY = "On the others MMA is the plain mean of no-mma and the difference says nothing of it."
