"""Events: a closed list of kinds, frozen, whatever they tell of."""

from __future__ import annotations

import dataclasses

import pytest

from mlecs_bench.doors.events import KINDS, CellRef, Event


def test_an_event_of_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no event 'round_ended'; kinds are data, cells, cell_start, device_end"):
        Event("round_ended")


def test_every_kind_says_what_it_holds_and_an_event_cannot_be_changed():
    for kind, meaning in KINDS.items():
        assert meaning
        event = Event(kind)
        assert (event.cell, event.round, event.device, dict(event.values)) == (None, 0, "", {})
        with pytest.raises(dataclasses.FrozenInstanceError):
            event.round = 1
    with pytest.raises(TypeError):
        KINDS["another"] = "a kind"


def test_cells_are_told_apart_by_all_that_names_them():
    cell = CellRef("a", "d", "0.5", 27, 5, 3, 7)
    changes = {"algo": "b", "dataset": "e", "rho": "1", "seed": 34, "n_devices": 5, "key": "k", "variant": "tau=2"}
    cells = {cell, *(dataclasses.replace(cell, **{name: value}) for name, value in changes.items())}
    assert len(cells) == 1 + len(changes)
