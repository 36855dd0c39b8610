"""The measurement of many cells still measures: it is a script that nobody runs for weeks."""

from __future__ import annotations

import pytest


@pytest.mark.nightly
def test_every_part_of_a_sweep_of_many_cells_is_measured(tmp_path):
    import scale

    found = scale.measure(25, tmp_path)
    assert found["cells"] == 25
    parts = ("plan", "run", "skip", "status", "report")
    assert all(found[name] > 0 and found[f"{name} CPU"] >= 0 for name in parts)
    assert len(list((tmp_path / "out" / "records").glob("*.json"))) == 25
