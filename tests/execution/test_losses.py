"""Cells that are lost with what they ran on: how often they are tried again."""

from __future__ import annotations

import dataclasses
import random

from fake_jobs import FakeJob
from mlecs_bench.doors.events import Event
from mlecs_bench.execution.losses import MOST_LOSSES, Losses


@dataclasses.dataclass(frozen=True)
class Job(FakeJob):
    lost: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.ref.key


def test_a_cell_is_given_up_after_three_losses_in_a_row_without_a_new_round_and_never_before():
    for seed in range(50):
        draw = random.Random(seed)  # noqa: S311  # no secret
        losses, job, furthest, in_vain = Losses(), Job(None, seed), 0, 0
        for attempt in range(1, 30):
            losses.heard(Event("cell_start", job.ref, round=draw.randint(0, furthest)))
            reached = draw.randint(0, furthest + 1) if draw.random() < 0.7 else 0
            for t in range(1, reached + 1):
                losses.heard(Event("device_end", job.ref, round=t + 5))
                losses.heard(Event("round_end", job.ref, round=t))
            in_vain = 1 if reached > furthest else in_vain + 1
            furthest = max(furthest, reached)
            again = losses.lost(job, f"how {attempt}")
            assert (again is None) == (in_vain == MOST_LOSSES)
            if again is None:
                end = losses.given_up(job, f"how {attempt}")
                assert (end.kind, end.cell) == ("cell_end", job.ref)
                assert f"lost {attempt} times" in end.values["error"]
                assert end.values["error"].endswith(f"last: how {attempt}")
                break
            assert again.lost == tuple(f"how {n}" for n in range(1, attempt + 1))
            job = again


def test_the_losses_of_one_cell_cost_no_other_one_anything():
    losses, first, second = Losses(), Job(None, 1), Job(None, 2)
    for _ in range(MOST_LOSSES - 1):
        assert losses.lost(first, "killed") is not None
    assert losses.lost(first, "killed") is None
    assert losses.lost(second, "killed") is not None
