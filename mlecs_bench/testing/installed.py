"""A toy algorithm and a toy dataset as installed plugins, so that any process of this machine can load them.

Workers and fleets may run cells in other processes, which find plugins by their metadata alone. That of the toys lies
in `TOYS`, which `installed` puts on the import path; processes that run already, as nodes of a cluster do, need it on
theirs.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlecs_bench.blocks.aggregate import weighted_mean
from mlecs_bench.blocks.supervised import train_on_private
from mlecs_bench.data.samples import Prepared, open_prepared
from mlecs_bench.doors.hookspecs import AlgorithmInfo, DatasetInfo, Exchange, Needs
from mlecs_bench.doors.options import option
from mlecs_bench.doors.registry import PLUGINS_VARIABLE
from mlecs_bench.errors import DataError
from mlecs_bench.federation.messages import Message, with_kind
from mlecs_bench.testing import toy

if TYPE_CHECKING:
    from mlecs_bench.data.samples import DataRequest
    from mlecs_bench.federation.device import Device
    from mlecs_bench.federation.server import Server

TOYS = Path(__file__).with_name("toys")
"""A folder with the metadata of the toys, as pip would write them."""
DISTRIBUTION = "mlecs-bench-toys"
ALGORITHM = "toy-average"
DATASET = "toy-words"
REFUSED = "refused"
"""The scalar of a message that a device refuses to take in."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the toy algorithm."""

    breaks: bool = option(False, help="every cell fails in its first round", source="ours")


class ToyAverage:
    """Averages LoRA, and refuses what it is told to refuse."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def broadcast(self, server: Server, t: int) -> Mapping[str, Message]:
        """Send the mean to all devices, nothing in round 1; where it breaks, an unknown file is missed."""
        if self._options.breaks:
            raise DataError("the toy algorithm was told to break; leave its option 'breaks' alone")
        return {} if t == 1 else dict.fromkeys(server.devices, Message(with_kind("lora", server.slm.part("lora"))))

    def receive(self, device: Device, message: Message, t: int) -> None:
        """Take the mean over."""
        if REFUSED in message.scalars:
            raise DataError(f"{device.id} refuses the message of round {t}; send another one")
        if lora := message.of_kind("lora"):
            device.model.load_part("lora", lora)

    def local_update(self, device: Device, t: int) -> Message:
        """Train on private data, and remember how often."""
        train_on_private(device, t)
        return Message(with_kind("lora", device.model.part("lora")), {"n_j": len(device.train)})

    def aggregate(self, server: Server, uploads: Mapping[str, Message], t: int) -> None:
        """Average."""
        weights = {id_: float(message.scalars["n_j"]) for id_, message in uploads.items()}
        server.slm.load_part("lora", weighted_mean({i: m.of_kind("lora") for i, m in uploads.items()}, weights))


def prepare(request: DataRequest) -> Prepared:
    """Return the toy dataset from the cache, or make it there."""
    folder = request.cache_dir / DATASET
    return open_prepared(folder) or toy.make_prepared(folder)


ALGORITHM_INFO = AlgorithmInfo(
    title="Toy average",
    summary="averages LoRA; for checks",
    build=ToyAverage,
    paper="none",
    options=Options,
    exchanges=(Exchange("lora", "both", "LoRA of the SLM", "r * sum(in + out)"), Exchange("scalar", "up", "n_j", "1")),
    needs=lambda _: Needs(same=("lora",)),
)
DATASET_INFO = DatasetInfo(
    title="Toy words",
    summary="two words to be named; for checks",
    task="generation",
    modalities=toy.NAMES,
    prepare=prepare,
    metrics=("rouge_lsum",),
    splits=("frame", "sequence"),
    where_to_get="made on the spot",
)


@contextmanager
def installed() -> Iterator[None]:
    """Have the toys installed in this process and in those that it starts meanwhile."""
    site, before = str(TOYS), dict(os.environ)
    allowed = before.get(PLUGINS_VARIABLE)
    sys.path.append(site)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [before.get("PYTHONPATH"), site]))
    if allowed is not None:
        os.environ[PLUGINS_VARIABLE] = f"{allowed},{DISTRIBUTION}"
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(site)
        for name in ("PYTHONPATH", PLUGINS_VARIABLE):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
