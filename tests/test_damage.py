"""Damaged inputs of every kind, some of each: the whole campaign is tests/campaigns/test_damage.py."""

from __future__ import annotations

import numpy as np
import pytest

import damage
from damage_targets import targets

COUNT = 40
TARGETS = targets()


@pytest.mark.parametrize("name", TARGETS)
def test_damage_is_refused_in_a_line_and_never_believed_where_a_digest_can_tell(name):
    target, dice = TARGETS[name], np.random.default_rng(0)
    original = target.original()
    with damage.never_unpickling() as unpickled:
        inputs = [target.damaged(dice) for _ in range(COUNT)]
        ends = [(damage.verdict(target.read, data, original), target.must_tell(data)) for data in inputs]
    assert not unpickled
    assert damage.REFUSED in dict(ends) or name in ("status file", "lease")  # which pass over what they cannot read
    assert (damage.OTHER, True) not in ends
