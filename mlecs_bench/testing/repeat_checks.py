"""Checks that a run is a function of its seed: same bits whatever surrounds it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlecs_bench.doors.events import Event
from mlecs_bench.testing.fleets import BytesFleet, ReversedFleet
from mlecs_bench.testing.global_state import global_state
from mlecs_bench.testing.steps import Step
from mlecs_bench.testing.trial import Subject, blaming, expect_same
from mlecs_bench.testing.verdict import fail


def deterministic(subject: Subject) -> None:
    """The same seed gives the same bits whatever the global random generators hold."""
    reference = subject.reference
    again = subject.run(subject.federation(), streams=2)
    wanted = "a seed decides every bit, whatever the global random generators hold"
    expect_same(reference, again, wanted, "draw from mlecs_bench.api.rng or within torch_stream, and keep no globals")


def global_streams_untouched(subject: Subject) -> None:
    """The global random streams, gradient mode, default dtype and threads are as they were after every step."""

    @contextmanager
    def watch(step: Step) -> Iterator[None]:
        before = global_state()
        yield
        moved = [name for name, value in global_state().items() if value != before[name]]
        if moved:
            advice = "use the named streams of mlecs_bench.api, and context managers for switches"
            fail("an algorithm leaves what others share as it was", f"{step} moved {moved[0]}", advice)

    federation = subject.federation()
    _ = federation.server.slm  # making its adapter draws from torch's stream, which is not the algorithm's doing
    subject.run(federation, watch)


def stateless(subject: Subject) -> None:
    """The algorithm object holds options only: rebuilt before every step it gives the same bits."""
    reference = subject.reference
    wanted, advice = "all state lives on the parties", "keep what lasts in device.memory or server.memory"
    with blaming(f"{wanted} (the algorithm is rebuilt before every step)", advice):
        rebuilt = subject.run(subject.federation(), algorithm=subject.build)
    expect_same(reference, rebuilt, f"{wanted} and the algorithm can be rebuilt before every step", advice)


def device_order(subject: Subject) -> None:
    """The order of the devices does not matter: reversed it gives the same bits."""
    turned = subject.run(subject.federation(), around=ReversedFleet)
    wanted = "the order of the devices does not matter"
    advice = "keep nothing that devices share, and name random streams by device.id"
    expect_same(subject.reference, turned, f"{wanted} (they ran in reverse)", advice)


def over_bytes(subject: Subject) -> None:
    """Messages that travel as bytes, and are asked for twice, give the same bits as in one process."""
    wanted = "messages may travel as bytes"
    advice = "find tensors by name, never by their order, and send nothing but tensors and scalars"
    with blaming(wanted, advice):
        as_bytes = subject.run(subject.federation(), around=BytesFleet)
    expect_same(subject.reference, as_bytes, wanted, advice)


class _Stopped(Exception):  # noqa: N818  # it stands for the death of the process, not for an error
    """The run was stopped in the middle of a round."""


def resumable(subject: Subject) -> None:
    """Stopped in the middle of a round and gone on from what was kept, a run gives the same bits."""
    reference = subject.reference
    wanted = "a run that is stopped in round 2, when one device has done it, goes on as if nothing had happened"
    advice = "keep what lasts between rounds in tensors in device.memory or server.memory"

    def stop(event: Event) -> None:
        if event.kind == "device_end" and event.round == 2:
            raise _Stopped

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with blaming(wanted, advice):
            with suppress(_Stopped):
                subject.run(subject.federation(), folder=folder, tell=stop)
            resumed = subject.run(subject.federation(), folder=folder)
    expect_same(reference, resumed, wanted, advice, from_round=3)
