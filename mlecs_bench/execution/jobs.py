"""Jobs: cells as they travel to a worker, and how they end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.events import CellRef, Event
from mlecs_bench.federation.fleet import IN_PROCESS
from mlecs_bench.plan.spec import ALL, rho_text
from mlecs_bench.records.results import identity_key

if TYPE_CHECKING:
    from mlecs_bench.plan.plan import Plan
    from mlecs_bench.plan.spec import RunSpec


@dataclass(frozen=True)
class Execution:
    """How cells are carried out; nothing here can change a number.

    `workers` None: one per core that memory allows, or one per GPU; no more than cells. `engine` names the workers,
    None for those of this machine, and `argument` is what was written behind that name. `fleet` is where the devices of
    a cell live, as users write it. `retry_failed`: cells that have failed before are run again. `track` names the
    trackers that are told of them. `save_predictions`: answers are kept beside records, None where no party has many
    test samples; `save_models`: so are trained models. `brief`: results hold of their
    records no more than what a sweep says of all of them in the end. `round_timeout` are the seconds that
    devices elsewhere have for a round.
    """

    out: Path
    cache_dir: Path
    workers: int | None = None
    engine: str | None = None
    fleet: str = IN_PROCESS
    retry_failed: bool = True
    track: tuple[str, ...] = ()
    save_predictions: bool | None = None
    save_models: bool = False
    argument: str = ""
    brief: bool = False
    round_timeout: float | None = None


@dataclass(frozen=True)
class Job:
    """One cell: its plan and seed, the folder of its prepared data, its identity, and how events name it.

    `lost` says of every earlier attempt that was lost with the process or the machine it ran on how that came about.
    """

    plan: Plan
    seed: int
    data: Path
    execution: Execution
    identity: Mapping[str, Any]
    ref: CellRef
    lost: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The key of the identity, which tells cells apart."""
        return self.ref.key


@dataclass(frozen=True)
class CellResult:
    """How one cell ended: with a record (new, or found and `skipped`) or with an error.

    `skipped` with an error: the cell failed before, at `failed_at`, and was not tried again, or what is there of it
    cannot be read. `in_use`: another process has it.
    """

    seed: int
    path: Path | None = None
    record: Mapping[str, Any] | None = None
    error: str | None = None
    skipped: bool = False
    in_use: bool = False
    failed_at: str = ""

    def brief(self, identity: Mapping[str, Any]) -> CellResult:
        """Return the result with what is said of a record when a sweep is over, since a sweep has many records.

        `identity` is that of the job, which shares most of it with other jobs.
        """
        if self.record is None:
            return self
        kept = (("realised", "samples"), ("comm", "device_params"), ("cost", "seconds"))
        parts = {part: {name: self.record[part][name]} for part, name in kept}
        return dataclasses.replace(self, record={"identity": identity, **parts})

    def event(self, cell: CellRef) -> Event:
        """Return the event that tells of it."""
        return Event("cell_end", cell, values={f.name: getattr(self, f.name) for f in dataclasses.fields(self)})


def cell_ref(plan: Plan, seed: int, key: str = "") -> CellRef:
    """Return how events name a cell of a plan."""
    scored_rounds = plan.rounds if plan.evaluate == "all" else 1
    return CellRef(
        algo=plan.algorithm.name,
        dataset=plan.dataset.name,
        rho=plan.rho_text,
        seed=seed,
        rounds=plan.rounds,
        n_devices=plan.n_devices,
        scorings=scored_rounds * (plan.n_devices + 1) + plan.n_devices,
        key=key,
        variant=plan.variant,
    )


def unplanned_ref(spec: RunSpec, seed: int, identity: Mapping[str, Any]) -> CellRef:
    """Return how events name a cell whose plugin cannot be loaded, so that it has no plan."""
    return CellRef(
        spec.algo,
        spec.dataset,
        rho_text(spec.rho),
        seed,
        spec.rounds or 0,
        0 if spec.n_devices == ALL else spec.n_devices,
        0,
        identity_key(identity),
    )
