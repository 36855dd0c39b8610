"""Checks of what passes between parties: kinds, numbers, counts, and whose a message is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from mlecs_bench.federation.ledger import Direction
from mlecs_bench.federation.messages import SCALAR_KIND, Message, kind_of
from mlecs_bench.testing.bits import differing
from mlecs_bench.testing.card_checks import directions_of
from mlecs_bench.testing.steps import Sent, Step
from mlecs_bench.testing.trial import Subject, blaming, expect_same
from mlecs_bench.testing.verdict import fail


def declared_messages(subject: Subject) -> None:
    """Messages hold only the kinds of tensors that the card declares, in the declared directions."""
    declared = {(e.kind, way) for e in subject.info.exchanges for way in directions_of(e)}
    for sent in subject.reference.sent:
        for kind in sorted(kinds_of(sent.message)):
            if (kind, sent.direction) not in declared:
                advice = f"add Exchange('{kind}', '{sent.direction}', …) to the card"
                fail("the card declares all that is sent", f"{sent} holds '{kind}', which it does not declare", advice)


def kinds_of(message: Message) -> set[str]:
    """Return the kinds of a message as the ledger counts them."""
    return {kind_of(name) for name in message.tensors} | ({SCALAR_KIND} if message.scalars else set())


class _Repairing:
    """Notes numbers that are not finite, and puts zeros in their place so that the run goes on."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def __call__(self, message: Message, device: str, direction: Direction, t: int) -> Message:
        """Carry a message without NaN and infinity."""
        whole = {name: torch.nan_to_num(tensor.detach(), 0.0, 0.0, 0.0) for name, tensor in message.tensors.items()}
        broken = sorted(differing(whole, {name: value.detach() for name, value in message.tensors.items()}))
        self.found += [(str(Sent(t, direction, device, message)), name) for name in broken]
        return Message(whole, message.scalars).copied()


def finite_messages(subject: Subject) -> None:
    """Messages hold no NaN and no infinity."""
    repairing = _Repairing()
    subject.run(subject.federation(), carry=repairing)
    if repairing.found:
        where, name = repairing.found[0]
        advice = "look for a division by a count that can be 0"
        fail("messages hold finite numbers only", f"{where} holds NaN or infinity in '{name}'", advice)


def counted_messages(subject: Subject) -> None:
    """What an independent count finds in the delivered messages is what the ledger has counted."""
    trial = subject.reference
    for direction in ("down", "up"):
        rows = [row for row in trial.outcome.comm["entries"] if row["direction"] == direction]
        counted = sum(row["params"] for row in rows)
        found = sum(numbers_in(sent.message) for sent in trial.delivered if sent.direction == direction)
        if found != counted:
            happened = f"going {direction} the ledger counted {counted} numbers and the messages carried {found}"
            fail("all that is sent is counted", happened, "send plain mlecs_bench.api.Message objects")


def numbers_in(value: Any) -> int:
    """Return how many numbers an object carries in itself, in its items and in its attributes."""
    if isinstance(value, torch.Tensor):
        return value.numel()
    if isinstance(value, int | float):
        return 1
    if isinstance(value, Mapping):
        return sum(map(numbers_in, value.values()))
    if isinstance(value, list | tuple | set):
        return sum(map(numbers_in, value))
    return sum(map(numbers_in, getattr(value, "__dict__", {}).values()))


def received_messages(subject: Subject) -> None:
    """What is received is neither changed nor kept: it may be overwritten as soon as the step is over."""
    reference = subject.reference
    wanted = "a received message belongs to the link and may be overwritten when the step is over"
    advice = "keep tensor.clone() of what has to last"

    @contextmanager
    def watch(step: Step) -> Iterator[None]:
        before = {id_: message.copied() for id_, message in step.delivered.items()}
        yield
        for id_, message in step.delivered.items():
            changed = differing(before[id_].tensors, message.tensors)
            if changed or before[id_].scalars != message.scalars:
                name = min(changed, default="its scalars")
                fail("a step leaves the messages it is given as they are", f"{step} changed {name}", "work on a copy")
            overwrite(message)

    with blaming(wanted, advice):
        overwritten = subject.run(subject.federation(), watch)
    expect_same(reference, overwritten, wanted, advice)


def overwrite(message: Message) -> None:
    """Put other numbers into every tensor of a message."""
    with torch.no_grad():
        for tensor in message.tensors.values():
            tensor.copy_(~tensor if tensor.dtype == torch.bool else tensor + 1)
