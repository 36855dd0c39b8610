"""Devices as many as groups: a number that only the data know is one before there is a plan, and the same run after."""

from __future__ import annotations

import dataclasses

import pytest

from mlecs_bench.data.groups import count_groups
from mlecs_bench.data.samples import Prepared
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.execution.all_groups import counted
from mlecs_bench.federation.build import columns_of, lay_out
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.testing import toy

REGISTRY = Registry.installed()
ALL = {"algo": "multi-fedavg", "dataset": "ur-fall", "rho": 0.5, "n_devices": "all", "partition": "group"}


def spec(**changes: object) -> RunSpec:
    return RunSpec(**(ALL | changes))  # type: ignore[arg-type]


def toy_data(_plan: object) -> Prepared:
    """Return the toy's samples in the place of those of the plan: groups of four."""
    return toy.prepared(toy.N_SAMPLES)


def never(_plan: object) -> None:
    raise AssertionError("the data were prepared")


def test_all_is_the_number_of_groups_of_the_data_for_every_seed():
    prepared = []

    def prepare(plan):
        prepared.append(plan.dataset.name)
        return toy_data(plan)

    found = counted(spec(), REGISTRY, prepare)
    assert found == dataclasses.replace(spec(), n_devices=toy.N_SAMPLES // 4), "a group of the toy has four samples"
    plan = resolve(found, REGISTRY)
    samples = toy.samples()
    assert plan.n_devices == count_groups(columns_of(plan, samples), "frame", plan.conditions.partition.dealing)
    for seed in (27, 34):
        cut = lay_out(plan, seed, samples).partition
        groups = [samples.column("group")[part.train[0]] for part in cut.devices]
        assert groups == sorted(set(samples.column("group")))
    assert counted(found, REGISTRY, never) is found, "a number is a number"
    assert prepared == ["ur-fall"]
    two = counted(spec(partition="group:stratum", split="sequence"), REGISTRY, prepare)
    assert two.n_devices == 2


def test_what_is_wrong_is_refused_before_data_are_prepared_and_no_groups_after():
    with pytest.raises(UsageError, match="device-rank names device 'x'"):
        counted(spec(device_rank={"x": 4}), REGISTRY, never)
    with pytest.raises(UsageError, match="n-devices all stands for 0 devices"):
        counted(spec(partition="group,min-samples=5"), REGISTRY, toy_data)
    with pytest.raises(UsageError, match=r"group:stratum1 names no column of the data. Did you mean 'stratum'"):
        counted(spec(partition="group:stratum1"), REGISTRY, toy_data)
