"""Gathering: one round's exchange with the devices that take part in it, and what becomes of those that do not.

Every message of a broadcast goes through the mailbox where devices may be absent, so a device that comes back gets the
newest of all that it has missed together with the message of the round. A round that too few devices report in is
tried again or skipped, as the plan says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mlecs_bench.errors import MlecsError, NotFiniteError
from mlecs_bench.federation.attendance import Attendance
from mlecs_bench.federation.corruption import corrupted
from mlecs_bench.federation.mailbox import Mailbox
from mlecs_bench.federation.messages import Message
from mlecs_bench.federation.party import named, under
from mlecs_bench.federation.turns import Ask, DeviceMissing, Refusal, Reply
from mlecs_bench.plan.conditions import Conditions

if TYPE_CHECKING:
    import torch

    from mlecs_bench.federation.fleet import Fleet
    from mlecs_bench.federation.host import Carry
    from mlecs_bench.federation.ledger import Ledger

Loss = Literal["before", "during", "after", "late", "refused", "missing", "server-restart"]
"""Why a device that was asked did not report."""


@dataclass
class Journal:
    """What happened in the rounds so far, as JSON values.

    `finished` is the last round that a device has taken part in, by id. `rounds` are the rounds as a record has them.
    `missing` are devices that were really lost, which no seed brings back: round, device and why. `sent` are the
    scalars of the last uploads of devices that send them again.
    """

    finished: dict[str, int] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    missing: list[dict[str, Any]] = field(default_factory=list)
    sent: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """What messages go through: the fleet, what takes them out of the server's hands, and what counts them.

    `told` hears of every device that has done its round, `noted` of what a user may want to know.
    """

    fleet: Fleet
    carry: Carry
    ledger: Ledger
    told: Callable[[Ask, str, Reply], None]
    noted: Callable[[str], None]


@dataclass
class Gathered:
    """What one round brought: uploads that arrived, replies of all devices that did their round, who was lost and why.

    Too few uploads: the round is `skipped`. `restarts` is how often the server has lost what it had.
    """

    round: int
    asked: list[str] = field(default_factory=list)
    uploads: dict[str, Message] = field(default_factory=dict)
    replies: dict[str, Reply] = field(default_factory=dict)
    lost: dict[str, Loss] = field(default_factory=dict)
    attempts: int = 0
    restarts: int = 0
    skipped: bool = False

    def row(self) -> dict[str, Any]:
        """Return the round as a record has it."""
        return {
            "round": self.round,
            "asked": self.asked,
            "reported": list(self.uploads),
            "lost": {id_: self.lost[id_] for id_ in self.asked if id_ in self.lost},
            "attempts": self.attempts,
            "skipped": self.skipped,
        }


class Gathering:
    """The exchanges of one cell, round by round, with all that has to last between them."""

    def __init__(
        self, conditions: Conditions, attendance: Attendance, ids: Sequence[str], line: Line, journal: Journal
    ) -> None:
        self._conditions = conditions
        self._attendance = attendance
        self._ids = tuple(ids)
        self._line = line
        self.journal = journal
        self._mailbox = Mailbox()
        self._messages: dict[str, Message] = {}
        self._last_uploads: dict[str, Message] = {}

    @property
    def varies(self) -> bool:
        """May a round be without some of the devices?"""
        return conditions_vary(self._conditions)

    def gather(self, ask: Ask) -> Gathered:
        """Have the devices of a round take part in it; `ask` says in which, and whether they are scored."""
        found = Gathered(ask.round)
        for attempt in range(1, self._attendance.attempts + 1):
            found.attempts = attempt
            self._attempt(ask, found)
            if len(found.uploads) >= self._attendance.least:
                break
        found.asked = [id_ for id_ in self._ids if id_ in found.asked]
        found.uploads = {id_: found.uploads[id_] for id_ in self._ids if id_ in found.uploads}
        found.replies = {id_: found.replies[id_] for id_ in self._ids if id_ in found.replies}
        found.skipped = len(found.uploads) < self._attendance.least
        if self.varies:
            self._mailbox.clear(found.replies)
            self.journal.finished |= dict.fromkeys(found.replies, ask.round)
            self.journal.rounds.append(found.row())
        if self._conditions.faults.byzantine == "stale":
            for id_ in self._attendance.faulty:
                if id_ in found.replies:
                    self._last_uploads[id_] = found.replies[id_].upload
                    self.journal.sent[id_] = dict(found.replies[id_].upload.scalars)
        return found

    def _attempt(self, ask: Ask, found: Gathered) -> None:
        """Ask the devices of one attempt that have not reported yet; note who did, and who did not and why."""
        t = ask.round
        drops = self._attendance.drops(t, found.attempts)
        asks = {}
        for id_ in self._attendance.asked(t, found.attempts):
            if id_ in found.uploads:
                continue
            found.asked.append(id_)
            if drops.get(id_) == "before":
                found.lost[id_] = "before"
                continue
            own = self._asked(id_, ask)
            if drops.get(id_) == "during":  # its work would be lost, so it is not done
                found.lost[id_] = "during"
                continue
            asks[id_] = own
        replies = self._exchange(asks, found)
        for id_, reply in replies.items():
            found.replies[id_] = reply
            loss: Loss | None = "after" if drops.get(id_) == "after" else self._taken_in(id_, reply, found)
            if loss is None:
                found.lost.pop(id_, None)
            else:
                found.lost[id_] = loss
        if self._attendance.restarts(t, found.attempts):
            found.restarts += 1
            found.lost |= dict.fromkeys(found.uploads, "server-restart")
            found.uploads.clear()

    def post(self, messages: Mapping[str, Message]) -> None:
        """Have the messages of a broadcast ready for their devices."""
        if self.varies:
            self._mailbox.put(messages)
        else:
            self._messages = dict(messages)

    def _asked(self, id_: str, ask: Ask) -> Ask:
        """Return what a device is asked, with its message, which has been carried and counted."""
        message = self._mailbox.of(id_) if self.varies else self._messages.pop(id_, Message())
        message = self._line.carry(message, id_, "down", ask.round)
        self._line.ledger.record(message, id_, "down", ask.round)
        after = self.journal.finished.get(id_, 0) if self.varies else None
        return dataclasses.replace(ask, message=message, after=after)

    def _exchange(self, asks: Mapping[str, Ask], found: Gathered) -> dict[str, Reply]:
        """Return the devices' replies in the devices' order, whatever the order in which they come; count uploads."""
        came: dict[str, Reply] = {}
        refusals: dict[str, Refusal] = {}
        for id_, reply in self._line.fleet.exchange(asks) if asks else ():
            if isinstance(reply, Refusal):
                refusals[id_] = self._tolerated(reply)
                continue
            came[id_] = reply
            if id_ not in found.replies:
                self._line.told(asks[id_], id_, reply)
        silent = [id_ for id_ in asks if id_ not in came and id_ not in refusals]
        if silent and not self._may_lose:
            raise MlecsError(f"{', '.join(silent)} gave no reply in round {found.round}")
        refusals |= {id_: Refusal.of(DeviceMissing(f"{id_} gave no reply")) for id_ in silent}
        for id_ in sorted(refusals):
            self._note_loss(id_, refusals[id_], found)
        replies = {id_: came[id_] for id_ in asks if id_ in came}
        for id_, reply in replies.items():
            self._line.ledger.record(reply.upload, id_, "up", found.round)
        return replies

    @property
    def _may_lose(self) -> bool:
        """May a round go on without devices that are really lost?"""
        return self._conditions.participation.min_devices is not None

    def _tolerated(self, refusal: Refusal) -> Refusal:
        """Return a refusal that a round may go on with; raises any other as the error that it stands for."""
        may_drop = self._conditions.faults.drops_refused
        if (refusal.kind == "missing" and self._may_lose) or (refusal.kind == "not-finite" and may_drop):
            return refusal
        raise refusal.error()

    def _note_loss(self, id_: str, refusal: Refusal, found: Gathered) -> None:
        missing = refusal.kind == "missing"
        found.lost[id_] = "missing" if missing else "refused"
        if missing:
            self.journal.missing.append({"round": found.round, "device": id_, "reason": refusal.message})
        self._line.noted(f"round {found.round} goes on without {id_}: {refusal.message}")

    def _taken_in(self, id_: str, reply: Reply, found: Gathered) -> Loss | None:
        """Take an upload in, as it is or as a faulty device sends it; return why it is refused, None where it is not.

        Raises NotFiniteError for one that is not finite, unless the plan goes on without it.
        """
        faults = self._conditions.faults
        upload = reply.upload
        if self._attendance.corrupts(id_, found.round):
            upload = corrupted(upload, self._last_uploads.get(id_), faults, (self._attendance.seed, id_, found.round))
            if faults.byzantine == "repeated":  # the second one is the first one again
                self._line.ledger.record(upload, id_, "up", found.round)
        if id_ in self._attendance.faulty:
            try:
                upload = upload.copied()
            except NotFiniteError as error:
                refusal = Refusal.of(NotFiniteError(f"{id_}: {error}"))
                self._note_loss(id_, self._tolerated(refusal), found)
                return "refused"
        found.uploads[id_] = upload
        return None

    def measure(self, absent: Sequence[str], ask: Ask) -> dict[str, Reply]:
        """Return the scores of devices that have not done the round, as they are."""
        finished = self.journal.finished
        asks = {
            id_: Ask(ask.round, score=True, answers=ask.answers, after=finished.get(id_, 0), train=False)
            for id_ in absent
        }
        return self._exchange(asks, Gathered(ask.round))

    def deliver(self, ask: Ask) -> dict[str, Reply]:
        """Have all devices take in the last broadcast, with all that they have missed; return their replies."""
        asks = {id_: self._asked(id_, ask) for id_ in self._ids}
        return self._exchange(asks, Gathered(ask.round))

    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors that last between rounds; nothing where all devices are always there."""
        state = named("mail", self._mailbox.state())
        for id_, upload in self._last_uploads.items():
            state |= named(f"upload/{id_}", upload.tensors)
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Read what `state` returned; the journal is that of the same moment."""
        self._mailbox = Mailbox.from_state(under("mail", state))
        self._last_uploads = {
            id_: Message(under(f"upload/{id_}", state), scalars) for id_, scalars in self.journal.sent.items()
        }


def conditions_vary(conditions: Conditions) -> bool:
    """May rounds be without some of the devices under these conditions?"""
    departures = conditions.departures()
    return any("absence" in getattr(conditions, name).demands for name in departures)
