"""Checks that an algorithm runs unchanged where its messages travel compressed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from mlecs_bench.federation.messages import Message
from mlecs_bench.testing.steps import Step
from mlecs_bench.testing.trial import Subject, blaming, expect_finite, in_process
from mlecs_bench.testing.verdict import fail

LAW = "int8"
"""The compression that changes every number."""
Shapes = dict[str, tuple[tuple[int, ...], str]]
"""The shape and the type of every tensor of a message."""


def compressed_messages(subject: Subject) -> None:
    """Messages that travel compressed reach the algorithm with all their tensors, and it copes with rough numbers."""
    here = dataclasses.replace(subject, fleet=in_process)
    delivered: dict[tuple[int, str, str], Shapes] = {}

    @contextmanager
    def watch(step: Step) -> Iterator[None]:
        direction = "down" if step.name == "receive" else "up"
        delivered.update({(step.t, direction, id_): shapes_of(message) for id_, message in step.delivered.items()})
        yield

    wanted = f"an algorithm runs unchanged with compression {LAW}"
    with blaming(wanted, "send as whole numbers or scalars what has to arrive to the last bit"):
        trial = here.run(here.federation(steps=1, compression=LAW), watch)
    for sent in trial.sent:
        arrived = delivered.get((sent.round, sent.direction, sent.device), {})
        if arrived != shapes_of(sent.message):
            advice = "this is a defect of mlecs-bench; report it"
            fail("a compressed message arrives with its names, shapes and types", f"{sent} did not", advice)
    expect_finite(trial, wanted)


def shapes_of(message: Message) -> Shapes:
    """Return the shape and the type of every tensor of a message, by name."""
    return {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in message.tensors.items()}
