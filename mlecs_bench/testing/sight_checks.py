"""Checks of what a party may see: its own samples through its own modalities, and no value of an absent modality."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from mlecs_bench.data.samples import PartyData, Samples
from mlecs_bench.federation.build import Federation
from mlecs_bench.federation.device import Device
from mlecs_bench.federation.party import Party
from mlecs_bench.testing import toy
from mlecs_bench.testing.steps import Step
from mlecs_bench.testing.trial import Subject, blaming, expect_same
from mlecs_bench.testing.verdict import CheckFailed, fail

Rows = Sequence[int] | np.ndarray[Any, Any]


class Guard:
    """Knows whose step is running, and notes who reaches for what is not theirs."""

    def __init__(self) -> None:
        self.step: Step | None = None
        self.caught: list[str] = []

    @contextmanager
    def watch(self, step: Step) -> Iterator[None]:
        """Let only the party of `step` read its data."""
        self.step = step
        try:
            yield
        finally:
            self.step = None


class GuardedData(PartyData):
    """A party's data that tells the guard who reads it."""

    def __init__(self, data: PartyData, samples: Samples, guard: Guard, *, for_scores: bool = False) -> None:
        super().__init__(samples, data.rows.tolist(), data.sight, data.owner)
        self._guard = guard
        self._for_scores = for_scores

    def check_rows(self, rows: Rows) -> np.ndarray[Any, Any]:
        """Tell the guard when another party's step is running, or any for data to score on; then check as usual."""
        step = self._guard.step
        if step is not None and self._for_scores:
            self._guard.caught.append(f"{step} read the test data of {self.owner}, which is for scores alone")
        if step is not None and step.party.id != self.owner:
            self._guard.caught.append(f"{step} read data of {self.owner}")
        return super().check_rows(rows)

    def modality(self, name: str, rows: Rows) -> np.ndarray[Any, Any]:
        """Tell the guard when the modality is not held, then go on as usual."""
        if name not in self.modalities:
            self._guard.caught.append(f"{self._guard.step or self.owner} asked for '{name}', which it lacks")
        return super().modality(name, rows)


Hidden = Callable[[Party], dict[str, np.ndarray[Any, Any]]]
"""Modality (or "target") → rows whose values a party may not see."""


def guarded(federation: Federation, guard: Guard, hidden: Hidden) -> Federation:
    """Give every party a table of its own in which what is hidden from it is overwritten."""
    for party in (federation.server, *federation.devices):
        samples = Samples(toy.make_manifest(), toy.make_table(overwritten(toy.make_columns(), hidden(party))))
        party.train = GuardedData(party.train, samples, guard)
        party.test = GuardedData(party.test, samples, guard, for_scores=True)
        if isinstance(party, Device):
            party.public = GuardedData(party.public, samples, guard)
    return federation


def overwritten(columns: dict[str, Any], hidden: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    """Return columns with other values in the hidden rows."""
    columns = dict(columns)
    for name, rows in hidden.items():
        if name == "target":
            columns[name] = ["a stolen thing" if i in set(rows.tolist()) else t for i, t in enumerate(columns[name])]
            continue
        values = columns[name].copy()
        values[rows] = values[rows] + 1
        columns[name] = values
    return columns


def rows_of(party: Party) -> np.ndarray[Any, Any]:
    """Return the rows that a party may see."""
    public = [party.public.rows] if isinstance(party, Device) else []
    return np.unique(np.concatenate([party.train.rows, party.test.rows, *public]))


def _see_nothing_else(subject: Subject, hidden: Hidden, wanted: str) -> None:
    reference, guard = subject.reference, Guard()
    advice = "use device.train, device.public and server.train, through their own methods"
    try:
        with blaming(wanted, advice):
            trial = subject.run(guarded(subject.federation(), guard, hidden), guard.watch)
    except CheckFailed:
        if not guard.caught:
            raise
    if guard.caught:
        fail(wanted, guard.caught[0], advice)
    expect_same(reference, trial, f"{wanted} (the rest was overwritten)", advice)


def own_data(subject: Subject) -> None:
    """No step touches another party's data, or data that is there to be scored on."""
    everything = np.arange(toy.N_SAMPLES)

    def hidden(party: Party) -> dict[str, np.ndarray[Any, Any]]:
        foreign = np.setdiff1d(everything, rows_of(party))
        return dict.fromkeys((*toy.NAMES, "target"), foreign)

    _see_nothing_else(subject, hidden, "a party sees its own samples and, of others, only messages")


def own_modalities(subject: Subject) -> None:
    """No device touches a modality it lacks."""
    everything = np.arange(toy.N_SAMPLES)

    def hidden(party: Party) -> dict[str, np.ndarray[Any, Any]]:
        return dict.fromkeys((name for name in toy.NAMES if name not in party.train.modalities), everything)

    _see_nothing_else(subject, hidden, "a device sees its own modalities only")


def absent_samples(subject: Subject) -> None:
    """Samples may lack a modality, and what is stored in its place is never read."""
    reference = subject.reference
    columns = toy.make_columns()
    values = columns[toy.GAPS_IN].copy()
    values[~columns[f"has_{toy.GAPS_IN}"]] = np.nan
    samples = Samples(toy.make_manifest(), toy.make_table({**columns, toy.GAPS_IN: values}))
    wanted = "what is stored for an absent modality is never read (it was NaN)"
    advice = "look at batch.present[m] before batch.inputs[m], or use model.represent"
    with blaming(wanted, advice):
        trial = subject.run(subject.federation(samples=samples))
    expect_same(reference, trial, wanted, advice)
