"""The plugins that ship with mlecs-bench keep its contract."""

from __future__ import annotations

from typing import Any

import pytest

from mlecs_bench.doors.registry import OWN_DISTRIBUTION, Kind, Registry
from mlecs_bench.testing import checks_of

FAST = ("standalone", "ur-fall", "vast")
"""Checked with the fast tests; the others take minutes together."""


def first_party(kind: Kind) -> list[str]:
    own = {e.name for e in Registry.installed().entries(kind) if e.distribution == OWN_DISTRIBUTION}
    return sorted(own)


def cases() -> list[Any]:
    return [
        pytest.param(check, id=str(check), marks=[] if name in FAST else [pytest.mark.slow])
        for kind in ("algorithm", "dataset")
        for name in first_party(kind)
        for check in checks_of(name, kind)
    ]


@pytest.mark.parametrize("check", cases())
def test_contract(check):
    check()
