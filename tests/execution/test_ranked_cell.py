"""A whole cell whose labels are ranked: the same run, with more scores, under a key of its own."""

from __future__ import annotations

import dataclasses

import pluggy
import pytest

import toy
from mlecs_bench.data.samples import save_prepared
from mlecs_bench.doors.hookspecs import DatasetInfo
from mlecs_bench.doors.registry import KINDS, Loaded, Registry
from mlecs_bench.execution import cell, protocol
from mlecs_bench.execution.jobs import Execution
from mlecs_bench.plan.resolve import planned
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.records.results import read_record
from mlecs_bench.testing import toy as made

LABELS = ("red", "blue", "happy sad thing")


class Toys(Registry):
    """The installed plugins, with a dataset of three labels in the place of any."""

    def __init__(self, folder) -> None:
        super().__init__(entry for kind in KINDS for entry in Registry.installed().entries(kind))
        columns = made.make_columns(made.N_SAMPLES)
        columns["target"] = [LABELS[i % 3] for i in range(made.N_SAMPLES)]
        manifest = dataclasses.replace(made.make_manifest(made.N_SAMPLES), labels=LABELS, task="classification")
        prepared = save_prepared(made.make_table(columns), manifest, folder)
        self._card = DatasetInfo("Toy", "", "classification", toy.NAMES, lambda _: prepared, ("f1_macro",))

    def dataset(self, name):
        return Loaded(name, self._card, "toys", "1")


@pytest.mark.slow
def test_a_cell_with_ranked_labels_is_the_cell_without_them_and_their_scores(profile, tmp_path):
    registry, records = Toys(tmp_path / "data"), {}
    for answer in ("generate", "rank"):
        spec = RunSpec("standalone", "toy", 0.6, rounds=1, steps=1, seeds=(27,), metrics=("accuracy",), answer=answer)
        algorithm, data = registry.algorithm("standalone"), registry.dataset("toy")
        plan = planned(spec, algorithm, data, Loaded("toy", profile, "toys", "1"))
        execution = Execution(tmp_path / "out", tmp_path / "cache")
        (job,) = protocol.plan_jobs([plan], registry, execution, pluggy.PluginManager("mlecs_bench"))
        records[answer] = read_record(cell.run_cell(job, registry, lambda _: None))
    plain, ranked = records["generate"], records["rank"]
    assert list(ranked["identity"]["scorers"]) == ["f1_macro", "accuracy", "f1_macro_rank", "accuracy_rank"]
    assert plain["key"] != ranked["key"]
    assert plain["comm"] == ranked["comm"]
    for point, by_metric in plain["metrics"]["client"].items():
        found = ranked["metrics"]["client"][point]
        assert {name: found[name] for name in by_metric} == by_metric
        values = [score["value"] for score in found["accuracy_rank"].values()]
        assert max(values) > 0, "every answer is a label, so some are right"
        assert {d: s["n"] for d, s in found["accuracy_rank"].items()} == {
            d: s["n"] for d, s in found["accuracy"].items()
        }
    majority = ranked["metrics"]["references"]["majority"]
    assert majority["server"]["accuracy_rank"] == majority["server"]["accuracy"]
