"""Checks that an algorithm survives modalities that come and go, if its needs say that it copes with "drift"."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlecs_bench.doors.events import Event
from mlecs_bench.doors.hookspecs import PER_MODALITY
from mlecs_bench.errors import UsageError
from mlecs_bench.federation.build import Federation
from mlecs_bench.federation.device import Device
from mlecs_bench.models.unified import MISSING
from mlecs_bench.testing.bits import differing
from mlecs_bench.testing.fleets import ReversedFleet
from mlecs_bench.testing.steps import Step
from mlecs_bench.testing.toy import NAMES
from mlecs_bench.testing.trial import Subject, Trial, blaming, expect_finite, expect_same
from mlecs_bench.testing.verdict import fail

ROUNDS = 3
ONE, ALL = NAMES[:1], NAMES
RETURNS = {"d00": {1: ALL, 2: ONE, 3: ALL}, "d01": {1: ONE, 3: ALL}}
"""d00 loses two modalities for a round, d01 gains two in the last; d02 never changes."""
NOTHING = {"d00": {1: ALL, 2: (), 3: ALL}, "d01": {1: ONE, 3: ()}}
"""d00 holds nothing in round 2, d01 in the last."""
WANTED = "an algorithm that copes with drift follows the modalities of every round"
ADVICE = "look at device.modalities and server.devices in every step, never at those of a round before"


def returning_modality(subject: Subject) -> None:
    """A modality that goes rests and does not travel until it is back; one that is gained takes part from then on."""
    if _refused(subject):
        return
    trial, moved = _reference(subject)
    if moved:
        fail(WANTED, moved[0], "leave encoders and projectors of what a device does not hold as they are")
    _expect_fitting(trial)
    expect_finite(trial, WANTED)


def losing_everything(subject: Subject) -> None:
    """A device that holds nothing in a round is one without modalities, and goes on when they are back."""
    if _refused(subject):
        return
    with blaming(WANTED, ADVICE):
        trial = subject.run(_federation(subject, NOTHING))
    expect_finite(trial, WANTED)


def drift_device_order(subject: Subject) -> None:
    """Where modalities come and go, the order of the devices does not matter: reversed it gives the same bits."""
    if _refused(subject):
        return
    one, _ = _reference(subject)
    with blaming(WANTED, ADVICE):
        turned = subject.run(_federation(subject, RETURNS), around=ReversedFleet)
    wanted = "the order of the devices does not matter where modalities come and go (they ran in reverse)"
    expect_same(one, turned, wanted, "keep nothing that devices share, and name random streams by device.id")


class _Stopped(Exception):  # noqa: N818  # it stands for the death of the process, not for an error
    """The run was stopped in the middle of a round."""


def drift_resumable(subject: Subject) -> None:
    """Stopped while a modality is away and gone on from what was kept, a run gives the same bits."""
    if _refused(subject):
        return
    wanted = "a run that is stopped in round 2, where a modality is away, goes on as if nothing had happened"
    advice = "keep what lasts between rounds in tensors in device.memory or server.memory"

    def stop(event: Event) -> None:
        if event.kind == "device_end" and event.round == 2:
            raise _Stopped

    one, _ = _reference(subject)
    with tempfile.TemporaryDirectory() as name, blaming(wanted, advice):
        folder = Path(name)
        with suppress(_Stopped):
            subject.run(_federation(subject, RETURNS), folder=folder, tell=stop)
        resumed = subject.run(_federation(subject, RETURNS), folder=folder)
    expect_same(one, resumed, wanted, advice, from_round=3)


def _reference(subject: Subject) -> tuple[Trial, list[str]]:
    """Return the run that others are compared with, and what was trained in it that should have rested."""
    if "drift" not in subject.shared:
        moved: list[str] = []
        with blaming(WANTED, ADVICE):
            subject.shared["drift"] = subject.run(_federation(subject, RETURNS), _noting(moved)), moved
    found: tuple[Trial, list[str]] = subject.shared["drift"]
    return found


def _federation(subject: Subject, told: Mapping[str, Mapping[int, tuple[str, ...]]]) -> Federation:
    schedule = {id_: {t: list(held) for t, held in rounds.items()} for id_, rounds in told.items()}
    held: dict[str, Any] = {"schedule": schedule, "min_modalities": 0}
    return subject.federation(lambda _: True, rounds=ROUNDS, steps=1, rho=1, **held)


def _refused(subject: Subject) -> bool:
    """Does the algorithm not say that it copes? Then raise CheckFailed unless such a run is refused."""
    if "drift" in subject.needs.copes:
        return False
    with suppress(UsageError):
        subject.plan(rounds=ROUNDS, schedule="markov:fail=0.5,repair=0.5")
        fail("Needs.copes lacks 'drift', so modalities may not come and go", "the run was planned", "report it")
    return True


def _noting(moved: list[str]) -> Any:
    """Return a watch that notes which resting tensors a device's training moves."""

    @contextmanager
    def watch(step: Step) -> Iterator[None]:
        before = _resting(step)
        yield
        changed = sorted(differing(before, _resting(step)))
        moved.extend(f"{step} changed {name}, which it does not hold" for name in changed)

    return watch


def _resting(step: Step) -> dict[str, Any]:
    """Return copies of the tensors of modalities that the device of a local update does not hold."""
    if step.name != "local_update" or not isinstance(step.party, Device):
        return {}
    away = set(step.party.built_for) - set(step.party.modalities)
    return {name: tensor for name, tensor in step.party.model.state().items() if _modality(name) in away}


def _modality(name: str) -> str:
    """Return the modality that a tensor called part/modality/… belongs to; what stands in for one belongs to none."""
    part, _, rest = name.partition("/")
    modality, _, tensor = rest.partition("/")
    return modality if part in PER_MODALITY and tensor != MISSING else ""


def _expect_fitting(trial: Trial) -> None:
    """Raise CheckFailed for a message with tensors of a modality that its device does not hold in the round."""
    schedule, ids = trial.federation.layout.schedule, trial.federation.plan.device_ids
    for sent in trial.sent:
        held = schedule.held(ids.index(sent.device), sent.round)
        for name in sent.message.tensors:
            if _modality(name) not in ("", *held):
                fail(WANTED, f"{sent} has {name}, which {sent.device} does not hold then", ADVICE)
