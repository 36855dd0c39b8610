"""Local epochs: every party takes the passes over its own samples, and what was taken is counted."""

from __future__ import annotations

import pytest

import toy
from mlecs_bench.doors.hookspecs import Needs

EPOCHS, BATCH, PRIVATE, PUBLIC, DEVICES = 2, 4, 11, 9, 2


@pytest.mark.slow
def test_a_cell_takes_and_counts_the_steps_of_its_passes(profile, samples):
    """By hand: 11 private samples are 2 full batches of 4, and so are 9 public ones."""
    private, public = EPOCHS * (PRIVATE // BATCH), EPOCHS * (PUBLIC // BATCH)
    changes = {"local_epochs": EPOCHS, "steps": None, "batch_size": BATCH, "rounds": 1, "n_devices": DEVICES}
    limits = {"private_limit": PRIVATE, "public_limit": PUBLIC}
    for algo, expected in (
        ("ml-ecs", {"private": DEVICES * private, "public": DEVICES * public, "server": public}),
        ("co-plms", {"private": DEVICES * 2 * private, "server": public, "setup": toy.needs_of("co-plms").setup_steps}),
    ):
        federation = toy.toy_federation(
            samples=samples, profile=profile, needs=toy.needs_of(algo), algo=algo, **changes, **limits
        )
        outcome = toy.run_toy(algo, federation, samples, evaluator=toy.Unscored(), server_score=False)
        assert outcome.cost["steps"] == {name: steps for name, steps in expected.items() if steps}


def test_parties_with_more_samples_take_more_steps(profile, samples):
    """Sequences are dealt unevenly; the pool is all that a device may see of all training samples."""
    federation = toy.toy_federation(
        profile,
        samples,
        needs=Needs(pool=True),
        split="sequence",
        local_epochs=1,
        steps=None,
        batch_size=4,
        n_devices=4,
    )
    for device in federation.devices:
        budget = device.training.budget
        assert (budget.private, budget.pooled) == (len(device.train) // 4, 2 * (len(device.pool) // 4))
    assert len({device.training.budget.private for device in federation.devices}) > 1
    assert federation.server.training.budget.server == len(federation.server.train) // 4
