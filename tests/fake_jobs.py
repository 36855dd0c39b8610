"""Jobs that end in a worker as they were told, in a module of their own: a worker that imports it imports little."""

from __future__ import annotations

import dataclasses
import os
import signal
import time

from mlecs_bench.doors.events import CellRef
from mlecs_bench.errors import DataError


@dataclasses.dataclass(frozen=True)
class FakePlan:
    """A plan whose threads are asked for first thing in a worker: there it ends as it was told."""

    end: str

    @property
    def threads(self) -> int:
        if self.end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.end == "sleep":
            time.sleep(60)
        if self.end == "memory":
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB free.\nMore.")
        if self.end == "defect":
            raise ZeroDivisionError("a defect")
        raise DataError(f"no data in process {os.getpid()}")


@dataclasses.dataclass(frozen=True)
class FakeJob:
    """As much of a job as a worker needs."""

    plan: object
    seed: int

    @property
    def ref(self) -> CellRef:
        return CellRef("a", "d", "1", self.seed, 1, 1, 1, str(self.seed))
