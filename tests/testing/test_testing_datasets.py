"""The checks of datasets: a correct one passes all of them, and for each there is one that breaks it."""

from __future__ import annotations

import pytest

from contract_data import BROKEN, BROKEN_OTHERWISE, CARD
from mlecs_bench.doors.registry import Loaded
from mlecs_bench.testing import CheckFailed, checks_of_info
from mlecs_bench.testing.checks import DATASET_CHECKS


@pytest.mark.parametrize("check", checks_of_info(Loaded("toy", CARD, "toys", "1")), ids=str)
def test_a_correct_dataset_passes(check):
    check()


def test_there_is_a_broken_dataset_for_every_check():
    assert list(BROKEN) == [function.__name__.replace("_", "-") for function in DATASET_CHECKS]


ALL_BROKEN = [(name, *given) for name, given in BROKEN.items()] + BROKEN_OTHERWISE


@pytest.mark.parametrize(("name", "info", "reason"), ALL_BROKEN, ids=[f"{n}-{r[:24]}" for n, _, r in ALL_BROKEN])
def test_a_broken_dataset_fails_its_check_in_one_line(name, info, reason):
    checks = {check.name: check for check in checks_of_info(Loaded("toy", info, "toys", "1"))}
    with pytest.raises(CheckFailed) as caught:
        checks[name]()
    message = str(caught.value)
    assert reason in message
    assert "\n" not in message
