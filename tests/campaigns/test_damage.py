"""Damaged inputs of every kind: refused in a line, in time, and never believed where a digest can tell.

    pytest -m campaign tests/campaigns/test_damage.py

2,000 of each; CAMPAIGN_SHARE and CAMPAIGN_SEED as in test_kills.py. Some of each are read in the usual tests
(tests/test_damage.py).
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections import Counter

import pytest

import damage
from damage_targets import targets

hypothesis = pytest.importorskip("hypothesis", reason="of the environment campaigns alone")
strategies = pytest.importorskip("hypothesis.strategies")

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(7200)]
COUNT = 2000
SEED = "CAMPAIGN_SEED"
TARGETS = targets()
JSON = ("settings in JSON", "record", "record without digests", "greetings", "failure", "status file", "lease")


@pytest.mark.parametrize("name", TARGETS)
def test_damage_is_refused_in_a_line(name, dice, times):
    target = TARGETS[name]
    original, ends, faults = target.original(), Counter[str](), Counter[str]()
    began = time.monotonic()
    with damage.never_unpickling() as unpickled:
        for _ in range(times(COUNT)):
            data = target.damaged(dice)
            try:
                found = damage.verdict(target.read, data, original)
                ends["believed"] += found == damage.OTHER and target.must_tell(data)
                ends[found] += 1
            except Exception as error:  # noqa: BLE001  # a fault of any kind: all are told at once
                at = traceback.extract_tb(error.__traceback__)[-1]
                faults[f"{type(error).__name__} {str(error)[:100]} at {at.filename}:{at.lineno}: {data[:300]!r}"] += 1
    print(f"\n{name}: {dict(ends)} in {time.monotonic() - began:.0f} s")
    assert not faults, "\n".join(f"{n}x {fault}" for fault, n in faults.most_common(20))
    assert not unpickled
    assert not ends["believed"]


@pytest.mark.parametrize("name", JSON)
def test_values_of_any_shape_are_refused_in_a_line(name, times):
    target = TARGETS[name]
    valid = json.loads(target.valid)
    anything = strategies.recursive(
        strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(),
        lambda inner: (
            strategies.lists(inner, max_size=4) | strategies.dictionaries(strategies.text(), inner, max_size=4)
        ),
        max_leaves=8,
    )
    original = target.original()

    @hypothesis.settings(
        max_examples=times(COUNT), deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.seed(int(os.environ.get(SEED, "0")))
    @hypothesis.given(strategies.sampled_from(sorted(valid)), anything)
    def reads(part, value):
        damage.verdict(target.read, json.dumps({**valid, part: value}).encode(errors="surrogatepass"), original)

    reads()
