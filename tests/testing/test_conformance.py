"""The plugins that ship with mlecs-bench keep its contract."""

from __future__ import annotations

from typing import Any

import pytest

from mlecs_bench.doors.registry import OWN_DISTRIBUTION, Kind, Registry
from mlecs_bench.testing import checks_of

FAST = ("multi-fedavg", "vast")
"""Checked with the fast tests; the others take minutes together."""
LONG = ("twenty-devices", "absence-repeats", "drift-resumable")
"""Checks that take as long as several others."""
NIGHTLY = ("absence-repeats", "drift-device-order", "drift-resumable")
"""Checks that take long and are made nightly but of one algorithm."""
CARD = ("loads", "card", "options", "needs", "four-steps", "declared-messages", "deterministic", "budget-paper")
ON_DEVICES = (
    "stateless", "resumable", "over-bytes", "received-messages", "own-data", "own-modalities", "absent-samples",
    "only-own-state", "counted-steps", "budget-equal", "one-modality", "no-modality", "losing-everything",
)  # fmt: skip  # what a step on a device can break
AT_THE_SERVER = (
    "stateless", "resumable", "device-order", "only-own-state", "counted-steps", "server-score", "frozen-backbones",
    "finite-messages", "one-device", "no-modality", "twenty-devices",
)  # fmt: skip  # what a step at the server can break
REPLACED = {
    "ml-ecs/no-mma": AT_THE_SERVER,
    "ml-ecs/no-se-ccl": AT_THE_SERVER,
    "ml-ecs/no-ccl": (*ON_DEVICES, *AT_THE_SERVER),
    "ml-ecs/no-amt": ON_DEVICES,
    "ml-ecs/no-kt": AT_THE_SERVER,
}
"""The checks of what an ablation replaces in ML-ECS; the rest is ML-ECS's own code, which is checked there."""


def first_party(kind: Kind) -> list[str]:
    own = {e.name for e in Registry.installed().entries(kind) if e.distribution == OWN_DISTRIBUTION}
    return sorted(own)


def _marks(name: str, check: str) -> list[Any]:
    if name not in FAST and check in NIGHTLY:
        return [pytest.mark.nightly]
    return [] if name in FAST and check not in LONG else [pytest.mark.slow]


def cases() -> list[Any]:
    return [
        pytest.param(check, id=str(check), marks=_marks(name, check.name))
        for kind in ("algorithm", "dataset")
        for name in first_party(kind)
        for check in checks_of(name, kind)
        if name not in REPLACED or check.name in (*CARD, *REPLACED[name])
    ]


@pytest.mark.parametrize("check", cases())
def test_contract(check):
    check()


def test_every_check_of_an_ablation_exists():
    names = {check.name for check in checks_of("ml-ecs", "algorithm")}
    assert names >= {*CARD, *ON_DEVICES, *AT_THE_SERVER}
    assert set(REPLACED) == {name for name in first_party("algorithm") if name.startswith("ml-ecs/")}
