"""Two plugins of a fake distribution and a stand-in for protocol.run, for tests of the command line."""

from __future__ import annotations

import os
import sys
import types
from dataclasses import dataclass
from typing import Literal

import pytest

from hand_made import make_record, with_identity
from mlecs_bench.cli import main as cli_main
from mlecs_bench.doors.events import Event
from mlecs_bench.doors.hookspecs import AlgorithmInfo, DatasetInfo, Exchange, hookimpl
from mlecs_bench.doors.options import option
from mlecs_bench.doors.registry import PluginEntry, Registry
from mlecs_bench.execution import jobs
from mlecs_bench.records.results import record_name
from mlecs_bench.session.environment import QUIET_LIBRARIES


@dataclass(frozen=True)
class Options:
    rank: int = option(8, help="Rank of the adapters.", source="paper, section 4.3")
    mode: Literal["mean", "max"] = option("mean", help="How to merge.", source="")


class Alpha:
    @hookimpl
    def mlecs_algorithm(self):
        return AlgorithmInfo(
            title="Alpha method",
            summary="Averages everything.",
            paper="arXiv 0000.00000",
            build=lambda options: None,
            options=Options,
            exchanges=(Exchange("lora", "both", "the adapters", "r (d_in + d_out)"),),
            deviations=("Departs from Eq. 3.",),
        )


class Toy:
    @hookimpl
    def mlecs_dataset(self):
        return DatasetInfo(
            title="Toy data",
            summary="Ten samples.",
            task="generation",
            modalities=("audio", "vision"),
            prepare=lambda request: None,
            metrics=("rouge_lsum", "bertscore"),
            splits=("frame", "sequence"),
            where_to_get="made on the spot",
        )


class Watch:
    @hookimpl
    def mlecs_event(self, event):
        """Hear of everything."""


ENTRIES = (
    PluginEntry("alpha", "algorithm", "acme", "1.2", "acme_plugins:alpha"),
    PluginEntry("toy", "dataset", "acme", "1.2", "acme_plugins:toy"),
    PluginEntry("gone", "algorithm", "acme", "1.2", "acme_gone"),
)


OWN = tuple(
    entry
    for kind in ("metric", "encoder", "profile", "workers", "fleet", "study")
    for entry in Registry.installed().entries(kind)
    if entry.distribution == "mlecs-bench"
)
"""What comes with the package beside algorithms and datasets."""


def install(monkeypatch: pytest.MonkeyPatch, entries=ENTRIES, own=OWN) -> None:
    """Let only `entries` be installed, beside `own`; what main() sets in the environment is undone after the test."""
    module = types.ModuleType("acme_plugins")
    module.alpha, module.toy, module.watch = Alpha(), Toy(), Watch()
    monkeypatch.setitem(sys.modules, "acme_plugins", module)
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls: cls([*entries, *own])))
    for name, value in QUIET_LIBRARIES.items():
        monkeypatch.setenv(name, os.environ.get(name, value))


def call_main(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command line; return exit code, stdout and stderr."""
    code = cli_main.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


class FakeProtocol:
    """Stands in for protocol.run: remembers what it was given, tells the observers, and ends as it is told."""

    def __init__(self, tmp_path):
        self.folder = tmp_path
        self.errors = {}
        self.raises = None
        self.plan = self.execution = None

    def __call__(self, plan, execution, observers, registry=None):
        self.plan, self.execution = plan, execution
        results = [self._result(plan, seed) for seed in plan.seeds]
        for result in results:
            ref = jobs.cell_ref(plan, result.seed)
            observers.hook.mlecs_event(event=Event("cell_start", ref), plan=plan)
            observers.hook.mlecs_event(event=result.event(ref), plan=plan)
        if self.raises:
            raise self.raises
        return results

    def _result(self, plan, seed):
        if seed in self.errors:
            return jobs.CellResult(seed, error=self.errors[seed])
        names = {"algo": plan.algorithm.name, "dataset": plan.dataset.name}
        record = with_identity(make_record(**names, seed=seed), profile={"tiny": True})
        return jobs.CellResult(seed, self.folder / record_name(record["identity"]), record)
