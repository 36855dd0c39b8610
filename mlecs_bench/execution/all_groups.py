"""`--n-devices all`: as many devices as the groups of the data allow, which is a number before there is a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from mlecs_bench.data.groups import count_groups
from mlecs_bench.errors import UsageError
from mlecs_bench.federation.build import columns_of
from mlecs_bench.federation.fleet import open_samples
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import ALL, MOST_DEVICES

if TYPE_CHECKING:
    from mlecs_bench.data.samples import Prepared
    from mlecs_bench.doors.registry import Registry
    from mlecs_bench.plan.plan import Plan
    from mlecs_bench.plan.spec import RunSpec


def counted(spec: RunSpec, registry: Registry, prepare: Callable[[Plan], Prepared]) -> RunSpec:
    """Return a spec whose devices are numbered: one of "all" with the number of groups, any other as it is.

    The number depends on the data, the split and the partition alone: seeds share it, and a run that names it is the
    same run. What is wrong with the spec is refused before `prepare` prepares its data; raises UsageError.
    """
    if spec.n_devices != ALL:
        return spec
    plan = resolve(dataclasses.replace(spec, n_devices=MOST_DEVICES), registry)  # no device is too many yet
    columns = columns_of(plan, open_samples(prepare(plan).folder))
    found = count_groups(columns, plan.split, plan.conditions.partition.dealing)
    if not 0 < found <= MOST_DEVICES:
        raise UsageError(
            f"n-devices all stands for {found:,} devices, as many as groups have enough samples (min-samples "
            f"{plan.conditions.partition.min_samples}), and 1 to {MOST_DEVICES:,} can be; use another law, such as "
            "partition iid, or say the number"
        )
    return dataclasses.replace(spec, n_devices=found)
