"""The toy dataset and an algorithm that fails as it is told, as plugins that a fresh interpreter finds."""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mlecs_bench.api import AlgorithmInfo, DataRequest, DatasetInfo, Message, Metric, Prepared
from mlecs_bench.doors.hookspecs import hookimpl
from mlecs_bench.federation.turns import KINDS
from mlecs_bench.testing import toy


def prepare(request: DataRequest) -> Prepared:
    """Make the toy dataset."""
    return toy.make_prepared(request.cache_dir / toy.DATASET)


def diagnose(_rows: Mapping[str, Sequence[Any]], predictions: Sequence[str]) -> dict[str, Metric]:
    """Return a score that any change of any answer changes."""
    return {"digest": Metric(zlib.crc32(repr(list(predictions)).encode()) / 2**32, len(predictions))}


DATASET = DatasetInfo(
    title="Toy",
    summary="Two words.",
    task="generation",
    modalities=toy.NAMES,
    prepare=prepare,
    metrics=("rouge_lsum",),
    splits=("frame", "sequence"),
    diagnostic_columns=("group",),
    diagnose=diagnose,
)
DEFECT, DEATH, MEMORY = -1, -2, -3
"""Faults beside the numbers of `KINDS`: a defect, the end of the process by SIGKILL, and a GPU whose memory ran out."""


class Faulty:
    """Fails in a device's turn as the message's scalar "fault" says; otherwise it counts its turns."""

    def broadcast(self, _server: Any, _t: int) -> Mapping[str, Message]:
        return {}

    def receive(self, device: Any, message: Message, _t: int) -> None:
        device.memory["turns"] = device.memory.get("turns", torch.zeros(())) + 1
        fault = message.scalars.get("fault")
        if fault == DEFECT:
            raise ZeroDivisionError("a defect of the plugin")
        if fault == DEATH:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == MEMORY:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB free.\nMore.")
        if fault is not None:
            raise list(KINDS.values())[int(fault)](f"fault {fault}")

    def local_update(self, device: Any, _t: int) -> Message:
        return Message({"x/turns": device.memory["turns"]}, {"process": os.getpid()})

    def aggregate(self, _server: Any, _uploads: Mapping[str, Message], _t: int) -> None:
        return


class _Data:
    @hookimpl
    def mlecs_dataset(self) -> DatasetInfo:
        return DATASET


class _Faulty:
    @hookimpl
    def mlecs_algorithm(self) -> AlgorithmInfo:
        return AlgorithmInfo("Faulty", "fails as it is told", build=lambda _: Faulty())


DATA, FAULTY = _Data(), _Faulty()
