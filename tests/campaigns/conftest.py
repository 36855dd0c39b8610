"""What campaigns share: how much of it and from which seed, as environment variables say (see test_kills.py)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
SHARE, SEED = "CAMPAIGN_SHARE", "CAMPAIGN_SEED"


@pytest.fixture(scope="session")
def times() -> Callable[[int], int]:
    """Return how often something is done of which a whole campaign does so much."""
    share = float(os.environ.get(SHARE, "1"))
    return lambda whole: max(1, round(whole * share))


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> np.random.Generator:
    """Return the draws of one test: a function of the seed and of the test's name."""
    name = [ord(letter) for letter in request.node.name]
    return np.random.default_rng([int(os.environ.get(SEED, "0")), *name])
