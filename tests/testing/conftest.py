"""The contract looks at global random streams, and what checks shapes in tests draws from them."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def as_in_production(unchecked: None) -> None:
    """Run without checks of shapes."""
