"""Checks that an algorithm copes with devices that stay away, where its needs say so; else it has to be refused."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlecs_bench.doors.events import Event
from mlecs_bench.errors import UsageError
from mlecs_bench.testing.fleets import ReversedFleet
from mlecs_bench.testing.trial import Subject, Trial, blaming, expect_finite, expect_same
from mlecs_bench.testing.verdict import fail

ONE_AWAY: Mapping[str, Any] = {"rounds": 3, "participation": {"away": {"d00": "1", "d01": "2", "d02": "3"}}}
"""Three rounds, in each of which another device is away."""
ADVICE = (
    "let aggregate take the uploads that are there, and a device what comes down when it is back; or leave 'absence' "
    "out of Needs.copes"
)


def _refused(subject: Subject) -> bool:
    """Does the algorithm leave "absence" out of what it copes with? Then see that it is refused."""
    if "absence" in subject.needs.copes:
        return False
    with suppress(UsageError):
        subject.plan(**ONE_AWAY)
        fail("an algorithm that does not cope with absence is refused", "it was not", "say what it copes with")
    return True


def _copes(subject: Subject, what: str, **changes: Any) -> Trial:
    """Return a run with `changes` that left finite numbers alone."""
    wanted = f"an algorithm whose needs say copes=('absence',) copes with {what}"
    with blaming(wanted, ADVICE):
        trial = subject.run(subject.federation(**changes))
    expect_finite(trial, wanted)
    return trial


def some_absent(subject: Subject) -> None:
    """Rounds that some devices miss work, if the needs say so, and those that come take all their steps."""
    if _refused(subject):
        return
    trial = _copes(subject, "devices that miss rounds", **ONE_AWAY)
    training = trial.federation.server.training
    for stage in ("private", "public", "pooled"):
        taken, wanted = trial.outcome.cost["steps"].get(stage, 0), 6 * training.budget.allowed(stage, 1)
        if taken != wanted:
            happened = f"two devices in each of three rounds took {taken} of {wanted} {stage} steps"
            fail("devices that come take the steps of their budget", happened, "take them whoever else is there")


def device_gone(subject: Subject) -> None:
    """A device that never comes, and one that never comes back, work, if the needs say so."""
    if not _refused(subject):
        _copes(subject, "devices that never come back", participation={"away": {"d00": "1-", "d02": "2-"}})


def lost_upload(subject: Subject) -> None:
    """A device whose uploads never arrive works, if the needs say so."""
    if not _refused(subject):
        _copes(subject, "uploads that are lost", faults={"byzantine": "nan", "devices": ("d01",)})


def skipped_round(subject: Subject) -> None:
    """A first round in which nothing is aggregated works, if the needs say so."""
    if not _refused(subject):
        participation = {"away": {"d00": "1", "d01": "1"}, "min_devices": 2}
        _copes(subject, "a round that is skipped", participation=participation)


class _Stopped(Exception):  # noqa: N818  # it stands for the death of the process, not for an error
    """The run was stopped in the middle of a round."""


def absence_repeats(subject: Subject) -> None:
    """With devices that miss rounds, another order of devices and a stop in a round give the same bits."""
    if _refused(subject):
        return
    reference = subject.run(subject.federation(**ONE_AWAY))
    turned = subject.run(subject.federation(**ONE_AWAY), around=ReversedFleet)
    expect_same(reference, turned, "the order of the devices does not matter, whoever is away", ADVICE)
    wanted = "a run that is stopped in round 3 goes on as if nothing had happened, whoever was away before"

    def stop(event: Event) -> None:
        if event.kind == "device_end" and event.round == 3:
            raise _Stopped

    with tempfile.TemporaryDirectory() as name:
        advice = "keep what lasts between rounds in tensors in device.memory or server.memory"
        with blaming(wanted, advice):
            with suppress(_Stopped):
                subject.run(subject.federation(**ONE_AWAY), folder=Path(name), tell=stop)
            resumed = subject.run(subject.federation(**ONE_AWAY), folder=Path(name))
    expect_same(reference, resumed, wanted, advice, from_round=4)
