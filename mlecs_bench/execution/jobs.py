"""Jobs: cells as they travel to a worker, what a worker says while it runs one, and running one in this process."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlecs_bench.data.samples import Prepared, open_prepared
from mlecs_bench.doors.hookspecs import CellRef
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import MlecsError
from mlecs_bench.execution.cell import CellEvents, CellPlan, run_cell
from mlecs_bench.federation.checkpoint import CellInUse
from mlecs_bench.plan.spec import RunSpec, rho_text
from mlecs_bench.records.results import identity_key, read_record

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Execution:
    """How cells are carried out; nothing here can change a number.

    `workers` None: one per core that memory allows, or one per GPU; no more than cells. `retry_failed`: cells that
    have failed before are run again.
    """

    out: Path
    cache_dir: Path
    workers: int | None = None
    retry_failed: bool = True


@dataclass(frozen=True)
class Job:
    """One cell: its resolved spec and seed, the folder of its prepared data, its identity, and how events name it."""

    spec: RunSpec
    seed: int
    folder: Path
    execution: Execution
    identity: Mapping[str, Any]
    ref: CellRef

    @property
    def key(self) -> str:
        """The key of the identity, which tells cells apart."""
        return identity_key(self.identity)


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


@dataclass(frozen=True)
class News:
    """Something that happened in a cell: `what` is an event's name with its values, or "end" with a CellResult."""

    key: str
    what: str
    values: tuple[Any, ...]


Tell = Callable[[News], None]


def cell_ref(spec: RunSpec, seed: int, key: str = "", variant: str = "") -> CellRef:
    """Return how events name a cell of a resolved spec."""
    rounds = spec.rounds or 0
    scored_rounds = rounds if spec.evaluate == "all" else 1
    return CellRef(
        algo=spec.algo,
        dataset=spec.dataset,
        rho=rho_text(spec.rho),
        seed=seed,
        rounds=rounds,
        n_devices=spec.n_devices,
        scorings=scored_rounds * (spec.n_devices + 1) + spec.n_devices,
        key=key,
        variant=variant,
    )


def plan_of(spec: RunSpec, registry: Registry, prepared: Prepared, execution: Execution) -> CellPlan:
    """Return what all cells of a spec share."""
    return CellPlan(
        spec=spec,
        algorithm=registry.algorithm(spec.algo),
        dataset=registry.dataset(spec.dataset),
        prepared=prepared,
        out=execution.out,
        cache_dir=execution.cache_dir,
    )


def run_job(job: Job, tell: Tell) -> None:
    """Run one cell in this process and tell how it ended; an error becomes part of the result."""
    tell(News(job.key, "end", (_result(job, tell),)))


def _result(job: Job, tell: Tell) -> CellResult:
    try:
        use_threads(job.spec.threads)
        prepared = open_prepared(job.folder)
        if prepared is None:
            raise MlecsError(f"the prepared data in {job.folder} is gone; run the command again to prepare it")
        plan = plan_of(job.spec, Registry.installed(), prepared, job.execution)
        path = run_cell(plan, job.seed, job.identity, _Forward(job.key, tell))
        return CellResult(job.seed, path, read_record(path))
    except CellInUse as error:
        return CellResult(job.seed, error=str(error), in_use=True)
    except MlecsError as error:
        return CellResult(job.seed, error=str(error))
    except Exception:  # noqa: BLE001  # a defect in one cell must not take the others down; the traceback is kept
        return CellResult(job.seed, error=traceback.format_exc())


def use_threads(threads: int) -> None:
    """One thread per process keeps results bit-exact; transformers' tokenizers must not fork their own."""
    import torch

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(threads)


class _Forward(CellEvents):
    """Turns the events of one cell into news."""

    def __init__(self, key: str, tell: Tell) -> None:
        self._key = key
        self._tell = tell

    def start(self, resumed_round: int) -> None:
        self._tell(News(self._key, "start", (resumed_round,)))

    def device_end(self, round_: int, device: str) -> None:
        self._tell(News(self._key, "device_end", (round_, device)))

    def score_end(self, round_: int, device: str) -> None:
        self._tell(News(self._key, "score_end", (round_, device)))

    def round_end(self, round_: int, scores: Mapping[str, float]) -> None:
        self._tell(News(self._key, "round_end", (round_, dict(scores))))
